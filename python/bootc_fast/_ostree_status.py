"""The status of an ostree host, in the form that composefs hosts have.

Source:
    Spec commands.md, the row ``status``; bootc ``status.rs``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast._imginfo import ImageFacts, parse_image_reference
from bootc_fast.deployments import is_read_only
from bootc_fast.ostree import read_ostree
from bootc_fast.status_report import DeploymentStatus, HostStatus, NextBoot, StagedStatus
from bootc_fast.types import Deployment, Origin, VerityDigest

if TYPE_CHECKING:
    from bootc_fast.host import Host
    from bootc_fast.ostree import OstreeDeployment, OstreeSurvey


async def get_ostree_status(host: Host) -> HostStatus:
    """Find out the state of an ostree host; writes nothing, takes no lock.

    ``digest`` of a deployment is ``<commit>.<serial>``. Cancellation: at libostree's next check.

    Raises:
        BootcFastError: libostree is not installed.
        FileSystemError: libostree cannot read the sysroot; with its text.
        InvalidStateError: Which deployment is booted cannot be told.
    """
    survey = await read_ostree(host)
    first = survey.order[0]
    rest = [one for one in survey.order if one not in {survey.booted, survey.rollback}]
    reason = f"first of {len(survey.order)} in libostree's list of deployments"
    return HostStatus(
        booted=_describe(survey.booted, first),
        staged=_describe(survey.staged, first) if survey.staged else None,
        rollback=_describe(survey.rollback, first) if survey.rollback else None,
        others=tuple(_describe(one, first) for one in rest),
        staged_status=_judge_staged(survey) if survey.staged else None,
        next_boot=NextBoot(VerityDigest(first.name), first.title, reason),
        rollback_queued=survey.rollback_queued,
        loader=None,
        missing_verity_allowed=False,
        last_finalize=None,
        is_read_only=is_read_only(host),
        warnings=(),
    )


def _judge_staged(survey: OstreeSurvey) -> StagedStatus:
    if survey.finalization_locked:
        return StagedStatus(
            will_be_applied=False,
            reasons=("finalization is locked (download-only); `bootc upgrade --from-downloaded` unlocks it",),
            finalization_locked=True,
        )
    return StagedStatus(will_be_applied=None, reasons=("ostree-finalize-staged.service does that at shutdown",))


def _describe(one: OstreeDeployment, first: OstreeDeployment) -> DeploymentStatus:
    digest = VerityDigest(one.name)
    origin = Origin(image_reference=one.reference, manifest_digest=one.manifest_digest)
    return DeploymentStatus(
        digest=digest,
        deployment=Deployment(digest, origin, has_image=True, problems=one.problems),
        image=parse_image_reference(one.reference) if one.reference else None,
        facts=ImageFacts(version=one.version, timestamp=one.timestamp, architecture=one.architecture),
        title=one.title,
        version=one.version,
        entry_name=one.title,
        boots_next=one == first,
        problems=one.problems,
        ostree=one,
    )
