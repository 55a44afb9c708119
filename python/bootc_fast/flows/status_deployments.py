"""What ``status`` says of each deployment: its image, its boot entry, its trial, and what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.boot.entries.choose import choose_entry
from bootc_fast.composefs.container import parse_image_reference, read_image_facts
from bootc_fast.flows.status_trial import judge_trial, list_trial_remarks
from bootc_fast.records import replace
from bootc_fast.report.status import DeploymentStatus
from bootc_fast.text import escape_bytes
from bootc_fast.trial.states import TrialState
from bootc_fast.trial.verdict import describe_failure
from bootc_fast.types import Deployment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bootc_fast.boot.counting.records import RunningTrial
    from bootc_fast.boot.loaders.entry import MenuEntry
    from bootc_fast.composefs.boot_snapshot import BootSnapshot
    from bootc_fast.composefs.survey import Survey
    from bootc_fast.machine.host import Host
    from bootc_fast.trial.states import States, TrialRecord
    from bootc_fast.types import VerityDigest


def describe_deployments(
    survey: Survey, boot: BootSnapshot | None, trials: States, running: Mapping[VerityDigest, RunningTrial]
) -> dict[VerityDigest, DeploymentStatus]:
    """Describe every deployment that has a state directory, an entry, or is booted or staged."""
    menu = boot.menu if boot else None
    # The files too: an entry that lacks its kernel is not shown by the loader, and says what is broken.
    found = (*menu.live.entries, *menu.live.files) if menu else ()
    with_entry = [entry.digest for entry in found if entry.is_own and entry.digest is not None]
    booted, marked = survey.booted.digest, survey.marker.digest if survey.marker else None
    states = {one.digest: one for one in survey.deployments}
    wanted = [*with_entry, booted, *([marked] if marked else []), *states]
    default = menu.default.digest if menu and menu.default else None

    def describe(digest: VerityDigest) -> DeploymentStatus:
        counted = running.get(digest)
        trial = judge_trial(trials, digest, menu, counted, is_staged=digest == marked, is_booted=digest == booted)
        is_tried = counted is not None and trial is not None and trial.state is TrialState.TRIAL
        described = _describe(
            survey.host,
            states.get(digest) or Deployment(digest, None, has_image=False, problems=("it has no state directory",)),
            choose_entry(menu, digest, prefers_staged=digest == marked) if menu else None,
            boots_next=digest == default,
            needs_entry=menu is not None and digest not in {booted, marked},
            trial=trial,
        )
        if not is_tried or boot is None or counted is None:
            return described
        remarks = (*described.remarks, *list_trial_remarks(survey, boot, counted))
        return replace(described, counting=counted, remarks=remarks)

    return {digest: describe(digest) for digest in dict.fromkeys(wanted)}


def _describe(
    host: Host,
    deployment: Deployment,
    entry: MenuEntry | None,
    *,
    boots_next: bool,
    needs_entry: bool,
    trial: TrialRecord | None,
) -> DeploymentStatus:
    origin = deployment.origin
    reference = origin.image_reference if origin else None
    problems = list(deployment.problems)
    remarks: list[str] = []
    not_handled = origin.not_handled if origin else None
    if not_handled is not None:
        remarks.append(f"not handled: {not_handled}")
    if entry is not None and entry.missing:
        problems.append(f"its boot entry names {' and '.join(map(escape_bytes, entry.missing))}: not there, or empty")
    elif entry is None and needs_entry and not_handled is None:
        # What an update leaves of the deployment before the last is in nobody's way.
        remarks.append("kept, not bootable: it has no boot entry")
    failure = describe_failure(trial)
    if failure is not None:
        remarks.append(f"{failure}; it is not taken again without --force")
    return DeploymentStatus(
        digest=deployment.digest,
        deployment=deployment,
        image=parse_image_reference(reference) if reference else None,
        facts=read_image_facts(host, deployment),
        boot_type=entry.boot_type if entry else origin.boot_type if origin else None,
        title=_text(entry.title) if entry else None,
        version=_text(entry.version) if entry else None,
        entry_name=entry.label if entry else None,
        boots_next=boots_next,
        problems=tuple(problems),
        remarks=tuple(remarks),
        trial=trial,
    )


def _text(value: bytes | None) -> str | None:
    return None if value is None else escape_bytes(value)
