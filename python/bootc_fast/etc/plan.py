"""Deciding a merge of /etc, and writing its result.

Planning reads and never writes. Writing makes a directory exactly the result, whatever it holds before, so that a run
that failed, was cancelled or lost power half-way is completed by the next one.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, closing, nullcontext
from typing import TYPE_CHECKING, Self

import anyio
import anyio.from_thread

from bootc_fast import _core
from bootc_fast.errors import EtcConflictError
from bootc_fast.etc.accounts import compare_accounts
from bootc_fast.etc.destination import check_destination, find_places
from bootc_fast.etc.policy import MergePolicy
from bootc_fast.etc.trees import DirectorySource, open_trees, open_whole_image
from bootc_fast.events import StepDone, StepProgress, StepStarted, ignore_event
from bootc_fast.machine.native import run_blocking, run_native, tally_step
from bootc_fast.records import dataclass, replace
from bootc_fast.text import count
from bootc_fast.types import EtcAction, EtcChange, EtcConflict, EtcOperation, EtcReport, Strategy

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import TypeAlias

    from bootc_fast.etc.destination import Place
    from bootc_fast.etc.trees import EtcSource, OpenTree, OpenTrees
    from bootc_fast.events import EventSink

    _OperationRow: TypeAlias = tuple[str, bytes, int | None, int | None, bytes | None, list[str]]
    _ConflictRow: TypeAlias = tuple[bytes, str, str, str, bytes | None]

APPLY_STEP = "prepare.etc"
"""Name of the step in progress events: writing. So are the next two."""
PLAN_STEP = "etc.plan"
COMPARE_STEP = "etc.compare"
_COMPARING = "Reading what is in the new /etc"

_SIDES = ("pristine", "current", "new")

_LISTS = (
    "kept",
    "deleted",
    "image_changes_ignored",
    "image_additions_kept",
    "conflicts",
    "dangling_links",
    "warnings",
)


@dataclass(frozen=True, slots=True)
class AppliedMerge:
    """What writing a result did.

    Attributes:
        report: With the counts, the bytes and the times of the writing.
        operations: Carried out, in that order; none where the destination was the result already.
    """

    report: EtcReport
    operations: tuple[EtcOperation, ...]


class EtcPlan:
    """A merge that is decided and not written yet; safe to share between tasks.

    Holds duplicates of the descriptors that it was made from until it is closed; a context manager closes it.

    Attributes:
        report: What the merge does, for people and programs.
    """

    def __init__(self, native: _core.EtcPlan, report: EtcReport, places: tuple[Place, ...]) -> None:
        self._native = native
        self._places = places
        self.report = report

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Let the descriptors go; the report stays, and nothing is written any more (``ValueError``).

        What is written in another thread at that moment is written to its end. Never blocks; twice is once.
        """
        self._native.close()

    @property
    def has_fatal_conflicts(self) -> bool:
        """Whether a conflict whose strategy is ``fail`` forbids writing."""
        return bool(self._native.fatal_conflicts)

    def refuse_conflicts(self) -> None:
        """Do nothing where the plan may be written.

        Raises:
            EtcConflictError: With every conflict that no strategy settles.
        """
        fatal = _to_conflicts(self._native.fatal_conflicts)
        if fatal:
            raise EtcConflictError(
                f"merging /etc: {count(len(fatal), 'conflicts')}",
                fatal,
                hint="settle them in /etc, or choose with --on-conflict=current|new or in /etc/bootc-fast/merge.toml",
            )

    async def list_operations(
        self, dest_fd: int, *, on_event: EventSink = ignore_event, step: str = COMPARE_STEP
    ) -> list[EtcOperation]:
        """Find out what ``apply`` would do to a directory, and change nothing.

        Reads every file of the directory that could stay, in a worker thread.
        Cancellation: within 50 ms; nothing is left behind.

        Args:
            dest_fd: The directory.
            on_event: Gets a step: entries found in it, then how many of its files are read.
            step: Its name.

        Returns:
            Operations in the order in which they would be carried out; none where nothing is to be done.

        Raises:
            FileSystemError: The directory cannot be read, or what is to be written has no room in it.
            UsageError: It is one of the merged directories, or inside one, or has one inside.
        """
        await run_blocking(check_destination, dest_fd, self._places)
        with tally_step(on_event, step, _COMPARING) as tally:
            rows = await run_native(_core.list_etc_operations, self._native, dest_fd, progress=tally.add())
        return await run_blocking(_to_operations, rows)

    async def apply(self, dest_fd: int, *, on_event: EventSink = ignore_event) -> EtcReport:
        """Make a directory exactly the result and sync its file system.

        Cost grows with the number of differing files, apart from reading the directory once.
        Cancellation: within 50 ms, but not during the final sync. Every file is then the old or the new one; the next
        call completes the directory.

        Args:
            dest_fd: The directory: empty, a copy of the new image's, or what an interrupted run left.
            on_event: Gets the step ``prepare.etc``, operations, and as the first part of it ``prepare.etc.compare``, as
                from ``list_operations``. Progress of each comes at most every 50 ms.

        Returns:
            The plan's report with counts, bytes, warnings and times of the writing.

        Raises:
            EtcConflictError: The plan has conflicts that no strategy settles; nothing was written.
            FileSystemError: Writing or syncing failed; ``__cause__`` is the OSError.
            InvalidStateError: An object that the new image names is missing.
            UsageError: The directory is one of the merged ones, or inside one, or has one inside.

        Source:
            Spec etc-merge.md, "Writing R".
        """
        return (await self.apply_listing(dest_fd, on_event=on_event)).report

    async def apply_listing(self, dest_fd: int, *, on_event: EventSink = ignore_event) -> AppliedMerge:
        """Like ``apply``, and tell which operations it took."""
        # The core refuses as well; asked first, it is told before a step has started.
        self.refuse_conflicts()
        await run_blocking(check_destination, dest_fd, self._places)

        compare = ExitStack()

        def tell(done: int, total: int) -> None:
            # The first operation ends the comparing.
            compare.close()
            on_event(StepProgress(APPLY_STEP, done, total))

        def send_progress(done: int, total: int) -> None:
            anyio.from_thread.run_sync(tell, done, total)

        on_event(StepStarted(APPLY_STEP, "Writing /etc"))
        started = anyio.current_time()
        tally = compare.enter_context(tally_step(on_event, f"{APPLY_STEP}.compare", _COMPARING))
        progress = None if on_event is ignore_event else send_progress
        applied = await run_native(_core.apply_etc, self._native, dest_fd, comparing=tally.add(), progress=progress)
        compare.close()
        on_event(StepDone(APPLY_STEP, anyio.current_time() - started))
        plan = self.report
        if applied.plan is not None:
            with closing(applied.plan) as again:
                plan = replace(await run_blocking(_to_report, again), phase_s=self.report.phase_s)
        report = _with_warnings(plan, _to_changes(applied.warnings))
        times = {"compare": applied.compare_s, "apply": applied.apply_s, "sync": applied.sync_s}
        report = replace(
            report,
            counts={**report.counts, "operations": len(applied.operations)},
            bytes_copied=applied.bytes_copied,
            phase_s={**report.phase_s, **times},
        )
        return AppliedMerge(report, tuple(await run_blocking(_to_operations, applied.operations)))


