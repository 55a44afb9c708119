"""Events of every flow: each step starts, progresses, and ends, in that order, whatever runs beside it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import flowkit
import ostree_hosts
import pytest

import bootc_fast
from bootc_fast import lab
from bootc_fast.events import Event, StepDone, StepProgress, StepStarted
from bootc_fast.flows.next_boot import enter_next_boot
from bootc_fast.restart.ways import SoftRebootMode
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

FINALIZE = {
    "lock", "look", "look.boot", "look.images", "look.etc", "etc.scan", "etc.plan", "decide", "prepare", "prepare.etc",
    "prepare.etc.compare", "commit", "tidy",
}  # fmt: skip
WRITING = {"prepare", "prepare.etc", "prepare.etc.compare", "commit", "tidy"}
ROLLBACK = {"look", "check", "compare", "etc.scan", "etc.plan", "commit", "tidy"}


def _check(events: list[Event]) -> set[str]:
    """Check every step's order; returns the steps that ended."""
    states: dict[str, str] = {}
    for event in events:
        before = states.get(event.step)
        match event:
            case StepStarted(message=message):
                assert before is None, event
                assert re.fullmatch(r"[A-Z/].+[^.]", message), event
                # A part starts and ends within its whole; a merge alone has only the part.
                assert states.get(event.step.rpartition(".")[0], "started") == "started", event
                states[event.step] = "started"
            case StepProgress(done=done, total=total):
                assert before == "started", event
                assert 0 <= done <= (total or done), event
            case StepDone(seconds=seconds):
                assert before == "started", event
                assert seconds >= 0, event
                states[event.step] = "done"
                assert not [step for step in states if step.startswith(f"{event.step}.") and states[step] != "done"]
    return {step for step, state in states.items() if state == "done"}


async def _events_of(flow: Callable[..., Awaitable[object]], *arguments: Any, **options: Any) -> list[Event]:
    events: list[Event] = []
    await flow(*arguments, **options, on_event=events.append)
    return events


async def _ends_all(flow: Callable[..., Awaitable[object]], *arguments: Any, **options: Any) -> set[str]:
    events = await _events_of(flow, *arguments, **options)
    done = _check(events)
    assert done == {event.step for event in events}
    return done


@pytest.mark.parametrize("loader", [Loader.SYSTEMD_BOOT, Loader.GRUB])
async def test_every_step_of_the_composefs_flows_starts_and_ends(tmp_path: Path, loader: Loader) -> None:
    case = flowkit.make_case(tmp_path / "h", loader)
    assert await _ends_all(bootc_fast.finalize_staged, case.root, dry_run=True) == FINALIZE - WRITING - {"lock"} | {
        "decide.etc"
    }
    assert await _ends_all(bootc_fast.finalize_staged, case.root) == FINALIZE
    again = await _ends_all(bootc_fast.finalize_staged, case.root)
    assert again == FINALIZE - WRITING | {"decide.etc"}
    lab.boot(case.host)
    assert await _ends_all(bootc_fast.rollback, case.root) == ROLLBACK | {"check.image"}
    assert await _ends_all(bootc_fast.rollback, case.root) == {"look", "commit", "tidy"}


async def test_a_soft_reboot_that_finalizes_first_tells_the_steps_of_both(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    assert await _ends_all(enter_next_boot, case.root, mode=SoftRebootMode.AUTO, dry_run=True) == set()


async def test_every_step_of_the_ostree_flows_starts_and_ends(tmp_path: Path) -> None:
    pytest.importorskip("gi")
    host = ostree_hosts.make_host(tmp_path, 1, 2)
    host.run_from_mount(2)
    assert await _ends_all(bootc_fast.rollback, host.root) == ROLLBACK
    assert await _ends_all(bootc_fast.rollback, host.root) == {"look", "commit", "tidy"}


async def test_the_writing_of_etc_tells_how_far_it_is(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    for number in range(200):
        (case.root / f"etc/new-{number}").write_text("x" * number)
    events = await _events_of(bootc_fast.finalize_staged, case.root)
    own = [event for event in events if event.step == "prepare.etc"]
    assert isinstance(own[0], StepStarted)
    assert isinstance(own[-1], StepDone)
    progress = [event for event in own if isinstance(event, StepProgress)]
    assert progress
    assert len(progress) == len(own) - 2


async def test_a_merge_in_a_program_tells_it_too(tmp_path: Path) -> None:
    policy = bootc_fast.MergePolicy(default=bootc_fast.Strategy.CURRENT)
    with flowkit.open_sides(tmp_path) as sides:
        assert await _ends_all(bootc_fast.merge_etc, *sides, policy=policy) == {
            "etc.scan", "etc.plan", "prepare.etc", "prepare.etc.compare",
        }  # fmt: skip


async def test_what_fails_starts_and_does_not_end(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h", Loader.SYSTEMD_BOOT, BootType.BLS)
    (case.root / "etc/fresh").mkdir()
    events: list[Event] = []
    with pytest.raises(bootc_fast.EtcConflictError):
        await bootc_fast.finalize_staged(case.root, on_event=events.append)
    done = _check(events)
    assert {event.step for event in events} - done == {"decide"}
