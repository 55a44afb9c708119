"""The fallback entry by policy, on lab hosts: what came up well, at each boot, and what screens say of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import flowkit
import pytest
import trio

from bootc_fast import bless, finalize_staged, lab
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from pathlib import Path

    from flowkit import Case

ADMINS = "# an admin's\nset timeout=5\n"


@pytest.fixture
def case(tmp_path: Path) -> Case:
    case = flowkit.make_case(tmp_path / "h", Loader.GRUB, BootType.UKI)
    _grub(case, "custom.cfg").write_text(ADMINS)
    _want(case.root)
    return case


def _grub(case: Case, name: str) -> Path:
    return case.host.boot_dir / "grub2" / name


def _want(root: Path, value: str = "true") -> None:
    policy = root / "etc/bootc-fast/boot.toml"
    policy.parent.mkdir(exist_ok=True)
    policy.write_text(f"fallback-entry = {value}\n")


def _fallback(case: Case) -> list[str]:
    """The deployments that the fallback entry names."""
    text = _grub(case, "custom.cfg").read_text()
    assert text.startswith(ADMINS)
    return [one for one in (case.booted, case.staged) if one in text]


def _complete(case: Case, capsys: pytest.CaptureFixture[str]) -> str:
    code, _out, err = flowkit.run(capsys, "boot-complete", "--root", case.root)
    assert code == 0, err
    return err


def test_it_follows_what_came_up_well_and_goes_with_the_policy(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert _complete(case, capsys) == ""
    assert _fallback(case) == [case.booted]
    inode = _grub(case, "custom.cfg").stat().st_ino
    assert _complete(case, capsys) == ""
    assert _grub(case, "custom.cfg").stat().st_ino == inode, "nothing is written again"
    trio.run(finalize_staged, case.root)
    assert _fallback(case) == [case.booted], "an update is none until it has come up"
    lab.boot(case.host)
    _want(case.root)
    trio.run(lambda: bless(case.root, is_complete=False))
    assert _fallback(case) == [case.booted]
    assert _complete(case, capsys) == ""
    assert _fallback(case) == [case.staged]
    _want(case.root, "false")
    assert _complete(case, capsys) == ""
    assert _fallback(case) == []
    assert "### BEGIN bootc-fast ###" in _grub(case, "custom.cfg").read_text(), "that counts boots, and stays"


def test_where_user_cfg_is_gone_status_and_doctor_say_what_boots_and_repair_makes_it_anew(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    _complete(case, capsys)
    for content in (None, b""):
        if content is None:
            _grub(case, "user.cfg").unlink()
        else:
            _grub(case, "user.cfg").write_bytes(content)
        code, out, _err = flowkit.run(capsys, "status", "--root", case.root)
        assert (code, "Next boot: the booted deployment" in out) == (0, True), out
        assert "user.cfg is gone, and custom.cfg has bootc-fast's fallback entry" in out
    code, out, _err = flowkit.run(capsys, "doctor", "--root", case.root)
    assert (code, "Next boot: Lab OS 1" in out) == (7, True), out
    code, out, err = flowkit.run(capsys, "doctor", "--repair", "--root", case.root)
    assert code == 0, out + err
    assert b"efiuuid.cfg" in _grub(case, "user.cfg").read_bytes()
    assert case.booted.encode() in _grub(case, "user.cfg").read_bytes()


def test_an_entry_whose_uki_is_gone_boots_nothing(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    _complete(case, capsys)
    _grub(case, "user.cfg").unlink()
    for uki in (case.root / "efi/EFI/Linux/bootc").glob(f"*{case.booted}*"):
        uki.unlink()
    _code, out, _err = flowkit.run(capsys, "status", "--root", case.root)
    assert "Next boot: cannot be told: there is no boot entry that can boot" in out


@pytest.mark.parametrize("damage", ["open", "link", "directory", "changed", "not read"])
def test_what_cannot_be_written_is_a_warning_and_stays(
    case: Case, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    custom = _grub(case, "custom.cfg")
    said = {
        "open": "ends inside of a quote",
        "link": "it is a link",
        "directory": "it is no file",
        "changed": "was changed: remove it",
        "not read": "does not read custom.cfg",
    }[damage]
    if damage == "open":
        custom.write_text("if true; then\n")
    elif damage == "changed":
        custom.write_text("### BEGIN bootc-fast fallback ###\n")
    elif damage == "not read":
        _grub(case, "grub.cfg").write_text("source $prefix/user.cfg\n")
    else:
        custom.unlink()
        os.symlink("other.cfg", custom) if damage == "link" else custom.mkdir()
    before = {path: path.lstat().st_mtime_ns for path in custom.parent.iterdir()}
    err = _complete(case, capsys)
    assert "warning: fallback entry for" in err
    assert said in err
    assert {path: path.lstat().st_mtime_ns for path in custom.parent.iterdir()} == before
    _want(case.root, "false")
    assert "fallback" not in _complete(case, capsys)


@pytest.mark.parametrize(
    ("loader", "boot_type"), [one for one in flowkit.COMBINATIONS if one != (Loader.GRUB, BootType.UKI)]
)
def test_a_loader_without_a_second_place_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader, boot_type: BootType
) -> None:
    case = flowkit.make_case(tmp_path / "h", loader, boot_type)
    _want(case.root)
    before = flowkit.snapshot(case.host.boot_dir)
    err = _complete(case, capsys)
    assert "warning: fallback entry for" in err
    assert "there is none" in err
    assert flowkit.snapshot(case.host.boot_dir) == before


@pytest.mark.parametrize("value", ["1", '"yes"', "[]"])
def test_a_value_that_is_none_is_passed_over_with_a_warning(
    case: Case, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    _want(case.root, value)
    _complete(case, capsys)
    assert _fallback(case) == []
    code, out, err = flowkit.run(capsys, "policy", "check", "--root", case.root)
    assert "'fallback-entry' is neither true nor false" in out + err
    assert code != 0


def test_a_third_update_has_room_the_fallback_keeps_no_uki(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    ukis = case.root / "efi/EFI/Linux/bootc"
    for number in range(4):
        _complete(case, capsys)
        trio.run(finalize_staged, case.root)
        assert len(list(ukis.glob("*.efi"))) == 2, number
        lab.boot(case.host)
        _want(case.root)
        _complete(case, capsys)
        lab.stage_files(case.host, {"version": f"{number}\n"}, version=f"{number + 3}")
