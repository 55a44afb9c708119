"""boot_complete.py: after a failed finalize a unit fails at the next boot, once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import flowkit
import pytest

if TYPE_CHECKING:
    from pathlib import Path


def _report(capsys: pytest.CaptureFixture[str], root: Path) -> tuple[int, str, str]:
    return flowkit.run(capsys, "boot-complete", "--root", root)


def test_a_failure_is_told_once_with_its_text_and_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    case.host.marker.write_text("{")
    _, _, error = flowkit.finalize(capsys, case)
    code, out, err = _report(capsys, case.root)
    assert (code, out) == (10, "")
    assert all(line in err for line in error.splitlines())
    assert _report(capsys, case.root) == (0, "", "")
    assert flowkit.read_record(case.root)["reported"] is True


def test_without_a_failure_nothing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    assert _report(capsys, case.root) == (0, "", "")
    assert flowkit.finalize(capsys, case)[0] == 0
    assert _report(capsys, case.root) == (0, "", "")


@pytest.mark.parametrize("is_booted", [True, False])
def test_an_interrupted_finalize_is_told_unless_its_deployment_has_booted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *, is_booted: bool
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    assert flowkit.finalize(capsys, case)[0] == 0
    path = case.root / "sysroot/state/bootc-fast/last-finalize.json"
    path.write_text(json.dumps({**flowkit.read_record(case.root), "result": "interrupted"}))
    if is_booted:
        assert flowkit.run(capsys, "lab", "boot", case.root)[0] == 0
    code, _, err = _report(capsys, case.root)
    assert code == (0 if is_booted else 1)
    assert ("did not end" in err) is not is_booted


def test_a_record_that_is_not_readable_fails_visibly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    record = case.root / "sysroot/state/bootc-fast/last-finalize.json"
    record.parent.mkdir()
    record.write_text("no")
    assert _report(capsys, case.root)[0] == 10


@pytest.mark.parametrize("named", ["booted", "staged"])
def test_what_a_soft_reboot_outdates_is_removed_and_what_still_counts_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], named: str
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    digest = case.booted if named == "booted" else case.staged
    case.host.marker.write_text(json.dumps({"depl_id": digest}))
    reboot = case.root / "run/reboot-required"
    reboot.write_text(f"bootc: Reboot required for image: {digest}")
    assert _report(capsys, case.root) == (0, "", "")
    is_kept = named == "staged"
    assert (case.host.marker.exists(), reboot.exists()) == (is_kept, is_kept)


def test_another_programs_reboot_marker_stays_and_nothing_there_is_fine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    (case.root / "run/reboot-required").write_text("*** System restart required ***")
    assert _report(capsys, case.root) == (0, "", "")
    assert (case.root / "run/reboot-required").exists()
    (case.root / "run/reboot-required").unlink()
    case.host.marker.unlink()
    assert _report(capsys, case.root) == (0, "", "")
