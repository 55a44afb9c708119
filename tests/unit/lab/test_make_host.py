"""lab.build, lab.deploy, lab.layout: the host that tests build on."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from bootc_fast import _core, lab
from bootc_fast.boot.efi.pe import parse_pe
from bootc_fast.errors import InvalidStateError, UsageError
from bootc_fast.types import Algorithm, BootType, Loader

ALL = [(loader, boot_type) for loader in Loader for boot_type in BootType]


def _section(path: Path, name: bytes) -> bytes:
    found = parse_pe(path.read_bytes()).read_section(name.decode())
    assert found is not None
    return found


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_image_is_named_by_its_own_digest(tmp_path: Path, algorithm: Algorithm) -> None:
    host = lab.make_host(tmp_path / "h", files={"a": "1"}, algorithm=algorithm)
    with (host.repository / "images" / host.booted).open("rb") as image:
        assert _core.digest_fd(image.fileno(), algorithm=algorithm) == host.booted


@pytest.mark.parametrize(("loader", "boot_type"), ALL)
def test_everything_an_entry_names_exists(tmp_path: Path, loader: Loader, boot_type: BootType) -> None:
    host = lab.make_host(tmp_path / "h", files={"a": "1"}, loader=loader, boot_type=boot_type)
    staged = lab.stage_files(host, {"a": "2"})
    assert json.loads(host.marker.read_text()) == {"depl_id": staged, "finalization_locked": False}
    if boot_type is BootType.UKI:
        for digest in (host.booted, staged):
            uki = host.esp / f"EFI/Linux/bootc/bootc_composefs-{digest}.efi"
            assert _section(uki, b".cmdline").decode().split()[-1] == f"composefs={digest}"
        return
    for name in ("entries", "entries.staged"):
        for path in (host.boot_dir / "loader" / name).iterdir():
            pairs = dict(line.split(" ", 1) for line in path.read_text().splitlines())
            for key in ("linux", "initrd"):
                base = host.esp if loader is not Loader.GRUB else host.sysroot
                assert (base / pairs[key].lstrip("/")).is_file()


def test_staged_set_ranks_the_staged_deployment_first_and_keeps_the_booted_one(tmp_path: Path) -> None:
    host = lab.make_host(tmp_path / "h", version="41", os_id="fedora-coreos")
    lab.stage_files(host, version="42", os_id="fedora-coreos")
    staged = host.boot_dir / "loader/entries.staged"
    assert sorted(os.listdir(staged)) == ["bootc_fedora_coreos-41-0.conf", "bootc_fedora_coreos-42-1.conf"]
    assert "sort-key bootc-fedora-coreos-0\n" in (staged / "bootc_fedora_coreos-42-1.conf").read_text()
    assert "sort-key bootc-fedora-coreos-1\n" in (staged / "bootc_fedora_coreos-41-0.conf").read_text()
    assert os.listdir(host.boot_dir / "loader/entries") == ["bootc_fedora_coreos-41-1.conf"]


def test_origin_digest_is_sha256_over_kernel_and_initrd(tmp_path: Path) -> None:
    host = lab.make_host(tmp_path / "h")
    (kernels,) = (host.esp / "EFI/Linux").iterdir()
    content = (kernels / "vmlinuz").read_bytes() + (kernels / "initrd").read_bytes()
    origin = (host.state_dir(host.booted) / f"{host.booted}.origin").read_text()
    assert f"digest = {hashlib.sha256(content).hexdigest()}\n" in origin


def test_equal_kernels_share_the_directory_of_the_first(tmp_path: Path) -> None:
    host = lab.make_host(tmp_path / "h", kernel=b"same")
    lab.stage_files(host, {"a": "2"}, kernel=b"same")
    (kernels,) = (host.esp / "EFI/Linux").iterdir()
    assert kernels.name == f"bootc_composefs-{host.booted}"


def test_separate_boot_has_paths_below_its_own_root_and_a_mount(tmp_path: Path) -> None:
    host = lab.make_host(tmp_path / "h", loader=Loader.GRUB, separate_boot=True)
    (entry,) = (host.root / "boot/loader/entries").iterdir()
    assert f"linux /bootc_composefs-{host.booted}/vmlinuz\n" in entry.read_text()
    assert " /boot " in (host.root / "proc/self/mountinfo").read_text()


def test_older_forms_are_written_on_request(tmp_path: Path) -> None:
    forms = lab.LabForms(
        old_entry_names=True, bare_sort_keys=True, prefix=False, uki_key="efi", efi_staged=True, bare_marker=True,
        imginfo=True, uki_addon=True, missing_verity=True,
    )  # fmt: skip
    host = lab.make_host(tmp_path / "h", boot_type=BootType.UKI, forms=forms)
    staged = lab.stage_files(host)
    assert host.marker.read_text() == f"{staged}\n"
    entries = host.esp / "loader/entries.staged"
    assert sorted(os.listdir(entries)) == ["bootc-composefs-0.conf", "bootc-composefs-1.conf"]
    assert f"efi /EFI/Linux/bootc/{staged}.efi\nsort-key 0\n" in (entries / "bootc-composefs-1.conf").read_text()
    names = set(os.listdir(host.esp / "EFI/Linux/bootc"))
    assert {f"{staged}.efi.staged", f"{staged}.efi.extra.d.staged", f"{host.booted}.efi"} <= names
    assert (host.state_dir(staged) / f"{staged}.imginfo").is_file()
    assert "[image]" not in (host.state_dir(staged) / f"{staged}.origin").read_text()
    assert f"composefs=?{host.booted}" in (host.root / "proc/cmdline").read_text()


def test_files_get_content_mode_xattrs_and_links(tmp_path: Path) -> None:
    files = {
        b"caf\xe9": b"bytes name",
        "d": lab.LabDir(0o750),
        "d/f": lab.LabFile(b"x", 0o4755, {"user.lab": b"v" * 200}),
        "l": lab.LabLink("d/f"),
    }
    host = lab.make_host(tmp_path / "h", files=files)
    etc = os.fsencode(host.etc)
    assert sorted(os.listdir(etc)) == [b"caf\xe9", b"d", b"l"]
    assert os.stat(etc + b"/d").st_mode & 0o7777 == 0o750
    assert os.stat(etc + b"/d/f").st_mode & 0o7777 == 0o4755
    assert os.getxattr(etc + b"/d/f", "user.lab") == b"v" * 200
    assert os.readlink(etc + b"/l") == b"d/f"


def test_the_same_files_make_the_same_image(tmp_path: Path) -> None:
    hosts = [lab.make_host(tmp_path / name, files={"a": "1", "d/l": lab.LabLink("x")}) for name in ("one", "two")]
    assert hosts[0].booted == hosts[1].booted


def test_staging_the_booted_image_again_is_refused(tmp_path: Path) -> None:
    host = lab.make_host(tmp_path / "h", files={"a": "1"})
    with pytest.raises(InvalidStateError, match="deployed already"):
        lab.stage_files(host, {"a": "1"}, version="1")


def test_a_directory_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="not empty"):
        lab.make_host(tmp_path)


def test_a_grub_host_does_not_mix_boot_types(tmp_path: Path) -> None:
    for boot_type, other in ((BootType.BLS, BootType.UKI), (BootType.UKI, BootType.BLS)):
        host = lab.make_host(tmp_path / boot_type, loader=Loader.GRUB, boot_type=boot_type)
        with pytest.raises(UsageError, match="same way"):
            lab.stage_files(host, boot_type=other)


def test_open_lab_reads_back_what_was_made(tmp_path: Path) -> None:
    host = lab.make_host(tmp_path / "h", loader=Loader.GRUB, boot_type=BootType.UKI, algorithm=Algorithm.SHA256)
    assert lab.open_lab(tmp_path / "h") == host
    with pytest.raises(UsageError, match="holds no lab host"):
        lab.open_lab(tmp_path)


@pytest.mark.parametrize(("loader", "boot_type"), [(Loader.GRUB, BootType.BLS), (Loader.GRUB, BootType.UKI)])
def test_a_grub_host_has_grubs_directory_whatever_it_boots(tmp_path: Path, loader: Loader, boot_type: BootType) -> None:
    host = lab.make_host(tmp_path / "h", loader=loader, boot_type=boot_type)
    assert (host.boot_dir / "grub2").is_dir()


def test_an_images_manifest_and_config_lead_to_a_layer_that_is_there(tmp_path: Path) -> None:
    """As bootc's garbage collection walks: what has no layers is no image of bootc's."""
    host = lab.make_host(tmp_path / "h")
    streams = {path.name: path for path in (host.repository / "streams").iterdir()}
    (layer,) = (name for name in streams if name.startswith("oci-layer-sha256:"))
    assert all(path.is_file() for path in streams.values())
    digest = os.readlink(streams[layer]).removeprefix("../objects/").replace("/", "")
    # Config and manifest keep it alive, by its digest.
    for kind in ("oci-config-", "oci-manifest-"):
        (stream,) = (path.read_bytes() for name, path in streams.items() if name.startswith(kind))
        assert bytes.fromhex(digest) in stream
        assert layer.removeprefix("oci-layer-").encode() in stream
    # One chunk, inline, of minus its length: the tar archive that the digest is of.
    raw = streams[layer].read_bytes()
    archive = raw[raw.index(b"lab-layer\0") :][:10240]
    assert f"oci-layer-sha256:{hashlib.sha256(archive).hexdigest()}" == layer
    assert raw[raw.index(b"lab-layer\0") - 8 :][:8] == (-10240).to_bytes(8, "little", signed=True)
