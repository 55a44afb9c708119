"""The trees of a host: the booted image's /etc, the running one, the staged image's; and what was changed there."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from bootc_fast.composefs.etc import hold_staged_etc, open_etc
from bootc_fast.composefs.survey import open_image, read_survey
from bootc_fast.errors import UsageError
from bootc_fast.etc.merge import diff_etc, merge_etc
from bootc_fast.etc.policy import MergePolicy, read_merge_policy
from bootc_fast.etc.trees import DirectorySource, ImageSource
from bootc_fast.events import ignore_event
from bootc_fast.flows.steps import single_error
from bootc_fast.machine.booted import is_etc_transient
from bootc_fast.machine.directories import hold_directory
from bootc_fast.machine.host import open_host
from bootc_fast.machine.lock import hold_lock
from bootc_fast.machine.mounts import open_writable
from bootc_fast.machine.native import run_blocking, tally_step
from bootc_fast.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from bootc_fast.composefs.survey import Survey
    from bootc_fast.etc.diff import EtcDiff, PatchSide
    from bootc_fast.etc.plan import AppliedMerge
    from bootc_fast.etc.policy import ConflictChoice
    from bootc_fast.etc.trees import EtcSource
    from bootc_fast.events import EventSink
    from bootc_fast.machine.host import Host
    from bootc_fast.types import Strategy


@dataclass(frozen=True, slots=True)
class Trees:
    """What to work on, open.

    Attributes:
        new: None where there is no new image.
        dest_fd: None where nothing is written and there is nothing to compare with.
    """

    pristine: EtcSource
    current: DirectorySource
    new: EtcSource | None
    policy: MergePolicy
    dest_fd: int | None = None


async def diff_host(
    root: Path | str = "/",
    *,
    patch: PatchSide | None = None,
    paths: Iterable[str | bytes] = (),
    on_event: EventSink = ignore_event,
) -> EtcDiff:
    """Find what was changed in a host's /etc since it was installed, and what the next merge makes of it.

    Scans all of /etc; the images are verified before they are read. Writes nothing. Cancellation: within 50 ms,
    nothing is left behind.

    Args:
        root: ``/``, or a directory laid out like a host.
        patch: Also make unified diffs of text files, as ``diff_etc`` does.
        paths: Only these, as ``diff_etc`` takes them.
        on_event: Gets progress.

    Returns:
        The changes; with `merge` where an update is staged.

    Raises:
        NotBootcHostError: The host is none of ours.
        InvalidStateError: Marker or command line are malformed, or an image is missing.
        VerityMismatchError: An image is not what its name says.
        UsageError: `root` is no directory; or the new image's patches are wanted and nothing is staged.
    """
    with single_error():
        async with AsyncExitStack() as stack:
            host = await run_blocking(open_host, root)
            trees = await _open_sources(host, await read_survey(host), stack, on_event)
            return await diff_etc(trees.pristine, trees.current, trees.new, patch=patch, paths=paths, on_event=on_event)


async def merge_host(
    root: Path | str = "/",
    *,
    on_conflict: Strategy | ConflictChoice | None = None,
    dry_run: bool = False,
    on_event: EventSink = ignore_event,
) -> AppliedMerge:
    """Merge a host's /etc into the staged deployment's; what boots next stays as it is.

    A finalize does that too, once more and with what was edited meanwhile. The host's lock is held. Cancellation:
    within 50 ms; the staged /etc may be half merged then, and the next merge makes it whole.

    Args:
        root: ``/``, or a directory laid out like a host.
        on_conflict: Wins over the policy files where given.
        dry_run: Only tell what would be done.
        on_event: Gets progress.

    Returns:
        The report and the operations, carried out or not.

    Raises:
        UsageError: Nothing is staged, or /etc is transient.
        EtcConflictError: Conflicts that no strategy settles; nothing was written.
        LockedError: Another process has the lock.
        BootcFastError: As from `diff_host`.
    """
    with single_error():
        async with AsyncExitStack() as stack:
            trees = await open_merge_trees(
                root, stack, on_conflict=on_conflict, into_fd=None, dry_run=dry_run, on_event=on_event
            )
            if trees.new is None or trees.dest_fd is None:
                raise UsageError("merging /etc: nothing is staged", hint="stage an update with `bootc upgrade`")
            return await merge_etc(
                trees.pristine,
                trees.current,
                trees.new,
                trees.dest_fd,
                policy=trees.policy,
                dry_run=dry_run,
                on_event=on_event,
            )


async def open_merge_trees(
    root: Path | str,
    stack: AsyncExitStack,
    *,
    on_conflict: Strategy | ConflictChoice | None,
    into_fd: int | None,
    dry_run: bool,
    on_event: EventSink = ignore_event,
) -> Trees:
    """Open what a merge on a host works on, for as long as `stack` lives.

    Without `dry_run` the lock is held meanwhile.

    Args:
        root: ``/``, or a directory laid out like a host.
        stack: Closes everything.
        on_conflict: Wins over the policy files.
        into_fd: Where it is written; None for the staged deployment's /etc.
        dry_run: Nothing will be written.
        on_event: Gets the step ``look.images``.

    Raises:
        UsageError: There is nothing to merge here.
        BootcFastError: As from `diff_host`, and `LockedError`.
    """
    host = await run_blocking(open_host, root)
    if not dry_run:
        await stack.enter_async_context(hold_lock(host))
        host = await stack.enter_async_context(open_writable(host))
    survey = await read_survey(host)
    if await run_blocking(is_etc_transient, host):
        raise UsageError("merging /etc: it is transient here, so the new deployment starts with its image's /etc")
    trees = await _open_sources(host, survey, stack, on_event)
    policy = await run_blocking(read_merge_policy, host, on_conflict=on_conflict)
    dest_fd = into_fd
    if into_fd is None and survey.marker is not None:
        dest_fd = await stack.enter_async_context(hold_staged_etc(host, survey.marker.digest))
    return Trees(trees.pristine, trees.current, trees.new, policy, dest_fd)


async def _open_sources(host: Host, survey: Survey, stack: AsyncExitStack, on_event: EventSink) -> Trees:
    objects = await stack.enter_async_context(hold_directory(host, host.objects))
    staged = survey.marker.digest if survey.marker else None
    with tally_step(on_event, "look.images", "Verifying the images", unit="bytes") as tally:
        pristine = ImageSource((await open_image(host, survey.booted.digest, stack, tally=tally)).fd, objects)
        new = None
        if staged is not None:
            new = ImageSource((await open_image(host, staged, stack, tally=tally)).fd, objects)
    return Trees(pristine, DirectorySource(await open_etc(host, stack)), new, MergePolicy())
