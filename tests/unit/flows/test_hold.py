"""hold.py: what is staged is not finalized until it is released; bootc's own flag, shown by status."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import flowkit
import ostree_hosts
import pytest
import trio
from flowkit import COMBINATIONS

from bootc_fast import events, finalize_staged, get_status, hold, rollback
from bootc_fast.errors import InvalidStateError, NotBootcHostError, UsageError
from bootc_fast.types import BootType, Loader, Result

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("loader", "boot_type"), COMBINATIONS[2:4])
async def test_a_held_update_is_not_finalized_until_it_is_released(
    tmp_path: Path, loader: Loader, boot_type: BootType
) -> None:
    case = flowkit.make_case(tmp_path / "h", loader, boot_type)
    marker = case.root / "run/composefs/staged-deployment"
    before = marker.read_bytes()
    outcome = await hold(case.root)
    assert (outcome.staged, outcome.is_held, outcome.is_changed, outcome.warnings) == (case.staged, True, True, ())
    assert not (await hold(case.root)).is_changed
    status = await get_status(case.root)
    assert status.staged_status is not None
    assert status.staged_status.finalization_locked
    assert "it is held, until `bootc-fast hold --release`" in status.staged_status.reasons[0]
    assert (await finalize_staged(case.root)).result is Result.LOCKED
    assert flowkit.next_boot(case.host) == case.booted
    released = await hold(case.root, release=True)
    assert (released.is_held, released.is_changed) == (False, True)
    assert marker.read_bytes() == before
    assert (await finalize_staged(case.root)).result is Result.DONE
    assert flowkit.next_boot(case.host) == case.staged


@pytest.mark.parametrize("release", [False, True])
async def test_what_is_finalized_already_is_refused(tmp_path: Path, *, release: bool) -> None:
    case = flowkit.make_case(tmp_path / "h")
    await finalize_staged(case.root)
    before = flowkit.snapshot(case.root)
    with pytest.raises(InvalidStateError, match="is finalized already, and boots next"):
        await hold(case.root, release=release)
    assert flowkit.snapshot(case.root) == before


async def test_with_nothing_staged_there_is_nothing_to_hold_and_nothing_to_release(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    (case.root / "run/composefs/staged-deployment").unlink()
    with pytest.raises(InvalidStateError, match="nothing is staged"):
        await hold(case.root)
    outcome = await hold(case.root, release=True)
    assert (outcome.staged, outcome.is_changed) == (None, False)


async def test_a_boot_partition_that_cannot_be_read_is_a_warning(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    (case.root / "efi").rename(case.root / "lost")
    outcome = await hold(case.root)
    assert outcome.is_changed
    assert "whether it is finalized already cannot be told" in outcome.warnings[0]


async def test_a_cancellation_before_the_marker_changes_nothing(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    before = flowkit.snapshot(case.root)
    with trio.CancelScope() as scope:

        def cancel(event: events.Event) -> None:
            if isinstance(event, events.StepStarted) and event.step == "look":
                scope.cancel()

        await hold(case.root, on_event=cancel)
    assert scope.cancelled_caught
    assert flowkit.snapshot(case.root) == before


async def test_an_ostree_host_says_what_there_is_instead(tmp_path: Path) -> None:
    host = ostree_hosts.make_host(tmp_path, 1, 2)
    with pytest.raises(NotBootcHostError) as caught:
        await hold(host.root)
    assert "lock-finalization" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="--keep-staged is for composefs hosts"):
        await rollback(host.root, keep_staged=True)


def test_the_command_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    short = f"Staged update {case.staged[:16]}…"
    assert flowkit.run(capsys, "hold", "--root", case.root) == (
        0,
        f"{short}: held: it is not finalized at shutdown\n",
        "",
    )
    code, out, _err = flowkit.run(capsys, "hold", "--release", "--json", "--root", case.root)
    assert (code, json.loads(out)["is_held"]) == (0, False)
    assert flowkit.run(capsys, "hold", "--release", "--root", case.root)[1] == f"{short}: not held (as before)\n"


@pytest.mark.parametrize(("loader", "boot_type"), COMBINATIONS)
async def test_a_rollback_can_keep_what_is_staged(tmp_path: Path, loader: Loader, boot_type: BootType) -> None:
    case = flowkit.make_case(tmp_path / "h", loader, boot_type)
    await finalize_staged(case.root)
    flowkit.lab.boot(case.host)
    # The first one is the rollback target now; a third is staged.
    third = flowkit.lab.stage_files(case.host, {**flowkit.NEW, "third": "3\n"})
    marker = (case.root / "run/composefs/staged-deployment").read_bytes()
    outcome = await rollback(case.root, keep_staged=True)
    assert (outcome.dropped_staged, outcome.kept_staged) == (None, third)
    assert flowkit.next_boot(case.host) == case.booted
    assert (case.root / "run/composefs/staged-deployment").read_bytes() == marker
    # It is still a whole update, which a finalize applies.
    assert (await finalize_staged(case.root)).result is Result.DONE
    assert flowkit.next_boot(case.host) == third


async def test_without_it_what_is_staged_is_dropped_as_before(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    await finalize_staged(case.root)
    flowkit.lab.boot(case.host)
    third = flowkit.lab.stage_files(case.host, {**flowkit.NEW, "third": "3\n"})
    assert (await rollback(case.root)).dropped_staged == third
    assert not (case.root / "run/composefs/staged-deployment").exists()