def _with_warnings(report: EtcReport, more: Iterable[EtcChange]) -> EtcReport:
    warnings = (*report.warnings, *more)
    return replace(report, warnings=warnings, counts={**report.counts, "warnings": len(warnings)})


def _to_operations(rows: Iterable[_OperationRow]) -> list[EtcOperation]:
    return [
        EtcOperation(EtcAction(action), path, size_bytes, entries, link_to, tuple(attributes))
        for action, path, size_bytes, entries, link_to, attributes in rows
    ]


async def plan_etc_merge(
    pristine: EtcSource,
    current: DirectorySource,
    new: EtcSource,
    *,
    policy: MergePolicy | None = None,
    on_event: EventSink = ignore_event,
) -> EtcPlan:
    """Read three trees and decide the result; writes nothing.

    The trees are read at the same time, in worker threads. Where something is mounted inside the running /etc and the
    caller may clone mounts, what lies below counts.
    Cancellation: within 50 ms; nothing is left behind.

    Args:
        pristine: /etc of the booted image (P).
        current: The running /etc (C).
        new: /etc of the staged image (N).
        policy: What happens on conflicts; by default they are fatal.
        on_event: Gets the steps ``etc.scan`` (entries found) and ``etc.plan`` (files read, of those that have to be).

    Returns:
        The plan, which the caller closes; its report lists conflicts whatever their strategy.

    Raises:
        ImageFormatError: An image is malformed.
        FileSystemError: Reading failed.
        InvalidStateError: An image has no such directory, or an object is missing.
        UsageError: A content is not in the image and its source names no object directory.

    Source:
        Spec etc-merge.md, "The rules, per path".
    """
    opened = await open_trees(pristine, current, new, on_event=on_event)
    try:
        return await plan_opened(opened, policy or MergePolicy(), on_event=on_event)
    finally:
        opened.close()


