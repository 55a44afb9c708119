"""Entering the deployment that boots next, by the fastest way that is possible.

Source:
    Spec commands.md, "rollback", ``--soft-reboot``; issue "Soft reboot": a finalize that is due happens first.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio

from bootc_fast.events import ignore_event
from bootc_fast.flows.backend import open_backend
from bootc_fast.flows.finalize import finalize_staged
from bootc_fast.flows.steps import single_error
from bootc_fast.machine.host import open_host
from bootc_fast.machine.native import run_blocking
from bootc_fast.records import dataclass
from bootc_fast.restart.ways import RestartWay, SoftRebootMode, require_live, start_restart

if TYPE_CHECKING:
    from pathlib import Path

    from bootc_fast.events import EventSink
    from bootc_fast.flows.backend import Backend
    from bootc_fast.types import Loader, VerityDigest

_NOTHING = ("the deployment that runs boots next: nothing to restart into",)


@dataclass(frozen=True, slots=True)
class NextBootOutcome:
    """How the machine gets into the deployment that boots next.

    Attributes:
        target: That deployment; with ``dry_run`` the staged one, where a finalize would come first.
        way: How; None where the booted deployment boots next.
        notes: Why it is no faster way, in words for people.
        is_finalized: A staged update was finalized before, or with ``dry_run`` would be.
        dry_run: Nothing was changed.
    """

    target: VerityDigest
    way: RestartWay | None
    notes: tuple[str, ...] = ()
    is_finalized: bool = False
    dry_run: bool = False


async def enter_next_boot(
    root: Path | str = "/",
    *,
    mode: SoftRebootMode = SoftRebootMode.REQUIRED,
    apply: bool = False,
    dry_run: bool = False,
    loader: Loader | None = None,
    on_event: EventSink = ignore_event,
) -> NextBootOutcome:
    """Prepare a restart into what boots next, and with `apply` start it; a staged update is finalized first.

    Cancellation: at any moment; before the next root is attached nothing of it stays, a finalize that has committed
    stays.

    Raises:
        SoftRebootError: The way is not possible. It is tried before a finalize that is due: nothing was changed, unless
            it became impossible meanwhile.
        NoRollbackTargetError: No deployment of ours boots next.
        CommandError: It is prepared, and systemctl did not restart.
        BootcFastError: As from `finalize_staged`.
    """
    host = await run_blocking(open_host, root)
    with single_error():
        async with AsyncExitStack() as stack:
            backend = await open_backend(host, stack, loader=loader, read_only=True)
            due = await backend.find_due(mode)
        if due is not None and not dry_run:
            require_live(host)
            await finalize_staged(root, loader=loader, on_event=on_event)
        async with AsyncExitStack() as stack:
            # Another one: what it looked at is not what is there after the finalize.
            backend = await open_backend(host, stack, loader=loader, read_only=True)
            outcome = await _enter(backend, mode, due=due, dry_run=dry_run)
    if apply and not dry_run and outcome.way is not None:
        await start_restart(outcome.way, message=f"Booting {outcome.target[:16]}")
    return outcome


async def _enter(backend: Backend, mode: SoftRebootMode, *, due: VerityDigest | None, dry_run: bool) -> NextBootOutcome:
    if not dry_run:
        await backend.lock()
    change = await backend.choose_next(due if dry_run else None)
    if change.is_revert:
        return NextBootOutcome(change.target, None, _NOTHING, dry_run=dry_run)
    ways = backend.make_ways(mode)
    backend.stack.push_async_callback(ways.undo)
    await ways.prepare(dry_run=dry_run)
    if not dry_run:
        await backend.enter(ways)
        with anyio.CancelScope(shield=True):
            await run_blocking(ways.finish)
    notes = (*ways.notes, *backend.warnings, *ways.warnings)
    return NextBootOutcome(change.target, ways.kind, notes, is_finalized=due is not None, dry_run=dry_run)
