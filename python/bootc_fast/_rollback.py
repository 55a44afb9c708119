"""Rolling back: the previous deployment boots next, or, asked again, the booted one.

Source:
    Spec commands.md, "rollback"; bootc ``bootc_composefs/rollback.rs`` and ``deploy.rs``.
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from bootc_fast import _message_ids
from bootc_fast._boot_look import BootLook, list_protected, look_boot
from bootc_fast._merge import count_missing_changes
from bootc_fast._native import run_blocking
from bootc_fast._restart import RestartWay, clear_next_root, prepare_restart, require_live, start_restart
from bootc_fast._steps import Steps, single_error
from bootc_fast._survey import Survey, read_survey
from bootc_fast._text import describe_error, flatten
from bootc_fast.boot.plan import find_rollback_target, order_after_rollback, plan_menu
from bootc_fast.boot.publish import publish_menu
from bootc_fast.boot.variables import make_variable_setter
from bootc_fast.deployments import is_etc_transient, remove_staged_marker
from bootc_fast.errors import BootcFastError, BootEntryError, InvalidStateError, NoRollbackTargetError, UsageError
from bootc_fast.events import ignore_event
from bootc_fast.host import hold_lock, open_host
from bootc_fast.journal import PRIORITY_NOTICE, send_journal
from bootc_fast.mounts import open_writable
from bootc_fast.ostree import is_ostree_host

if TYPE_CHECKING:
    from pathlib import Path

    from bootc_fast._restart import Restart, SoftRebootMode
    from bootc_fast.boot.menu import BootMenu
    from bootc_fast.boot.plan import MenuPlan
    from bootc_fast.events import EventSink
    from bootc_fast.host import Host
    from bootc_fast.types import Loader, Origin, VerityDigest

PREVIOUS = "previous"
BOOTED = "booted"

LOOK_TIMEOUT_S = 90.0
COMPARE_TIMEOUT_S = 120.0
COMMIT_TIMEOUT_S = 10.0
TIDY_TIMEOUT_S = 5.0
_REBOOT_TEXT = "bootc: Reboot required for image: "
_MIN_PREFIX_CHARS = 8


@dataclass(frozen=True, slots=True)
class RollbackOutcome:
    """What a rollback did, or with ``dry_run`` would do.

    Attributes:
        booted: The deployment that runs.
        next_boot: The deployment that boots next.
        is_revert: The booted deployment boots next: a queued rollback was undone.
        is_changed: The boot order was, or would be, another one than before.
        dropped_staged: The staged deployment that was dropped; None where none was.
        image_reference: Of the next boot's origin.
        manifest_digest: Of the next boot's origin.
        etc_changes_missing: How many local changes of the running /etc the next boot's /etc does not have; None where
            that cannot be told, or where the booted deployment boots next.
        entry_name: File name of the entry that the loader takes first.
        dry_run: Nothing was written.
        restart: The way into the next boot that was asked for, e.g. ``"soft-reboot"``; None where none was, or where
            the booted deployment boots next.
        restart_notes: Why it is no faster way, or none.
        warnings: Everything odd.
        is_ostree: The deployments are ostree's: ``<commit>.<serial>`` instead of digests.
    """

    booted: VerityDigest
    next_boot: VerityDigest
    is_revert: bool
    is_changed: bool
    dropped_staged: VerityDigest | None = None
    image_reference: str | None = None
    manifest_digest: str | None = None
    etc_changes_missing: int | None = None
    entry_name: str | None = None
    dry_run: bool = False
    restart: RestartWay | None = None
    restart_notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    is_ostree: bool = False


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
        on_event: Gets the steps; must not block.

    Returns:
        What was done.

    Raises:
        NotBootcHostError: The host is none of ours.
        NoRollbackTargetError: There is no other deployment to boot, or (ostree) it is not container-based.
        UsageError: `to` names no deployment, or several.
        InvalidStateError: The target has no image or state.
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
            from bootc_fast._ostree_rollback import rollback_ostree

            outcome = await rollback_ostree(
                host,
                steps,
                to=to,
                dry_run=dry_run,
                allow_non_container=allow_non_container,
                apply=apply,
                soft_reboot=soft_reboot,
            )
        elif allow_non_container:
            raise UsageError("rolling back: --allow-non-container is for ostree hosts, and this is none")
        else:
            outcome = await _rollback_composefs(
                host, steps, to=to, dry_run=dry_run, loader=loader, apply=apply, soft_reboot=soft_reboot
            )
    if apply and not dry_run and outcome.restart is not None:
        await start_restart(outcome.restart, message=f"Rolling back to {outcome.image_reference or outcome.next_boot}")
    return outcome


async def _rollback_composefs(
    host: Host,
    steps: Steps,
    *,
    to: str | None,
    dry_run: bool,
    loader: Loader | None,
    apply: bool,
    soft_reboot: SoftRebootMode | None,
) -> RollbackOutcome:
    async with AsyncExitStack() as stack:
        if not dry_run:
            # Who is no host of ours gets no lock file either.
            await read_survey(host)
            await stack.enter_async_context(hold_lock(host))
            host = await stack.enter_async_context(open_writable(host))
        with steps.run("look", "Reading boot entries", timeout_s=LOOK_TIMEOUT_S):
            survey = await read_survey(host)
            boot = await look_boot(survey, stack, loader=loader, read_only=dry_run)
        run = _Run(host, steps, stack, survey, boot, list(boot.warnings), apply, soft_reboot)
        return await _roll_back(run, to, dry_run=dry_run)


async def _roll_back(run: _Run, to: str | None, *, dry_run: bool) -> RollbackOutcome:
    survey, menu = run.survey, run.boot.menu
    plan = await run_blocking(plan_rollback, survey, menu, to=to)
    target = plan.order[0]
    origin = _find_origin(survey, target)
    is_revert = target == survey.booted.digest
    missing = None if is_revert else await _count_etc_changes(run, target)
    restart = await _prepare_restart(run, target, dry_run=dry_run)
    default_before = menu.default.digest if menu.default else None
    outcome = RollbackOutcome(
        booted=survey.booted.digest,
        next_boot=target,
        is_revert=is_revert,
        is_changed=default_before != target,
        dropped_staged=survey.marker.digest if survey.marker else None,
        image_reference=origin.image_reference if origin else None,
        manifest_digest=origin.manifest_digest if origin else None,
        etc_changes_missing=missing,
        entry_name=plan.default.label,
        dry_run=dry_run,
        restart=restart.way if restart else None,
        restart_notes=_restart_notes(run, restart, is_revert=is_revert),
        warnings=tuple(dict.fromkeys((*run.warnings, *plan.warnings))),
    )
    if not dry_run:
        await anyio.lowlevel.checkpoint()
        return await _commit(run, plan, outcome, restart)
    return outcome


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


def plan_rollback(survey: Survey, menu: BootMenu, *, to: str | None = None) -> MenuPlan:
    """Choose what boots next, check that it can, and plan the boot entries. Pure.

    Args:
        survey: The host's deployments.
        menu: Its boot entries.
        to: As for :func:`rollback`.

    Returns:
        The plan; its first deployment is the chosen one.

    Raises:
        NoRollbackTargetError, UsageError, InvalidStateError, BootEntryError: As :func:`rollback` does.
    """
    shown = menu
    if menu.is_exchange_unfinished:
        # bootc's exchange of the sets was cut: nothing is live, and the staged set is what was to be.
        shown = replace(menu, entries=menu.staged, default=next(iter(menu.staged), None))
    target = _choose_target(survey, shown, to)
    _check_target(survey, shown, target)
    kept = {survey.booted.digest, *survey.kept, *([survey.marker.digest] if survey.marker else [])}
    return plan_menu(menu, order=order_after_rollback(shown, first=target, kept=kept), staged=None)


def _choose_target(survey: Survey, menu: BootMenu, to: str | None) -> VerityDigest:
    booted = survey.booted.digest
    order = menu.own_order
    staged = survey.marker.digest if survey.marker else None
    previous = find_rollback_target(menu, booted=booted, staged=staged)
    is_queued = bool(order) and order[0] != booted
    if to == BOOTED or (to is None and is_queued and booted in order):
        return booted
    if to is None or to == PREVIOUS:
        if previous is None:
            raise NoRollbackTargetError(
                "choosing what to roll back to: there is no other deployment that can boot",
                hint="`bootc-fast status` lists what is there",
            )
        return previous
    return _find_named(to, survey, order)


def _find_named(to: str, survey: Survey, order: tuple[VerityDigest, ...]) -> VerityDigest:
    text = to.lower()
    found = [digest for digest in order if digest == text]
    if not found and len(text) >= _MIN_PREFIX_CHARS:
        found = [digest for digest in order if digest.startswith(text)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"choosing what to roll back to: {len(found)} deployments begin with {text}")
    has_state = any(one.digest.startswith(text) for one in survey.deployments) and bool(text)
    if has_state:
        raise NoRollbackTargetError(f"choosing what to roll back to: {text} has no boot entry")
    raise UsageError(
        f"choosing what to roll back to: there is no deployment {text}",
        hint="name a digest that `bootc-fast status` shows, 'previous' or 'booted'",
    )


def _check_target(survey: Survey, menu: BootMenu, target: VerityDigest) -> None:
    """Refuse a target that cannot boot."""
    if target == survey.booted.digest:
        return
    state = next((one for one in survey.deployments if one.digest == target), None)
    if state is None or not state.has_image:
        what = "state directory" if state is None else "image"
        raise InvalidStateError(f"rolling back to {target[:16]}…: its {what} is missing")
    entry = next(one for one in menu.entries if one.digest == target)
    if entry.missing:
        names = ", ".join(path.decode(errors="backslashreplace") for path in entry.missing)
        raise BootEntryError(f"rolling back to {target[:16]}…: its boot entry names {names}, which is not there")


def _find_origin(survey: Survey, digest: VerityDigest) -> Origin | None:
    return next((one.origin for one in survey.deployments if one.digest == digest), None)


async def _count_etc_changes(run: _Run, target: VerityDigest) -> int | None:
    """Count what was changed in /etc since the booted image and is not in the target's /etc."""
    host = run.host
    try:
        with single_error(), run.steps.run("compare", "Comparing /etc", timeout_s=COMPARE_TIMEOUT_S):
            if await run_blocking(is_etc_transient, host):
                return None
            return await count_missing_changes(host, run.survey.booted.digest, target, run.stack)
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
        with run.steps.run("tidy", "Noting the change", timeout_s=TIDY_TIMEOUT_S):
            await run_blocking(remove_staged_marker, host)
            await run_blocking(_note_change, host, outcome)
            await run_blocking(_tell_journal, host, run.survey, outcome)
        # Last, since it may fail and the rest is done.
        warnings = (*outcome.warnings, *published.warnings)
        if restart is not None:
            await run_blocking(restart.commit)
        else:
            warnings = (*warnings, *await run_blocking(_forget_next_root, host))
    return replace(outcome, warnings=warnings)


