"""A rollback to what never came up well is a trial like an update's; one to what was good is none."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

import flowkit
import pytest
import trio

from bootc_fast import finalize_staged, forget_failure, lab, rollback
from bootc_fast.boot.counting.records import CountMethod
from bootc_fast.machine.host import open_host
from bootc_fast.trial.states import TrialRecord, TrialState, read_states
from bootc_fast.types import BootType, Loader, VerityDigest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from flowkit import Case

T = TypeVar("T")
FORMS = [pytest.param(*one, id="-".join(one)) for one in flowkit.COMBINATIONS[:4]]


def _run(function: Callable[..., Awaitable[T]], *args: object, **options: object) -> T:
    return trio.run(partial(function, *args, **options))


def _record(case: Case) -> TrialRecord:
    return read_states(open_host(case.root))[0][VerityDigest(case.staged)]


def _boots(case: Case, count: int) -> list[str]:
    names = {case.booted: "old", case.staged: "new"}
    return [names[lab.boot(case.host).digest] for _ in range(count)]


def _policy(case: Case, text: str) -> None:
    path = case.root / "usr/lib/bootc-fast/trial.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[trial]\n{text}\n")


def _complete(case: Case, capsys: pytest.CaptureFixture[str]) -> int:
    return flowkit.run(capsys, "boot-complete", "--root", case.root)[0]


def _fail(case: Case, capsys: pytest.CaptureFixture[str], tries: int) -> None:
    """An update that never comes up; the old deployment runs afterwards and knows it."""
    assert flowkit.finalize(capsys, case)[0] == 0
    assert _boots(case, tries + 1) == [*["new"] * tries, "old"]
    assert _complete(case, capsys) == 12
    assert _record(case).state is TrialState.FAILED


def _counts(case: Case) -> bool:
    """Whether anything on the boot partition counts."""
    names = [path.name for path in (case.host.boot_dir / "loader/entries").glob("*.conf")]
    grubenv = case.host.boot_dir / "grub2/grubenv"
    is_in_grub = grubenv.exists() and b"bootc_fast" in grubenv.read_bytes()
    return is_in_grub or any("+" in name and "+0" not in name for name in names)


@pytest.mark.parametrize(("loader", "boot_type"), FORMS)
def test_what_failed_and_is_insisted_on_is_tried_as_often_and_fails_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader, boot_type: BootType
) -> None:
    case = flowkit.make_case(tmp_path / "h", loader, boot_type)
    _policy(case, "tries = 2")
    _fail(case, capsys, 2)
    for _ in range(2):
        outcome = _run(rollback, case.root, force=True)
        assert (outcome.next_boot, outcome.warnings, outcome.boots_instead) == (case.staged, (), None)
        assert (_record(case).state, _record(case).allowed) == (TrialState.TRIAL, 2)
        assert _boots(case, 4) == ["new", "new", "old", "old"]
        assert _complete(case, capsys) == 12
        assert _record(case).state is TrialState.FAILED
        assert flowkit.next_boot(case.host) == case.booted


@pytest.mark.parametrize(("loader", "boot_type"), FORMS)
def test_what_is_insisted_on_and_comes_up_is_good_and_counted_no_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader, boot_type: BootType
) -> None:
    case = flowkit.make_case(tmp_path / "h", loader, boot_type)
    _fail(case, capsys, 3)
    _run(rollback, case.root, to=case.staged, force=True)
    assert _boots(case, 1) == ["new"]
    assert _complete(case, capsys) == 0
    assert (_record(case).state, _counts(case)) == (TrialState.GOOD, False)
    assert _boots(case, 5) == ["new"] * 5
    # Back and forth between what is good is counted by nobody.
    for expected in ("old", "new"):
        _run(rollback, case.root)
        assert not _counts(case)
        assert _boots(case, 4) == [expected] * 4


@pytest.mark.parametrize("boot_type", list(BootType))
def test_by_one_shot_it_has_one_try(tmp_path: Path, capsys: pytest.CaptureFixture[str], boot_type: BootType) -> None:
    case = flowkit.make_case(tmp_path / "h", boot_type=boot_type)
    _policy(case, 'method = "one-shot"')
    _fail(case, capsys, 1)
    outcome = _run(rollback, case.root, force=True)
    assert (outcome.next_boot, outcome.boots_instead) == (case.staged, None)
    assert (_record(case).state, _record(case).method) == (TrialState.TRIAL, CountMethod.ONE_SHOT)
    assert _boots(case, 2) == ["new", "old"]
    assert _complete(case, capsys) == 12


@pytest.mark.parametrize(("loader", "boot_type"), FORMS)
@pytest.mark.parametrize("way", ["taken back", "forgotten"])
def test_what_is_new_again_is_tried_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader, boot_type: BootType, way: str
) -> None:
    case = flowkit.make_case(tmp_path / "h", loader, boot_type)
    if way == "taken back":
        _run(finalize_staged, case.root)
        _run(rollback, case.root)
        assert flowkit.next_boot(case.host) == case.booted
    else:
        _fail(case, capsys, 3)
        _run(forget_failure, case.root, case.staged)
    assert _record(case).state is TrialState.NEW
    _run(rollback, case.root)
    assert _boots(case, 5) == [*["new"] * 3, "old", "old"]


def test_a_dry_run_writes_nothing_and_without_tries_nothing_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    _fail(case, capsys, 3)
    before = flowkit.snapshot(case.root)
    outcome = _run(rollback, case.root, force=True, dry_run=True)
    assert "+3-0" in (outcome.entry_name or "")
    assert flowkit.snapshot(case.root) == before
    _policy(case, "tries = 0")
    _run(rollback, case.root, force=True)
    assert _boots(case, 5) == ["new"] * 5


def test_a_host_that_cannot_count_says_so_and_goes_there_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h", Loader.GRUB, BootType.BLS)
    _fail(case, capsys, 3)
    _policy(case, "require-counting = true")
    (case.host.boot_dir / "grub2/grub.cfg").unlink()
    outcome = _run(rollback, case.root, force=True)
    assert any("this host cannot count boots" in one for one in outcome.warnings), outcome.warnings
    assert outcome.next_boot == case.staged


def test_a_staged_update_that_is_kept_is_staged_still(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    _fail(case, capsys, 3)
    newest = lab.stage_files(case.host, {"motd": "v3\n"}, version="3")
    _run(rollback, case.root, to=case.staged, force=True, keep_staged=True)
    assert _counts(case)
    assert newest[:16] in flowkit.run(capsys, "status", "--root", case.root)[1]
    assert (case.host.boot_dir / "loader/entries.staged").is_dir()
