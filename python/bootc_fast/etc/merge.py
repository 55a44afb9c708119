"""The three-way /etc merge: plan, write, report, diff (spec etc-merge.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.errors import UsageError
from bootc_fast.etc.destination import check_destination
from bootc_fast.etc.diff import EtcDiff, EtcDiffEntry, EtcPatch, PatchSide, PathFilter, list_entries, make_patches
from bootc_fast.etc.plan import (
    AppliedMerge,
    EtcPlan,
    plan_etc_merge,
    plan_opened,
)
from bootc_fast.etc.policy import MergePolicy
from bootc_fast.etc.trees import DirectorySource, EtcSource, ImageSource, OpenTrees, open_trees
from bootc_fast.events import ignore_event
from bootc_fast.machine.native import run_blocking
from bootc_fast.records import replace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bootc_fast.etc.trees import OpenTree
    from bootc_fast.events import EventSink
    from bootc_fast.types import EtcChange, EtcReport

__all__ = [
    "AppliedMerge",
    "DirectorySource",
    "EtcDiff",
    "EtcPlan",
    "EtcSource",
    "ImageSource",
    "check_destination",
    "diff_etc",
    "find_missing_changes",
    "merge_etc",
    "plan_etc_merge",
]


async def diff_etc(
    pristine: EtcSource,
    current: DirectorySource,
    new: EtcSource | None = None,
    *,
    patch: PatchSide | None = None,
    paths: Iterable[str | bytes] = (),
    on_event: EventSink = ignore_event,
) -> EtcDiff:
    """Find out what the admin changed, and what a merge with a new image would make of it.

    Cancellation: within 50 ms, or after the file that is being compared; nothing is left behind.

    Args:
        pristine: /etc of the booted image.
        current: The running /etc.
        new: /etc of the staged image, if there is one.
        patch: Make unified diffs as well: ``"current"`` of the text files that the admin changed, ``"new"`` of those
            that the new image changed.
        paths: Only these, each with all below it; ``/etc`` in front of them may be left out. What the new image changed
            of them is told as well.
        on_event: Gets the steps ``etc.scan`` and ``etc.plan``.

    Returns:
        Changes sorted by path.

    Raises:
        ImageFormatError: An image is malformed.
        FileSystemError: Reading failed.
        InvalidStateError: An image has no such directory, or an object is missing.
        UsageError: A content is not in the image and its source names no object directory; or the new image's patches
            are wanted and there is none.
    """
    if patch == "new" and new is None:
        raise UsageError("comparing /etc: there is no new image", hint="stage one, or name one with --new")
    wanted = PathFilter.of(paths)
    opened = await open_trees(pristine, current, pristine if new is None else new, on_event=on_event)
    try:
        trees = opened.trees
        entries, warnings = await _list_changes(trees["pristine"], trees["current"], wanted, on_event)
        image: tuple[EtcDiffEntry, ...] = ()
        if new is not None and (wanted.paths or patch == "new"):
            image, _ = await _list_changes(trees["pristine"], trees["new"], wanted, on_event)
        merge = None if new is None else wanted.narrow(await _report_of(opened, on_event))
        patches: tuple[EtcPatch, ...] = ()
        if patch is not None:
            changed = entries if patch == "current" else image
            patches = await make_patches(changed, trees["pristine"], trees[patch], side=patch)
        return EtcDiff(entries, warnings, merge, patches, image)
    finally:
        opened.close()


async def _report_of(opened: OpenTrees, on_event: EventSink) -> EtcReport:
    """Plan a merge for what it tells."""
    with await plan_opened(opened, MergePolicy(), on_event=on_event) as plan:
        return plan.report


async def _list_changes(
    pristine: OpenTree, other: OpenTree, wanted: PathFilter, on_event: EventSink
) -> tuple[tuple[EtcDiffEntry, ...], tuple[EtcChange, ...]]:
    """List what is changed from one tree to another: what a merge with an image that changed nothing keeps."""
    own = OpenTrees({"pristine": pristine, "current": other, "new": pristine})
    report = await _report_of(own, on_event)
    return await run_blocking(list_entries, wanted.narrow(report), pristine, other), report.warnings


async def find_missing_changes(
    pristine: EtcSource, current: DirectorySource, other: EtcSource, *, on_event: EventSink = ignore_event
) -> tuple[EtcDiffEntry, ...]:
    """Find what was changed since the image and is not in another /etc as well; writes nothing.

    Cancellation: within 50 ms; nothing is left behind.

    Args:
        pristine: /etc of the booted image.
        current: The running /etc.
        other: /etc of another deployment.
        on_event: Gets the steps ``etc.scan`` and ``etc.plan``.

    Returns:
        Changes sorted by path.

    Raises:
        As ``diff_etc``.
    """
    opened = await open_trees(pristine, current, other, on_event=on_event)
    try:
        report = await _report_of(opened, on_event)
        return await run_blocking(list_entries, report, opened.trees["pristine"], opened.trees["current"])
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
    await run_blocking(check_destination, dest_fd, (pristine, current, new))
    with await plan_etc_merge(pristine, current, new, policy=policy, on_event=on_event) as plan:
        plan.refuse_conflicts()
        if not dry_run:
            return await plan.apply_listing(dest_fd, on_event=on_event)
        operations = tuple(await plan.list_operations(dest_fd, on_event=on_event))
        counts = {**plan.report.counts, "operations": len(operations)}
        return AppliedMerge(replace(plan.report, counts=counts), operations)
