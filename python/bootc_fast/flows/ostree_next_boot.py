"""Entering the deployment of an ostree host that boots next, by the fastest way that is possible.

Source:
    Spec commands.md, "rollback", ``--soft-reboot``; bootc ``cli.rs``, ``handle_staged_soft_reboot``.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import anyio

from bootc_fast.errors import InvalidStateError
from bootc_fast.machine.host import hold_lock
from bootc_fast.machine.native import run_blocking
from bootc_fast.ostree.sysroot import check_bootable, enter_ostree, read_ostree
from bootc_fast.restart.ostree import OstreeRestart

if TYPE_CHECKING:
    from bootc_fast.machine.host import Host
    from bootc_fast.ostree.sysroot import OstreeDeployment, OstreeSurvey
    from bootc_fast.restart.ways import SoftRebootMode


async def enter_ostree_next_boot(
    host: Host, mode: SoftRebootMode, *, dry_run: bool
) -> tuple[OstreeDeployment, OstreeRestart]:
    """Prepare a restart into the staged deployment, which libostree finalizes on the way, else into the first one.

    Cancellation: at libostree's next check; what is prepared then stays.

    Args:
        host: An ostree host.
        mode: Which ways may be taken.
        dry_run: Find out only.

    Returns:
        The deployment, and the way into it: none where it is the one that runs.

    Raises:
        SoftRebootError: The way is not possible; nothing was changed.
        BootEntryError: The deployment would not boot.
        LockedError: Another process holds our lock or libostree's.
        FileSystemError: libostree refused; with its text.
        InvalidStateError: Which deployment is booted cannot be told, or another one is to boot next meanwhile.
        BootcFastError: libostree is not installed.
    """
    survey = await read_ostree(host)
    target = await run_blocking(_choose, host, survey)
    restart = OstreeRestart(host, mode, is_wanted=target.key != survey.booted.key)

    def choose_same(survey: OstreeSurvey) -> OstreeDeployment:
        found = _choose(host, survey)
        if found.key != target.key:
            raise InvalidStateError("preparing the restart: another deployment is to boot next meanwhile")
        return found

    with ExitStack() as stack:
        stack.callback(restart.undo)
        await restart.find_way(target, dry_run=dry_run)
        if not dry_run and restart.way is not None:
            async with hold_lock(host):
                await enter_ostree(host, choose_same, restart.enter)
                with anyio.CancelScope(shield=True):
                    await run_blocking(restart.finish, target)
    return target, restart


def _choose(host: Host, survey: OstreeSurvey) -> OstreeDeployment:
    if survey.staged is not None and not survey.staged.is_finalization_locked:
        return survey.staged
    first = survey.order[0]
    if first != survey.booted:
        check_bootable(host, first)
    return first
