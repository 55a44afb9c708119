"""Rolling back a composefs host.

Source:
    Spec commands.md, "rollback"; bootc ``bootc_composefs/rollback.rs``.
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from bootc_fast.boot.entries.publish import publish_menu
from bootc_fast.boot.entries.variables import make_variable_setter
from bootc_fast.composefs.boot_files import BootLook, check_boot_files, confirm_next_boot, list_protected, look_boot
from bootc_fast.composefs.deployments import remove_staged_marker
from bootc_fast.composefs.etc import list_missing_changes
from bootc_fast.composefs.survey import Survey, read_survey
from bootc_fast.errors import BootcFastError, FileSystemError, StepTimeoutError
from bootc_fast.flows.rollback_plan import OTHER_HINT, plan_rollback
from bootc_fast.flows.steps import Steps, single_error
from bootc_fast.machine.booted import is_etc_transient
from bootc_fast.machine.host import hold_lock
from bootc_fast.machine.mounts import open_writable
from bootc_fast.machine.native import run_blocking
from bootc_fast.report.boots import remember_withdrawn
from bootc_fast.report.finalize import note_withdrawn
from bootc_fast.report.journal import send_rollback
from bootc_fast.report.rollback import RollbackOutcome, note_reboot
from bootc_fast.restart.ways import clear_next_root, prepare_restart, require_live
from bootc_fast.text import describe_error, flatten

if TYPE_CHECKING:
    from collections.abc import Callable

    from bootc_fast.boot.entries.plan import MenuPlan
    from bootc_fast.machine.host import Host
    from bootc_fast.restart.ways import Restart, SoftRebootMode
    from bootc_fast.types import Loader, VerityDigest

LOOK_TIMEOUT_S = 90.0
COMPARE_TIMEOUT_S = 120.0
CHECK_TIMEOUT_S = 60.0
COMMIT_TIMEOUT_S = 10.0
TIDY_TIMEOUT_S = 5.0
_DAMAGED_HINT = f"{OTHER_HINT}; --no-verify boots it nevertheless"


@dataclass(slots=True)
class _Run:
    """One rollback under way."""

    host: Host
    steps: Steps
    stack: AsyncExitStack
    survey: Survey
    boot: BootLook
    warnings: list[str] = field(default_factory=list)
    apply: bool = False
    soft_reboot: SoftRebootMode | None = None
    verify: bool = True


async def rollback_composefs(
    host: Host,
    steps: Steps,
    *,
    to: str | None,
    dry_run: bool,
    loader: Loader | None,
    apply: bool,
    soft_reboot: SoftRebootMode | None,
    verify: bool,
    force: bool,
) -> RollbackOutcome:
    """Roll a composefs host back; the contract is that of ``flows.rollback.rollback``."""
    async with AsyncExitStack() as stack:
        if not dry_run:
            # Who is no host of ours gets no lock file either.
            await read_survey(host)
            await stack.enter_async_context(hold_lock(host))
            host = await stack.enter_async_context(open_writable(host))
        with steps.run("look", "Reading boot entries", timeout_s=LOOK_TIMEOUT_S):
            survey = await read_survey(host)
            boot = await look_boot(survey, stack, loader=loader, read_only=dry_run)
        run = _Run(host, steps, stack, survey, boot, list(boot.warnings), apply, soft_reboot, verify)
        return await _roll_back(run, to, dry_run=dry_run, force=force)


async def _roll_back(run: _Run, to: str | None, *, dry_run: bool, force: bool) -> RollbackOutcome:
    survey, menu = run.survey, run.boot.menu
    plan = await run_blocking(plan_rollback, survey, menu, to=to, force=force, verify=run.verify)
    target = plan.order[0]
    if target != survey.booted.digest and run.verify:
        await _check_target_files(run, plan)
    origin = survey.find_origin(target)
    is_revert = target == survey.booted.digest
    dropped = survey.marker.digest if survey.marker and survey.marker.digest != target else None
    missing = None if is_revert else await _count_etc_changes(run, target)
    restart = await _prepare_restart(run, target, dry_run=dry_run)
    default_before = menu.default.digest if menu.default else None
    outcome = RollbackOutcome(
        booted=survey.booted.digest,
        next_boot=target,
        is_revert=is_revert,
        is_changed=default_before != target,
        dropped_staged=dropped,
        image_reference=origin.image_reference if origin else None,
        manifest_digest=origin.manifest_digest if origin else None,
        etc_changes_missing=missing,
        entry_name=plan.default.label,
        dry_run=dry_run,
        restart=restart.way if restart else None,
        restart_notes=_restart_notes(run, restart, is_revert=is_revert),
        warnings=tuple(dict.fromkeys((*run.warnings, *plan.warnings))),
        boots_instead=plan.boots_instead,
    )
    if not dry_run:
        await anyio.lowlevel.checkpoint()
        return await _commit(run, plan, outcome, restart)
    return outcome


async def _check_target_files(run: _Run, plan: MenuPlan) -> None:
    """Refuse a target whose kernel, initrd or UKI is damaged: the loader would start it all the same."""
    with run.steps.run("check", "Checking what the target boots from", timeout_s=CHECK_TIMEOUT_S):
        run.warnings += await check_boot_files(
            run.survey,
            plan.order[0],
            run.boot,
            entry=plan.default,
            role="the rollback target",
            hint=_DAMAGED_HINT,
        )


async def _prepare_restart(run: _Run, target: VerityDigest, *, dry_run: bool) -> Restart | None:
    """Prepare the restart that was asked for; None where none was, or where what runs boots next."""
    if not (run.apply or run.soft_reboot):
        return None
    if not dry_run:
        require_live(run.host)
    if target == run.survey.booted.digest:
        return None
    with run.steps.run("restart", "Preparing the restart", timeout_s=LOOK_TIMEOUT_S):
        return await prepare_restart(run.survey, run.boot, target, run.stack, mode=run.soft_reboot, dry_run=dry_run)


def _restart_notes(run: _Run, restart: Restart | None, *, is_revert: bool) -> tuple[str, ...]:
    if restart is not None:
        return restart.notes
    if is_revert and (run.apply or run.soft_reboot):
        return ("the deployment that runs boots next: nothing to restart into",)
    return ()


async def _count_etc_changes(run: _Run, target: VerityDigest) -> int | None:
    """Count what was changed in /etc since the booted image and is not in the target's /etc."""
    host = run.host
    try:
        with single_error(), run.steps.run("compare", "Comparing /etc", timeout_s=COMPARE_TIMEOUT_S):
            if await run_blocking(is_etc_transient, host):
                return None
            return len(await list_missing_changes(host, run.survey.booted.digest, target, run.stack))
    except (BootcFastError, OSError, ExceptionGroup) as error:
        # A number for information: what a rollback is for is the broken system.
        run.warnings += [f"/etc was not compared: {describe_error(leaf)}" for leaf in flatten(error)]
        return None


