"""doctor over lab hosts: every kind of damage, under every loader; a dry run changes nothing, a repair boots."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING

import pytest
from tests.flowkit import COMBINATIONS, Case, finalize, make_case, run, snapshot
from unit.boot.fat_model import FatModel
from unit.boot.fat_volume import FatVolume

from bootc_fast import lab
from bootc_fast.boot.area.real import RealVolume
from bootc_fast.types import BootType, Loader, VerityDigest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BLS = [(loader, kind) for loader, kind in COMBINATIONS if kind is BootType.BLS]


def _ready(tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader, boot_type: BootType) -> Case:
    """A host after one update: two deployments, the new one boots next and runs."""
    case = make_case(tmp_path / "host", loader, boot_type)
    assert finalize(capsys, case)[0] == 0
    lab.boot(case.host)
    return case


def _doctor(case: Case, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, object]]:
    code, out, err = run(capsys, "doctor", "--json", "--root", case.root, *options)
    assert out, err
    found: dict[str, object] = json.loads(out)
    return code, found


def _entries(case: Case) -> list[Path]:
    return sorted((case.host.boot_dir / "loader/entries").glob("*.conf"))


def _kernel(case: Case) -> Path:
    area, _prefix = case.host.kernel_area()
    return next(path for path in sorted(area.glob("*/vmlinuz")) if case.staged in str(path))


def _remove_kernel(case: Case) -> None:
    _kernel(case).unlink()


def _empty_kernel(case: Case) -> None:
    _kernel(case).write_bytes(b"")


def _damage_initrd(case: Case) -> None:
    _kernel(case).with_name("initrd").write_bytes(b"not an initrd")


def _remove_kernel_directory(case: Case) -> None:
    shutil.rmtree(_kernel(case).parent)


def _tear_entry(case: Case) -> None:
    (case.host.boot_dir / "loader/entries/bootc_fedora-9-9.conf").write_bytes(b"\0" * 100)


def _duplicate(case: Case) -> None:
    first = _entries(case)[0]
    first.with_name("bootc_old-1-0.conf").write_bytes(first.read_bytes())


def _stale_staged(case: Case) -> None:
    entries = case.host.boot_dir / "loader/entries"
    shutil.copytree(entries, entries.with_name("entries.staged"))


def _cut_exchange(case: Case) -> None:
    entries = case.host.boot_dir / "loader/entries"
    entries.rename(entries.with_name("entries.staged"))


def _remove_entries(case: Case) -> None:
    shutil.rmtree(case.host.boot_dir / "loader/entries")


def _empty_entries(case: Case) -> None:
    for path in _entries(case):
        path.unlink()


DAMAGES = [
    _remove_kernel,
    _empty_kernel,
    _damage_initrd,
    _remove_kernel_directory,
    _tear_entry,
    _duplicate,
    _stale_staged,
    _cut_exchange,
    _remove_entries,
    _empty_entries,
]


@pytest.mark.parametrize(("loader", "boot_type"), COMBINATIONS)
def test_a_healthy_host_has_nothing_wrong_and_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader, boot_type: BootType
) -> None:
    case = _ready(tmp_path, capsys, loader, boot_type)
    before = snapshot(case.root)
    for options in ((), ("--repair",)):
        code, found = _doctor(case, capsys, *options)
        assert (code, found["findings"]) == (0, [])
        assert snapshot(case.root) == before


@pytest.mark.parametrize(("loader", "boot_type"), COMBINATIONS)
def test_a_staged_update_is_no_damage_and_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader, boot_type: BootType
) -> None:
    case = make_case(tmp_path / "host", loader, boot_type)
    assert _doctor(case, capsys, "--repair")[1]["findings"] == []
    assert finalize(capsys, case)[0] == 0
    assert lab.boot(case.host).digest == case.staged


@pytest.mark.parametrize("is_empty", [False, True], ids=["gone", "empty"])
@pytest.mark.parametrize(("loader", "boot_type"), COMBINATIONS)
def test_what_only_the_staged_set_has_boots_nothing_before_its_finalize(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader, boot_type: BootType, *, is_empty: bool
) -> None:
    """It counted as there: "Nothing is wrong", and the power had to stay until the shutdown."""
    case = make_case(tmp_path / "host", loader, boot_type)
    user_cfg = case.host.boot_dir / "grub2/user.cfg"
    if not user_cfg.exists():
        _empty_entries(case)
        if not is_empty:
            # Something else is in force: the exchange was not cut.
            (case.host.boot_dir / "loader/entries/a-other.conf").write_text("title Other\nversion 0\nlinux /other\n")
            (case.host.boot_dir / "other").write_text("kernel")
    elif is_empty:
        user_cfg.write_bytes(b"")
    else:
        user_cfg.unlink()
    code, found = _doctor(case, capsys)
    assert (code, [one["kind"] for one in found["findings"]]) == (7, ["entry-missing"])
    assert found["next_boot"] != case.staged
    code, found = _doctor(case, capsys, "--repair")
    assert (code, found["remaining"]) == (0, [])
    assert lab.boot(case.host).digest == case.booted
    case.host.write_marker(VerityDigest(case.staged))
    assert finalize(capsys, case)[0] == 0
    assert lab.boot(case.host).digest == case.staged


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__.strip("_"))
@pytest.mark.parametrize(("loader", "boot_type"), BLS)
def test_damage_is_told_then_mended_and_the_right_deployment_boots(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    loader: Loader,
    boot_type: BootType,
    damage: Callable[[Case], None],
) -> None:
    case = _ready(tmp_path, capsys, loader, boot_type)
    foreign = case.host.boot_dir / "loader/memtest.conf.note"
    foreign.write_bytes(b"an admin's own\n")
    damage(case)
    before = snapshot(case.root)
    code, planned = _doctor(case, capsys)
    assert code == 7
    assert snapshot(case.root) == before
    code, mended = _doctor(case, capsys, "--repair")
    assert mended["findings"] == planned["findings"]
    assert (mended["remaining"], code) == ([], 0), (mended["findings"], mended["remaining"])
    assert lab.boot(case.host).digest == case.staged
    after = snapshot(case.root)
    assert _doctor(case, capsys, "--repair")[1]["findings"] == []
    assert snapshot(case.root) == after
    assert foreign.read_bytes() == b"an admin's own\n"


def test_a_kernel_that_an_admin_put_elsewhere_is_told_and_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = _ready(tmp_path, capsys, Loader.SYSTEMD_BOOT, BootType.BLS)
    own = case.host.esp / "EFI/mine"
    own.mkdir()
    (own / "vmlinuz").write_bytes(b"an admin's kernel")
    (own / "initrd").write_bytes(b"an admin's initrd")
    text = next(path.read_text() for path in _entries(case) if case.staged in path.read_text())
    directory = _kernel(case).parent.name
    variant = case.host.boot_dir / "loader/entries/mine.conf"
    variant.write_text(text.replace(f"/EFI/Linux/{directory}/", "/EFI/mine/").replace("sort-key ", "sort-key zz"))
    before = snapshot(case.root)
    _doctor(case, capsys, "--repair")
    assert snapshot(case.root) == before


@pytest.mark.parametrize("loader", [Loader.SYSTEMD_BOOT, Loader.GRUB])
def test_entries_and_user_cfg_are_made_anew_for_ukis_that_are_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader
) -> None:
    case = _ready(tmp_path, capsys, loader, BootType.UKI)
    for path in (*_entries(case), case.host.boot_dir / "grub2/user.cfg"):
        path.unlink(missing_ok=True)
    before = snapshot(case.root)
    code, planned = _doctor(case, capsys)
    assert (code, snapshot(case.root)) == (7, before)
    code, mended = _doctor(case, capsys, "--repair")
    assert mended["findings"] == planned["findings"]
    assert (mended["remaining"], code) == ([], 0), mended
    assert lab.boot(case.host).digest == case.staged


_ADMINS = b"# an admin's\nset color_normal=white/blue\n"


def _mend_user_cfg(case: Case, capsys: pytest.CaptureFixture[str], damaged: bytes, kind: str) -> bytes:
    """Have a user.cfg told as such a finding, and mended; return what is there then."""
    path = case.host.boot_dir / "grub2/user.cfg"
    path.write_bytes(damaged)
    code, planned = _doctor(case, capsys)
    assert code == 7
    assert kind in [one["kind"] for one in planned["findings"]]  # type: ignore[attr-defined]
    code, mended = _doctor(case, capsys, "--repair")
    assert (mended["remaining"], code) == ([], 0), mended
    return path.read_bytes()


@pytest.mark.parametrize("kept", [0, 1])
@pytest.mark.parametrize("end", [b"", bytes(512)])
def test_a_user_cfg_that_ends_within_a_menuentry_is_mended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kept: int, end: bytes
) -> None:
    """As a cut of bootc's rollback leaves it: GRUB would read nothing from there on."""
    case = _ready(tmp_path, capsys, Loader.GRUB, BootType.UKI)
    whole = (case.host.boot_dir / "grub2/user.cfg").read_bytes()
    starts = [found.start() for found in re.finditer(rb"(?m)^menuentry ", whole)]
    torn = _ADMINS + whole[: starts[kept] + 200]
    assert torn.count(b"menuentry ") == kept + 1
    text = _mend_user_cfg(case, capsys, torn + end, "entry-torn")
    assert text.startswith(_ADMINS)
    assert b"\0" not in text
    assert len(re.findall(rb"(?m)\{$", text)) == len(re.findall(rb"(?m)^\}$", text)) >= 1
    assert lab.boot(case.host).digest == case.staged


