"""Finalizing a staged deployment: look, decide, prepare, commit, tidy.

Source:
    Spec commands.md, "composefs-finalize-staged".
"""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from bootc_fast import _core
from bootc_fast.boot.area.directory import flushing_what_is_needed
from bootc_fast.boot.entries.ahead import check_ahead
from bootc_fast.boot.entries.choose import name_entry
from bootc_fast.boot.entries.garbage import collect_garbage
from bootc_fast.boot.entries.menu import read_menu
from bootc_fast.boot.entries.plan import plan_menu
from bootc_fast.boot.entries.publish import publish_menu
from bootc_fast.boot.entries.variables import make_variable_setter
from bootc_fast.composefs.boot_files import choose_finalized_order, confirm_next_boot, list_protected
from bootc_fast.composefs.deployments import read_marker
from bootc_fast.composefs.etc import hold_staged_etc
from bootc_fast.composefs.survey import read_survey
from bootc_fast.errors import BootcFastError, FileSystemError, StepTimeoutError
from bootc_fast.events import ignore_event
from bootc_fast.flows.counting import BootTrial, decide_trial
from bootc_fast.flows.finalize_run import (
    LOOK_TIMEOUT_S,
    TIMEOUT_S,
    FinalizeOptions,
    FinalizeRun,
    Snapshot,
    take_snapshot,
)
from bootc_fast.flows.steps import Steps, single_error
from bootc_fast.machine.booted import read_booted
from bootc_fast.machine.host import open_host
from bootc_fast.machine.lock import hold_lock
from bootc_fast.machine.mounts import open_writable
from bootc_fast.machine.native import run_blocking
from bootc_fast.records import replace
from bootc_fast.report.boots import remember_withdrawn
from bootc_fast.report.finalize import Recall, recall_finalize, record_outcome, write_outcome
from bootc_fast.report.journal import report_failure, send_boot_order, send_finalize
from bootc_fast.text import describe_error
from bootc_fast.trial.states import read_states
from bootc_fast.trial.verdict import refuse_failed
from bootc_fast.types import FinalizeOutcome, Result

if TYPE_CHECKING:
    from pathlib import Path

    from bootc_fast.etc.policy import ConflictChoice
    from bootc_fast.events import EventSink
    from bootc_fast.types import EtcReport, Loader, StagedMarker, Strategy, VerityDigest

LOCK_TIMEOUT_S = 30.0
DECIDE_TIMEOUT_S = 60.0
PREPARE_TIMEOUT_S = 200.0
COMMIT_TIMEOUT_S = 10.0
TIDY_TIMEOUT_S = 10.0

RECORDING = "writing how it goes to the record"


