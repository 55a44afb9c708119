"""Finding and mending what power cuts and other tools leave on the boot partition.

The plan is made first and is the same with and without ``repair``. Entries are written by ``publish_menu`` only, and
nothing is written to a FAT volume on which a chain is broken or two names share clusters: the kernel would give the
clusters of the one to the other. That is for ``fsck.fat -a`` on the unmounted partition.

Source:
    Spec commands.md, ``doctor``; boot.md, "A directory that grows".
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio

from bootc_fast.boot.area.real import RealVolume
from bootc_fast.boot.entries.menu import read_menu
from bootc_fast.boot.entries.variables import make_variable_setter
from bootc_fast.boot.loaders.table import record_of
from bootc_fast.composefs.boot_files import list_protected
from bootc_fast.composefs.boot_snapshot import open_boot_snapshot
from bootc_fast.composefs.diagnosis import Diagnosis, Finding, diagnose
from bootc_fast.composefs.repair import Repair, repair_volumes
from bootc_fast.composefs.survey import read_survey
from bootc_fast.events import ignore_event
from bootc_fast.flows.steps import Steps, single_error
from bootc_fast.machine.host import open_host
from bootc_fast.machine.lock import hold_lock
from bootc_fast.machine.mounts import open_writable
from bootc_fast.machine.native import Tally, run_blocking
from bootc_fast.records import dataclass

if TYPE_CHECKING:
    from pathlib import Path

    from bootc_fast.boot.entries.menu import BootMenu
    from bootc_fast.events import EventSink
    from bootc_fast.machine.host import Host
    from bootc_fast.types import Loader

STEP_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class DoctorOutcome:
    """What was found, and what was or would be done.

    Attributes:
        findings: In the order in which they are mended.
        repaired: They were mended, those that have a repair.
        remaining: What is still wrong after that; `findings` where nothing was to be repaired.
        next_boot: The entry that the loader takes first.
        warnings: What else was odd.
    """

    findings: tuple[Finding, ...]
    repaired: bool
    remaining: tuple[Finding, ...]
    next_boot: str | None
    warnings: tuple[str, ...] = ()


async def doctor(
    root: Path | str = "/",
    *,
    repair: bool = False,
    loader: Loader | None = None,
    timeout_s: float = 240.0,
    on_event: EventSink = ignore_event,
) -> DoctorOutcome:
    """Find what is wrong on the boot partition, and mend it where asked.

    Cancellation: at any moment before the writes; these are not interrupted.

    Args:
        root: ``/``, or a directory laid out like a host.
        repair: Mend what can be mended; without it nothing is written.
        loader: Wins over what the host says.
        timeout_s: For the whole, in seconds.
        on_event: Gets the steps; must not block.

    Returns:
        What was found and done.

    Raises:
        NotBootcHostError: The host is none of ours.
        BootEntryError, FileSystemError: A repair failed; what booted before still does.
        LockedError: Another process is at it.
    """
    host = await run_blocking(open_host, root)
    steps = Steps(on_event, flow="looking after the boot partition", timeout_s=timeout_s)
    with single_error(), steps.limit_all():
        async with AsyncExitStack() as stack:
            if repair:
                await read_survey(host)
                await stack.enter_async_context(hold_lock(host))
                host = await stack.enter_async_context(open_writable(host))
            with steps.run("look", "Looking at the boot partition", timeout_s=STEP_TIMEOUT_S):
                survey = await read_survey(host)
                look = await open_boot_snapshot(survey, stack, loader=loader, read_only=not repair)
                found = await diagnose(host, survey, look, is_ours_writable=repair)
            if not repair:
                return _make_outcome(found, found, repaired=False)
            with steps.run("repair", "Mending the boot entries", timeout_s=STEP_TIMEOUT_S):
                with anyio.CancelScope(shield=True):
                    warnings = await _apply(host, found, on_event)
                survey = await read_survey(host)
                after = await open_boot_snapshot(survey, stack, loader=loader, read_only=True)
                left = await diagnose(host, survey, after, is_ours_writable=True)
            return _make_outcome(found, left, repaired=True, warnings=warnings)


def _make_outcome(
    found: Diagnosis, left: Diagnosis, *, repaired: bool, warnings: tuple[str, ...] = ()
) -> DoctorOutcome:
    following = left.look.menu.next_boot
    return DoctorOutcome(
        findings=tuple(found.findings),
        repaired=repaired,
        remaining=tuple(left.findings),
        next_boot=following.label if following is not None else None,
        warnings=tuple(dict.fromkeys((*found.look.warnings, *warnings))),
    )


async def _apply(host: Host, found: Diagnosis, on_event: EventSink) -> tuple[str, ...]:
    if found.is_fat_unsafe:
        return ("nothing was written: the file system has to be checked first, unmounted",)
    if found.is_read_only:
        return ("nothing was written: the file system is read-only",)
    area, look, survey = found.look.area, found.look, found.survey
    # The loader's paths start at the partition's root, which may have /boot in it.
    prefix = b"" if record_of(area.loader).is_on_esp else b"/boot"
    repair = Repair(
        wanted=found.wanted,
        files=tuple((path.removeprefix(prefix), data) for path, data in found.files),
        made=tuple(found.made),
        user_cfg=found.user_cfg,
        writes_menu=found.needs_menu,
        collects=found.collects,
        known=survey.with_state,
        removes_sets=bool(found.look.menu.odd.old_sets),
        keeps_staged=survey.marker is not None,
        protected=list_protected(survey, look.menu),
    )
    boot, esp = RealVolume(area.boot_fd), None if area.esp_fd is None else RealVolume(area.esp_fd)

    def read() -> BootMenu:
        return read_menu(area, known=survey.known, variables=look.variables)

    setter = make_variable_setter(host)
    progress = Tally(on_event, "repair", unit="bytes").add()
    return await run_blocking(repair_volumes, boot, esp, repair, read_menu=read, set_variable=setter, progress=progress)
