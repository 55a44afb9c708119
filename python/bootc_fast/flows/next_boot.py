"""Entering the deployment that boots next, by the fastest way that is possible.

Source:
    Spec commands.md, "rollback", ``--soft-reboot``; issue "Soft reboot": a finalize that is due happens first.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from bootc_fast.composefs.boot_files import look_boot
from bootc_fast.composefs.survey import read_survey
from bootc_fast.errors import NoRollbackTargetError
from bootc_fast.events import ignore_event
from bootc_fast.flows.finalize import finalize_staged
from bootc_fast.flows.ostree_next_boot import enter_ostree_next_boot
from bootc_fast.flows.steps import single_error
from bootc_fast.machine.host import hold_lock, open_host
from bootc_fast.machine.native import run_blocking
from bootc_fast.ostree.sysroot import is_ostree_host
from bootc_fast.restart.ways import RestartWay, SoftRebootMode, prepare_restart, require_live, start_restart
from bootc_fast.types import VerityDigest

if TYPE_CHECKING:
    from pathlib import Path

    from bootc_fast.composefs.boot_files import BootLook
    from bootc_fast.composefs.survey import Survey
    from bootc_fast.events import EventSink
    from bootc_fast.machine.host import Host
    from bootc_fast.types import Loader

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
        if await run_blocking(is_ostree_host, host):
            outcome = await _enter_ostree(host, mode, dry_run=dry_run)
        else:
            outcome = await _enter_composefs(root, host, mode, dry_run=dry_run, loader=loader, on_event=on_event)
    if apply and not dry_run and outcome.way is not None:
        await start_restart(outcome.way, message=f"Booting {outcome.target[:16]}")
    return outcome


async def _enter_ostree(host: Host, mode: SoftRebootMode, *, dry_run: bool) -> NextBootOutcome:
    deployment, restart = await enter_ostree_next_boot(host, mode, dry_run=dry_run)
    target, way = VerityDigest(deployment.name), restart.way
    notes = tuple(restart.notes) if way is not None else _NOTHING
    return NextBootOutcome(target, way, (*notes, *restart.warnings), dry_run=dry_run)


async def _enter_composefs(
    root: Path | str,
    host: Host,
    mode: SoftRebootMode,
    *,
    dry_run: bool,
    loader: Loader | None,
    on_event: EventSink,
) -> NextBootOutcome:
    due = await _find_due(host, mode, loader)
    if due is not None and not dry_run:
        require_live(host)
        await finalize_staged(root, loader=loader, on_event=on_event)
    return await _prepare(host, mode, loader, due=due, dry_run=dry_run)


async def _find_due(host: Host, mode: SoftRebootMode, loader: Loader | None) -> VerityDigest | None:
    """Find the staged update that a finalize would make the next boot; refuse where the way cannot lead to it."""
    async with AsyncExitStack() as stack:
        survey = await read_survey(host)
        marker = survey.marker
        if marker is None or marker.finalization_locked:
            return None
        look = await look_boot(survey, stack, loader=loader, read_only=True)
        if look.menu.default is not None and look.menu.default.digest == marker.digest:
            return None
        if mode is not SoftRebootMode.AUTO:
            await prepare_restart(survey, look, marker.digest, stack, mode=mode, dry_run=True)
        return marker.digest


def _choose_target(survey: Survey, look: BootLook) -> VerityDigest:
    default = look.menu.default
    if default is None or not default.is_own or default.digest is None or default.digest not in survey.known:
        raise NoRollbackTargetError("choosing what to restart into: no deployment of this host boots next")
    return default.digest


async def _prepare(
    host: Host, mode: SoftRebootMode, loader: Loader | None, *, due: VerityDigest | None, dry_run: bool
) -> NextBootOutcome:
    async with AsyncExitStack() as stack:
        if not dry_run:
            await stack.enter_async_context(hold_lock(host))
        survey = await read_survey(host)
        look = await look_boot(survey, stack, loader=loader, read_only=True)
        target = due if due is not None and dry_run else _choose_target(survey, look)
        if target == survey.booted.digest:
            return NextBootOutcome(target, None, _NOTHING, dry_run=dry_run)
        restart = await prepare_restart(survey, look, target, stack, mode=mode, dry_run=dry_run)
        if not dry_run:
            with anyio.CancelScope(shield=True):
                await run_blocking(restart.commit)
        return NextBootOutcome(target, restart.way, restart.notes, is_finalized=due is not None, dry_run=dry_run)
