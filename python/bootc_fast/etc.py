"""The three-way /etc merge: plan, write, report, diff (spec etc-merge.md).

Planning reads and never writes. Writing makes a directory exactly the result, whatever it holds before, so that a run
that failed, was cancelled or lost power half-way is completed by the next one.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import anyio
import anyio.from_thread

from bootc_fast import _core
from bootc_fast._native import run_native
from bootc_fast.errors import EtcConflictError, FileSystemError, UsageError
from bootc_fast.etc_diff import EtcDiff, list_entries, make_patches
from bootc_fast.etc_policy import MergePolicy
from bootc_fast.etc_sources import DirectorySource, EtcSource, ImageSource, OpenTree, open_source, open_whole_image
from bootc_fast.events import StepProgress, ignore_event
from bootc_fast.types import EtcAction, EtcChange, EtcConflict, EtcOperation, EtcReport, Strategy

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeAlias

    from bootc_fast.events import EventSink

    _OperationRow: TypeAlias = tuple[str, bytes, int | None, int | None, bytes | None, list[str]]

__all__ = [
    "AppliedMerge",
    "DirectorySource",
    "EtcDiff",
    "EtcPlan",
    "EtcSource",
    "ImageSource",
    "check_destination",
    "conflict_error",
    "diff_etc",
    "merge_etc",
    "plan_etc_merge",
]

APPLY_STEP = "prepare.etc"
"""Name of the step in progress events."""

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

    Holds duplicates of the descriptors that it was made from until it is garbage-collected.

    Attributes:
        report: What the merge does, for people and programs.
    """

    def __init__(self, native: _core.EtcPlan, report: EtcReport) -> None:
        self._native = native
        self.report = report

    @property
    def has_fatal_conflicts(self) -> bool:
        """Whether a conflict whose strategy is ``fail`` forbids writing."""
        return any(conflict.strategy == Strategy.FAIL for conflict in self.report.conflicts)

    async def list_operations(self, dest_fd: int) -> list[EtcOperation]:
        """Find out what ``apply`` would do to a directory, and change nothing.

        Reads every file of the directory that could stay, in a worker thread.
        Cancellation: within 50 ms; nothing is left behind.

        Args:
            dest_fd: The directory.

        Returns:
            Operations in the order in which they would be carried out; none where nothing is to be done.

        Raises:
            FileSystemError: The directory cannot be read.
        """
        return _to_operations(await run_native(_core.list_etc_operations, self._native, dest_fd))

    async def apply(self, dest_fd: int, *, on_event: EventSink = ignore_event) -> EtcReport:
        """Make a directory exactly the result and sync its file system.

        Cost grows with the number of differing files, apart from reading the directory once.
        Cancellation: within 50 ms, but not during the final sync. Every file is then the old or the new one; the next
        call completes the directory.

        Args:
            dest_fd: The directory: empty, a copy of the new image's, or what an interrupted run left.
            on_event: Gets ``StepProgress`` of the step ``prepare.etc``, at most every 50 ms.

        Returns:
            The plan's report with counts, bytes, warnings and times of the writing.

        Raises:
            EtcConflictError: The plan has conflicts that no strategy settles; nothing was written.
            FileSystemError: Writing or syncing failed; ``__cause__`` is the OSError.
            InvalidStateError: An object that the new image names is missing.

        Source:
            Spec etc-merge.md, "Writing R".
        """
        return (await self.apply_listing(dest_fd, on_event=on_event)).report

    async def apply_listing(self, dest_fd: int, *, on_event: EventSink = ignore_event) -> AppliedMerge:
        """Like ``apply``, and tell which operations it took."""
        if self.has_fatal_conflicts:
            raise conflict_error(self.report.conflicts)

        def tell(done: int, total: int) -> None:
            anyio.from_thread.run_sync(on_event, StepProgress(APPLY_STEP, done, total))

        progress = None if on_event is ignore_event else tell
        applied = await run_native(_core.apply_etc, self._native, dest_fd, progress=progress)
        report = _with_warnings(self.report, applied.warnings)
        times = {"compare": applied.compare_s, "apply": applied.apply_s, "sync": applied.sync_s}
        report = replace(
            report,
            counts={**report.counts, "operations": len(applied.operations)},
            bytes_copied=applied.bytes_copied,
            phase_s={**report.phase_s, **times},
        )
        return AppliedMerge(report, tuple(_to_operations(applied.operations)))


