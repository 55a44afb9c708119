"""lab.commands, lab.rootfs: hosts out of directories, archives and the generated OS."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bootc_fast import lab
from bootc_fast.errors import CommandError, UsageError
from bootc_fast.lab.generated import add_link_targets, copy_readable
from bootc_fast.lab.rootfs import RootTree, open_rootfs
from bootc_fast.types import BootType, Loader


def _debian_like(directory: Path) -> Path:
    lab.write_files(
        directory,
        {
            "boot/vmlinuz-6.1.0-9-amd64": "old kernel",
            "boot/initrd.img-6.1.0-9-amd64": "old initrd",
            "boot/vmlinuz-6.1.0-37-amd64": "kernel",
            "boot/initrd.img-6.1.0-37-amd64": "initrd",
            "boot/vmlinuz-6.99-no-initrd": "kernel",
            "usr/lib/os-release": "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID='12'\n",
            "etc/hosts": "localhost",
            "var/lib/x": "x",
        },
    )
    (directory / "sysroot").mkdir()
    return directory


@pytest.mark.parametrize("kind", ["directory", "tar", "tar.gz"])
def test_host_is_made_of_a_directory_or_an_archive(tmp_path: Path, kind: str) -> None:
    source = _debian_like(tmp_path / "tree")
    if kind != "directory":
        archive = tmp_path / f"rootfs.{kind}"
        subprocess.run(["tar", "--create", "--auto-compress", f"--file={archive}", "-C", source, "."], check=True)
        source = archive
    host = lab.create(tmp_path / "h", source=source)
    (entry,) = (host.esp / "loader/entries").iterdir()
    assert entry.name == "bootc_debian-12-1.conf"
    assert "title Debian GNU/Linux 12 (bookworm)\n" in entry.read_text()
    assert (host.esp / f"EFI/Linux/bootc_composefs-{host.booted}/vmlinuz").read_text() == "kernel"
    assert (host.etc / "hosts").read_text() == "localhost"
    assert (host.root / "var/lib/x").read_text() == "x"
    assert not list(host.root.glob(".rootfs-*"))


def test_newest_kernel_is_the_one_with_the_highest_numbers(tmp_path: Path) -> None:
    assert RootTree(_debian_like(tmp_path / "tree")).kernel.release == "6.1.0-37-amd64"


def test_a_tree_without_a_kernel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tree/etc").mkdir(parents=True)
    with pytest.raises(UsageError, match="no kernel") as caught:
        lab.create(tmp_path / "h", source=tmp_path / "tree")
    assert "usr/lib/modules" in (caught.value.hint or "")
    assert not (tmp_path / "h").exists()


def test_a_source_that_is_no_archive_is_an_error_with_tars_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no archive")
    with pytest.raises(CommandError, match="tar"), open_rootfs(tmp_path / "file", scratch=tmp_path):
        pass
    with pytest.raises(UsageError), open_rootfs(tmp_path / "missing", scratch=tmp_path):
        pass
    assert not list(tmp_path.glob(".rootfs-*"))


@pytest.mark.parametrize("loader", list(Loader))
@pytest.mark.parametrize("boot_type", list(BootType))
def test_generated_os_differs_from_version_to_version(tmp_path: Path, loader: Loader, boot_type: BootType) -> None:
    host = lab.create(tmp_path / "h", loader=loader, boot_type=boot_type)
    staged = lab.stage(tmp_path / "h")
    old, new = (host.state_dir(digest) / "etc/lab" for digest in (host.booted, staged))
    assert (old / "app.conf").read_text() != (new / "app.conf").read_text()
    assert set(os.listdir(new)) - set(os.listdir(old)) == {"only-in-2.conf"}
    assert set(os.listdir(old)) - set(os.listdir(new)) == {"only-in-1.conf"}
    assert not list(host.root.glob(".rootfs-*"))


def test_generated_os_has_this_machines_etc_and_only_its_owner_may_read_the_lab(tmp_path: Path) -> None:
    host = lab.create(tmp_path / "h")
    assert (host.etc / "passwd").read_bytes() == Path("/etc/passwd").read_bytes()
    assert host.root.stat().st_mode & 0o777 == 0o700


def test_copy_leaves_out_what_is_no_file_directory_or_link(tmp_path: Path) -> None:
    source = tmp_path / "source"
    lab.write_files(source, {"d/a": lab.LabFile(b"x", 0o640), b"caf\xe9": "", "l": lab.LabLink("d/a")})
    os.mkfifo(source / "fifo")
    assert copy_readable(source, tmp_path / "copy") == 1
    assert sorted(os.listdir(os.fsencode(tmp_path / "copy"))) == [b"caf\xe9", b"d", b"l"]
    assert (tmp_path / "copy/d/a").stat().st_mode & 0o777 == 0o640


def test_a_locked_deployment_is_staged_for_download_only(tmp_path: Path) -> None:
    host = lab.create(tmp_path / "h")
    lab.stage(tmp_path / "h", locked=True)
    assert '"finalization_locked":true' in host.marker.read_text()


def test_what_links_in_etc_lead_to_exists_in_the_generated_os(tmp_path: Path) -> None:
    links = {
        "etc/absolute": lab.LabLink("/proc/version"),
        "etc/d/relative": lab.LabLink("../../proc/version"),
        "etc/directory": lab.LabLink("/usr/lib"),
        "etc/dangling": lab.LabLink("/no/such/file"),
        "etc/inside": lab.LabLink("passwd"),
    }
    lab.write_files(tmp_path, links)
    add_link_targets(tmp_path)
    assert (tmp_path / "proc/version").stat().st_size == 0
    assert (tmp_path / "usr/lib").is_dir()
    assert sorted(os.listdir(tmp_path)) == ["etc", "proc", "usr"]
    assert sorted(os.listdir(tmp_path / "etc")) == ["absolute", "d", "dangling", "directory", "inside"]
