"""The status of an ostree host, in the form that composefs hosts have.

Source:
    Spec commands.md, the row ``status``; bootc ``status.rs``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.composefs.container import ImageFacts, parse_image_reference
from bootc_fast.errors import BootcFastError, BootEntryError
from bootc_fast.machine.booted import is_read_only
from bootc_fast.machine.native import run_blocking
from bootc_fast.machine.systemd import read_unit_state
from bootc_fast.ostree.sysroot import check_bootable
from bootc_fast.report.status import DeploymentStatus, HostStatus, NextBoot, StagedStatus
from bootc_fast.restart.ostree import judge_ostree_soft_reboot
from bootc_fast.restart.soft import find_systemd_obstacle
from bootc_fast.text import describe_error, escape_lines
from bootc_fast.types import Deployment, Origin, VerityDigest

if TYPE_CHECKING:
    from bootc_fast.machine.host import Host
    from bootc_fast.ostree.sysroot import OstreeDeployment, OstreeSurvey

FINALIZE_UNIT = "ostree-finalize-staged.service"
# Starts it when something is staged; newer libostree starts it itself, and has no such unit.
FINALIZE_PATH_UNIT = "ostree-finalize-staged.path"
_FAILURE_FILE = "ostree/finalize-failure.stamp"
_MAX_FAILURE_BYTES = 1 << 16


async def describe_ostree(host: Host, survey: OstreeSurvey) -> HostStatus:
    """Describe an ostree host; writes nothing.

    ``digest`` of a deployment is ``<commit>.<serial>``. Cancellation: at any moment.

    Args:
        host: Which.
        survey: Its deployments.
    """
    first = survey.order[0]
    # Those of the booted stateroot come before the others', as bootc has them.
    rest = [one for one in survey.order if one not in {survey.booted, survey.rollback}]
    rest.sort(key=lambda one: one.stateroot != survey.booted.stateroot)
    reason = f"first of {len(survey.order)} in libostree's list of deployments"
    obstacle = await find_systemd_obstacle(host)
    described = await run_blocking(
        lambda: {
            one.key: _describe(host, one, first, obstacle)
            for one in (*survey.order, *([survey.staged] if survey.staged else []))
        }
    )
    return HostStatus(
        booted=described[survey.booted.key],
        staged=described[survey.staged.key] if survey.staged else None,
        rollback=described[survey.rollback.key] if survey.rollback else None,
        others=tuple(described[one.key] for one in rest),
        staged_status=await _judge_staged(host, survey.staged) if survey.staged else None,
        next_boot=NextBoot(VerityDigest(first.name), first.title, reason),
        rollback_queued=survey.rollback_queued,
        loader=None,
        missing_verity_allowed=False,
        last_finalize=None,
        is_read_only=await run_blocking(is_read_only, host),
        warnings=await run_blocking(_find_failure, host),
    )


async def _judge_staged(host: Host, staged: OstreeDeployment) -> StagedStatus:
    runs, why = await _find_finalize_unit(host)
    reasons = []
    if staged.is_finalization_locked:
        reasons.append("finalization is locked (download-only); `bootc upgrade --from-downloaded` unlocks it")
    if runs is False:
        reasons.append(why)
    if reasons:
        return StagedStatus(
            will_be_applied=False, reasons=tuple(reasons), finalization_locked=staged.is_finalization_locked
        )
    return StagedStatus(will_be_applied=runs, reasons=(why,))


async def _find_finalize_unit(host: Host) -> tuple[bool | None, str]:
    """Say whether libostree's unit will finalize at shutdown: it does so when it is stopped."""
    if not host.is_live:
        return None, "units are not looked at under --root"
    service = await read_unit_state(FINALIZE_UNIT)
    if service is None:
        return None, "the service manager cannot be asked"
    if service.is_active:
        return True, f"{FINALIZE_UNIT} runs it at shutdown"
    if not service.is_installed:
        return False, f"{FINALIZE_UNIT} is not installed"
    path = await read_unit_state(FINALIZE_PATH_UNIT)
    if path is not None and path.is_active:
        return None, f"{FINALIZE_PATH_UNIT} has yet to start {FINALIZE_UNIT}"
    return False, f"{FINALIZE_UNIT} is not active; `systemctl start {FINALIZE_UNIT}` starts it"


def _find_failure(host: Host) -> tuple[str, ...]:
    """Read how the last finalize failed, where it did and nobody was told yet.

    Source:
        libostree ``_OSTREE_FINALIZE_STAGED_FAILURE_PATH``; ostree-boot-complete.service removes it.
    """
    boot = host.boot if host.is_live else host.sysroot / "boot"
    try:
        text = host.read_bytes(boot / _FAILURE_FILE, max_bytes=_MAX_FAILURE_BYTES)
    except (OSError, BootcFastError):
        return ()
    return (f"the last {FINALIZE_UNIT} failed: {'; '.join(escape_lines(text))}",)


def _describe(host: Host, one: OstreeDeployment, first: OstreeDeployment, obstacle: str | None) -> DeploymentStatus:
    digest = VerityDigest(one.name)
    problems = (*one.problems, *_find_missing_files(host, one))
    origin = Origin(image_reference=one.reference, manifest_digest=one.image.manifest_digest)
    reference = None if one.reference is None else parse_image_reference(one.reference)
    return DeploymentStatus(
        digest=digest,
        deployment=Deployment(digest, origin, has_image=True, problems=problems),
        # What packages were added to is no container image any more.
        image=None if one.is_changed_locally else reference,
        facts=ImageFacts(one.image.version, one.image.timestamp, one.image.architecture),
        title=one.title,
        version=one.image.version,
        entry_name=one.title,
        boots_next=one == first,
        problems=problems,
        soft_reboot=judge_ostree_soft_reboot(one, obstacle),
        ostree=one,
    )


def _find_missing_files(host: Host, one: OstreeDeployment) -> tuple[str, ...]:
    if one.is_staged:
        # Its boot entry is written when it is finalized.
        return ()
    try:
        check_bootable(host, one)
    except (BootEntryError, OSError) as error:
        return (describe_error(error),)
    return ()