@pytest.mark.parametrize("sector", [0, 1, 2])
def test_a_user_cfg_of_which_a_sector_never_arrived_is_mended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sector: int
) -> None:
    """As a cut of bootc's sequence leaves it: to GRUB a line ends at a zero, and a block goes on behind it."""
    case = _ready(tmp_path, capsys, Loader.GRUB, BootType.UKI)
    whole = (case.host.boot_dir / "grub2/user.cfg").read_bytes()
    damaged = whole[: sector * 512] + bytes(512) + whole[sector * 512 + 512 :] + _ADMINS
    text = _mend_user_cfg(case, capsys, damaged, "entry-torn")
    # What is behind zeros may be half a line.
    assert (b"\0" in text, _ADMINS.splitlines(keepends=True)[1] in text) == (False, True)
    assert lab.boot(case.host).digest in (case.booted, case.staged)
    assert "Next boot: cannot" not in run(capsys, "status", "--root", case.root)[1]


@pytest.mark.parametrize("begin", [b"", b"\0" * 64 + b"\n", _ADMINS])
def test_a_user_cfg_that_has_lost_its_beginning_is_mended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], begin: bytes
) -> None:
    """As a cut leaves it whose first sector never arrived: GRUB would look for the UKIs on its own partition."""
    case = _ready(tmp_path, capsys, Loader.GRUB, BootType.UKI)
    whole = (case.host.boot_dir / "grub2/user.cfg").read_bytes()
    assert b"efiuuid.cfg" in whole
    text = _mend_user_cfg(case, capsys, begin + whole[whole.index(b"menuentry ") :], "user-cfg-header")
    assert 0 <= text.index(b"source ${config_directory}/efiuuid.cfg") < text.index(b"menuentry ")
    assert begin.strip(b"\0\n") in text
    assert lab.boot(case.host).digest == case.staged


