"""Rolling back an ostree host.

Source:
    Spec commands.md, "rollback"; bootc ``deploy.rs``, ``rollback``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from bootc_fast import _message_ids
from bootc_fast._native import run_blocking
from bootc_fast._restart import RestartWay, SoftRebootMode, require_live
from bootc_fast.errors import NoRollbackTargetError, SoftRebootError, UsageError
from bootc_fast.host import hold_lock
from bootc_fast.journal import PRIORITY_NOTICE, send_journal
from bootc_fast.ostree import read_ostree, reorder_ostree
from bootc_fast.rollback_outcome import BOOTED, PREVIOUS, RollbackOutcome, note_reboot
from bootc_fast.types import VerityDigest

if TYPE_CHECKING:
    from bootc_fast._steps import Steps
    from bootc_fast.host import Host
    from bootc_fast.ostree import OstreeDeployment, OstreeSurvey

LOOK_TIMEOUT_S = 90.0
# libostree waits for its lock, writes, and removes what no deployment needs any more.
COMMIT_TIMEOUT_S = 100.0
TIDY_TIMEOUT_S = 5.0
_MIN_PREFIX_CHARS = 8
_NO_FASTER_WAY = "on an ostree host only a full reboot is possible"


async def rollback_ostree(
    host: Host,
    steps: Steps,
    *,
    to: str | None,
    dry_run: bool,
    allow_non_container: bool,
    apply: bool = False,
    soft_reboot: SoftRebootMode | None = None,
) -> RollbackOutcome:
    """Put another deployment first in libostree's list; all others stay, in their order.

    Cancellation: at libostree's next check; a new order that is on disk is noted and returned.

    Args:
        host: An ostree host.
        steps: Gets the events; limits the time.
        to: None swaps; ``"previous"``, ``"booted"`` or 8 characters or more of ``<commit>.<serial>``.
        dry_run: Find out everything, write nothing.
        allow_non_container: Also go back to a deployment that no container image was the source of.
        apply: Name the way to restart in the outcome.
        soft_reboot: A faster way than a full reboot; ostree hosts have none here.

    Raises:
        SoftRebootError: A faster way than a full reboot is required; nothing was changed.
        NoRollbackTargetError: There is no other deployment, or it is not container-based.
        UsageError: `to` names no deployment, or several.
        LockedError: Another process holds our lock or libostree's.
        FileSystemError: libostree refused; with its text.
        InvalidStateError: Which deployment is booted cannot be told.
        BootcFastError: libostree is not installed.
    """

    def choose(survey: OstreeSurvey) -> OstreeDeployment:
        return _choose(survey, to, allow_non_container=allow_non_container)

    with steps.run("look", "Reading deployments", timeout_s=LOOK_TIMEOUT_S):
        survey = await read_ostree(host)
        # Who has nothing to go back to gets no lock file either.
        first = choose(survey)
    way, notes = _choose_way(host, apply=apply, soft_reboot=soft_reboot, dry_run=dry_run)
    if dry_run:
        return _make_outcome(survey, first, way, notes, dry_run=True)
    async with hold_lock(host):
        with steps.run("commit", "Writing the order of the deployments", timeout_s=COMMIT_TIMEOUT_S):
            survey, first = await reorder_ostree(host, choose)
            # From here on the order is another one: that is told whatever comes.
            outcome = _make_outcome(survey, first, way, notes, dry_run=False)
            with anyio.CancelScope(shield=True):
                await run_blocking(note_reboot, host, outcome)
                await run_blocking(_tell_journal, host, survey, first, outcome)
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


def _choose_way(
    host: Host, *, apply: bool, soft_reboot: SoftRebootMode | None, dry_run: bool
) -> tuple[RestartWay | None, tuple[str, ...]]:
    """Say how to restart, before anything is written."""
    if not (apply or soft_reboot):
        return None, ()
    if not dry_run:
        require_live(host)
    if soft_reboot in {SoftRebootMode.REQUIRED, SoftRebootMode.KEXEC}:
        raise SoftRebootError(f"preparing the restart: {_NO_FASTER_WAY}", hint="leave --soft-reboot away")
    return RestartWay.FULL, (_NO_FASTER_WAY,) if soft_reboot else ()


def _make_outcome(
    survey: OstreeSurvey, first: OstreeDeployment, way: RestartWay | None, notes: tuple[str, ...], *, dry_run: bool
) -> RollbackOutcome:
    is_revert = first == survey.booted
    if way is not None and is_revert:
        way, notes = None, ("the deployment that runs boots next: nothing to restart into",)
    return RollbackOutcome(
        booted=VerityDigest(survey.booted.name),
        next_boot=VerityDigest(first.name),
        is_revert=is_revert,
        is_changed=survey.order[0] != first,
        dropped_staged=VerityDigest(survey.staged.name) if survey.staged else None,
        image_reference=first.reference,
        manifest_digest=first.manifest_digest,
        dry_run=dry_run,
        restart=way,
        restart_notes=notes,
        warnings=first.problems,
        is_ostree=True,
    )


def _tell_journal(host: Host, survey: OstreeSurvey, first: OstreeDeployment, outcome: RollbackOutcome) -> None:
    send_journal(
        host,
        f"Rolling back to image: {first.manifest_digest or first.name}",
        message_id=_message_ids.ROLLBACK,
        fields={
            "BOOTC_FAST_OPERATION": "rollback",
            "BOOTC_ROLLBACK_TYPE": "revert" if outcome.is_revert else "rollback",
            "BOOTC_MANIFEST_DIGEST": first.manifest_digest,
            "BOOTC_CURRENT_MANIFEST_DIGEST": survey.booted.manifest_digest,
            "BOOTC_OSTREE_COMMIT": first.checksum,
            "BOOTC_FAST_BOOTED": survey.booted.name,
            "BOOTC_FAST_NEXT_BOOT": first.name,
            "BOOTC_FAST_DROPPED_STAGED": outcome.dropped_staged,
        },
        priority=PRIORITY_NOTICE,
    )
