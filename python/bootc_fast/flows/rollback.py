"""Rolling back: the previous deployment boots next, or, asked again, the booted one.

The package exports the function of the module's name: import this module by its full name.

Source:
    Spec commands.md, "rollback".
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from bootc_fast.errors import BootcFastError, StepTimeoutError, UsageError
from bootc_fast.events import ignore_event
from bootc_fast.flows.backend import LOOK_TIMEOUT_S, open_backend
from bootc_fast.flows.steps import Steps, single_error
from bootc_fast.machine.host import open_host
from bootc_fast.machine.native import run_blocking
from bootc_fast.records import dataclass, replace
from bootc_fast.report.journal import send_rollback
from bootc_fast.report.rollback import RollbackOutcome, note_reboot
from bootc_fast.restart.ways import RestartWay, Ways, start_restart
from bootc_fast.text import describe_error, flatten

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bootc_fast.etc.diff import EtcDiffEntry
    from bootc_fast.events import EventSink
    from bootc_fast.flows.backend import Backend, Change
    from bootc_fast.machine.host import Host
    from bootc_fast.restart.ways import SoftRebootMode
    from bootc_fast.types import Loader

CHECK_TIMEOUT_S = 60.0
COMPARE_TIMEOUT_S = 120.0
RESTART_TIMEOUT_S = 90.0
TIDY_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class RollbackOptions:
    """How to roll back.

    Attributes:
        to: None swaps: the rollback target boots next, or where a rollback is queued already the booted deployment.
            ``"previous"``, ``"booted"``, a digest (8 characters of it or more), or a version or image tag that one
            deployment has name the target; naming what boots next already changes nothing.
        dry_run: Find out everything, write nothing.
        timeout_s: For the whole, in seconds.
        loader: Wins over what the host says.
        apply: Restart, unless the booted deployment boots next.
        soft_reboot: Prepare a faster way than a full reboot; what is possible is found out before anything is written.
        allow_non_container: On an ostree host: go back to a deployment that is not container-based, too.
        verify: Refuse a target whose kernel and initrd, or UKI, are not those that were staged, or whose UKI Secure
            Boot would refuse.
        force: Also take a target that failed its trial, or on which the loader gave up.
        keep_staged: A staged update stays staged: it boots next once it is finalized.
    """

    to: str | None = None
    dry_run: bool = False
    timeout_s: float = 120.0
    loader: Loader | None = None
    apply: bool = False
    soft_reboot: SoftRebootMode | None = None
    allow_non_container: bool = False
    verify: bool = True
    force: bool = False
    keep_staged: bool = False

    @property
    def wants_restart(self) -> bool:
        """A restart was asked for, prepared or started."""
        return self.apply or self.soft_reboot is not None


async def rollback(
    root: Path | str = "/",
    options: RollbackOptions | None = None,
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
    keep_staged: bool = False,
    on_event: EventSink = ignore_event,
) -> RollbackOutcome:
    """Change which deployment boots next; a staged update is dropped once the new order is on disk, unless it is kept.

    Cancellation: at any moment. Before the commit nothing has changed; the commit (10 s at most) waits, and a
    rollback that has committed returns its outcome. On an ostree host the commit is libostree's, and ends at its next
    check; a new order that is on disk is told.

    Args:
        root: ``/``, or a directory laid out like a host.
        options: How, as one record; in the place of the keywords, which mean the same.
        to: As in ``RollbackOptions``, like all further ones.
        dry_run: Find out everything, write nothing.
        timeout_s: For the whole, in seconds.
        loader: Wins over what the host says.
        apply: Restart, unless the booted deployment boots next.
        soft_reboot: Prepare a faster way than a full reboot.
        allow_non_container: Go back to a deployment that is not container-based, too.
        verify: Refuse a target that is not what was staged.
        force: Also take a target that failed its trial.
        keep_staged: A staged update stays staged.
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
        TrialFailedError: The target failed its trial, or the loader gave up on it.
        BootEntryError: The target's boot files are missing, or the new order did not become what was wanted.
        FileSystemError: A file system, or libostree, refused.
        StepTimeoutError: It took too long.
        LockedError: Another process is at it.
        SoftRebootError: The asked-for way to restart is not possible; nothing was changed.
        CommandError: The new order is on disk, and systemctl did not restart.
        TypeError: There are options, and keywords beside them.

    Source:
        Spec commands.md, "rollback".
    """
    named = RollbackOptions(
        to, dry_run, timeout_s, loader, apply, soft_reboot, allow_non_container, verify, force, keep_staged
    )
    if options is not None and named != RollbackOptions():
        raise TypeError("rollback() takes options, or keywords in their place")
    options = options or named
    host = await run_blocking(open_host, root)
    steps = Steps(on_event, flow="rolling back", timeout_s=options.timeout_s)
    with single_error(), steps.limit_all():
        async with AsyncExitStack() as stack:
            backend = await open_backend(host, stack, loader=options.loader, read_only=options.dry_run)
            outcome = await _roll_back(backend, options, steps)
    # Through the firmware the loader would boot something else.
    leads_elsewhere = outcome.boots_instead is not None and outcome.restart is RestartWay.FULL
    if options.apply and not options.dry_run and outcome.restart is not None and not leads_elsewhere:
        await start_restart(outcome.restart, message=f"Rolling back to {outcome.image_reference or outcome.next_boot}")
    return outcome


async def _roll_back(backend: Backend, options: RollbackOptions, steps: Steps) -> RollbackOutcome:
    """Look, check, compare, prepare the restart; then commit."""
    if options.allow_non_container and not backend.is_ostree:
        raise UsageError("rolling back: --allow-non-container is for ostree hosts, and this is none")
    if not options.dry_run:
        await backend.lock()
    with steps.run("look", "Looking at the deployments", timeout_s=LOOK_TIMEOUT_S):
        change = await backend.choose_target(
            options.to,
            allow_non_container=options.allow_non_container,
            force=options.force,
            verify=options.verify,
            keep_staged=options.keep_staged,
        )
    missing: tuple[EtcDiffEntry, ...] | None = None
    ways: Ways[Any] = Ways(backend.host, (), target=change.target)
    if not change.is_revert:
        with steps.run("check", "Checking what the target boots from", timeout_s=CHECK_TIMEOUT_S):
            await backend.check_target(verify=options.verify, on_event=steps.on_event)
        missing = await _list_etc_changes(backend, steps)
        if options.wants_restart:
            ways = backend.make_ways(options.soft_reboot)
            backend.stack.push_async_callback(ways.undo)
            with steps.run("restart", "Preparing the restart", timeout_s=RESTART_TIMEOUT_S):
                await ways.prepare(dry_run=options.dry_run)
    elif options.wants_restart:
        ways.notes.append("the deployment that runs boots next: nothing to restart into")
    outcome = RollbackOutcome(
        booted=change.booted,
        next_boot=change.target,
        is_revert=change.is_revert,
        is_changed=change.is_changed,
        etc_changes_missing=None if missing is None else len(missing),
        etc_missing=missing or (),
        dry_run=options.dry_run,
        is_ostree=backend.is_ostree,
    )
    if not options.dry_run:
        await anyio.lowlevel.checkpoint()
        return await _commit(backend, ways, outcome, steps)
    return _complete(outcome, change, backend, ways)


def _complete(outcome: RollbackOutcome, change: Change, backend: Backend, ways: Ways[Any]) -> RollbackOutcome:
    """Add what the back end and the ways know at the end."""
    return replace(
        outcome,
        is_changed=change.is_changed,
        dropped_staged=change.dropped_staged,
        kept_staged=change.kept_staged,
        image_reference=change.image_reference,
        manifest_digest=change.manifest_digest,
        entry_name=change.entry_name,
        boots_instead=change.boots_instead,
        restart=ways.kind,
        restart_notes=tuple(ways.notes),
        warnings=tuple(dict.fromkeys((*backend.warnings, *ways.warnings))),
    )


async def _list_etc_changes(backend: Backend, steps: Steps) -> tuple[EtcDiffEntry, ...] | None:
    """List what was changed in /etc since the booted image and is not in the target's /etc."""
    try:
        with single_error(), steps.run("compare", "Comparing /etc", timeout_s=COMPARE_TIMEOUT_S):
            return await backend.list_missing_changes(steps.on_event)
    except (BootcFastError, OSError, ExceptionGroup) as error:
        # For information: what a rollback is for is the broken system.
        backend.warnings += [f"/etc was not compared: {describe_error(leaf)}" for leaf in flatten(error)]
        return None