@pytest.mark.parametrize("name", ["grub.cfg", "custom.cfg"])
def test_a_partition_that_another_file_tells_of_is_no_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    case = _ready(tmp_path, capsys, Loader.GRUB, BootType.UKI)
    path = case.host.boot_dir / "grub2/user.cfg"
    whole = path.read_bytes()
    path.write_bytes(whole[whole.index(b"menuentry ") :])
    with (path.parent / name).open("ab") as other:
        other.write(b'set EFI_PART_UUID="7B77-95E7"\n')
    assert _doctor(case, capsys) == (0, _doctor(case, capsys)[1])
    assert _doctor(case, capsys)[1]["findings"] == []


def test_a_uki_that_boots_something_else_gets_no_entry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = _ready(tmp_path, capsys, Loader.SYSTEMD_BOOT, BootType.UKI)
    directory = case.host.esp / "EFI/Linux/bootc"
    for path in _entries(case):
        path.unlink()
    ukis = {digest: next(directory.glob(f"*{digest}*.efi")) for digest in (case.booted, case.staged)}
    ukis[case.staged].write_bytes(ukis[case.booted].read_bytes())
    before = snapshot(case.root)
    code, found = _doctor(case, capsys, "--repair")
    told = found["findings"]
    assert code == 7
    assert any(one["kind"] == "entry-missing" and one["repair"] is None for one in told)  # type: ignore[attr-defined]
    assert ukis[case.staged].read_bytes() == before[bytes(ukis[case.staged].relative_to(case.root))][-1]


