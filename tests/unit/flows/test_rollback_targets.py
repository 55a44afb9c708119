"""Which targets a rollback takes, which it refuses, and what status says of them beforehand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import flowkit
import pytest
from unit.flows.test_rollback_oddities import Updated

from bootc_fast import lab
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from pathlib import Path


def _make(
    directory: Path,
    capsys: pytest.CaptureFixture[str],
    loader: Loader = Loader.SYSTEMD_BOOT,
    boot_type: BootType = BootType.BLS,
) -> Updated:
    return Updated(directory / "h", loader, boot_type, capsys)


def _give_up(updated: Updated, digest: str, counters: str) -> None:
    path = updated.find(digest)
    path.rename(path.with_name(path.name.removesuffix(".conf") + counters + ".conf"))


def _status(updated: Updated) -> str:
    return flowkit.run(updated.capsys, "status", "--root", updated.host.root)[1]


@pytest.mark.parametrize(
    ("counters", "said"),
    [
        ("+0-3", "was tried 3 times and failed: "),
        ("+0-1", "was tried 1 time and failed: "),
        ("+0", "failed its trial: the boot loader gave up on it"),
    ],
)
def test_a_target_that_gave_up_is_said_and_taken_by_force_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], counters: str, said: str
) -> None:
    updated = _make(tmp_path, capsys)
    _give_up(updated, updated.previous, counters)
    status = _status(updated)
    assert said in status
    assert "(broken)" not in status
    before = flowkit.snapshot(updated.host.root)
    for options in ((), ("--dry-run",), ("--to", "previous"), ("--to", updated.previous), ("--no-verify",)):
        code, _, err = updated.roll_back(*options)
        assert (code, said in err, "--force" in err) == (12, True, True), options
    assert flowkit.snapshot(updated.host.root) == before
    code, out, err = updated.roll_back("--force")
    assert (code, err, out.splitlines()[0]) == (0, "", "Next boot: rollback deployment")
    assert updated.next_boot() == updated.previous


def test_the_booted_deployment_that_gave_up_is_no_silent_revert(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It runs on its last try and comes last for that: nobody has queued a rollback, and one does not put it first."""
    updated = _make(tmp_path, capsys)
    _give_up(updated, updated.booted, "+0-5")
    assert updated.roll_back()[0] == 0
    assert updated.next_boot() == updated.previous
    assert updated.roll_back("--to", "booted", "--force")[0] == 0
    assert updated.next_boot() == updated.booted


def test_tries_that_are_left_are_kept_and_no_reason_to_refuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    updated = _make(tmp_path, capsys)
    _give_up(updated, updated.previous, "+2-1")
    assert updated.roll_back()[0] == 0
    assert updated.next_boot() == updated.previous
    assert updated.find(updated.previous).name.endswith("+2-1.conf")


def test_grub_counts_nothing_in_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    updated = _make(tmp_path, capsys, Loader.GRUB)
    _give_up(updated, updated.previous, "+0-3")
    assert "failed" not in _status(updated)
    assert updated.roll_back()[0] == 0
    assert updated.next_boot() == updated.previous


def test_json_has_it_as_a_remark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    updated = _make(tmp_path, capsys)
    _give_up(updated, updated.previous, "+0-3")
    document = json.loads(flowkit.run(capsys, "status", "--json", "--root", updated.host.root)[1])
    facts = document["status"]["rollback"]["bootcFast"]
    assert facts["problems"] == []
    assert facts["trial"] == {"state": "failed", "since": None, "tries": 3, "reasons": [], "counting": None}
    assert "was tried 3 times and failed" in facts["remarks"][0]


INITRDS = ["{0} $tuned_initrd", "{0} /extra.img", "/extra.img {0} ${{x}}", "'{0}'\t\"/extra.img\""]


@pytest.mark.parametrize("loader", [Loader.GRUB, Loader.GRUB_CC])
def test_what_tuned_and_admins_write_for_grub_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader
) -> None:
    updated = _make(tmp_path, capsys, loader)
    (updated.host.boot_dir / "extra.img").write_bytes(b"more")
    path = updated.find(updated.previous)
    text = path.read_text()
    line = next(line for line in text.splitlines() if line.startswith("initrd "))
    for written in INITRDS:
        path = updated.find(updated.previous)
        path.write_text(
            text.replace(line, "initrd " + written.format(line.split()[1])).replace(" rw", " rw $tuned_params")
        )
        assert "(broken)" not in _status(updated), written
        assert updated.roll_back("--to", updated.previous)[0] == 0, written
        assert updated.next_boot() == updated.previous
        assert updated.roll_back("--to", "booted")[0] == 0, written


def test_missing_boot_files_are_passed_over_when_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    updated = _make(tmp_path, capsys)
    path = updated.find(updated.previous)
    path.write_text(path.read_text() + "devicetree /gone.dtb\n")
    code, _, err = updated.roll_back()
    assert (code, "/gone.dtb" in err, "--no-verify" in err) == (7, True, True)
    assert updated.roll_back("--no-verify")[0] == 0
    assert updated.next_boot() == updated.previous


