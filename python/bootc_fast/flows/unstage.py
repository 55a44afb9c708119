"""Unstaging: what is staged is not applied, and goes; the boot order stays.

The package exports the function of the module's name: import this module by its full name.

Source:
    Spec trial.md, "Unstage, hold, keep".
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from bootc_fast.boot.area.directory import hint_for
from bootc_fast.boot.area.real import RealVolume
from bootc_fast.boot.entries.garbage import collect_garbage
from bootc_fast.boot.entries.keep import read_keep_policy
from bootc_fast.boot.entries.menu import read_menu
from bootc_fast.boot.entries.staged_set import find_naming, remove_staged_set
from bootc_fast.composefs.boot_snapshot import open_boot_snapshot
from bootc_fast.composefs.deployments import remove_staged_marker
from bootc_fast.composefs.survey import read_survey
from bootc_fast.composefs.unstaging import (
    finish_removals,
    forget_unstaging,
    has_leftovers,
    note_unstaging,
    read_unstaging,
    remove_state,
)
from bootc_fast.errors import BootcFastError, BootEntryError, FileSystemError, InvalidStateError, StepTimeoutError
from bootc_fast.events import ignore_event
from bootc_fast.flows.backend import refuse_ostree
from bootc_fast.flows.steps import Steps, single_error
from bootc_fast.machine.host import open_host
from bootc_fast.machine.lock import hold_lock
from bootc_fast.machine.mounts import open_writable
from bootc_fast.machine.native import run_blocking
from bootc_fast.records import dataclass, field
from bootc_fast.report.boots import remember_withdrawn
from bootc_fast.report.journal import send_unstage
from bootc_fast.report.rollback import drop_reboot_marker
from bootc_fast.report.unstage import UnstageOutcome
from bootc_fast.restart.prepared import read_prepared
from bootc_fast.text import describe_error, reason_of, shorten_digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bootc_fast.boot.entries.menu import BootMenu
    from bootc_fast.composefs.boot_snapshot import BootSnapshot
    from bootc_fast.composefs.survey import Survey
    from bootc_fast.events import EventSink
    from bootc_fast.types import Loader, VerityDigest

LOOK_TIMEOUT_S = 90.0
DROP_TIMEOUT_S = 10.0
ENTRIES_TIMEOUT_S = 10.0
STATE_TIMEOUT_S = 120.0
FILES_TIMEOUT_S = 30.0
TIDY_TIMEOUT_S = 5.0

STAGED_ENTRIES_TEXT = "the staged boot entries"


@dataclass(slots=True)
class _Run:
    """One unstaging under way.

    Attributes:
        survey: Of before.
        digests: Whose files go: what is staged, and what earlier runs did not finish.
        has_marker: A marker is there, whatever it says.
        has_leftovers: A state directory was begun to be removed.
    """

    survey: Survey
    look: BootSnapshot
    steps: Steps
    digests: tuple[VerityDigest, ...]
    has_marker: bool
    has_leftovers: bool
    keep_files: bool
    removed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def is_noop(self) -> bool:
        """There is nothing to remove."""
        has_files = not self.keep_files and (bool(self.digests) or self.has_leftovers)
        return not (self.has_marker or self.look.menu.staged.is_present or has_files)

    async def attempt(self, what: str, function: Callable[..., object], *args: object) -> bool:
        """Do what is no failure of the whole any more; says whether it was done."""
        try:
            await run_blocking(function, *args)
        except (BootcFastError, OSError) as error:
            self.warnings.append(f"{what}: {describe_error(error)}")
            return False
        return True


async def unstage(
    root: Path | str = "/",
    *,
    keep_files: bool = False,
    dry_run: bool = False,
    loader: Loader | None = None,
    timeout_s: float = 240.0,
    on_event: EventSink = ignore_event,
) -> UnstageOutcome:
    """Drop the staged update: its marker, then its boot entries, then its state directory and its kernel or UKI.

    In that order, each on disk before the next; nothing goes that an entry names, that runs, that is pinned or is
    prepared for a soft reboot. With nothing staged, what an earlier run or a cut left of an unstaging goes.
    Cancellation: before the marker goes nothing has changed; from there on it waits, and the outcome is returned.

    Args:
        root: ``/``, or a directory laid out like a host.
        keep_files: State directory and boot files stay.
        dry_run: Find out everything, write nothing.
        loader: Wins over what the host says.
        timeout_s: For the whole, in seconds, until the marker goes.
        on_event: Gets the steps; must not block.

    Returns:
        What was done; what could not be removed after the marker is one of its warnings.

    Raises:
        NotBootcHostError: The host is none of ours, or an ostree host.
        InvalidStateError: The update is finalized already and boots next: a rollback is what takes that back.
        BootEntryError: The staged entries are the only ones that there are.
        FileSystemError: A file system refused before anything was changed.
        StepTimeoutError: It took too long.
        LockedError: Another process is at it.

    Source:
        Spec trial.md, "Unstage, hold, keep".
    """
    host = await run_blocking(open_host, root)
    await refuse_ostree(host, "unstaging", hint="there it is `ostree admin undeploy 0`, or `rpm-ostree cleanup -p`")
    steps = Steps(on_event, flow="unstaging", timeout_s=timeout_s)
    with single_error(), steps.limit_all():
        async with AsyncExitStack() as stack:
            # Who is no host of ours gets no lock file either.
            await read_survey(host, needs_marker=False)
            if not dry_run:
                await stack.enter_async_context(hold_lock(host))
                host = await stack.enter_async_context(open_writable(host))
            with steps.run("look", "Looking at what is staged", timeout_s=LOOK_TIMEOUT_S):
                survey = await read_survey(host, needs_marker=False)
                look = await open_boot_snapshot(survey, stack, loader=loader, read_only=dry_run)
                run = await run_blocking(_plan, survey, look, steps, keep_files=keep_files)
            if dry_run:
                await run_blocking(_foretell, run)
            elif not run.is_noop:
                await anyio.lowlevel.checkpoint()
                with anyio.CancelScope(shield=True):
                    await _unstage(run)
    return _complete(run, dry_run=dry_run)


def _plan(survey: Survey, look: BootSnapshot, steps: Steps, *, keep_files: bool) -> _Run:
    """Find out what goes; blocks.

    Raises:
        InvalidStateError, BootEntryError, FileSystemError: It must not.
    """
    host, menu, marker = survey.host, look.menu, survey.marker
    has_marker = host.look_at(host.staged_marker, follow=False) is not None
    refuse_unstaging(menu, marker.digest if marker is not None else None)
    digests = [*([marker.digest] if marker is not None else []), *read_unstaging(host)]
    run = _Run(
        survey, look, steps, tuple(dict.fromkeys(digests)), has_marker, has_leftovers(host), keep_files=keep_files
    )
    run.warnings += look.warnings
    if survey.marker_problem is not None:
        run.warnings.append(f"{survey.marker_problem}: it goes, and which deployment it named cannot be told")
    return run


def refuse_unstaging(menu: BootMenu, staged: VerityDigest | None) -> None:
    """Refuse where unstaging would not keep the update from booting, or nothing else would be left to boot.

    Args:
        menu: What is there.
        staged: What the marker names; None where it names nothing.

    Raises:
        InvalidStateError: It is finalized already.
        BootEntryError: The staged entries are the only ones.
        FileSystemError: That cannot be told.
    """
    if staged is not None and menu.default is not None and menu.default.digest == staged:
        message = f"unstaging: {shorten_digest(staged)} is finalized already, and boots next"
        raise InvalidStateError(message, hint="`bootc-fast rollback --to booted` takes that back, and drops it")
    if menu.staged.is_present and (menu.odd.is_exchange_unfinished or not menu.own_order):
        menu.odd.refuse_unread("unstaging")
        raise BootEntryError(
            "unstaging: the staged boot entries are the only ones of this host",
            hint="`bootc-fast doctor --repair` makes the live set whole first",
        )


def _foretell(run: _Run) -> None:
    """Say what would go; blocks, writes nothing."""
    menu = run.look.menu
    if menu.staged.is_present:
        run.removed.append(STAGED_ENTRIES_TEXT)
    for digest in () if run.keep_files else run.digests:
        reason = _why_kept(run, menu, digest, with_staged=False)
        if reason is not None:
            run.kept.append(reason)
        elif run.survey.find_deployment(digest) is not None:
            run.removed.append(str(run.survey.host.state_dir(digest)))


def _why_kept(run: _Run, menu: BootMenu, digest: VerityDigest, *, with_staged: bool = True) -> str | None:
    """Say what names a deployment, so that its state directory stays; None where nothing does. Blocks."""
    host, name = run.survey.host, shorten_digest(digest)
    if digest == run.survey.booted.digest:
        return f"deployment {name} stays: it runs"
    if not menu.odd.is_complete:
        return f"deployment {name} stays: not all boot entries could be read"
    area = run.look.area
    esp = None if area.esp_fd is None else RealVolume(area.esp_fd)
    naming = find_naming(RealVolume(area.boot_fd), esp, menu, digest, with_staged=with_staged)
    if naming is not None:
        return f"deployment {name} stays: {naming} names it"
    if digest in read_keep_policy(host)[0].pinned:
        return f"deployment {name} stays: it is pinned"
    prepared = read_prepared(host)
    if prepared is not None and prepared.digest == digest:
        return f"deployment {name} stays: it is mounted at /run/nextroot; `bootc-fast soft-reboot --reset` clears that"
    return None


async def _unstage(run: _Run) -> None:
    """Do it; from the marker on every failure is a warning, and the next run goes on."""
    host = run.survey.host
    with run.steps.run("drop", "Dropping what is staged", timeout_s=DROP_TIMEOUT_S):
        if run.digests and not run.keep_files:
            await run.attempt("noting what is unstaged", note_unstaging, host, run.digests)
        await run_blocking(remove_staged_marker, host)
    is_done = await _step(run, "entries", "Removing the staged boot entries", ENTRIES_TIMEOUT_S, _remove_entries)
    if is_done and not run.keep_files:
        is_done = await _step(run, "state", "Removing the state directory", STATE_TIMEOUT_S, _remove_state)
        are_gone = await _step(run, "files", "Removing kernel, initrd or UKI", FILES_TIMEOUT_S, _remove_files)
        is_done = is_done and are_gone
    await _step(run, "tidy", "Noting the change", TIDY_TIMEOUT_S, _tidy, is_done and not run.keep_files)


async def _step(
    run: _Run, name: str, message: str, timeout_s: float, function: Callable[..., None], *args: object
) -> bool:
    count = len(run.warnings)
    try:
        with run.steps.run(name, message, timeout_s=timeout_s):
            await run.attempt(f"{message[:1].lower()}{message[1:]}", function, run, *args)
    except StepTimeoutError as error:
        run.warnings.append(describe_error(error))
    return len(run.warnings) == count


def _remove_entries(run: _Run) -> None:
    if not run.look.menu.staged.is_present:
        return
    try:
        problems = remove_staged_set(RealVolume(run.look.area.boot_fd))
    except OSError as error:
        raise FileSystemError(reason_of(error), hint=hint_for(error)) from error
    run.warnings += problems
    if not problems:
        run.removed.append(STAGED_ENTRIES_TEXT)


def _read_menu(run: _Run) -> BootMenu:
    # Its own entries are told by the digests of before: what has no state any more is still not somebody else's.
    return read_menu(run.look.area, known=run.survey.known, variables=run.look.variables)


def _remove_state(run: _Run) -> None:
    host, menu = run.survey.host, _read_menu(run)
    for digest in run.digests:
        reason = _why_kept(run, menu, digest)
        if reason is not None:
            run.kept.append(reason)
        elif remove_state(host, digest):
            run.removed.append(str(host.state_dir(digest)))
    if finish_removals(host):
        run.removed.append("what an earlier run had begun to remove")


def _remove_files(run: _Run) -> None:
    menu = _read_menu(run)
    known = {one.digest for one in run.survey.deployments} | {run.survey.booted.digest}
    known -= {digest for digest in run.digests if _why_kept(run, menu, digest) is None}
    outcome = collect_garbage(run.look.area, menu, known=known)
    run.removed += outcome.removed
    run.warnings += outcome.warnings


def _tidy(run: _Run, is_done: bool) -> None:  # noqa: FBT001 called through a step
    host, survey = run.survey.host, run.survey
    # Whoever misses at the next boot what was staged in this one: nothing waits any more.
    remember_withdrawn(host, survey.booted.digest, survey.deployments)
    if is_done:
        forget_unstaging(host)
    marker = survey.marker
    if marker is None:
        return
    origin = survey.find_origin(marker.digest)
    drop_reboot_marker(host, marker.digest, origin.manifest_digest if origin else None)
    send_unstage(host, booted=survey.booted.digest, unstaged=marker.digest, removed=run.removed)


def _complete(run: _Run, *, dry_run: bool) -> UnstageOutcome:
    default = run.look.menu.default
    return UnstageOutcome(
        unstaged=run.survey.marker.digest if run.survey.marker else None,
        removed=tuple(run.removed),
        kept=tuple(run.kept),
        next_boot=default.label if default else None,
        dry_run=dry_run,
        warnings=tuple(dict.fromkeys(run.warnings)),
    )
