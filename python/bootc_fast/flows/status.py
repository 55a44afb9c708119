"""What is booted, staged and kept, what boots next and why, and whether a staged update will be applied.

Source:
    Spec commands.md, the row ``status``.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, TypeVar

import anyio

from bootc_fast.boot.entries.choose import is_rollback_queued
from bootc_fast.boot.entries.keep import read_keep_policy
from bootc_fast.composefs.addons import find_stray_addons
from bootc_fast.composefs.boot_files import check_boot_files, choose_finalized_order, list_protected
from bootc_fast.composefs.boot_snapshot import open_boot_snapshot
from bootc_fast.composefs.survey import Survey, SurveyPart, check_staged_pieces, look_at_deployments, open_image
from bootc_fast.errors import BootcFastError, EtcConflictError
from bootc_fast.flows.counting import decide_trial
from bootc_fast.flows.status_deployments import describe_deployments
from bootc_fast.flows.status_trial import look_at_trials
from bootc_fast.flows.steps import single_error
from bootc_fast.machine.booted import is_etc_transient, is_ostree_host, is_read_only
from bootc_fast.machine.host import open_host
from bootc_fast.machine.native import run_blocking
from bootc_fast.machine.systemd import find_finalize_unit
from bootc_fast.records import replace
from bootc_fast.report.finalize import read_outcome
from bootc_fast.report.status import DeploymentStatus, HostStatus, NextBoot, StagedStatus
from bootc_fast.restart.prepared import read_prepared
from bootc_fast.restart.soft import judge_soft_reboots
from bootc_fast.text import describe_error, escape_bytes, flatten
from bootc_fast.trial.states import read_states
from bootc_fast.trial.verdict import refuse_failed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from bootc_fast.boot.entries.menu import BootMenu
    from bootc_fast.composefs.boot_snapshot import BootSnapshot
    from bootc_fast.etc.diff import EtcDiffEntry
    from bootc_fast.etc.policy import ConflictChoice
    from bootc_fast.machine.host import Host
    from bootc_fast.report.finalize import OutcomeRecord
    from bootc_fast.types import Loader, Strategy, VerityDigest

T = TypeVar("T")

_MAX_NAMED = 3
_DOCTOR_HINT = "`bootc-fast doctor` says what else is wrong on the boot partition, and with --repair mends it"

COMPARE_TIMEOUT_S = 3.0
"""Long enough for 100,000 files in /etc; nobody waits longer for a number at the edge of the screen."""


async def get_status(
    root: Path | str = "/",
    *,
    loader: Loader | None = None,
    compare_etc: bool = False,
    compare_timeout_s: float = COMPARE_TIMEOUT_S,
) -> HostStatus:
    """Find out the state of a host; writes nothing.

    Whatever can be told is told: an unreadable marker, boot partition or deployment becomes a warning.
    Cancellation: at any moment, nothing is left behind.

    Args:
        root: ``/``, or a directory laid out like a host.
        loader: Wins over what the host says.
        compare_etc: Also find out what a rollback would change in /etc; scans all of it.
        compare_timeout_s: How long that may take; after it, the comparison is left out, with a warning.

    Raises:
        NotBootcHostError: The host is none of ours.
        InvalidStateError: Which deployment is booted cannot be told.
        UsageError: `root` is no directory.

    Source:
        Spec commands.md, the row ``status``; boot.md, "Rollback queued".
    """
    from bootc_fast.composefs.kernel import find_lost_arguments

    host = await run_blocking(open_host, root)
    notes: list[str] = []
    prepared = await _or_warn(notes, "what is prepared for a restart cannot be told", read_prepared, host)
    if await run_blocking(is_ostree_host, host):
        status = await _get_ostree_status(host, compare_timeout_s=compare_timeout_s if compare_etc else None)
        return replace(status, prepared=prepared, warnings=(*notes, *status.warnings))

    def note(part: SurveyPart, error: Exception) -> None:
        notes.append(f"{part} cannot be {part.verb}: {describe_error(error)}")

    survey = await run_blocking(look_at_deployments, host, on_error=note)
    record = await _or_warn(notes, "the last finalize cannot be told", read_outcome, host)
    async with AsyncExitStack() as stack:
        boot = await _look_boot(survey, stack, notes, loader)
        staged_status = await _judge_staged(survey, boot, stack, record, notes) if survey.marker else None
        if survey.marker is not None and boot is not None:
            notes += await find_lost_arguments(survey, boot, survey.marker.digest)
        if boot is not None:
            notes += await run_blocking(find_stray_addons, boot)
        survey = await _verify_images(survey, boot, stack)
        status = await run_blocking(lambda: _arrange(survey, boot, staged_status, record=record, notes=notes))
        if boot is not None:
            status = await _judge_soft_reboots(status, survey, boot)
            if boot.menu.needs_mending:
                status = replace(status, warnings=(*status.warnings, _DOCTOR_HINT))
    status = replace(status, prepared=prepared)
    target = status.rollback
    if target is None or not compare_etc:
        return status
    return await _add_rollback_etc(status, lambda: _list_missing(survey, target.digest), compare_timeout_s)


async def _get_ostree_status(host: Host, *, compare_timeout_s: float | None) -> HostStatus:
    """As ``get_status``, through libostree; raises what ``read_ostree`` does."""
    # Not on a host of the other kind: a status is to be there at once.
    from bootc_fast.ostree.etc import list_missing_ostree_changes
    from bootc_fast.ostree.sysroot import read_ostree
    from bootc_fast.report.ostree import describe_ostree

    survey = await read_ostree(host)
    status, target = await describe_ostree(host, survey), survey.rollback
    if compare_timeout_s is None or target is None:
        return status
    return await _add_rollback_etc(
        status, lambda: list_missing_ostree_changes(host, survey.booted, target), compare_timeout_s
    )


async def _add_rollback_etc(
    status: HostStatus, find: Callable[[], Awaitable[tuple[EtcDiffEntry, ...] | None]], timeout_s: float
) -> HostStatus:
    """Compare, where there is a rollback deployment that is whole; what goes wrong is a warning.

    Cancellation: within 50 ms; nothing is left behind.

    Args:
        status: Without it.
        find: Finds the local changes that the rollback deployment does not have; None where they are gone anyway.
        timeout_s: How long it may take.
    """
    if status.rollback is None or status.rollback.problems:
        return status
    try:
        with single_error(), anyio.fail_after(timeout_s):
            return replace(status, rollback_etc=await find())
    except TimeoutError:
        notes = [f"/etc was not compared: that takes longer than {timeout_s:g} s; `status -v` waits for it"]
    except (BootcFastError, OSError, ExceptionGroup) as error:
        notes = [f"/etc was not compared: {describe_error(leaf)}" for leaf in flatten(error)]
    return replace(status, warnings=(*status.warnings, *notes))


async def _list_missing(survey: Survey, target: VerityDigest) -> tuple[EtcDiffEntry, ...] | None:
    from bootc_fast.composefs.etc import list_missing_changes

    if await run_blocking(is_etc_transient, survey.host):
        return None
    async with AsyncExitStack() as stack:
        return await list_missing_changes(survey.host, survey.booted.digest, target, stack)


async def _judge_soft_reboots(status: HostStatus, survey: Survey, boot: BootSnapshot) -> HostStatus:
    """Add to every other deployment that has a boot entry whether a soft reboot leads to it."""
    shown = [one for one in (status.staged, status.rollback, *status.others) if one is not None]
    verdicts = await judge_soft_reboots(survey, boot, [one.digest for one in shown if one.entry_name is not None])

    def add(one: DeploymentStatus) -> DeploymentStatus:
        return replace(one, soft_reboot=verdicts.get(one.digest))

    return replace(
        status,
        staged=add(status.staged) if status.staged else None,
        rollback=add(status.rollback) if status.rollback else None,
        others=tuple(add(one) for one in status.others),
    )


async def _or_warn(notes: list[str], what: str, function: Callable[..., T], *args: object) -> T | None:
    try:
        return await run_blocking(function, *args)
    except (BootcFastError, OSError) as error:
        notes.append(f"{what}: {describe_error(error)}")
        return None


async def _look_boot(
    survey: Survey, stack: AsyncExitStack, notes: list[str], loader: Loader | None
) -> BootSnapshot | None:
    try:
        with single_error():
            return await open_boot_snapshot(survey, stack, loader=loader, read_only=True)
    except (BootcFastError, OSError, ExceptionGroup) as error:
        for leaf in flatten(error):
            hint = getattr(leaf, "hint", None)
            notes.append(f"boot entries cannot be read: {describe_error(leaf)}" + (f"; {hint}" if hint else ""))
        return None


async def _verify_images(survey: Survey, boot: BootSnapshot | None, stack: AsyncExitStack) -> Survey:
    """Note what is wrong with the images that a rollback could lead to, as a rollback would find it."""
    could_boot = set(boot.menu.own_order if boot else ()) - {survey.booted.digest}
    checked = []
    for one in survey.deployments:
        problems: tuple[str, ...] = ()
        if one.has_image and one.digest in could_boot and (survey.marker is None or one.digest != survey.marker.digest):
            try:
                await open_image(survey.host, one.digest, stack)
            except (BootcFastError, OSError) as error:
                problems = (describe_error(error),)
        checked.append(replace(one, problems=(*one.problems, *problems)))
    return replace(survey, deployments=tuple(checked))


async def _judge_staged(
    survey: Survey, boot: BootSnapshot | None, stack: AsyncExitStack, record: OutcomeRecord | None, notes: list[str]
) -> StagedStatus:
    """Try what a finalize would do, as far as it writes nothing."""
    marker = survey.marker
    assert marker is not None  # noqa: S101 the caller asks for a staged deployment only
    if boot and boot.menu.default and boot.menu.default.digest == marker.digest:
        return StagedStatus(will_be_applied=True, reasons=("it is the next boot already",), is_finalized=True)
    reasons: list[str] = []
    if marker.finalization_locked:
        reasons.append("finalization is locked (download-only): it is held, until `bootc-fast hold --release`")
    hints: list[str] = []
    # A finalize takes the strategy that was asked for this update before.
    strategy = record.on_conflict if record is not None and record.staged == marker.digest else None
    for error in await _find_obstacles(survey, marker.digest, boot, stack, strategy=strategy, notes=notes):
        reasons.append(_describe_obstacle(error))
        hints += [error.hint] if isinstance(error, BootcFastError) and error.hint else []
    runs, why = await find_finalize_unit(survey.host)
    if runs is False:
        reasons.append(why)
    if reasons:
        return StagedStatus(
            will_be_applied=False,
            reasons=tuple(reasons),
            finalization_locked=marker.finalization_locked,
            hints=tuple(dict.fromkeys(hints)),
        )
    return StagedStatus(will_be_applied=runs, reasons=(why,))


async def _find_obstacles(
    survey: Survey,
    staged: VerityDigest,
    boot: BootSnapshot | None,
    stack: AsyncExitStack,
    *,
    strategy: Strategy | ConflictChoice | None,
    notes: list[str],
) -> list[BaseException]:
    """Find what a finalize would fail with, and in `notes` what it would warn of."""
    from bootc_fast.boot.entries.ahead import check_ahead
    from bootc_fast.boot.entries.plan import plan_menu
    from bootc_fast.composefs.etc import plan_merge

    try:
        with single_error():
            survey.refuse_not_handled("finalizing", survey.booted.digest, staged)
            await run_blocking(check_staged_pieces, survey.host, staged)
            states, _unread = await run_blocking(read_states, survey.host)
            refuse_failed(states, staged, boot.menu if boot else None, doing="finalizing")
            if boot is not None:
                await check_boot_files(survey, staged, boot)
                order, said = await run_blocking(choose_finalized_order, survey, boot.menu, staged)
                notes += said
                first = await run_blocking(plan_menu, boot.menu, order=order, staged=staged)
                trial = await run_blocking(decide_trial, survey, boot, first, order, states, staged=staged)
                notes += trial.notes
                menu_plan = trial.decision.plan
                protected = list_protected(survey, boot.menu)
                await run_blocking(check_ahead, boot.area, boot.menu, menu_plan, protected=protected)
            if not await run_blocking(is_etc_transient, survey.host):
                pristine = await open_image(survey.host, survey.booted.digest, stack)
                new = await open_image(survey.host, staged, stack)
                plan = await plan_merge(survey.host, pristine, new, stack, on_conflict=strategy)
                plan.refuse_conflicts()
    except (BootcFastError, OSError, ExceptionGroup) as error:
        return flatten(error)
    return []


def _describe_obstacle(error: BaseException) -> str:
    """One line; the first conflicts by name, since they are what has to be looked at."""
    text = describe_error(error)
    if not isinstance(error, EtcConflictError):
        return text
    names = [f"/etc/{escape_bytes(conflict.path)}" for conflict in error.conflicts[:_MAX_NAMED]]
    more = len(error.conflicts) - len(names)
    return f"{text}: {', '.join(names)}" + (f" and {more} more" if more else "")


def _without_entry(deployment: DeploymentStatus, *, unless: set[str]) -> DeploymentStatus:
    return deployment if deployment.entry_name in unless else replace(deployment, entry_name=None)


def _arrange(
    survey: Survey,
    boot: BootSnapshot | None,
    staged_status: StagedStatus | None,
    *,
    record: OutcomeRecord | None,
    notes: list[str],
) -> HostStatus:
    policy, policy_warnings = read_keep_policy(survey.host)
    running = look_at_trials(survey, boot, notes) if boot else {}
    states, unread = read_states(survey.host)
    described = {
        digest: replace(one, is_pinned=digest in policy.pinned)
        for digest, one in describe_deployments(survey, boot, states, running).items()
    }
    menu = boot.menu if boot else None
    chosen = {survey.booted.digest, survey.marker.digest if survey.marker else None}
    with_entry = menu.own_order if menu else ()
    rest = [digest for digest in with_entry if digest not in chosen]
    stranded = [digest for digest in described if digest not in chosen and digest not in with_entry]
    live = {entry.label for entry in (*menu.live.entries, *menu.live.files)} if menu else set()
    return HostStatus(
        booted=described[survey.booted.digest],
        staged=described[survey.marker.digest] if survey.marker else None,
        rollback=described[rest[0]] if rest else None,
        others=(
            *(described[digest] for digest in rest[1:]),
            # An entry in a staged set that nobody waits for boots nothing.
            *(_without_entry(described[digest], unless=live) for digest in stranded),
        ),
        staged_status=staged_status,
        next_boot=_next_boot(menu),
        rollback_queued=menu is not None and is_rollback_queued(menu, booted=survey.booted.digest),
        loader=menu.loader if menu else None,
        missing_verity_allowed=survey.booted.missing_verity_allowed,
        last_finalize=record,
        is_read_only=is_read_only(survey.host),
        warnings=tuple(dict.fromkeys((*notes, *policy_warnings, *unread, *(boot.warnings if boot else ())))),
    )


def _next_boot(menu: BootMenu | None) -> NextBoot:
    if menu is None:
        return NextBoot(None, None, "the boot entries cannot be read")
    default, override = menu.default, menu.live.choice.override
    fallback = menu.live.fallback
    if fallback is not None:
        why = "user.cfg is gone, and custom.cfg has bootc-fast's fallback entry"
        return NextBoot(fallback.digest if fallback.is_own else None, fallback.label, why, menu.rule.name)
    if default is None:
        return NextBoot(None, None, "there is no boot entry that can boot", menu.rule.name)
    return NextBoot(
        default.digest if default.is_own else None,
        default.label,
        menu.live.choice.reason,
        menu.rule.name,
        None if override is None else override.kind.value,
    )