def conflict_error(conflicts: Iterable[EtcConflict]) -> EtcConflictError:
    """Make the error that lists the conflicts no strategy settles."""
    fatal = tuple(conflict for conflict in conflicts if conflict.strategy == Strategy.FAIL)
    number = "1 conflict" if len(fatal) == 1 else f"{len(fatal)} conflicts"
    return EtcConflictError(
        f"merging /etc: {number}",
        fatal,
        hint="settle them in /etc, or choose with --on-conflict=current|new or in /etc/bootc-fast/merge.toml",
    )


def _with_warnings(report: EtcReport, more: Iterable[str]) -> EtcReport:
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
        on_event: Unused so far: planning is too short to have steps.

    Returns:
        The plan; its report lists conflicts whatever their strategy.

    Raises:
        ImageFormatError: An image is malformed.
        FileSystemError: Reading failed.
        InvalidStateError: An image has no such directory, or an object is missing.
        UsageError: A content is not in the image and its source names no object directory.

    Source:
        Spec etc-merge.md, "The rules, per path".
    """
    del on_event
    opened = await _open_sources(pristine, current, new)
    try:
        return await _plan(opened, policy or MergePolicy())
    finally:
        opened.close()


@dataclass(slots=True)
class _Opened:
    """Three trees, and the clone of the current one's mount where there had to be one."""

    trees: dict[str, OpenTree]
    scan_s: float = 0.0
    clone_fd: int = -1

    def close(self) -> None:
        if self.clone_fd >= 0:
            os.close(self.clone_fd)


async def _open_sources(pristine: EtcSource, current: DirectorySource, new: EtcSource) -> _Opened:
    opened = _Opened({})
    start = time.monotonic()

    async def load(name: str, source: EtcSource) -> None:
        opened.trees[name] = await open_source(source)

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(load, "pristine", pristine)
            tasks.start_soon(load, "current", current)
            if new != pristine:
                tasks.start_soon(load, "new", new)
    except BaseExceptionGroup as group:
        # One failure is enough to say what is wrong; the others are mostly the cancellation that it caused.
        raise group.exceptions[0] from None
    opened.trees.setdefault("new", opened.trees["pristine"])
    if opened.trees["current"].tree.mounts:
        opened.clone_fd = _clone(current.dir_fd)
        if opened.clone_fd >= 0:
            opened.trees["current"] = await open_source(DirectorySource(opened.clone_fd))
    opened.scan_s = time.monotonic() - start
    return opened


def _clone(dir_fd: int) -> int:
    """Clone the mount below a directory, without what is mounted on it; -1 where that is not allowed."""
    try:
        return _core.clone_mount(dir_fd, recursive=False, read_only=None)
    except OSError:
        return -1


async def _plan(opened: _Opened, policy: MergePolicy) -> EtcPlan:
    start = time.monotonic()
    trees = opened.trees
    native = await run_native(
        _core.plan_etc,
        trees["pristine"].tree,
        trees["current"].tree,
        trees["new"].tree,
        **{f"{name}_{kind}": fd for name, side in trees.items() for kind, fd in _descriptors(side.source).items()},
        rules=[(rule.pattern.encode(), str(rule.strategy)) for rule in policy.rules],
        default=str(policy.default),
        new_image=await open_whole_image(trees["new"].source),
    )
    report = _to_report(native, trees)
    return EtcPlan(native, replace(report, phase_s={"scan": opened.scan_s, "plan": time.monotonic() - start}))


def _descriptors(source: EtcSource) -> dict[str, int | None]:
    if isinstance(source, DirectorySource):
        return {"dir": source.dir_fd}
    return {"objects": source.objects_fd}


async def diff_etc(
    pristine: EtcSource, current: DirectorySource, new: EtcSource | None = None, *, patch: bool = False
) -> EtcDiff:
    """Find out what the admin changed, and what a merge with a new image would make of it.

    Cancellation: within 50 ms, or after the file that is being compared; nothing is left behind.

    Args:
        pristine: /etc of the booted image.
        current: The running /etc.
        new: /etc of the staged image, if there is one.
        patch: Make unified diffs of the changed text files as well.

    Returns:
        Changes sorted by path.

    Raises:
        ImageFormatError: An image is malformed.
        FileSystemError: Reading failed.
        InvalidStateError: An image has no such directory, or an object is missing.
        UsageError: A content is not in the image and its source names no object directory.
    """
    opened = await _open_sources(pristine, current, pristine if new is None else new)
    try:
        trees = opened.trees
        own = _Opened({"pristine": trees["pristine"], "current": trees["current"], "new": trees["pristine"]})
        changes = (await _plan(own, MergePolicy())).report
        entries = list_entries(changes, trees["pristine"])
        merge = None if new is None else (await _plan(opened, MergePolicy())).report
        sides = (trees["pristine"], trees["current"], None if new is None else trees["new"])
        patches = await make_patches(entries, *sides) if patch else ()
        return EtcDiff(entries, changes.warnings, merge, patches)
    finally:
        opened.close()


