"""Telling how a finalize ended: the record for the next boot, and the journal."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from bootc_fast import message_ids
from bootc_fast.errors import BootcFastError, CancelledByUserError, LockedError
from bootc_fast.machine.journal import PRIORITY_ERROR, send_journal
from bootc_fast.machine.mounts import open_writable
from bootc_fast.machine.native import run_blocking
from bootc_fast.report.finalize import read_outcome, record_failure, write_outcome
from bootc_fast.text import describe_error, error_chain, exit_code_of, flatten
from bootc_fast.types import Result

if TYPE_CHECKING:
    from bootc_fast.machine.host import Host
    from bootc_fast.types import FinalizeOutcome

# Writing down how it ended must not hold up a shutdown for long.
RECORD_TIMEOUT_S = 5.0


async def tell_outcome(host: Host, outcome: FinalizeOutcome, message: str, message_id: str) -> None:
    """Send a finalize's facts to the journal; never raises."""
    await run_blocking(send_journal, host, message, message_id=message_id, fields=_fields(outcome))


async def tell_failure(host: Host, outcome: FinalizeOutcome, error: BaseException, *, dry_run: bool) -> None:
    """Write down a failure where `status` and the next boot find it, and tell the journal; never raises.

    Nothing is written where there is no host of ours, in a dry run, or after the commit: then the finalize itself
    has succeeded. Shielded from cancellation, 5 s at most.

    Args:
        host: Where.
        outcome: What was known when it failed.
        error: What ended it, a cancellation too.
        dry_run: It was only asked.
    """
    if dry_run or outcome.result is Result.DONE or outcome.booted is None:
        return
    with anyio.CancelScope(shield=True), anyio.move_on_after(RECORD_TIMEOUT_S):
        told = _as_told(error)
        if not isinstance(told, LockedError) or not await run_blocking(_is_done_by_other, host, outcome):
            # The disk that failed the flow may fail the record too; the first error is the one to report.
            with suppress(BootcFastError, OSError):
                async with open_writable(host) as writable:
                    await run_blocking(write_outcome, writable, record_failure(outcome, told))
        text = "; ".join(describe_error(leaf) for leaf in flatten(told))
        chain = [line for leaf in flatten(told) for line in error_chain(leaf)]
        fields = {
            **_fields(outcome),
            "BOOTC_FAST_ERROR_CHAIN": "\n".join(chain) or None,
            "BOOTC_FAST_EXIT_CODE": exit_code_of(told),
        }
        message = f"Finalizing the staged deployment failed: {text}"
        await run_blocking(
            send_journal, host, message, message_id=message_ids.FINALIZE_FAILED, fields=fields, priority=PRIORITY_ERROR
        )


def _as_told(error: BaseException) -> BaseException:
    """The error for people: a cancellation by its name, not as the framework's exception."""
    leaves = flatten(error)
    if any(isinstance(leaf, anyio.get_cancelled_exc_class()) for leaf in leaves):
        return CancelledByUserError("finalizing: cancelled before the boot entries were changed")
    return error


def _is_done_by_other(host: Host, outcome: FinalizeOutcome) -> bool:
    """Whether the process that held the lock has finalized this very deployment meanwhile."""
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
