"""What is booted, staged and kept, what boots next and why, and whether a staged update will be applied.

Source:
    Spec commands.md, the row ``status``.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from bootc_fast._boot_look import check_boot_files, look_boot
from bootc_fast._imginfo import parse_image_reference, read_image_facts
from bootc_fast._merge import count_missing_changes, plan_merge
from bootc_fast._native import run_blocking
from bootc_fast._ostree_status import get_ostree_status
from bootc_fast._steps import single_error
from bootc_fast._survey import Survey, check_staged_pieces, list_images, open_image, read_marker
from bootc_fast._text import describe_error, escape_bytes, flatten
from bootc_fast._units import find_finalize_unit
from bootc_fast.deployments import is_etc_transient, is_read_only, list_deployments, read_booted
from bootc_fast.errors import BootcFastError
from bootc_fast.etc import conflict_error
from bootc_fast.host import open_host
from bootc_fast.ostree import is_ostree_host
from bootc_fast.outcome import read_outcome
from bootc_fast.softreboot import judge_soft_reboot
from bootc_fast.status_report import DeploymentStatus, HostStatus, NextBoot, StagedStatus
from bootc_fast.types import Deployment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bootc_fast._boot_look import BootLook
    from bootc_fast.boot.entry import MenuEntry
    from bootc_fast.boot.menu import BootMenu
    from bootc_fast.host import Host
    from bootc_fast.outcome import OutcomeRecord
    from bootc_fast.types import Loader, VerityDigest

T = TypeVar("T")


async def get_status(root: Path | str = "/", *, loader: Loader | None = None, compare_etc: bool = False) -> HostStatus:
    """Find out the state of a host; writes nothing.

    Whatever can be told is told: an unreadable marker, boot partition or deployment becomes a warning.
    Cancellation: at any moment, nothing is left behind.

    Args:
        root: ``/``, or a directory laid out like a host.
        loader: Wins over what the host says.
        compare_etc: Also find out what a rollback would change in /etc; scans all of it.

    Raises:
        NotBootcHostError: The host is none of ours.
        InvalidStateError: Which deployment is booted cannot be told.
        UsageError: `root` is no directory.

    Source:
        Spec commands.md, the row ``status``; boot.md, "Rollback queued".
    """
    host = await run_blocking(open_host, root)
    if await run_blocking(is_ostree_host, host):
        return await get_ostree_status(host, compare_etc=compare_etc)
    booted = await run_blocking(read_booted, host)
    notes: list[str] = []
    marker = await _or_warn(notes, "the staged update cannot be told", read_marker, host, booted)
    deployments = await _or_warn(notes, "deployments cannot be listed", list_deployments, host) or []
    record = await _or_warn(notes, "the last finalize cannot be told", read_outcome, host)
    images = await _or_warn(notes, "images cannot be listed", list_images, host) or ()
    survey = Survey(host, booted, marker, tuple(deployments), images)
    async with AsyncExitStack() as stack:
        boot = await _look_boot(survey, stack, notes, loader)
        staged_status = await _judge_staged(survey, boot, stack) if marker else None
        status = await run_blocking(lambda: _arrange(survey, boot, staged_status, record=record, notes=notes))
        if boot is not None:
            status = await _judge_soft_reboots(status, survey, boot)
    return await _compare_etc(survey, status) if compare_etc else status


async def _compare_etc(survey: Survey, status: HostStatus) -> HostStatus:
    if status.rollback is None:
        return status
    try:
        with single_error():
            if await run_blocking(is_etc_transient, survey.host):
                return status
            async with AsyncExitStack() as stack:
                count = await count_missing_changes(survey.host, survey.booted.digest, status.rollback.digest, stack)
    except (BootcFastError, OSError, ExceptionGroup) as error:
        notes = tuple(f"/etc was not compared: {describe_error(leaf)}" for leaf in flatten(error))
        return replace(status, warnings=(*status.warnings, *notes))
    return replace(status, rollback_etc_changes=count)


async def _judge_soft_reboots(status: HostStatus, survey: Survey, boot: BootLook) -> HostStatus:
    """Add to every other deployment that has a boot entry whether a soft reboot leads to it."""

    async def judge(one: DeploymentStatus | None) -> DeploymentStatus | None:
        if one is None or one.entry_name is None:
            return one
        return replace(one, soft_reboot=await judge_soft_reboot(survey, boot, one.digest))

    others = [await judge(one) for one in status.others]
    return replace(
        status,
        staged=await judge(status.staged),
        rollback=await judge(status.rollback),
        others=tuple(one for one in others if one is not None),
    )


async def _or_warn(notes: list[str], what: str, function: Callable[..., T], *args: object) -> T | None:
    try:
        return await run_blocking(function, *args)
    except (BootcFastError, OSError) as error:
        notes.append(f"{what}: {describe_error(error)}")
        return None


async def _look_boot(survey: Survey, stack: AsyncExitStack, notes: list[str], loader: Loader | None) -> BootLook | None:
    try:
        with single_error():
            return await look_boot(survey, stack, loader=loader, read_only=True)
    except (BootcFastError, OSError, ExceptionGroup) as error:
        notes += [f"boot entries cannot be read: {describe_error(leaf)}" for leaf in flatten(error)]
        return None


async def _judge_staged(survey: Survey, boot: BootLook | None, stack: AsyncExitStack) -> StagedStatus:
    """Try what a finalize would do, as far as it writes nothing."""
    marker = survey.marker
    assert marker is not None  # noqa: S101 the caller asks for a staged deployment only
    if boot and boot.menu.default and boot.menu.default.digest == marker.digest:
        return StagedStatus(will_be_applied=True, reasons=("it is the next boot already",), is_finalized=True)
    reasons: list[str] = []
    if marker.finalization_locked:
        reasons.append("finalization is locked (download-only); `bootc upgrade --from-downloaded` unlocks it")
    reasons += await _find_obstacles(survey, marker.digest, boot, stack)
    runs, why = await find_finalize_unit(survey.host)
    if runs is False:
        reasons.append(why)
    if reasons:
        return StagedStatus(
            will_be_applied=False, reasons=tuple(reasons), finalization_locked=marker.finalization_locked
        )
    return StagedStatus(will_be_applied=runs, reasons=(why,))


async def _find_obstacles(
    survey: Survey, staged: VerityDigest, boot: BootLook | None, stack: AsyncExitStack
) -> list[str]:
    """Name what a finalize would fail with."""
    reasons: list[str] = []
    try:
        with single_error():
            await run_blocking(check_staged_pieces, survey.host, staged)
            if boot is not None:
                await check_boot_files(survey, staged, boot)
            if not await run_blocking(is_etc_transient, survey.host):
                pristine = await open_image(survey.host, survey.booted.digest, stack)
                new = await open_image(survey.host, staged, stack)
                plan = await plan_merge(survey.host, pristine, new, stack)
                if plan.has_fatal_conflicts:
                    raise conflict_error(plan.report.conflicts)
    except (BootcFastError, OSError, ExceptionGroup) as error:
        reasons += [describe_error(leaf) for leaf in flatten(error)]
    return reasons


def _describe_all(survey: Survey, menu: BootMenu | None) -> dict[VerityDigest, DeploymentStatus]:
    """Describe every deployment that has a state directory, an entry, or is booted or staged."""
    entries: dict[VerityDigest, MenuEntry] = {}
    for entry in menu.entries if menu else ():
        if entry.is_own and entry.digest is not None:
            entries.setdefault(entry.digest, entry)
    staged_entries = {entry.digest: entry for entry in menu.staged} if menu else {}
    states = {one.digest: one for one in survey.deployments}
    wanted = [*entries, survey.booted.digest, *([survey.marker.digest] if survey.marker else []), *states]
    default = menu.default.digest if menu and menu.default else None
    return {
        digest: _describe(
            survey.host,
            states.get(digest) or Deployment(digest, None, has_image=False, problems=("it has no state directory",)),
            entries.get(digest) or staged_entries.get(digest),
            boots_next=digest == default,
        )
        for digest in dict.fromkeys(wanted)
    }


def _describe(host: Host, deployment: Deployment, entry: MenuEntry | None, *, boots_next: bool) -> DeploymentStatus:
    origin = deployment.origin
    reference = origin.image_reference if origin else None
    problems = list(deployment.problems)
    if entry is not None:
        problems += [f"its boot entry names {escape_bytes(path)}, which is not there" for path in entry.missing]
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
    )


def _text(value: bytes | None) -> str | None:
    return None if value is None else escape_bytes(value)


def _arrange(
    survey: Survey,
    boot: BootLook | None,
    staged_status: StagedStatus | None,
    *,
    record: OutcomeRecord | None,
    notes: list[str],
) -> HostStatus:
    described = _describe_all(survey, boot.menu if boot else None)
    menu = boot.menu if boot else None
    chosen = {survey.booted.digest, survey.marker.digest if survey.marker else None}
    with_entry = dict.fromkeys(one.digest for one in menu.entries if one.is_own and one.digest) if menu else {}
    rest = [digest for digest in with_entry if digest not in chosen]
    stranded = [digest for digest in described if digest not in chosen and digest not in with_entry]
    default = menu.default if menu else None
    return HostStatus(
        booted=described[survey.booted.digest],
        staged=described[survey.marker.digest] if survey.marker else None,
        rollback=described[rest[0]] if rest else None,
        others=tuple(described[digest] for digest in [*rest[1:], *stranded]),
        staged_status=staged_status,
        next_boot=_next_boot(menu),
        rollback_queued=default is not None and default.is_own and default.digest != survey.booted.digest,
        loader=menu.loader if menu else None,
        missing_verity_allowed=survey.booted.missing_verity_allowed,
        last_finalize=record,
        is_read_only=is_read_only(survey.host),
        warnings=(*notes, *(boot.warnings if boot else ())),
    )


def _next_boot(menu: BootMenu | None) -> NextBoot:
    if menu is None:
        return NextBoot(None, None, "the boot entries cannot be read")
    default = menu.default
    if default is None:
        return NextBoot(None, None, "there is no boot entry that can boot")
    return NextBoot(default.digest if default.is_own else None, default.label, menu.default_reason)
