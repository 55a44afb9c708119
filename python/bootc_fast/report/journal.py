"""What the flows tell the journal, and the record of a finalize that failed.

Source:
    Spec commands.md, "Journal"; docs/journal.md lists the messages.
"""

from __future__ import annotations

from contextlib import suppress

from bootc_fast import message_ids
from bootc_fast.errors import BootcFastError, CancelledByUserError, LockedError
from bootc_fast.records import replace
from bootc_fast.text import flatten
from bootc_fast.types import Result

# Not from typing: importing that takes a tenth of the whole start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bootc_fast.machine.host import Host
    from bootc_fast.report.finalize import OutcomeRecord, Recall
    from bootc_fast.report.rollback import RollbackOutcome
    from bootc_fast.report.trial import BlessOutcome
    from bootc_fast.types import FinalizeOutcome

# Writing down how it ended must not hold up a shutdown for long.
RECORD_TIMEOUT_S = 5.0

_MESSAGES = {
    Result.INTERRUPTED: ("Finalizing the staged deployment", message_ids.FINALIZE_STARTED),
    Result.DONE: ("The staged deployment boots next", message_ids.FINALIZE_DONE),
    Result.NOTHING_STAGED: ("Nothing to finalize: no update is staged", message_ids.FINALIZE_NOTHING),
    Result.LOCKED: (
        "Nothing to finalize: the staged deployment is locked (download-only)",
        message_ids.FINALIZE_NOTHING,
    ),
    Result.ALREADY_DONE: (
        "Nothing to finalize: the staged deployment is finalized already",
        message_ids.FINALIZE_NOTHING,
    ),
}


def send_finalize(host: Host, outcome: FinalizeOutcome) -> None:
    """Tell how a finalize stands: begun (``interrupted``), done, or nothing to do; blocks, never raises."""
    if outcome.result in _MESSAGES:
        message, message_id = _MESSAGES[outcome.result]
        if outcome.boots_instead is not None and outcome.result is Result.DONE:
            instead = outcome.boots_instead
            message = f"The staged deployment is finalized; {instead.entry_name} boots next ({instead.reason})"
        _send(host, message, message_id, _fields(outcome))


def send_boot_order(host: Host, *, operation: str, next_boot: str) -> None:
    """Tell that the loader starts another deployment than before; blocks, never raises.

    Args:
        host: Which.
        operation: What has changed it: ``finalize`` or ``rollback``.
        next_boot: The deployment that boots next.
    """
    fields = {"BOOTC_FAST_OPERATION": operation, "BOOTC_FAST_NEXT_BOOT": next_boot}
    message = f"The boot order has changed: {next_boot} boots next"
    _send(host, message, message_ids.BOOT_ORDER_CHANGED, fields, is_notice=True)


def send_rollback(
    host: Host, outcome: RollbackOutcome, *, booted_manifest_digest: str | None, commit: str | None = None
) -> None:
    """Tell that a rollback was queued or taken back, and whether that changed the order; blocks, never raises.

    Args:
        host: Which.
        outcome: What was done.
        booted_manifest_digest: Of the deployment that runs.
        commit: On an ostree host the commit that boots next.

    Source:
        bootc ``deploy.rs`` and ``bootc_composefs/rollback.rs``, whose fields others read.
    """
    fields = {
        "BOOTC_FAST_OPERATION": "rollback",
        "BOOTC_ROLLBACK_TYPE": "revert" if outcome.is_revert else "rollback",
        "BOOTC_MANIFEST_DIGEST": outcome.manifest_digest,
        "BOOTC_CURRENT_MANIFEST_DIGEST": booted_manifest_digest,
        "BOOTC_OSTREE_COMMIT": commit,
        "BOOTC_FAST_BOOTED": outcome.booted,
        "BOOTC_FAST_NEXT_BOOT": outcome.next_boot,
        "BOOTC_FAST_DROPPED_STAGED": outcome.dropped_staged,
    }
    message = f"Rolling back to image: {outcome.manifest_digest or outcome.next_boot}"
    _send(host, message, message_ids.ROLLBACK, fields, is_notice=True)
    if outcome.is_changed:
        send_boot_order(host, operation="rollback", next_boot=outcome.next_boot)


