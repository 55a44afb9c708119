"""status --check: not 0 where an update will not be applied, the next boot is not as meant, or a finalize failed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import flowkit
import pytest

from bootc_fast import check_status, get_status
from bootc_fast.report.status import StagedStatus

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def case(tmp_path: Path) -> flowkit.Case:
    return flowkit.make_case(tmp_path / "h")


def _check(capsys: pytest.CaptureFixture[str], case: flowkit.Case) -> tuple[int, list[str]]:
    code, out, err = flowkit.run(capsys, "status", "--check", "--root", case.root)
    assert "Booted" in out or "booted" in out
    assert flowkit.run(capsys, "status", "--root", case.root)[0] == 0
    return code, [line for line in err.splitlines() if line.startswith("check: ")]


def test_a_host_on_its_ordinary_way_has_no_concern(case: flowkit.Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert _check(capsys, case) == (0, [])
    assert flowkit.finalize(capsys, case)[0] == 0
    assert _check(capsys, case) == (0, [])
    assert flowkit.run(capsys, "lab", "boot", case.root)[0] == 0
    assert _check(capsys, case) == (0, [])
    # Who rolls back means it, also back and forth.
    for _ in range(3):
        assert flowkit.run(capsys, "rollback", "--root", case.root)[0] == 0
        assert _check(capsys, case) == (0, [])


def test_an_update_that_was_taken_back_before_it_ran_is_no_concern(
    case: flowkit.Case, capsys: pytest.CaptureFixture[str]
) -> None:
    assert flowkit.finalize(capsys, case)[0] == 0
    assert flowkit.run(capsys, "rollback", "--to", "booted", "--root", case.root)[0] == 0
    assert _check(capsys, case) == (0, [])


@pytest.mark.parametrize("obstacle", ["locked", "conflict", "no image", "no entry"])
def test_an_update_that_will_not_be_applied_is_one(
    case: flowkit.Case, capsys: pytest.CaptureFixture[str], obstacle: str
) -> None:
    if obstacle == "locked":
        case.host.marker.write_text(case.host.marker.read_text().replace("false", "true"))
    elif obstacle == "conflict":
        (case.root / "etc/fresh").mkdir()
    elif obstacle == "no image":
        (case.root / "sysroot/composefs/images" / case.staged).unlink()
    else:
        for path in (case.host.boot_dir / "loader/entries.staged").iterdir():
            path.unlink()
    code, lines = _check(capsys, case)
    assert code == 10
    assert lines[0].startswith("check: the staged update will not be applied: ")


def test_a_default_of_another_system_and_an_unreadable_partition_are(
    case: flowkit.Case, capsys: pytest.CaptureFixture[str]
) -> None:
    case.host.write_efi_variable("LoaderEntries", "auto-windows")
    case.host.write_efi_variable("LoaderEntryDefault", "auto-windows")
    code, lines = _check(capsys, case)
    assert code == 7
    assert lines[-1].startswith("check: next boot: auto-windows, no deployment of this host")
    for path in (case.host.esp / "loader").rglob("*.conf"):
        path.unlink()
    code, lines = _check(capsys, case)
    assert code == 10  # the staged entries are gone as well
    assert any(line.startswith("check: next boot: ") for line in lines)


def test_a_finalized_update_that_does_not_boot_next_is(case: flowkit.Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert flowkit.finalize(capsys, case)[0] == 0
    entries = sorted((case.host.boot_dir / "loader/entries").glob("*.conf"))
    (old,) = [one for one in entries if case.booted in one.read_text()]
    (case.host.esp / "loader/loader.conf").write_text(f"default {old.name}\n")
    code, lines = _check(capsys, case)
    assert (code, len(lines)) == (7, 1)
    assert f"though {case.staged[:16]}" in lines[0]
    # Somebody's own choice, once the update has run.
    (case.host.esp / "loader/loader.conf").write_text("timeout 3\n")
    assert flowkit.run(capsys, "lab", "boot", case.root)[0] == 0
    assert flowkit.run(capsys, "boot-complete", "--root", case.root)[0] == 0
    (case.host.esp / "loader/loader.conf").write_text(f"default {old.name}\n")
    assert _check(capsys, case) == (0, [])


def test_a_failed_finalize_is_with_its_own_exit_code(case: flowkit.Case, capsys: pytest.CaptureFixture[str]) -> None:
    (case.root / "etc/fresh").mkdir()
    assert flowkit.finalize(capsys, case)[0] == 5
    (case.root / "etc/fresh").rmdir()
    code, lines = _check(capsys, case)
    assert (code, len(lines)) == (5, 1)
    assert "failed: " in lines[0]
    assert flowkit.finalize(capsys, case)[0] == 0
    assert _check(capsys, case) == (0, [])


async def test_what_cannot_be_told_is_no_concern(case: flowkit.Case) -> None:
    status = await get_status(case.root)
    unknown = replace(status, staged_status=StagedStatus(will_be_applied=None, reasons=("nobody can be asked",)))
    assert check_status(unknown) == ()