async def plan_opened(opened: OpenTrees, policy: MergePolicy, *, on_event: EventSink = ignore_event) -> EtcPlan:
    """Decide the result for trees that are open already, else like ``plan_etc_merge``."""
    start = time.monotonic()
    trees = opened.trees
    with ExitStack() as made:
        # Whatever ends this, descriptors go back at once: a traceback may keep these objects for long.
        images: dict[str, _core.Image | None] = {}
        for name in ("pristine", "new"):
            images[name] = await open_whole_image(trees[name].source)
            made.enter_context(images[name] or nullcontext())
        sides = [made.enter_context(closing(_to_side(trees[name]))) for name in _SIDES]
        with tally_step(on_event, PLAN_STEP, "Comparing /etc") as tally:
            native = await run_native(
                _core.plan_etc,
                *sides,
                rules=[(rule.pattern.encode(), str(rule.strategy)) for rule in policy.rules],
                default=str(policy.default),
                preferences=[(rule.pattern.encode(), str(rule.preference)) for rule in policy.preferences],
                pristine_image=images["pristine"],
                new_image=images["new"],
                progress=tally.add(),
            )
    with ExitStack() as made:
        made.enter_context(closing(native))
        # A row for each of 100,000 changes: not on the event loop.
        report = await run_blocking(_to_report, native)
        if trees["new"] is not trees["pristine"]:
            accounts = await run_blocking(compare_accounts, native, trees["current"], trees["new"])
            report = _with_warnings(report, accounts)
        report = replace(report, phase_s={"scan": opened.scan_s, "plan": time.monotonic() - start})
        places = await run_blocking(find_places, tuple(side.source for side in trees.values()))
        made.pop_all()
    return EtcPlan(native, report, places)


def _to_side(opened: OpenTree) -> _core.Side:
    source = opened.source
    if isinstance(source, DirectorySource):
        return _core.Side(opened.tree, dir_fd=source.dir_fd)
    return _core.Side(opened.tree, objects_fd=source.objects_fd)


def _to_conflicts(rows: Iterable[_ConflictRow]) -> tuple[EtcConflict, ...]:
    return tuple(
        EtcConflict(path, current, new, Strategy(strategy), saved_as) for path, current, new, strategy, saved_as in rows
    )


def _to_changes(rows: Iterable[tuple[bytes, str]]) -> tuple[EtcChange, ...]:
    return tuple(EtcChange(path, reason) for path, reason in rows)


def _to_report(native: _core.EtcPlan) -> EtcReport:
    def changes(name: str) -> tuple[EtcChange, ...]:
        return _to_changes(getattr(native, name))

    report = EtcReport(
        kept=changes("kept"),
        deleted=changes("deleted"),
        image_changes_ignored=changes("image_changes_ignored"),
        image_additions_kept=changes("image_additions_kept"),
        conflicts=_to_conflicts(native.conflicts),
        warnings=changes("warnings"),
        dangling_links=changes("dangling_links"),
    )
    counts = {f"entries_{name}": number for name, number in zip(_SIDES, native.side_lengths, strict=True)}
    counts["entries_result"] = len(native)
    return replace(report, counts={**counts, **{name: len(getattr(report, name)) for name in _LISTS}})