async def finalize_staged(
    root: Path | str = "/",
    options: FinalizeOptions | None = None,
    *,
    on_conflict: Strategy | ConflictChoice | None = None,
    dry_run: bool = False,
    timeout_s: float = TIMEOUT_S,
    loader: Loader | None = None,
    verify_signatures: bool = True,
    verify: bool = True,
    force: bool = False,
    on_event: EventSink = ignore_event,
) -> FinalizeOutcome:
    """Merge /etc into the staged deployment and make it the next boot.

    With nothing staged, or the staged deployment locked or finalized already, nothing is written. Runs on trio and
    asyncio; safe next to other tasks.
    Cancellation: at any moment. Before the commit the next boot stays what it was, and the next run completes what
    was begun; the commit itself (10 s at most) waits, and a finalize that has committed returns its outcome.

    Args:
        root: ``/``, or a directory laid out like a host.
        options: How, as one record; in the place of the keywords, which mean the same.
        on_conflict: Wins over the policy files where given, an explicit ``fail`` too.
        dry_run: Find out everything, write nothing.
        timeout_s: For the whole, in seconds.
        loader: Wins over what the host says.
        verify_signatures: With Secure Boot on, refuse a UKI or kernel that the loader would refuse.
        verify: Refuse boot files that are missing, or not those that were staged; signatures are not looked at without.
        force: Also take a deployment that failed its trial.
        on_event: Gets the steps; must not block.

    Returns:
        What was done.

    Raises:
        NotBootcHostError: The host is none of ours.
        InvalidStateError: Marker, command line, image or state are missing or malformed.
        EtcConflictError: The merge has conflicts that no strategy settles.
        VerityMismatchError: An image, kernel or UKI is not what its digest says.
        SignatureError: Secure Boot would refuse the UKI.
        TrialFailedError: The deployment failed its trial before.
        BootEntryError: Boot entries are missing or did not become what was wanted.
        FileSystemError: A file system refused; also EspError, MountError, ImageFormatError.
        StepTimeoutError: It took too long.
        LockedError: Another process is at it.
        ExceptionGroup: Several of these at once.
        TypeError: There are options, and keywords beside them.

    Source:
        Spec commands.md, "composefs-finalize-staged".
    """
    named = FinalizeOptions(on_conflict, dry_run, timeout_s, loader, verify_signatures, verify, force)
    if options is not None and named != FinalizeOptions():
        raise TypeError("finalize_staged() takes options, or keywords in their place")
    options = options or named
    host = await run_blocking(open_host, root)
    steps = Steps(on_event, flow="finalizing", timeout_s=options.timeout_s, usual_s=TIMEOUT_S)
    run = FinalizeRun(host, options, steps, FinalizeOutcome(Result.INTERRUPTED))
    try:
        with single_error(), steps.limit_all():
            await _finalize(run)
    except BaseException as error:
        await report_failure(host, run.outcome, error, recall=run.recall, dry_run=options.dry_run)
        raise
    if not options.dry_run and run.outcome.result is not Result.DONE:
        # Done is told before what nobody waits for; this is for those who ask why nothing happened.
        with anyio.CancelScope(shield=True):
            await run_blocking(send_finalize, host, run.outcome)
    return run.outcome


async def _finalize(run: FinalizeRun) -> None:
    """Find out without the lock whether there is anything to do: on most shutdowns there is not."""
    booted = await run_blocking(read_booted, run.host)
    run.outcome = replace(run.outcome, booted=booted.digest)
    marker = await run_blocking(read_marker, run.host, booted)
    if _ends_early(run, marker):
        if run.outcome.result is Result.LOCKED and not run.options.dry_run:
            await _remember_locked(run)
        return
    async with AsyncExitStack() as stack:
        if not run.options.dry_run:
            with run.steps.run("lock", "Waiting for the lock", timeout_s=LOCK_TIMEOUT_S + 1):
                await stack.enter_async_context(hold_lock(run.host, timeout_s=LOCK_TIMEOUT_S))
                # bootc mounts /sysroot read-only: state and outcome are written through a clone of that mount.
                run.host = await stack.enter_async_context(open_writable(run.host))
        # Read again: whoever held the lock may have changed all of it.
        survey = await read_survey(run.host)
        if not _ends_early(run, survey.marker) and survey.marker is not None:
            await _begin_record(run, survey.marker.digest)
            survey.refuse_not_handled("finalizing", survey.booted.digest, survey.marker.digest)
            await _finalize_locked(run, Snapshot(survey, survey.marker.digest, stack))


async def _remember_locked(run: FinalizeRun) -> None:
    """What is downloaded only and not applied is not missed at the next boot; best effort, nothing depends on it."""
    with suppress(BootcFastError, OSError):
        survey = await read_survey(run.host)
        async with open_writable(run.host) as writable:
            await run_blocking(remember_withdrawn, writable, survey.booted.digest, survey.deployments)


def _ends_early(run: FinalizeRun, marker: StagedMarker | None) -> bool:
    if marker is None:
        run.end(Result.NOTHING_STAGED)
        return True
    run.outcome = replace(run.outcome, staged=marker.digest)
    if marker.finalization_locked:
        run.end(Result.LOCKED)
    return marker.finalization_locked


