"""After a boot: telling, once, which update was not applied, and forgetting what a soft reboot has outdated.

Source:
    Spec commands.md, "composefs-finalize-staged", last paragraph.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, TypeVar

import anyio

from bootc_fast.boot.area.real import RealVolume
from bootc_fast.boot.entries.beside import remove_outdated
from bootc_fast.boot.entries.duplicates import count_duplicates
from bootc_fast.boot.entries.plan import plan_menu
from bootc_fast.boot.entries.publish import publish_menu
from bootc_fast.boot.entries.variables import make_variable_setter
from bootc_fast.composefs.boot_files import list_protected
from bootc_fast.composefs.boot_snapshot import open_boot_snapshot
from bootc_fast.composefs.deployments import drop_outdated_marker, read_origin
from bootc_fast.composefs.survey import Survey, SurveyPart, look_at_deployments, read_survey
from bootc_fast.errors import BootcFastError, BootEntryError, NotBootcHostError, TrialFailedError
from bootc_fast.events import ignore_event
from bootc_fast.flows.counting import carry_on
from bootc_fast.flows.steps import Steps, single_error
from bootc_fast.flows.trial_end import end_trials
from bootc_fast.flows.trial_notes import is_boot_complete
from bootc_fast.machine.booted import read_booted
from bootc_fast.machine.host import open_host
from bootc_fast.machine.lock import hold_lock
from bootc_fast.machine.mounts import open_writable
from bootc_fast.machine.native import run_blocking
from bootc_fast.records import dataclass, field, replace
from bootc_fast.report.boots import find_missed, make_memory, read_memory, write_memory
from bootc_fast.report.failure import failure_fields, failure_lines
from bootc_fast.report.finalize import read_boot_id, read_outcome, reserve_record, set_aside, write_outcome
from bootc_fast.report.journal import send_missed, send_trial_failed
from bootc_fast.report.rollback import drop_reboot_marker
from bootc_fast.text import describe_error, flatten, shorten_digest
from bootc_fast.trial.verdict import describe_failure
from bootc_fast.types import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from bootc_fast.boot.entries.menu import BootMenu
    from bootc_fast.composefs.boot_snapshot import BootSnapshot
    from bootc_fast.machine.host import Host
    from bootc_fast.report.finalize import OutcomeRecord
    from bootc_fast.types import VerityDigest

T = TypeVar("T")

LOCK_TIMEOUT_S = 30.0
TRIALS_TIMEOUT_S = 200.0

_STAGE_HINT = "stage the update again with `bootc upgrade`"


@dataclass(frozen=True, slots=True)
class FailureReport:
    """What is to be told after a boot.

    Attributes:
        lines: For people; the first says what happened, and when.
        exit_code: What the finalize exited with; 0 where there are warnings only.
    """

    lines: tuple[str, ...]
    exit_code: int


@dataclass(slots=True)
class _Verdict:
    """What is found, as it is found.

    Attributes:
        record: As it is to stand on disk from now on.
        fields: For the journal.
        told: The deployment of which the record tells, now.
        explains_all: What the record tells, now, is why anything else was left over.
        passed_over: What was finalized and does not run; None where nothing was. A trial that failed says it better.
    """

    survey: Survey
    record: OutcomeRecord | None = None
    is_unreadable: bool = False
    told: str | None = None
    explains_all: bool = False
    passed_over: OutcomeRecord | None = None
    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    fields: dict[str, object] = field(default_factory=dict)
    exit_code: int = 0

    def tell(self, exit_code: int, *lines: str) -> None:
        """Add a failure."""
        self.lines += lines
        self.exit_code = max(self.exit_code, exit_code)


def forget_soft_reboot(root: Path | str = "/") -> bool:
    """Remove what /run kept over a soft reboot and what is not true any more; blocks, never raises.

    The staged marker and the reboot marker, where they ask for what runs now. After a boot through the firmware
    neither is there.

    Returns:
        Whether a marker asked for what runs: /run was kept, and with it whatever waits still.

    Source:
        systemd-soft-reboot.service(8): "/run/ … remains in place".
    """
    was_asked_for = False
    try:
        host = open_host(root)
        booted = read_booted(host)
        was_asked_for = drop_outdated_marker(host, booted)
        names = booted.digest, read_origin(host, booted.digest).manifest_digest
        was_asked_for = drop_reboot_marker(host, *names) or was_asked_for
    except (BootcFastError, OSError):
        # Not a host of ours, nothing there, or nothing that can be read: whoever needs it says so.
        pass
    return was_asked_for


async def report_last_finalize(root: Path | str = "/", *, run_was_kept: bool = False) -> FailureReport | None:
    """Find out whether an update was not applied, note that it has been told, and make room for the next record.

    Two boot entries for one deployment, as a cut leaves them, are made one: bootc's own reader stops at them.
    What the last finalize wrote is compared with what runs. Where none wrote anything, because nobody ran it or it was
    killed at once, a deployment that was staged and never booted tells it.
    Cancellation: nothing is left behind; a failure counts as told only when that is on disk.

    Args:
        root: ``/``, or a directory laid out like a host.
        run_was_kept: This is a soft reboot: nothing was lost that waited.

    Returns:
        What is to be told; None where there is nothing, or where it has been told already.

    Raises:
        InvalidStateError: What runs cannot be told.
    """
    host = await run_blocking(open_host, root)
    try:
        verdict = await run_blocking(_look, host)
    except NotBootcHostError:
        return None
    await run_blocking(_judge_record, verdict)
    menu = await _read_menu(verdict)
    if menu is not None:
        await _mend_menu(verdict, menu)
        if not run_was_kept and not verdict.explains_all:
            await run_blocking(_judge_leftovers, verdict, menu)
    try:
        async with open_writable(host) as writable:
            await run_blocking(_remember, verdict, writable)
            await _end_trials(verdict, writable)
    except (BootcFastError, OSError) as error:
        verdict.warnings.append(f"warning: what is told here will be told again: {describe_error(error)}")
    if verdict.passed_over is not None:
        _tell_passed_over(verdict, verdict.passed_over)
    if verdict.lines:
        await run_blocking(_tell_journal, verdict)
    if not verdict.lines and not verdict.warnings:
        return None
    return FailureReport((*verdict.lines, *verdict.warnings), verdict.exit_code)


def _look(host: Host) -> _Verdict:
    """Look at deployments; what cannot be read is left out: this has to be told even where hardly anything works."""
    warnings: list[str] = []

    def note(part: SurveyPart, error: Exception) -> None:
        # A malformed marker is of this boot, in which `status` and the finalize tell it.
        if part is not SurveyPart.MARKER:
            warnings.append(f"warning: {part} cannot be {part.verb}: {describe_error(error)}")

    return _Verdict(look_at_deployments(host, on_error=note), warnings=warnings)


def _judge_record(verdict: _Verdict) -> None:
    """Compare what the last finalize wrote with what runs."""
    try:
        verdict.record = read_outcome(verdict.survey.host)
    except BootcFastError as error:
        verdict.is_unreadable = True
        verdict.tell(error.exit_code, f"error: how the last finalize ended cannot be told: {describe_error(error)}")
        return
    record = verdict.record
    if record is None or record.reported:
        return
    runs = verdict.survey.booted.digest == record.staged
    if record.has_failed:
        _judge_failure(verdict, record, runs=runs)
    elif runs:
        verdict.record = replace(record, reported=True)
    elif _was_passed_over(verdict.survey, record):
        verdict.record = replace(record, reported=True)
        verdict.explains_all, verdict.passed_over = True, record


def _judge_failure(verdict: _Verdict, record: OutcomeRecord, *, runs: bool) -> None:
    if runs and record.committed is None and record.result is Result.INTERRUPTED:
        # Killed or cut between the commit and its record: the update has been applied.
        verdict.record = replace(record, result=Result.DONE, reported=True)
        return
    verdict.record = replace(record, reported=True)
    verdict.told, verdict.explains_all = record.staged, record.staged is None
    verdict.fields = failure_fields(record)
    verdict.tell(record.exit_code or 1, *_describe_failure(record, verdict.survey, runs=runs))


def _describe_failure(record: OutcomeRecord, survey: Survey, *, runs: bool) -> list[str]:
    staged = f" of deployment {shorten_digest(record.staged)}" if record.staged else ""
    is_cut = record.result is Result.INTERRUPTED
    what = f"the finalize{staged} that began at {record.time} did not end: it was killed, or the power went"
    if not is_cut:
        what = f"the finalize{staged} at {record.time} failed"
    if runs:
        before = survey.host.state_deploy / (record.booted or "…")
        return [
            f"error: {what}; the deployment runs nevertheless{_merged(record)}",
            *failure_lines(record),
            f"hint: compare /etc with {before}/etc, that of the deployment before",
        ]
    if record.booted in (None, survey.booted.digest):
        unchanged = "the running system is unchanged"
    else:
        unchanged = f"deployment {shorten_digest(survey.booted.digest)} runs, neither the update nor what ran before"
    if is_cut:
        return [f"error: {what}", f"hint: {unchanged}; {_STAGE_HINT}"]
    return [f"error: {what}; {unchanged}", *failure_lines(record)]


def _merged(record: OutcomeRecord) -> str:
    if record.committed is None:
        return ""
    return f", with /etc as it was merged at {record.committed}: what was changed there later is not in it"


def _was_passed_over(survey: Survey, record: OutcomeRecord) -> bool:
    """Whether the machine was booted since, and something else was: no time says so, clocks jump."""
    now = read_boot_id(survey.host)
    is_later = None not in (now, record.boot_id) and now != record.boot_id
    return record.result is Result.DONE and is_later and not record.withdrawn and record.staged is not None


def _tell_passed_over(verdict: _Verdict, record: OutcomeRecord) -> None:
    runs, wanted = shorten_digest(verdict.survey.booted.digest), shorten_digest(record.staged or "")
    verdict.tell(
        BootEntryError.exit_code,
        f"error: deployment {wanted} was finalized at {record.time} and was to boot next, and deployment {runs} runs",
        "hint: somebody or the boot loader chose another entry; `bootc-fast status` says what boots next, and why",
    )


async def _mend_menu(verdict: _Verdict, menu: BootMenu) -> None:
    """Take away what a cut left: several entries for one deployment, sets beside the live one; failures are warnings.

    In the order that is in force; and now, because what is staged next could get clusters to which a leftover leads.
    """
    if not count_duplicates(menu, menu.own_order) and not menu.odd.old_sets:
        return
    try:
        with single_error():
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(hold_lock(verdict.survey.host, timeout_s=LOCK_TIMEOUT_S))
                host = await stack.enter_async_context(open_writable(verdict.survey.host))
                # Whoever held the lock may have mended it.
                survey = await read_survey(host, needs_marker=False)
                look = await open_boot_snapshot(survey, stack, loader=None, read_only=False)
                found = count_duplicates(look.menu, look.menu.own_order)
                with anyio.CancelScope(shield=True):
                    if found:
                        await _publish_once_each(verdict, survey, look, found)
                    elif look.menu.odd.old_sets:
                        left = await run_blocking(remove_outdated, RealVolume(look.area.boot_fd))
                        verdict.warnings += [f"warning: {one}" for one in left]
    except (BootcFastError, OSError, ExceptionGroup) as error:
        what = "tidying the boot entries up after a power cut"
        verdict.warnings += [f"warning: {what}: {describe_error(leaf)}" for leaf in flatten(error)]


async def _publish_once_each(
    verdict: _Verdict, survey: Survey, look: BootSnapshot, found: Mapping[VerityDigest, int]
) -> None:
    plan = await run_blocking(lambda: plan_menu(look.menu, order=look.menu.own_order, staged=None, verify=False))
    if survey.marker is not None:
        # An update that waits for its finalize keeps its set.
        plan = replace(plan, removes_staged=False)
    published = await publish_menu(
        look.area,
        look.menu,
        plan,
        set_variable=make_variable_setter(survey.host),
        protected=list_protected(survey, look.menu),
        trial=await run_blocking(carry_on, survey, look, plan),
    )
    verdict.warnings += [
        f"warning: deployment {shorten_digest(digest)} had {number} boot entries, as a cut leaves them: now it has one"
        for digest, number in found.items()
    ]
    verdict.warnings += [f"warning: {warning}" for warning in published.warnings]


def _judge_leftovers(verdict: _Verdict, menu: BootMenu) -> None:
    """Look for what was staged and never applied, without any record of it."""
    survey, host = verdict.survey, verdict.survey.host
    memory = read_memory(host)
    if memory is not None and memory.boot_id is not None and memory.boot_id == read_boot_id(host):
        # The machine has not gone down since: whatever is not staged any more was withdrawn.
        return
    live, staged = (*menu.live.entries, *menu.live.files), (*menu.staged.entries, *menu.staged.files)
    missed = find_missed(
        host,
        survey.booted.digest,
        survey.deployments,
        memory=memory,
        bootable={entry.digest for entry in live if entry.digest is not None},
        staged_set={entry.digest for entry in staged if entry.digest is not None},
        waiting=survey.marker.digest if survey.marker else None,
    )
    for digest in missed:
        if digest == verdict.told:
            continue
        verdict.fields = verdict.fields or {"BOOTC_FAST_STAGED": digest}
        verdict.tell(
            1,
            f"error: deployment {shorten_digest(digest)} was staged and not applied: the machine went down without"
            " finalizing it, or was reset; the running system is unchanged",
            f"hint: {_STAGE_HINT}",
        )


async def _read_menu(verdict: _Verdict) -> BootMenu | None:
    """Read the boot entries; None where they cannot be read, which is told as a warning."""
    try:
        async with AsyncExitStack() as stack:
            with single_error():
                return (await open_boot_snapshot(verdict.survey, stack, loader=None, read_only=True)).menu
    except (BootcFastError, OSError, ExceptionGroup) as error:
        verdict.warnings += [f"warning: boot entries: {describe_error(leaf)}" for leaf in flatten(error)]
        return None


def _remember(verdict: _Verdict, host: Host) -> None:
    """Note what was told; make room for the next record while there is time and space; what fails is a warning."""
    survey = verdict.survey
    waiting = survey.marker.digest if survey.marker else None

    def attempt(what: str, function: Callable[..., object], *args: object) -> None:
        try:
            function(*args)
        except (BootcFastError, OSError) as error:
            verdict.warnings.append(f"warning: {what}: {describe_error(error)}")

    if verdict.is_unreadable:
        attempt("moving the record aside", lambda: verdict.lines.append(f"hint: it is kept as {set_aside(host)}"))
    elif verdict.record is not None and verdict.record != read_outcome(host):
        attempt("noting what was told", write_outcome, host, verdict.record)
    attempt("making room for the next record", reserve_record, host, verdict.record)
    memory = make_memory(host, survey.booted.digest, survey.deployments, waiting)
    if memory != read_memory(host):
        attempt("remembering this boot", write_memory, host, memory)


async def _end_trials(verdict: _Verdict, host: Host) -> None:
    """Bless what runs where this boot is complete, and tell, once, which deployments failed their trial."""
    steps = Steps(ignore_event, flow="ending trials", timeout_s=TRIALS_TIMEOUT_S)
    is_complete = await is_boot_complete(host)
    with single_error(), steps.limit_all():
        outcome = await end_trials(host, is_complete=is_complete, steps=steps)
    verdict.warnings += [f"warning: {warning}" for warning in outcome.warnings]
    if verdict.passed_over is not None and verdict.passed_over.staged in outcome.failed:
        verdict.passed_over = None
    for digest, record in outcome.failed.items():
        failure = describe_failure(record) or ""
        runs = shorten_digest(outcome.booted)
        verdict.tell(
            TrialFailedError.exit_code,
            f"error: deployment {shorten_digest(digest)} {failure}; deployment {runs} runs",
            f"hint: it is not finalized again; `bootc-fast forget-failure {digest[:16]}` makes it like any other",
        )
        await run_blocking(
            lambda: send_trial_failed(host, deployment=digest, tries=record.tries, failure=failure)  # noqa: B023
        )


def _tell_journal(verdict: _Verdict) -> None:
    record = verdict.record
    fields = {
        "BOOTC_FAST_OPERATION": "boot-complete",
        "BOOTC_FAST_RESULT": record.result.value if record is not None else None,
        "BOOTC_FAST_BOOTED": verdict.survey.booted.digest,
        "BOOTC_FAST_STAGED": record.staged if record is not None else None,
        **verdict.fields,
        "BOOTC_FAST_EXIT_CODE": verdict.exit_code,
    }
    send_missed(verdict.survey.host, verdict.lines, fields)