def test_finalize_too_has_a_way_past_its_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    (path,) = [
        path
        for path in (case.host.boot_dir / "loader/entries.staged").glob("*.conf")
        if f"composefs={case.staged}" in path.read_text()
    ]
    path.write_text(path.read_text() + "devicetree-overlay /a.dtbo /b.dtbo\n")
    code, _, err = flowkit.finalize(capsys, case)
    assert (code, "/b.dtbo" in err) == (7, True)
    assert flowkit.finalize(capsys, case, "--no-verify")[0] == 0
    assert flowkit.next_boot(case.host) == case.staged


def _damage_image(updated: Updated, how: str) -> None:
    link = updated.host.root / "sysroot/composefs/images" / updated.previous
    path = link.resolve()
    raw = path.read_bytes()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(raw[: len(raw) // 2])
    elif how == "zeros":
        path.write_bytes(bytes(len(raw)))
    elif how == "one bit":
        path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    elif how == "longer":
        path.write_bytes(raw + b"\0")
    elif how == "dangling":
        path.unlink()
    else:
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize("how", ["empty", "cut", "zeros", "one bit", "longer", "dangling", "directory"])
def test_a_target_whose_image_is_damaged_is_said_and_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    updated = _make(tmp_path, capsys)
    _damage_image(updated, how)
    status = _status(updated)
    assert "(broken)" in status
    before = flowkit.snapshot(updated.host.root)
    for options in ((), ("--dry-run",), ("--to", updated.previous)):
        code, _, err = updated.roll_back(*options)
        assert (code, updated.previous[:8] in err) == (10 if how in {"dangling", "directory"} else 11, True), err
    assert flowkit.snapshot(updated.host.root) == before
    assert updated.next_boot() == updated.booted
    if how not in {"dangling", "directory"}:
        assert updated.roll_back("--no-verify")[0] == 0


@pytest.mark.parametrize("text", [None, "", "[boot]\nboot_type = other\n", "no ini", "\0"])
def test_a_target_without_an_origin_is_said_and_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None
) -> None:
    updated = _make(tmp_path, capsys)
    path = updated.host.state_dir(updated.previous) / f"{updated.previous}.origin"
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    if text == "":
        # Everything in it may be absent, in files of older versions.
        assert updated.roll_back()[0] == 0
        return
    assert ".origin" in _status(updated)
    code, _, err = updated.roll_back()
    assert (code, ".origin" in err, "--no-verify" in err) == (10, True, True), err
    assert updated.roll_back("--no-verify")[0] == 0
    assert updated.next_boot() == updated.previous


def test_a_deployment_without_an_entry_is_kept_and_not_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    updated = _make(tmp_path, capsys)
    updated.find(updated.previous).unlink()
    status = _status(updated)
    assert "kept, not bootable" in status
    assert "(broken)" not in status


@pytest.mark.parametrize("to", ["booted", "digest"])
def test_naming_what_boots_next_changes_nothing_with_an_update_staged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str
) -> None:
    updated = _make(tmp_path, capsys)
    staged = lab.stage_files(updated.host, version="44", os_id="fedora")
    before = flowkit.snapshot(updated.host.root)
    for options in ((), ("--dry-run",)):
        code, out, err = updated.roll_back("--to", to if to == "booted" else updated.booted[:12], *options)
        assert (code, err) == (0, "")
        assert f"{staged[:8]}" in out
        assert "stays" in out
    assert flowkit.snapshot(updated.host.root) == before
    assert flowkit.run(capsys, "finalize", "--root", updated.host.root)[0] == 0
    assert updated.next_boot() == staged


def test_what_is_not_the_next_boot_still_drops_the_staged_update(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    updated = _make(tmp_path, capsys)
    assert updated.roll_back()[0] == 0
    lab.stage_files(updated.host, version="44", os_id="fedora")
    code, out, _ = updated.roll_back("--to", "booted")
    assert (code, "was dropped" in out) == (0, True)
    assert updated.next_boot() == updated.booted


GARBAGE = [b"", b"{", b"\xff\xfe", b'{"depl_id": 7}', b"[1]", b'{"depl_id": "../../etc"}', b"\0" * 64, b"null"]


def test_garbage_in_the_staged_marker_does_not_stop_a_rollback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    updated = _make(tmp_path, capsys)
    marker = updated.host.root / "run/composefs/staged-deployment"
    marker.parent.mkdir(parents=True, exist_ok=True)
    wanted = [updated.previous, updated.booted]
    for number, garbage in enumerate(GARBAGE):
        marker.write_bytes(garbage)
        code, _, err = updated.roll_back("--dry-run")
        assert (code, "staged-deployment" in err) == (0, True), garbage
        assert marker.read_bytes() == garbage
        code, _, err = updated.roll_back()
        assert (code, "is dropped" in err) == (0, True), garbage
        assert updated.next_boot() == wanted[number % 2]
        assert not marker.exists()