async def _begin_record(run: FinalizeRun, staged: VerityDigest) -> None:
    """Take up what earlier runs noted; stays as ``interrupted`` if the power goes or we are killed from here on."""
    run.recall = await run_blocking(recall_finalize, run.host, staged, run.options.on_conflict)
    run.is_strategy_recalled = run.options.on_conflict is None and run.recall.on_conflict is not None
    run.options = replace(run.options, on_conflict=run.recall.on_conflict)
    if not run.options.dry_run:
        await run.or_warn(RECORDING, write_outcome, run.host, record_outcome(run.outcome, run.recall))


async def _end_record(run: FinalizeRun) -> None:
    """Write down how it ended; where there was nothing to do, what the run before wrote counts on."""
    recall = run.recall or Recall()
    record = record_outcome(replace(run.outcome, result=Result.DONE), recall)
    before = recall.previous
    if run.outcome.result is Result.ALREADY_DONE and recall.committed and before and before.result is Result.DONE:
        record = replace(before, on_conflict=recall.on_conflict)
    await run.or_warn(RECORDING, write_outcome, run.host, record)
    run.outcome = replace(run.outcome, warnings=tuple(run.warnings))


async def _finalize_locked(run: FinalizeRun, snapshot: Snapshot) -> None:
    with run.steps.run("look", "Looking at images, /etc and boot entries", timeout_s=LOOK_TIMEOUT_S):
        await take_snapshot(run, snapshot)
    with run.steps.run("decide", "Planning", timeout_s=DECIDE_TIMEOUT_S):
        trial, etc_changes = await _decide(run, snapshot)
        menu_plan = trial.decision.plan
        run.warnings += [one for one in (*menu_plan.warnings, *trial.notes) if one not in run.warnings]
    run.outcome = replace(run.outcome, boots_instead=menu_plan.boots_instead)
    boot = snapshot.boot
    assert boot is not None  # noqa: S101 the look has filled it, or raised
    report = snapshot.plan.report if snapshot.plan else None
    next_boot = name_entry(menu_plan, snapshot.staged)
    if run.options.dry_run:
        run.end(Result.DRY_RUN, etc=report, next_boot=next_boot)
        return
    if trial.decision.is_noop and not etc_changes:
        run.end(Result.ALREADY_DONE, etc=report, next_boot=next_boot)
        await _end_record(run)
        return
    with run.steps.run("prepare", "Merging /etc", timeout_s=PREPARE_TIMEOUT_S):
        report = await _prepare(run, snapshot)
    # The last moment to give up; from here to the end nothing cancels.
    await anyio.lowlevel.checkpoint()
    with anyio.CancelScope(shield=True):
        with run.steps.run("commit", "Replacing the boot entries", timeout_s=COMMIT_TIMEOUT_S):
            published = await publish_menu(
                boot.area,
                boot.menu,
                menu_plan,
                set_variable=make_variable_setter(run.host),
                protected=list_protected(snapshot.survey, boot.menu),
                trial=trial,
            )
        run.warnings += published.warnings
        try:
            instead = await run_blocking(confirm_next_boot, snapshot.survey, boot, snapshot.staged)
        except FileSystemError:
            # The new set is in force, and the next run finds nothing to do.
            await _clean_up(run, snapshot, trial)
            raise
        run.outcome = replace(run.outcome, boots_instead=instead)
        if boot.menu.default is None or boot.menu.default.digest != snapshot.staged:
            await run_blocking(send_boot_order, run.host, operation="finalize", next_boot=snapshot.staged)
        run.end(Result.DONE, etc=report, next_boot=next_boot)
        await _tidy(run, snapshot, trial)