async def _commit(run: _Run, plan: MenuPlan, outcome: RollbackOutcome, restart: Restart | None) -> RollbackOutcome:
    """Write the new order; then, and only then, drop the staged update and tell whoever waits for it.

    Returns:
        The outcome, with what did not go as it should after the new order was in force.
    """
    host, boot = run.host, run.boot
    with anyio.CancelScope(shield=True):
        with run.steps.run("commit", "Replacing the boot entries", timeout_s=COMMIT_TIMEOUT_S):
            published = await publish_menu(
                boot.area,
                boot.menu,
                plan,
                set_variable=make_variable_setter(host),
                protected=list_protected(run.survey, boot.menu),
            )
        warnings = (*outcome.warnings, *published.warnings, *await _tidy(run, outcome))
        # Last, since all may fail and the rest is done; one without the other would undo the new order at shutdown.
        try:
            instead = await run_blocking(confirm_next_boot, run.survey, boot, outcome.next_boot)
            if restart is not None:
                await run_blocking(restart.commit)
            else:
                warnings = (*warnings, *await run_blocking(_forget_next_root, host))
        finally:
            await _drop_staged(run, outcome)
    return replace(outcome, warnings=warnings, boots_instead=instead)


async def _tidy(run: _Run, outcome: RollbackOutcome) -> tuple[str, ...]:
    """Tell whoever waits for it; the new order is in force, so that what fails is a warning."""
    problems: list[str] = []

    async def attempt(what: str, function: Callable[..., None], *args: object) -> None:
        try:
            await run_blocking(function, *args)
        except (BootcFastError, OSError) as error:
            problems.append(f"{what}: {describe_error(error)}")

    try:
        with run.steps.run("tidy", "Noting the change", timeout_s=TIDY_TIMEOUT_S):
            await attempt("noting that a reboot is wanted", note_reboot, run.host, outcome)
            # Else the next boot misses what was finalized or staged before.
            await attempt("noting what is withdrawn", note_withdrawn, run.host, outcome.next_boot)
            await attempt(
                "noting what is dropped", remember_withdrawn, run.host, outcome.booted, run.survey.deployments
            )
            await attempt("touching the state directory", _touch_state, run.host)
            await attempt("writing to the journal", _tell_journal, run.host, run.survey, outcome)
    except StepTimeoutError as error:
        problems.append(describe_error(error))
    return tuple(problems)


async def _drop_staged(run: _Run, outcome: RollbackOutcome) -> None:
    """Remove the marker, so that no finalize at shutdown changes the order again.

    Raises:
        FileSystemError: It stays; everything else is done.
    """
    if outcome.dropped_staged is None:
        return
    try:
        await run_blocking(remove_staged_marker, run.host)
    except FileSystemError as error:
        error.hint = f"the new boot order is on disk; remove {run.host.staged_marker} before the next shutdown"
        raise


def _forget_next_root(host: Host) -> tuple[str, ...]:
    """Clear another deployment's next root: the next `systemctl reboot` would enter it in place of what boots next."""
    try:
        clear_next_root(host)
    except BootcFastError as error:
        return (f"the next `systemctl reboot` may enter what was prepared before: {describe_error(error)}",)
    return ()


def _touch_state(host: Host) -> None:
    """Programs that watch the deployments look at this time."""
    with host.open_directory(host.state_deploy) as fd:
        os.utime(fd)


def _tell_journal(host: Host, survey: Survey, outcome: RollbackOutcome) -> None:
    current = survey.find_origin(survey.booted.digest)
    send_rollback(host, outcome, booted_manifest_digest=current.manifest_digest if current else None)
