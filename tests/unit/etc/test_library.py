"""The merge as a library: async, cancellable, on trio and on asyncio, with progress."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import anyio
import pytest
import trio
from etc_trees import Sides, listing, make_sides, write

from bootc_fast.errors import EtcConflictError, UsageError
from bootc_fast.etc.merge import DirectorySource, diff_etc, merge_etc, plan_etc_merge
from bootc_fast.etc.policy import MergePolicy, make_rule
from bootc_fast.events import Event, StepDone, StepProgress, StepStarted
from bootc_fast.types import Strategy

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    sides = make_sides(tmp_path)
    for side in sides[:3]:
        write(side / "a/thing", "x")
        write(side / "b/thing", "x")
    return sides


@pytest.fixture
def sources(sides: Sides) -> Generator[tuple[DirectorySource, DirectorySource, DirectorySource]]:
    fds = [os.open(side, os.O_RDONLY) for side in sides[:3]]
    yield DirectorySource(fds[0]), DirectorySource(fds[1]), DirectorySource(fds[2])
    for fd in fds:
        os.close(fd)


@pytest.fixture
def dest_fd(sides: Sides) -> Generator[int]:
    fd = os.open(sides.result, os.O_RDONLY)
    yield fd
    os.close(fd)


Sources = tuple[DirectorySource, DirectorySource, DirectorySource]


def add_conflicts(sides: Sides) -> None:
    for name in ("a", "b"):
        write(sides.current / name / "thing", "mine")
        (sides.new / name / "thing").unlink()
        write(sides.new / name / "thing/inside", "theirs")


async def test_a_merge_tells_its_progress_and_returns_counts_and_times(
    sides: Sides, sources: Sources, dest_fd: int
) -> None:
    events: list[Event] = []
    write(sides.current / "mine", "12345")
    applied = await merge_etc(*sources, dest_fd, on_event=events.append)
    number = len(applied.operations)
    steps = [(type(event), event.step) for event in events if not isinstance(event, StepProgress)]
    assert steps == [
        (StepStarted, "etc.scan"), (StepDone, "etc.scan"), (StepStarted, "etc.plan"), (StepDone, "etc.plan"),
        (StepStarted, "prepare.etc"), (StepStarted, "prepare.etc.compare"), (StepDone, "prepare.etc.compare"),
        (StepDone, "prepare.etc"),
    ]  # fmt: skip
    assert events[-2] == StepProgress("prepare.etc", number, number)
    assert applied.report.counts["operations"] == number
    assert applied.report.counts["entries_result"] == len(listing(sides.result))
    assert applied.report.bytes_copied == 7
    assert [change.path for change in applied.report.kept] == [b"mine"]


def test_a_merge_runs_on_asyncio(sides: Sides, sources: Sources, dest_fd: int) -> None:
    async def run() -> int:
        return len((await merge_etc(*sources, dest_fd, on_event=lambda _event: None)).operations)

    assert anyio.run(run, backend="asyncio") > 0
    assert (sides.result / "a/thing").exists()


async def test_a_plan_outlives_the_descriptors_that_it_was_made_from(sides: Sides, dest_fd: int) -> None:
    fds = [os.open(side, os.O_RDONLY) for side in sides[:3]]
    pristine, current, new = map(DirectorySource, fds)
    plan = await plan_etc_merge(pristine, current, new)
    for fd in fds:
        os.close(fd)
    await plan.apply(dest_fd)
    assert (sides.result / "a/thing").read_text() == "x"


async def test_each_path_gets_the_strategy_of_its_pattern(sides: Sides, sources: Sources, dest_fd: int) -> None:
    add_conflicts(sides)
    policy = MergePolicy(Strategy.FAIL, (make_rule("a/**", Strategy.CURRENT), make_rule("**", Strategy.NEW)))
    applied = await merge_etc(*sources, dest_fd, policy=policy)
    assert (sides.result / "a/thing").read_text() == "mine"
    assert (sides.result / "b/thing/inside").read_text() == "theirs"
    assert (sides.result / "b/thing.bootc-saved").read_text() == "mine"
    assert [conflict.strategy for conflict in applied.report.conflicts] == [Strategy.CURRENT, Strategy.NEW]


async def test_only_conflicts_that_no_strategy_settles_are_in_the_error(
    sides: Sides, sources: Sources, dest_fd: int
) -> None:
    add_conflicts(sides)
    policy = MergePolicy(Strategy.FAIL, (make_rule("a/**", Strategy.CURRENT),))
    plan = await plan_etc_merge(*sources, policy=policy)
    assert plan.has_fatal_conflicts
    with pytest.raises(EtcConflictError, match="1 conflict") as raised:
        await plan.apply(dest_fd)
    assert [conflict.path for conflict in raised.value.conflicts] == [b"b/thing"]
    assert len(plan.report.conflicts) == 2
    assert os.listdir(sides.result) == []


async def test_a_cancelled_merge_ends_soon_and_is_completed_by_the_next(
    sides: Sides, sources: Sources, dest_fd: int
) -> None:
    for number in range(3000):
        write(sides.new / f"many/{number}", b"x" * 3000)
    plan = await plan_etc_merge(*sources)
    with trio.CancelScope() as scope:

        def stop(event: Event) -> None:
            if isinstance(event, StepProgress) and 0 < event.done < event.total:
                scope.cancel()

        await plan.apply(dest_fd, on_event=stop)
    assert scope.cancelled_caught
    assert 0 < len(listing(sides.result)) < 3000
    await plan.apply(dest_fd)
    assert listing(sides.result) == listing(sides.new)


async def test_a_cancelled_plan_leaves_no_descriptor_open(sources: Sources) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with trio.CancelScope() as scope:
        scope.cancel()
        await plan_etc_merge(*sources)
    assert scope.cancelled_caught
    assert len(os.listdir("/proc/self/fd")) <= before + 1


async def test_a_destination_inside_a_source_is_refused(sides: Sides, sources: Sources) -> None:
    fd = os.open(sides.new / "a", os.O_RDONLY)
    try:
        with pytest.raises(UsageError, match="destination"):
            await merge_etc(*sources, fd)
    finally:
        os.close(fd)


async def test_a_dry_run_has_the_operations_and_writes_nothing(sides: Sides, sources: Sources, dest_fd: int) -> None:
    dry = await merge_etc(*sources, dest_fd, dry_run=True)
    assert os.listdir(sides.result) == []
    assert (await merge_etc(*sources, dest_fd)).operations == dry.operations


async def test_a_diff_without_changes_is_empty(sources: Sources) -> None:
    diff = await diff_etc(*sources[:2])
    assert not diff.has_differences
    assert diff.merge is None


async def test_a_file_too_large_for_a_patch_is_only_named(sides: Sides, sources: Sources) -> None:
    write(sides.current / "a/thing", b"line\n" * 300_000)
    diff = await diff_etc(*sources[:2], patch="current")
    assert [patch.text for patch in diff.patches] == ["Binary files pristine/a/thing and current/a/thing differ\n"]