def _forget_next_root(host: Host) -> tuple[str, ...]:
    """Clear another deployment's next root: the next `systemctl reboot` would enter it in place of what boots next."""
    try:
        clear_next_root(host)
    except BootcFastError as error:
        return (f"the next `systemctl reboot` may enter what was prepared before: {describe_error(error)}",)
    return ()


def note_reboot(host: Host, outcome: RollbackOutcome) -> None:
    """Leave, or take away, the marker by which others know that a reboot is wanted; blocks."""
    if outcome.is_revert:
        # What runs boots next: whoever waits for this marker has nothing to reboot for any more.
        _remove_reboot_marker(host)
    else:
        text = _REBOOT_TEXT + (outcome.manifest_digest or outcome.next_boot)
        host.write_file(host.reboot_marker, text.encode())


def _note_change(host: Host, outcome: RollbackOutcome) -> None:
    note_reboot(host, outcome)
    # Programs that watch the deployments look at this time.
    with host.open_directory(host.state_deploy) as fd:
        os.utime(fd)


def _remove_reboot_marker(host: Host) -> None:
    try:
        text = host.read_bytes(host.reboot_marker)
    except (OSError, InvalidStateError):
        return
    if text.startswith(_REBOOT_TEXT.encode()):
        host.remove_file(host.reboot_marker)


def _tell_journal(host: Host, survey: Survey, outcome: RollbackOutcome) -> None:
    current = _find_origin(survey, survey.booted.digest)
    kind = "revert" if outcome.is_revert else "rollback"
    send_journal(
        host,
        f"Rolling back to image: {outcome.manifest_digest or outcome.next_boot}",
        message_id=_message_ids.ROLLBACK,
        fields={
            "BOOTC_FAST_OPERATION": "rollback",
            "BOOTC_ROLLBACK_TYPE": kind,
            "BOOTC_MANIFEST_DIGEST": outcome.manifest_digest,
            "BOOTC_CURRENT_MANIFEST_DIGEST": current.manifest_digest if current else None,
            "BOOTC_FAST_BOOTED": outcome.booted,
            "BOOTC_FAST_NEXT_BOOT": outcome.next_boot,
            "BOOTC_FAST_DROPPED_STAGED": outcome.dropped_staged,
        },
        priority=PRIORITY_NOTICE,
    )