async def _decide(run: FinalizeRun, snapshot: Snapshot) -> tuple[BootTrial, bool]:
    """Plan the boot entries; returns how the new default is tried, and whether /etc has anything left to merge."""
    plan, boot, survey = snapshot.plan, snapshot.boot, snapshot.survey
    assert boot is not None  # noqa: S101 the look has filled it, or raised
    states, unread = await run_blocking(read_states, run.host)
    run.warnings += unread
    if not run.options.force:
        refuse_failed(states, snapshot.staged, boot.menu, doing="finalizing")
    if plan is not None:
        plan.refuse_conflicts()
    order, warnings = await run_blocking(choose_finalized_order, survey, boot.menu, snapshot.staged)
    run.warnings += warnings
    verify = run.options.verify
    first = await run_blocking(plan_menu, boot.menu, order=order, staged=snapshot.staged, verify=verify)
    trial = await run_blocking(decide_trial, survey, boot, first, order, states, staged=snapshot.staged, verify=verify)
    menu_plan = trial.decision.plan
    await run_blocking(check_ahead, boot.area, boot.menu, menu_plan, protected=list_protected(survey, boot.menu))
    if plan is None:
        return trial, False
    if not trial.decision.is_noop and not run.options.dry_run:
        # Only a second run asks whether the merge, too, is what it would be.
        return trial, True
    async with hold_staged_etc(run.host, snapshot.staged) as dest_fd:
        return trial, bool(await plan.list_operations(dest_fd, on_event=run.steps.on_event, step="decide.etc"))


async def _prepare(run: FinalizeRun, snapshot: Snapshot) -> EtcReport | None:
    """Write the merged /etc, complete and flushed."""
    host = run.host
    report: EtcReport | None = None
    await run_blocking(send_finalize, host, run.outcome)
    async with anyio.create_task_group() as tasks:
        # Now, so that the commit finds little left to flush: its time is short.
        tasks.start_soon(run_blocking, _flush, snapshot)
        if snapshot.plan is not None:
            async with hold_staged_etc(host, snapshot.staged) as dest_fd:
                report = await snapshot.plan.apply(dest_fd, on_event=run.steps.on_event)
    return report


def _flush(snapshot: Snapshot) -> None:
    """Put on disk what the staging wrote: image, objects, state; kernel, initrd or UKI."""
    host, boot = snapshot.survey.host, snapshot.boot
    areas = [] if boot is None else [boot.area.boot_fd, boot.area.esp_fd]
    with (
        flushing_what_is_needed(),
        host.open_directory(host.objects) as objects_fd,
        host.open_directory(host.state_deploy) as state_fd,
    ):
        for fd in (objects_fd, state_fd, *areas):
            if fd is not None:
                _core.sync_filesystem(fd)


async def _tidy(run: FinalizeRun, snapshot: Snapshot, trial: BootTrial) -> None:
    """Do what can wait until the new default is on disk; whatever fails here is a warning."""
    host = run.host
    await _clean_up(run, snapshot, trial)
    run.warnings += snapshot.warnings
    run.end(Result.DONE)
    await _end_record(run)
    await run_blocking(send_finalize, host, run.outcome)
    run.end(Result.DONE)


async def _clean_up(run: FinalizeRun, snapshot: Snapshot, trial: BootTrial) -> None:
    host = run.host
    try:
        with run.steps.run("tidy", "Removing what is no longer needed", timeout_s=TIDY_TIMEOUT_S):
            await run.or_warn("removing .updated", host.remove_file, host.state_dir(snapshot.staged) / "var/.updated")
            await run.or_warn("removing unused boot files", _collect, snapshot)
            await run.or_warn("noting the trial", _note, snapshot, trial)
    except StepTimeoutError as error:
        run.warnings.append(describe_error(error))


def _note(snapshot: Snapshot, trial: BootTrial) -> None:
    snapshot.warnings += trial.note()


def _collect(snapshot: Snapshot) -> None:
    boot = snapshot.boot
    if boot is not None:
        menu = read_menu(boot.area, known=snapshot.survey.known, variables=boot.variables)
        # What has fallen out of the set loses its boot files; its image and state are bootc's to collect.
        outcome = collect_garbage(boot.area, menu, known=list_protected(snapshot.survey, menu))
        snapshot.warnings += outcome.warnings