async def merge_etc(
    pristine: EtcSource,
    current: DirectorySource,
    new: EtcSource,
    dest_fd: int,
    *,
    policy: MergePolicy | None = None,
    dry_run: bool = False,
    on_event: EventSink = ignore_event,
) -> AppliedMerge:
    """Plan a merge and make a directory exactly its result.

    Cancellation: as ``EtcPlan.apply``.

    Args:
        pristine: /etc of the booted image.
        current: The running /etc.
        new: /etc of the staged image.
        dest_fd: The directory that becomes the result.
        policy: What happens on conflicts.
        dry_run: Only tell what would be done.
        on_event: Gets progress.

    Returns:
        The report and the operations, carried out or not.

    Raises:
        EtcConflictError: Conflicts that no strategy settles; nothing was written.
        UsageError: The destination is one of the sources, or inside one, or has one inside.
        FileSystemError: Reading, writing or syncing failed.
        InvalidStateError: An image has no such directory, or an object is missing.
    """
    check_destination(dest_fd, (pristine, current, new))
    plan = await plan_etc_merge(pristine, current, new, policy=policy)
    if plan.has_fatal_conflicts:
        raise conflict_error(plan.report.conflicts)
    if not dry_run:
        return await plan.apply_listing(dest_fd, on_event=on_event)
    operations = tuple(await plan.list_operations(dest_fd))
    counts = {**plan.report.counts, "operations": len(operations)}
    return AppliedMerge(replace(plan.report, counts=counts), operations)


def check_destination(dest_fd: int, sources: Iterable[EtcSource]) -> None:
    """Refuse a destination that would be read while it is written.

    Args:
        dest_fd: The directory.
        sources: What is merged; images cannot overlap with it.

    Raises:
        UsageError: It is one of the directories, or inside one, or has one inside.
        FileSystemError: They cannot be looked at.
    """
    directories = [source.dir_fd for source in sources if isinstance(source, DirectorySource)]
    try:
        dest, above = _identity(dest_fd), _ancestors(dest_fd)
        overlaps = any(dest in _ancestors(fd) or _identity(fd) in above for fd in directories)
    except OSError as error:
        raise FileSystemError(f"looking at the destination: {error.strerror}") from error
    if overlaps:
        raise UsageError(
            "merging /etc: the destination is one of the merged directories, or one lies inside the other",
            hint="name a directory of its own with --into",
        )


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _ancestors(fd: int) -> list[tuple[int, int]]:
    """The directory and all above it, up to the root."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    chain: list[tuple[int, int]] = []
    at = os.open(".", flags, dir_fd=fd)
    try:
        while (found := _identity(at)) not in chain:
            chain.append(found)
            above = os.open("..", flags, dir_fd=at)
            os.close(at)
            at = above
    finally:
        os.close(at)
    return chain


def _to_report(native: _core.EtcPlan, trees: dict[str, OpenTree]) -> EtcReport:
    def changes(name: str) -> tuple[EtcChange, ...]:
        return tuple(EtcChange(path, reason) for path, reason in getattr(native, name))

    report = EtcReport(
        kept=changes("kept"),
        deleted=changes("deleted"),
        image_changes_ignored=changes("image_changes_ignored"),
        image_additions_kept=changes("image_additions_kept"),
        conflicts=tuple(
            EtcConflict(path, current, new, Strategy(strategy), saved_as)
            for path, current, new, strategy, saved_as in native.conflicts
        ),
        warnings=tuple(native.warnings),
        dangling_links=changes("dangling_links"),
    )
    counts = {f"entries_{name}": len(side.tree) for name, side in trees.items()}
    counts["entries_result"] = len(native)
    return replace(report, counts={**counts, **{name: len(getattr(report, name)) for name in _LISTS}})
