"""Rolling back: the previous deployment boots next, or, asked again, the booted one.

A module named ``rollback`` would hide the function of that name that the package exports.

Source:
    Spec commands.md, "rollback".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.errors import UsageError
from bootc_fast.events import ignore_event
from bootc_fast.flows.composefs_rollback import rollback_composefs
from bootc_fast.flows.ostree_rollback import OstreeRollback, rollback_ostree
from bootc_fast.flows.steps import Steps, single_error
from bootc_fast.machine.host import open_host
from bootc_fast.machine.native import run_blocking
from bootc_fast.ostree.sysroot import is_ostree_host
from bootc_fast.restart.ways import RestartWay, start_restart

if TYPE_CHECKING:
    from pathlib import Path

    from bootc_fast.events import EventSink
    from bootc_fast.report.rollback import RollbackOutcome
    from bootc_fast.restart.ways import SoftRebootMode
    from bootc_fast.types import Loader


async def rollback(
    root: Path | str = "/",
    *,
    to: str | None = None,
    dry_run: bool = False,
    timeout_s: float = 120.0,
    loader: Loader | None = None,
    apply: bool = False,
    soft_reboot: SoftRebootMode | None = None,
    allow_non_container: bool = False,
    verify: bool = True,
    force: bool = False,
    on_event: EventSink = ignore_event,
) -> RollbackOutcome:
    """Change which deployment boots next; a staged update is dropped once the new order is on disk.

    Cancellation: at any moment. Before the commit nothing has changed; the commit (10 s at most) waits, and a
    rollback that has committed returns its outcome.

    Args:
        root: ``/``, or a directory laid out like a host.
        to: None swaps: the rollback target boots next, or where a rollback is queued already the booted deployment.
            ``"previous"``, ``"booted"`` or a digest (8 characters of it or more) name the target; naming what boots
            next already changes nothing.
        dry_run: Find out everything, write nothing.
        timeout_s: For the whole, in seconds.
        loader: Wins over what the host says.
        apply: Restart, unless the booted deployment boots next.
        soft_reboot: Prepare a faster way than a full reboot; what is possible is found out before anything is written.
        allow_non_container: On an ostree host: go back to a deployment that is not container-based, too.
        verify: Refuse a target whose kernel and initrd, or UKI, are not those that were staged, or whose UKI Secure
            Boot would refuse.
        force: Also take a target whose entry has no tries left: the loader gave up on it.
        on_event: Gets the steps; must not block.

    Returns:
        What was done.

    Raises:
        NotBootcHostError: The host is none of ours.
        NoRollbackTargetError: There is no other deployment to boot, or (ostree) it is not container-based.
        UsageError: `to` names no deployment, or several.
        InvalidStateError: The target has no image or state, or its state no etc.
        VerityMismatchError: The target's kernel and initrd, or its UKI, are not those that were staged.
        SignatureError: Secure Boot would refuse the target's UKI.
        TrialFailedError: The loader gave up on the target.
        BootEntryError: The target's boot files are missing, or the new order did not become what was wanted.
        FileSystemError: A file system refused.
        StepTimeoutError: It took too long.
        LockedError: Another process is at it.
        SoftRebootError: The asked-for way to restart is not possible; nothing was changed.
        CommandError: The new order is on disk, and systemctl did not restart.

    Source:
        Spec commands.md, "rollback".
    """
    host = await run_blocking(open_host, root)
    steps = Steps(on_event, flow="rolling back", timeout_s=timeout_s)
    with single_error(), steps.limit_all():
        if await run_blocking(is_ostree_host, host):
            wanted = OstreeRollback(to, allow_non_container, apply, soft_reboot)
            outcome = await rollback_ostree(host, steps, wanted, dry_run=dry_run)
        elif allow_non_container:
            raise UsageError("rolling back: --allow-non-container is for ostree hosts, and this is none")
        else:
            outcome = await rollback_composefs(
                host,
                steps,
                to=to,
                dry_run=dry_run,
                loader=loader,
                apply=apply,
                soft_reboot=soft_reboot,
                verify=verify,
                force=force,
            )
    # Through the firmware the loader would boot something else.
    leads_elsewhere = outcome.boots_instead is not None and outcome.restart is RestartWay.FULL
    if apply and not dry_run and outcome.restart is not None and not leads_elsewhere:
        await start_restart(outcome.restart, message=f"Rolling back to {outcome.image_reference or outcome.next_boot}")
    return outcome
