"""After a boot: telling, once, that the last finalize failed, and forgetting what a soft reboot has outdated.

Source:
    Spec commands.md, "composefs-finalize-staged", last paragraph.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bootc_fast import message_ids
from bootc_fast.composefs.deployments import read_origin
from bootc_fast.composefs.survey import drop_outdated_marker
from bootc_fast.errors import BootcFastError
from bootc_fast.machine.booted import read_booted
from bootc_fast.machine.host import open_host
from bootc_fast.machine.journal import PRIORITY_ERROR, send_journal
from bootc_fast.machine.mounts import open_writable
from bootc_fast.machine.native import run_blocking
from bootc_fast.report.finalize import read_outcome, write_outcome
from bootc_fast.report.rollback import REBOOT_TEXT
from bootc_fast.text import shorten_digest
from bootc_fast.types import Result

if TYPE_CHECKING:
    from pathlib import Path

    from bootc_fast.machine.host import Host
    from bootc_fast.report.finalize import OutcomeRecord


@dataclass(frozen=True, slots=True)
class FailureReport:
    """The last finalize's failure.

    Attributes:
        lines: For people; the first says when it was.
        exit_code: What the finalize exited with, never 0.
    """

    lines: tuple[str, ...]
    exit_code: int


def forget_soft_reboot(root: Path | str = "/") -> None:
    """Remove what /run kept over a soft reboot and what is not true any more; blocks, never raises.

    The staged marker and the reboot marker, where they ask for what runs now. After a boot through the firmware
    neither is there.

    Source:
        systemd-soft-reboot.service(8): "/run/ … remains in place".
    """
    try:
        host = open_host(root)
        booted = read_booted(host).digest
        drop_outdated_marker(host, booted)
        wanted = host.read_bytes(host.reboot_marker).decode("utf-8", "replace").removeprefix(REBOOT_TEXT)
        if wanted in (booted, read_origin(host, booted).manifest_digest):
            host.remove_file(host.reboot_marker)
    except (BootcFastError, OSError):
        # Not a host of ours, nothing there, or nothing that can be read: whoever needs it says so.
        return


async def report_last_finalize(root: Path | str = "/") -> FailureReport | None:
    """Find out whether the last finalize failed, and note that it has been told.

    Cancellation: nothing is left behind; the failure counts as told only when that is on disk.

    Returns:
        The failure; None where there is none, or where it has been told already.

    Raises:
        InvalidStateError: The record is not readable.
        FileSystemError: The note could not be written.
    """
    host = await run_blocking(open_host, root)
    record = await run_blocking(read_outcome, host)
    if record is None or not record.has_failed or record.reported:
        return None
    if record.result is Result.INTERRUPTED and await run_blocking(_has_booted, host, record.staged):
        # Killed or cut between the commit and its record: the update has been applied.
        await _write(host, replace(record, result=Result.DONE))
        return None
    report = FailureReport(tuple(_lines(record)), record.exit_code or 1)
    await _write(host, replace(record, reported=True))
    message = " ".join(report.lines[:2])
    fields = {"BOOTC_FAST_OPERATION": "boot-complete", "BOOTC_FAST_STAGED": record.staged}
    await run_blocking(
        send_journal,
        host,
        message,
        message_id=message_ids.LAST_FINALIZE_FAILED,
        fields=fields,
        priority=PRIORITY_ERROR,
    )
    return report


async def _write(host: Host, record: OutcomeRecord) -> None:
    async with open_writable(host) as writable:
        await run_blocking(write_outcome, writable, record)


def _has_booted(host: Host, digest: str | None) -> bool:
    try:
        return read_booted(host).digest == digest
    except BootcFastError:
        return False


def _lines(record: OutcomeRecord) -> list[str]:
    staged = f" of deployment {shorten_digest(record.staged)}" if record.staged else ""
    if record.result is Result.INTERRUPTED:
        return [
            f"error: the finalize{staged} that began at {record.time} did not end: it was killed, or the power went",
            "hint: the running system is unchanged; stage the update again with `bootc upgrade`",
        ]
    lines = [f"error: the finalize{staged} at {record.time} failed; the running system is unchanged"]
    for error in record.errors:
        lines.append(f"error: {error.message}")
        lines += [f"  caused by: {text}" for text in error.chain]
        if error.hint:
            lines.append(f"hint: {error.hint}")
    return lines