async def _commit(backend: Backend, ways: Ways[Any], outcome: RollbackOutcome, steps: Steps) -> RollbackOutcome:
    """Write the new order; then, and only then, drop the staged update and tell whoever waits for it.

    Returns:
        The outcome, with what did not go as it should after the new order was in force.
    """
    change = await backend.write_order(ways, steps)
    # Nothing waits between the order and this: what is on disk is told whatever comes.
    with anyio.CancelScope(shield=True):
        outcome = _complete(outcome, change, backend, ways)
        if not change.changes_nothing:
            await _tidy(backend, outcome, change, steps)
        # Last, since all may fail and the rest is done; one without the other would undo the new order at shutdown.
        try:
            change = replace(change, boots_instead=await backend.confirm(ways))
            await run_blocking(ways.finish)
        finally:
            await backend.drop_staged()
    return _complete(outcome, change, backend, ways)


async def _tidy(backend: Backend, outcome: RollbackOutcome, change: Change, steps: Steps) -> None:
    """Tell whoever waits for it; the new order is in force, so that what fails is a warning."""

    async def attempt(what: str, function: Callable[..., object], *args: object) -> None:
        try:
            await run_blocking(function, *args)
        except (BootcFastError, OSError) as error:
            backend.warnings.append(f"{what}: {describe_error(error)}")

    try:
        with steps.run("tidy", "Noting the change", timeout_s=TIDY_TIMEOUT_S):
            await attempt("noting that a reboot is wanted", note_reboot, backend.host, outcome)
            for what, note in backend.list_notes():
                await attempt(what, note)
            await attempt("writing to the journal", _tell_journal, backend.host, outcome, change)
    except StepTimeoutError as error:
        backend.warnings.append(describe_error(error))


def _tell_journal(host: Host, outcome: RollbackOutcome, change: Change) -> None:
    send_rollback(host, outcome, booted_manifest_digest=change.booted_manifest_digest, commit=change.commit)
