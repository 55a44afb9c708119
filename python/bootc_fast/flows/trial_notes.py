"""What flows note of trials: a finalize begins one, a complete boot ends it well, a loader that gave up ends it badly.

Source:
    Spec trial.md, "States, per deployment digest" and "Known bad".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.composefs.survey import read_survey
from bootc_fast.errors import BootcFastError, NotBootcHostError
from bootc_fast.machine.lock import hold_lock
from bootc_fast.machine.mounts import open_writable
from bootc_fast.machine.native import run_blocking
from bootc_fast.machine.systemd import read_unit_state
from bootc_fast.records import replace
from bootc_fast.report.finalize import now_text
from bootc_fast.text import describe_error
from bootc_fast.trial.states import TrialRecord, TrialState, change_states, read_states
from bootc_fast.types import VerityDigest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bootc_fast.boot.counting.records import CountMethod
    from bootc_fast.composefs.survey import Survey
    from bootc_fast.machine.host import Host

BOOT_COMPLETE = "boot-complete.target"
LOCK_TIMEOUT_S = 30.0


def _put(
    host: Host, survey: Survey, digest: VerityDigest, states: frozenset[TrialState | None], record: TrialRecord
) -> tuple[str, ...]:
    """Give a deployment a record where its state is one of these."""

    def change(known: Mapping[VerityDigest, TrialRecord]) -> Mapping[VerityDigest, TrialRecord]:
        before = known.get(digest)
        return {**known, digest: record} if (before.state if before else None) in states else known

    return change_states(host, change, with_state=survey.with_state, time=now_text())


def note_finalized(
    host: Host, survey: Survey, staged: VerityDigest, *, method: CountMethod | None = None, tries: int = 0
) -> tuple[str, ...]:
    """Note that a deployment is on trial, unless it was good before; blocks.

    Args:
        host: Where.
        survey: Its deployments.
        staged: Which one.
        method: How its boots are counted; None where they are not.
        tries: How often it is tried at most.

    Returns:
        Warnings.

    Raises:
        FileSystemError: It could not be written.
    """
    begins = frozenset({None, TrialState.NEW, TrialState.FAILED})
    return _put(host, survey, staged, begins, TrialRecord(TrialState.TRIAL, method=method, allowed=tries or None))


def note_rolled_back(host: Host, survey: Survey, target: VerityDigest) -> tuple[str, ...]:
    """Note what a rollback means for trials; blocks.

    A target that had failed is on trial again, since somebody insisted. What was finalized, and left no trace of a try,
    is new again: it does not boot next any more.

    Raises:
        FileSystemError: It could not be written.
    """
    states, _unread = read_states(host)

    def change(known: Mapping[VerityDigest, TrialRecord]) -> Mapping[VerityDigest, TrialRecord]:
        after = dict(known)
        for digest, record in known.items():
            if digest == target and record.state is TrialState.FAILED:
                after[digest] = TrialRecord(TrialState.TRIAL)
            elif digest not in {target, survey.booted.digest} and record == _untried(record):
                after[digest] = TrialRecord(TrialState.NEW)
        return after

    if change(states) == states:
        # Nor is anything started anew for that.
        return ()
    return change_states(host, change, with_state=survey.with_state, time=now_text())


def _untried(record: TrialRecord) -> TrialRecord:
    """The record as it is where a finalize was all that happened."""
    return TrialRecord(TrialState.TRIAL, record.time, record.number, method=record.method, allowed=record.allowed)


async def is_boot_complete(host: Host) -> bool:
    """Whether what runs has come up: systemd's target for it is reached. A host in a directory has no units to ask.

    Source:
        systemd, "Automatic Boot Assessment": whatever is ordered before ``boot-complete.target`` and required by it can
        fail the boot.
    """
    if not host.is_live:
        return True
    state = await read_unit_state(BOOT_COMPLETE)
    return state is not None and state.is_active


def judge_boot(
    known: Mapping[VerityDigest, TrialRecord],
    booted: VerityDigest,
    given_up: Mapping[VerityDigest, int] | None,
    *,
    is_complete: bool,
) -> tuple[dict[VerityDigest, TrialRecord], dict[VerityDigest, TrialRecord]]:
    """Say what a boot makes of what is known of trials. Pure.

    Returns:
        What is known from now on, and deployments whose failure was not known before.
    """
    after, failed = dict(known), dict[VerityDigest, TrialRecord]()
    for digest, tries in (given_up or {}).items():
        before = known.get(digest)
        is_known = before is not None and (before.state is TrialState.FAILED or before.is_forgiven)
        if digest != booted and not is_known:
            reasons = before.reasons if before is not None and before.state is TrialState.TRIAL else ()
            failed[digest] = after[digest] = TrialRecord(TrialState.FAILED, tries=tries or None, reasons=reasons)
    for digest, before in known.items():
        if before.is_forgiven and given_up is not None and digest not in given_up:
            # The counter that was forgiven is gone: the next one counts.
            after[digest] = replace(before, is_forgiven=False)
    runs = known.get(booted)
    if is_complete and (runs is None or runs.state in (TrialState.NEW, TrialState.TRIAL)):
        after[booted] = TrialRecord(TrialState.GOOD)
    return after, failed


async def note_boot(
    host: Host, survey: Survey, given_up: Mapping[VerityDigest, int] | None, *, is_complete: bool
) -> tuple[dict[VerityDigest, TrialRecord], tuple[str, ...]]:
    """Note at a boot which deployment is good and which have failed; takes the lock where anything changes.

    What failed before stays failed, also where it runs: whoever wants it back insists on it or forgets the failure.
    Cancellation: at any moment.

    Args:
        host: Where, with a writable /sysroot.
        survey: Its deployments.
        given_up: Deployments on which the boot loader gave up, and how often it had tried them; None where that cannot
            be told.
        is_complete: What runs has come up.

    Returns:
        Deployments whose failure was not known before, and warnings.

    Raises:
        FileSystemError: It could not be written.
        LockedError: Another process is at it.
    """
    failed: dict[VerityDigest, TrialRecord] = {}

    def change(known: Mapping[VerityDigest, TrialRecord]) -> Mapping[VerityDigest, TrialRecord]:
        after, found = judge_boot(known, survey.booted.digest, given_up, is_complete=is_complete)
        failed.clear()
        failed.update(found)
        return after

    known, unread = await run_blocking(read_states, host)
    if change(known) == known and not unread:
        return {}, ()
    async with hold_lock(host, timeout_s=LOCK_TIMEOUT_S):
        warnings = await run_blocking(
            lambda: change_states(host, change, with_state=survey.with_state, time=now_text())
        )
    return dict(failed), warnings


async def note_unhealthy(host: Host, reasons: Sequence[str]) -> tuple[str, ...]:
    """Note why a try failed, flushed, where what runs is on trial: whoever tells later that it failed, tells that too.

    Cancellation: at any moment.

    Args:
        host: Which.
        reasons: Of this try.

    Returns:
        Warnings: what cannot be noted changes nothing about the verdict.
    """
    try:
        survey = await read_survey(host, needs_marker=False)
        known, _unread = await run_blocking(read_states, host)
        booted = survey.booted.digest
        if booted not in known or known[booted].state is not TrialState.TRIAL:
            return ()

        def change(states: Mapping[VerityDigest, TrialRecord]) -> Mapping[VerityDigest, TrialRecord]:
            before = states.get(booted)
            if before is None or before.state is not TrialState.TRIAL:
                return states
            return {**states, booted: replace(before, reasons=(*before.reasons, f"{now_text()}: {'; '.join(reasons)}"))}

        async with hold_lock(host, timeout_s=LOCK_TIMEOUT_S), open_writable(host) as writable:
            return await run_blocking(
                lambda: change_states(writable, change, with_state=survey.with_state, time=now_text())
            )
    except NotBootcHostError:
        return ()
    except (BootcFastError, OSError) as error:
        return (f"noting why this try failed: {describe_error(error)}",)