def send_unstage(host: Host, *, booted: str, unstaged: str, removed: Sequence[str]) -> None:
    """Tell that a staged update was dropped; blocks, never raises."""
    fields = {
        "BOOTC_FAST_OPERATION": "unstage",
        "BOOTC_FAST_BOOTED": booted,
        "BOOTC_FAST_STAGED": unstaged,
        "BOOTC_FAST_REMOVED": "\n".join(removed),
    }
    message = f"The staged update {unstaged} was dropped; the boot order stays"
    _send(host, message, message_ids.UPDATE_UNSTAGED, fields, is_notice=True)


def send_hold(host: Host, *, staged: str, is_held: bool) -> None:
    """Tell that a staged update is held, or not any more; blocks, never raises."""
    verb = "will not be finalized at shutdown" if is_held else "may be finalized at shutdown again"
    fields = {
        "BOOTC_FAST_OPERATION": "hold",
        "BOOTC_FAST_STAGED": staged,
        "BOOTC_FAST_HELD": "yes" if is_held else "no",
    }
    _send(host, f"The staged update {staged} {verb}", message_ids.UPDATE_HELD, fields, is_notice=True)


def send_pin(host: Host, *, deployment: str, is_pinned: bool) -> None:
    """Tell that a deployment is pinned, or not any more; blocks, never raises."""
    fields = {
        "BOOTC_FAST_OPERATION": "pin" if is_pinned else "unpin",
        "BOOTC_FAST_DEPLOYMENT": deployment,
    }
    message = f"The deployment {deployment} is {'pinned' if is_pinned else 'not pinned any more'}"
    _send(host, message, message_ids.PIN_CHANGED, fields, is_notice=True)


def send_trial_ended(host: Host, outcome: BlessOutcome) -> None:
    """Tell that what runs is no longer on trial, or is the default again; blocks, never raises."""
    fields = {"BOOTC_FAST_OPERATION": "boot-complete", "BOOTC_FAST_BOOTED": outcome.booted}
    if outcome.is_blessed:
        message = f"The deployment {outcome.booted} is no longer on trial: a boot of it was complete"
        _send(host, message, message_ids.TRIAL_PASSED, fields, is_notice=True)
    if outcome.is_restored:
        message = f"The boot loader gave up on a new deployment; {outcome.booted} runs and is the regular default again"
        _send(host, message, message_ids.FELL_BACK, fields, is_error=True)


def send_trial_failed(host: Host, *, deployment: str, tries: int | None, failure: str) -> None:
    """Tell that a deployment failed its trial; blocks, never raises."""
    fields = {
        "BOOTC_FAST_OPERATION": "boot-complete",
        "BOOTC_FAST_DEPLOYMENT": deployment,
        "BOOTC_FAST_TRIES": tries,
        "BOOTC_FAST_REASONS": failure,
    }
    _send(host, f"The deployment {deployment} {failure}", message_ids.TRIAL_FAILED, fields, is_error=True)


def send_forgotten(host: Host, *, deployment: str) -> None:
    """Tell that a deployment's failure was forgotten; blocks, never raises."""
    fields = {"BOOTC_FAST_OPERATION": "forget-failure", "BOOTC_FAST_DEPLOYMENT": deployment}
    message = f"The failed trial of deployment {deployment} was forgotten"
    _send(host, message, message_ids.FAILURE_FORGOTTEN, fields, is_notice=True)


def send_health(host: Host, *, is_healthy: bool, reasons: Sequence[str]) -> None:
    """Tell how healthy what runs is; blocks, never raises."""
    fields = {
        "BOOTC_FAST_OPERATION": "health",
        "BOOTC_FAST_HEALTHY": "yes" if is_healthy else "no",
        "BOOTC_FAST_REASONS": "\n".join(reasons) or None,
    }
    lines = ["What runs is healthy"] if is_healthy else ["What runs is not healthy:", *reasons]
    _send(host, lines, message_ids.HEALTH_JUDGED, fields, is_error=not is_healthy)