def test_sets_that_a_cut_left_beside_the_live_one_are_found_and_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = _ready(tmp_path, capsys, Loader.SYSTEMD_BOOT, BootType.BLS)
    entries = case.host.boot_dir / "loader/entries"
    shutil.copytree(entries, entries.with_name("BFSET0"))
    code, found = _doctor(case, capsys)
    assert code == 0
    assert [one["kind"] for one in found["findings"]] == ["set-leftover"]  # type: ignore[attr-defined]
    assert _doctor(case, capsys, "--repair")[1]["remaining"] == []
    assert not entries.with_name("BFSET0").exists()
    assert lab.boot(case.host).digest == case.staged


@pytest.mark.parametrize(("loader", "boot_type"), BLS)
def test_half_a_kernels_directory_of_nobody_is_found_and_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader, boot_type: BootType
) -> None:
    case = _ready(tmp_path, capsys, loader, boot_type)
    half = _kernel(case).parent.with_name("bootc_composefs-" + "f" * 128)
    half.mkdir()
    (half / "initrd").write_bytes(b"half")
    before = snapshot(case.root)
    code, found = _doctor(case, capsys)
    assert (code, snapshot(case.root)) == (0, before)
    assert [one["kind"] for one in found["findings"]] == ["kernel-directory-torn"]  # type: ignore[attr-defined]
    assert _doctor(case, capsys, "--repair")[1]["remaining"] == []
    assert not half.exists()
    assert lab.boot(case.host).digest == case.staged


def test_a_boot_file_with_a_short_name_alone_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host is in a directory: all that is put in its place is the FAT below, of the same names."""
    case = _ready(tmp_path, capsys, Loader.SYSTEMD_BOOT, BootType.BLS)
    parent, model = case.host.esp / "EFI/Linux", FatModel()
    lost = {f"bootc_composefs-{'f' * 64}": "BOOTC_~3", "facade-rescue-system": "FACADE~1"}
    for name in (*sorted(path.name for path in parent.iterdir()), *lost):
        FatVolume(model).make_directory(b"EFI/Linux/" + name.encode())
    for name, short in lost.items():
        model = model.cut_removal(b"EFI/Linux/" + name.encode(), left=1)
        (parent / short).mkdir()
    monkeypatch.setattr(RealVolume, "look_at_fat", lambda _self, **_options: FatVolume(model).look_at_fat())
    before = snapshot(case.root)
    code, found = _doctor(case, capsys)
    assert (code, snapshot(case.root)) == (0, before)
    told = {one["detail"].split()[0]: one["repair"] for one in found["findings"]}  # type: ignore[attr-defined]
    assert told == {"/EFI/Linux/BOOTC_~3": "remove it", "/EFI/Linux/FACADE~1": None}
    remaining = _doctor(case, capsys, "--repair")[1]["remaining"]
    assert [one["detail"].split()[0] for one in remaining] == ["/EFI/Linux/FACADE~1"]  # type: ignore[attr-defined]
    assert not (case.host.esp / "EFI/Linux/BOOTC_~3").exists()
    assert lab.boot(case.host).digest == case.staged


def test_status_names_doctor_where_it_mends_something(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = _ready(tmp_path, capsys, Loader.SYSTEMD_BOOT, BootType.BLS)
    assert "bootc-fast doctor" not in "".join(run(capsys, "status", "--root", case.root)[1:])
    _remove_kernel(case)
    assert "`bootc-fast doctor`" in "".join(run(capsys, "status", "--root", case.root)[1:])


def test_a_uki_that_is_gone_is_told_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = _ready(tmp_path, capsys, Loader.SYSTEMD_BOOT, BootType.UKI)
    next(path for path in (case.host.esp / "EFI/Linux/bootc").glob("*.efi") if case.staged in path.name).unlink()
    before = snapshot(case.root)
    code, found = _doctor(case, capsys, "--repair")
    assert code == 7
    assert [one["kind"] for one in found["findings"]] == ["uki-missing"]  # type: ignore[attr-defined]
    assert snapshot(case.root) == before


def test_an_image_whose_kernel_is_not_what_was_staged_is_not_believed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = _ready(tmp_path, capsys, Loader.SYSTEMD_BOOT, BootType.BLS)
    _remove_kernel(case)
    origin = case.host.state_dir(case.staged) / f"{case.staged}.origin"
    lines = ["digest = " + "0" * 64 if line.startswith("digest") else line for line in origin.read_text().splitlines()]
    origin.write_text("\n".join(lines) + "\n")
    before = snapshot(case.root)
    code, found = _doctor(case, capsys, "--repair")
    assert (code, found["findings"]) == (7, found["remaining"])
    assert snapshot(case.root) == before
