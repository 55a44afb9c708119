"""unstage.py: the staged update goes, in an order that any cut leaves safe, and nothing that anything names."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import flowkit
import ostree_hosts
import pytest
import trio
from flowkit import COMBINATIONS, Case
from killing import KILLABLE, MOST_CALLS, kill_at, run_injected

from bootc_fast import events, finalize_staged, lab, unstage
from bootc_fast.errors import BootEntryError, FileSystemError, InvalidStateError, NotBootcHostError
from bootc_fast.types import BootType, Loader, Result

if TYPE_CHECKING:
    from pathlib import Path

STEPS = ["look", "drop", "entries", "state", "files", "tidy"]


def _names_of(case: Case, digest: str) -> list[str]:
    """Every path of the host, outside of the repository, that has the digest in its name."""
    found = []
    for where, names, files in os.walk(case.root):
        found += [os.path.join(where, name) for name in (*names, *files) if digest in name]
    return [path for path in found if "/sysroot/composefs/" not in path]


def _assert_gone(case: Case) -> None:
    assert not (case.root / "run/composefs/staged-deployment").exists()
    assert _names_of(case, case.staged) == []
    assert not list(case.root.rglob("entries.staged"))
    assert not list(case.root.rglob("user.cfg.staged"))
    assert not list((case.root / "sysroot/state/deploy").glob(".*"))
    assert not (case.root / "sysroot/state/bootc-fast/unstaging.json").exists()


def _live_set(case: Case) -> dict[bytes, bytes]:
    found = flowkit.read_tree(case.host.boot_dir)
    return {path: data for path, data in found.items() if b"staged" not in path and case.staged.encode() not in path}


@pytest.mark.parametrize(("loader", "boot_type"), COMBINATIONS)
async def test_what_is_staged_goes_and_the_boot_order_stays(
    tmp_path: Path, loader: Loader, boot_type: BootType
) -> None:
    case = flowkit.make_case(tmp_path / "h", loader, boot_type)
    (case.root / "run/reboot-required").write_text(f"bootc: Reboot required for image: {case.staged}")
    before, seen = _live_set(case), []
    outcome = await unstage(case.root, on_event=seen.append)
    assert (outcome.unstaged, outcome.warnings, outcome.kept) == (case.staged, (), ())
    assert len(outcome.removed) == 3
    assert [one.step for one in seen if isinstance(one, events.StepDone)] == STEPS
    _assert_gone(case)
    assert _live_set(case) == before
    assert flowkit.next_boot(case.host) == case.booted
    assert not (case.root / "run/reboot-required").exists()
    assert (await finalize_staged(case.root)).result is Result.NOTHING_STAGED
    again = await unstage(case.root)
    assert (again.unstaged, again.removed, again.warnings) == (None, (), ())
    # The same can be staged again, and applied.
    assert lab.stage_files(case.host, flowkit.NEW) == case.staged
    assert (await finalize_staged(case.root)).result is Result.DONE
    assert flowkit.next_boot(case.host) == case.staged


def test_nobody_misses_it_at_the_next_boot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    assert flowkit.run(capsys, "--root", case.root, "unstage", "--keep-files")[0] == 0
    lab.boot(case.host)
    assert flowkit.run(capsys, "--root", case.root, "boot-complete") == (0, "", "")


@pytest.mark.parametrize("boot_type", list(BootType))
async def test_a_dry_run_says_what_would_go_and_changes_nothing(tmp_path: Path, boot_type: BootType) -> None:
    case = flowkit.make_case(tmp_path / "h", boot_type=boot_type)
    before = flowkit.snapshot(case.root)
    outcome = await unstage(case.root, dry_run=True)
    assert outcome.removed == ("the staged boot entries", str(case.host.state_dir(case.staged)))
    assert (outcome.unstaged, outcome.dry_run) == (case.staged, True)
    assert flowkit.snapshot(case.root) == before


async def test_its_files_can_stay(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    outcome = await unstage(case.root, keep_files=True)
    assert outcome.removed == ("the staged boot entries",)
    assert not list(case.root.rglob("entries.staged"))
    assert sorted(map(os.path.basename, _names_of(case, case.staged))) == sorted(
        [case.staged, f"{case.staged}.origin", f"bootc_composefs-{case.staged}"]
    )
    # And a later run does not take them for what it has to finish.
    assert (await unstage(case.root)).removed == ()


@pytest.mark.parametrize(
    ("form", "name"), [*((COMBINATIONS[0], name) for name in KILLABLE), (COMBINATIONS[3], "unlink")]
)
def test_kill_9_at_any_change_leaves_the_old_next_boot_and_a_rerun_finishes(
    tmp_path: Path, form: tuple[Loader, BootType], name: str
) -> None:
    for number in range(1, MOST_CALLS):
        case = flowkit.make_case(tmp_path / str(number), *form)
        if not kill_at(case, KILLABLE[name], number, "unstage"):
            break
        assert flowkit.next_boot(case.host) == case.booted
        if (case.root / "sysroot/state/bootc-fast/unstaging.json").exists():
            # A power cut takes /run away as well.
            shutil.rmtree(case.root / "run/composefs")
            (case.root / "run/composefs").mkdir()
        assert trio.run(unstage, case.root).warnings == ()
        _assert_gone(case)
        shutil.rmtree(case.root)
    else:
        pytest.fail("more calls than were reckoned with")


@pytest.mark.parametrize(("name", "error"), [("flush", "EIO"), ("rename", "ENOSPC"), ("unlink", "EIO")])
def test_a_system_call_that_fails_once_is_an_error_or_a_warning_and_a_rerun_finishes(
    tmp_path: Path, name: str, error: str
) -> None:
    failures = 0
    for number in range(1, MOST_CALLS):
        case = flowkit.make_case(tmp_path / str(number))
        done = run_injected(case, KILLABLE[name], number, f"error={error}", "unstage")
        if not done.calls:
            break
        if done.returncode or done.said:
            failures += 1
            assert (done.returncode, done.said.split(":")[0]) in [(0, "warning"), (6, "error")], done.said
        assert "Traceback" not in done.said
        assert flowkit.next_boot(case.host) == case.booted
        trio.run(unstage, case.root)
        assert not (case.root / "run/composefs/staged-deployment").exists()
        if "noting what is unstaged" not in done.said:
            _assert_gone(case)
        shutil.rmtree(case.root)
    else:
        pytest.fail("more calls than were reckoned with")
    assert failures > 0


@pytest.mark.parametrize("step", STEPS)
async def test_a_cancellation_before_the_marker_changes_nothing_and_after_it_waits(tmp_path: Path, step: str) -> None:
    case = flowkit.make_case(tmp_path / "h")
    before = flowkit.snapshot(case.root)
    with trio.CancelScope() as scope:

        def cancel(event: events.Event) -> None:
            if isinstance(event, events.StepStarted) and event.step == step:
                scope.cancel()

        await unstage(case.root, on_event=cancel)
    assert scope.cancelled_caught is (step == "look")
    if step == "look":
        assert flowkit.snapshot(case.root) == before
    else:
        _assert_gone(case)


async def test_a_cut_between_the_marker_and_the_rest_is_finished_by_the_next_run(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    note = case.root / "sysroot/state/bootc-fast/unstaging.json"
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps({"version": 1, "digests": [case.staged]}))
    (case.root / "run/composefs/staged-deployment").unlink()
    outcome = await unstage(case.root)
    assert outcome.unstaged is None
    assert len(outcome.removed) == 3
    _assert_gone(case)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"digests": 3}', '{"digests": [null]}', '{"digests": ["../.."]}'])
async def test_a_note_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    case = flowkit.make_case(tmp_path / "h")
    await unstage(case.root)
    note = case.root / "sysroot/state/bootc-fast/unstaging.json"
    note.write_text(text)
    assert (await unstage(case.root)).removed == ()


async def test_an_update_that_is_finalized_is_refused(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    await finalize_staged(case.root)
    before = flowkit.snapshot(case.root)
    with pytest.raises(InvalidStateError, match="is finalized already, and boots next") as caught:
        await unstage(case.root)
    assert (caught.value.exit_code, "rollback --to booted" in (caught.value.hint or "")) == (10, True)
    assert flowkit.snapshot(case.root) == before


@pytest.mark.parametrize(("loader", "boot_type"), [COMBINATIONS[0], COMBINATIONS[3]])
async def test_the_only_entries_that_there_are_stay(tmp_path: Path, loader: Loader, boot_type: BootType) -> None:
    case = flowkit.make_case(tmp_path / "h", loader, boot_type)
    if boot_type is BootType.UKI and loader is Loader.GRUB:
        (case.host.boot_dir / "grub2/user.cfg").unlink()
    else:
        shutil.rmtree(case.host.boot_dir / "loader/entries")
    before = flowkit.snapshot(case.root)
    with pytest.raises(BootEntryError, match="are the only ones of this host") as caught:
        await unstage(case.root)
    assert "doctor --repair" in (caught.value.hint or "")
    assert flowkit.snapshot(case.root) == before


async def test_a_deployment_that_another_entry_names_keeps_its_files(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    staged = case.host.boot_dir / "loader/entries.staged"
    entry = next(path for path in staged.iterdir() if f"composefs={case.staged}" in path.read_text())
    text = entry.read_text().replace("sort-key bootc-lab-0", "sort-key bootc-lab-9")
    (case.host.boot_dir / "loader/entries/bootc_lab-0-0.conf").write_text(text)
    outcome = await unstage(case.root)
    assert outcome.removed == ("the staged boot entries",)
    assert "the boot entry bootc_lab-0-0.conf names it" in outcome.kept[0]
    assert case.host.state_dir(case.staged).exists()
    assert len(_names_of(case, case.staged)) == 3


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff\xfe", b'{"depl_id": 3}'])
async def test_a_marker_that_cannot_be_read_goes_with_a_warning(tmp_path: Path, content: bytes) -> None:
    case = flowkit.make_case(tmp_path / "h")
    (case.root / "run/composefs/staged-deployment").write_bytes(content)
    outcome = await unstage(case.root)
    assert outcome.unstaged is None
    assert "which deployment it named cannot be told" in outcome.warnings[0]
    assert not (case.root / "run/composefs/staged-deployment").exists()
    assert not list(case.root.rglob("entries.staged"))
    # Which of them was staged nobody knows.
    assert case.host.state_dir(case.staged).exists()


async def test_a_marker_that_cannot_be_removed_is_an_error_and_nothing_goes(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    marker = case.root / "run/composefs/staged-deployment"
    marker.unlink()
    (marker / "x").mkdir(parents=True)
    before = flowkit.snapshot(case.root)
    with pytest.raises(FileSystemError, match=r"removing \S+staged-deployment: Is a directory"):
        await unstage(case.root)
    assert flowkit.snapshot(case.root) == before


async def test_an_ostree_host_says_what_there_is_instead(tmp_path: Path) -> None:
    host = ostree_hosts.make_host(tmp_path, 1, 2)
    with pytest.raises(NotBootcHostError, match="this is an ostree host") as caught:
        await unstage(host.root)
    assert "ostree admin undeploy" in (caught.value.hint or "")


def test_the_command_says_what_went_and_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    code, out, err = flowkit.run(capsys, "unstage", "--root", case.root, "--dry-run")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"Unstaged: would drop {case.staged[:16]}…"
    assert "  would be removed: the staged boot entries" in out.splitlines()
    code, out, err = flowkit.run(capsys, "unstage", "--root", case.root, "--json")
    assert (code, json.loads(out)["unstaged"]) == (0, case.staged)
    code, out, err = flowkit.run(capsys, "unstage", "--root", case.root)
    assert (code, out.splitlines()[0], err) == (0, "Nothing is staged", "")