async def report_failure(
    host: Host, outcome: FinalizeOutcome, error: BaseException, *, recall: Recall | None, dry_run: bool
) -> None:
    """Write down a failure where `status` and the next boot find it, and tell the journal; never raises.

    Nothing is written where there is no host of ours, in a dry run, or after the commit: then the finalize itself
    has succeeded. Where an earlier run has made the update the next boot, the error's hint says so from here on.
    Shielded from cancellation, 5 s at most.

    Args:
        host: Where.
        outcome: What was known when it failed.
        error: What ended it, a cancellation too.
        recall: What is known of earlier runs; None where it had not got that far.
        dry_run: It was only asked.
    """
    if dry_run or outcome.result is Result.DONE or outcome.booted is None:
        return
    # Here, since a look that finds nothing staged needs no event loop.
    import anyio

    from bootc_fast.machine.mounts import open_writable
    from bootc_fast.machine.native import run_blocking
    from bootc_fast.report.failure import hint_at_commit
    from bootc_fast.report.finalize import recall_finalize, record_failure, write_outcome

    with anyio.CancelScope(shield=True), anyio.move_on_after(RECORD_TIMEOUT_S):
        leaves = flatten(error)
        if any(isinstance(leaf, anyio.get_cancelled_exc_class()) for leaf in leaves):
            # By its name, not as the framework's exception.
            error = CancelledByUserError("finalizing: cancelled before the boot entries were changed")
        if recall is None:
            recall = await run_blocking(recall_finalize, host, outcome.staged)
        hint_at_commit(error, recall)
        record = record_failure(outcome, error, recall)
        if not isinstance(error, LockedError) or not await run_blocking(_is_done_by_other, host, outcome):
            # The disk that failed the flow may fail the record too; the first error is the one to report.
            with suppress(BootcFastError, OSError):
                async with open_writable(host) as writable:
                    await run_blocking(write_outcome, writable, record)
        await run_blocking(_send_failure, host, outcome, record)


def _send_failure(host: Host, outcome: FinalizeOutcome, record: OutcomeRecord) -> None:
    from bootc_fast.report.failure import failure_fields, failure_lines

    fields = {**_fields(replace(outcome, result=Result.FAILED)), **failure_fields(record)}
    lines = ["Finalizing the staged deployment failed:", *failure_lines(record)]
    _send(host, lines, message_ids.FINALIZE_FAILED, fields, is_error=True)


def send_missed(host: Host, lines: Sequence[str], fields: Mapping[str, object]) -> None:
    """Tell, when a boot is complete, that the last update was not applied as it was to be; blocks, never raises."""
    _send(host, lines, message_ids.LAST_FINALIZE_FAILED, fields, is_error=True)


def _is_done_by_other(host: Host, outcome: FinalizeOutcome) -> bool:
    """Whether the process that held the lock has finalized this very deployment meanwhile."""
    from bootc_fast.report.finalize import read_outcome

    try:
        record = read_outcome(host)
    except (BootcFastError, OSError):
        return False
    return record is not None and record.result is Result.DONE and record.staged == outcome.staged


def _fields(outcome: FinalizeOutcome) -> dict[str, object]:
    counts = outcome.etc.counts if outcome.etc else {}
    return {
        "BOOTC_FAST_OPERATION": "finalize",
        "BOOTC_FAST_RESULT": outcome.result.value,
        "BOOTC_FAST_BOOTED": outcome.booted,
        "BOOTC_FAST_STAGED": outcome.staged,
        "BOOTC_FAST_NEXT_BOOT": outcome.next_boot,
        **{f"BOOTC_FAST_COUNT_{name.upper()}": count for name, count in counts.items()},
    }


def _send(
    host: Host,
    message: str | Sequence[str],
    message_id: str,
    fields: Mapping[str, object],
    *,
    is_notice: bool = False,
    is_error: bool = False,
) -> None:
    try:
        if host.find_status(host.journal_socket) is None:
            return
    except OSError:
        return
    # Here, since its protocol is a quarter of what a look that finds nothing staged imports.
    from bootc_fast.machine import journal

    priority = journal.PRIORITY_ERROR if is_error else journal.PRIORITY_NOTICE if is_notice else journal.PRIORITY_INFO
    journal.send_journal(host, message, message_id=message_id, fields=fields, priority=priority)
