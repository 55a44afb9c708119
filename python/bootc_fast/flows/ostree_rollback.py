"""Rolling back an ostree host.

Source:
    Spec commands.md, "rollback"; bootc ``deploy.rs``, ``rollback``.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from bootc_fast.errors import BootcFastError, InvalidStateError, NoRollbackTargetError, UsageError
from bootc_fast.flows.steps import single_error
from bootc_fast.machine.host import hold_lock
from bootc_fast.machine.native import run_blocking
from bootc_fast.ostree.etc import list_missing_ostree_changes
from bootc_fast.ostree.sysroot import check_bootable, read_ostree, reorder_ostree
from bootc_fast.report.journal import send_rollback
from bootc_fast.report.rollback import BOOTED, PREVIOUS, RollbackOutcome, note_reboot
from bootc_fast.restart.ostree import OstreeRestart
from bootc_fast.text import describe_error, flatten
from bootc_fast.types import VerityDigest

if TYPE_CHECKING:
    from collections.abc import Callable

    from bootc_fast.flows.steps import Steps
    from bootc_fast.machine.host import Host
    from bootc_fast.ostree.sysroot import OstreeDeployment, OstreeSurvey
    from bootc_fast.restart.ways import SoftRebootMode

LOOK_TIMEOUT_S = 90.0
COMPARE_TIMEOUT_S = 120.0
# libostree waits for its lock, writes, and removes what no deployment needs any more.
COMMIT_TIMEOUT_S = 100.0
_MIN_PREFIX_CHARS = 8


@dataclass(frozen=True, slots=True)
class OstreeRollback:
    """What is asked for.

    Attributes:
        to: None swaps; ``"previous"``, ``"booted"`` or 8 characters or more of ``<commit>.<serial>``.
        allow_non_container: Also go back to a deployment that no container image was the source of.
        apply: Name the way to restart in the outcome.
        soft_reboot: Prepare a faster way than a full reboot.
    """

    to: str | None = None
    allow_non_container: bool = False
    apply: bool = False
    soft_reboot: SoftRebootMode | None = None


@dataclass(slots=True)
class _Run:
    """One rollback under way."""

    host: Host
    steps: Steps
    survey: OstreeSurvey
    first: OstreeDeployment
    restart: OstreeRestart
    etc_changes_missing: int | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


async def rollback_ostree(host: Host, steps: Steps, wanted: OstreeRollback, *, dry_run: bool) -> RollbackOutcome:
    """Put another deployment first in libostree's list; all others stay, in their order.

    Cancellation: at libostree's next check; a new order that is on disk is noted and returned.

    Args:
        host: An ostree host.
        steps: Gets the events; limits the time.
        wanted: Where to, and how to restart.
        dry_run: Find out everything, write nothing.

    Raises:
        SoftRebootError: The asked-for way to restart is not possible; the order is the old one.
        NoRollbackTargetError: There is no other deployment, or it is not container-based.
        BootEntryError: The target's kernel, initrd or tree is missing: it would not boot.
        UsageError: `to` names no deployment, or several.
        LockedError: Another process holds our lock or libostree's.
        FileSystemError: libostree refused; with its text.
        InvalidStateError: Which deployment is booted cannot be told.
        BootcFastError: libostree is not installed.
    """

    def choose(survey: OstreeSurvey) -> OstreeDeployment:
        first = _choose(survey, wanted.to, allow_non_container=wanted.allow_non_container)
        if first != survey.booted:
            check_bootable(host, first)
        return first

    with steps.run("look", "Reading deployments", timeout_s=LOOK_TIMEOUT_S):
        survey = await read_ostree(host)
        # Who has nothing to go back to gets no lock file either.
        first = await run_blocking(choose, survey)
    is_wanted = wanted.apply or wanted.soft_reboot is not None
    is_revert = first == survey.booted
    with ExitStack() as stack:
        restart = OstreeRestart(host, wanted.soft_reboot, is_wanted=is_wanted and not is_revert)
        stack.callback(restart.undo)
        run = _Run(host, steps, survey, first, restart)
        if is_wanted and is_revert:
            run.notes.append("the deployment that runs boots next: nothing to restart into")
        if not is_revert:
            await _count_etc_changes(run)
        await restart.find_way(first, dry_run=dry_run)
        return _make_outcome(run, dry_run=True) if dry_run else await _commit(run, choose)


async def _count_etc_changes(run: _Run) -> None:
    try:
        with single_error(), run.steps.run("compare", "Comparing /etc", timeout_s=COMPARE_TIMEOUT_S):
            missing = await list_missing_ostree_changes(run.host, run.survey.booted, run.first)
            run.etc_changes_missing = None if missing is None else len(missing)
    except (BootcFastError, OSError, ExceptionGroup) as error:
        # A number for information: what a rollback is for is the broken system.
        run.warnings += [f"/etc was not compared: {describe_error(leaf)}" for leaf in flatten(error)]


async def _commit(run: _Run, choose: Callable[[OstreeSurvey], OstreeDeployment]) -> RollbackOutcome:
    host = run.host

    def choose_same(survey: OstreeSurvey) -> OstreeDeployment:
        found = choose(survey)
        if found.key != run.first.key:
            raise InvalidStateError(
                "writing the order of the deployments: another process has changed it meanwhile",
                hint="`bootc-fast status` shows it; run this again",
            )
        return found

    async with hold_lock(host):
        with run.steps.run("commit", "Writing the order of the deployments", timeout_s=COMMIT_TIMEOUT_S):
            # A cancelled time-out ends in libostree; a new order that is on disk is told whatever comes.
            run.survey, run.first = await reorder_ostree(host, choose_same, enter=run.restart.enter)
            with anyio.CancelScope(shield=True):
                await run_blocking(run.restart.finish, run.first)
                outcome = _make_outcome(run, dry_run=False)
                await run_blocking(note_reboot, host, outcome)
                booted = run.survey.booted.image.manifest_digest
                await run_blocking(
                    send_rollback, host, outcome, booted_manifest_digest=booted, commit=run.first.checksum
                )
    return outcome


def _choose(survey: OstreeSurvey, to: str | None, *, allow_non_container: bool) -> OstreeDeployment:
    if to == BOOTED or (to is None and survey.rollback_queued):
        return survey.booted
    first = survey.rollback if to in {None, PREVIOUS} else _find_named(survey, to or "")
    if first is None:
        raise NoRollbackTargetError(
            f"choosing what to roll back to: stateroot {survey.booted.stateroot} has no other deployment",
            hint="`bootc-fast status` lists what is there",
        )
    if first.reference is None and first != survey.booted and not allow_non_container:
        raise NoRollbackTargetError(
            f"rolling back to {first.name}: it did not come from a container image",
            hint="roll back nevertheless with --allow-non-container",
        )
    return first


def _find_named(survey: OstreeSurvey, to: str) -> OstreeDeployment:
    found = [
        one for one in survey.order if one.name == to or (len(to) >= _MIN_PREFIX_CHARS and one.name.startswith(to))
    ]
    if len(found) > 1:
        raise UsageError(f"choosing what to roll back to: {len(found)} deployments begin with {to}")
    if not found:
        raise UsageError(
            f"choosing what to roll back to: there is no deployment {to}",
            hint="name a commit that `bootc-fast status` shows, 'previous' or 'booted'",
        )
    if found[0].stateroot != survey.booted.stateroot:
        raise UsageError(f"choosing what to roll back to: {to} belongs to stateroot {found[0].stateroot}")
    return found[0]


def _make_outcome(run: _Run, *, dry_run: bool) -> RollbackOutcome:
    survey, first = run.survey, run.first
    return RollbackOutcome(
        booted=VerityDigest(survey.booted.name),
        next_boot=VerityDigest(first.name),
        is_revert=first == survey.booted,
        is_changed=survey.order[0] != first,
        dropped_staged=VerityDigest(survey.staged.name) if survey.staged else None,
        image_reference=first.reference,
        manifest_digest=first.image.manifest_digest,
        etc_changes_missing=run.etc_changes_missing,
        entry_name=first.title,
        dry_run=dry_run,
        restart=run.restart.way,
        restart_notes=(*run.notes, *run.restart.notes),
        warnings=(*run.warnings, *run.restart.warnings, *first.problems),
        is_ostree=True,
    )
