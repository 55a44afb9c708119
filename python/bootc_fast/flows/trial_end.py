"""How trials end at a boot: what runs is blessed, or what was tried before it has failed and this is the default again.

Nothing here restarts anything: whether what runs is healthy, and what follows where it is not, is the health check's.

Source:
    Spec trial.md, "Health", second half.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio

from bootc_fast.boot.counting.records import CountMethod
from bootc_fast.boot.counting.table import counter_of
from bootc_fast.boot.entries.plan import plan_menu
from bootc_fast.boot.entries.publish import publish_menu
from bootc_fast.boot.entries.variables import make_variable_setter
from bootc_fast.boot.loaders.entry import set_counters
from bootc_fast.boot.loaders.order import sort_entries
from bootc_fast.composefs.boot_files import list_protected
from bootc_fast.composefs.boot_snapshot import open_boot_snapshot
from bootc_fast.composefs.survey import SurveyPart, look_at_deployments
from bootc_fast.errors import BootcFastError
from bootc_fast.events import ignore_event
from bootc_fast.flows.counting import make_count_context
from bootc_fast.flows.fallback import FallbackLook, keep_fallback, look_at_fallback
from bootc_fast.flows.steps import Steps, single_error
from bootc_fast.flows.trial_notes import is_boot_complete, note_boot
from bootc_fast.machine.host import open_host
from bootc_fast.machine.lock import hold_lock
from bootc_fast.machine.mounts import open_writable
from bootc_fast.machine.native import run_blocking
from bootc_fast.records import dataclass, replace
from bootc_fast.report.finalize import note_given_up, read_outcome
from bootc_fast.report.journal import send_trial_ended
from bootc_fast.report.trial import BlessOutcome
from bootc_fast.text import describe_error, flatten, shorten_digest
from bootc_fast.trial.states import read_states
from bootc_fast.types import Result

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from bootc_fast.boot.counting.records import CountContext, Counter, RunningTrial
    from bootc_fast.boot.entries.menu import BootMenu
    from bootc_fast.boot.entries.plan import MenuPlan
    from bootc_fast.composefs.boot_snapshot import BootSnapshot
    from bootc_fast.composefs.survey import Survey
    from bootc_fast.events import EventSink
    from bootc_fast.machine.host import Host
    from bootc_fast.types import VerityDigest

LOCK_TIMEOUT_S = 30.0
LOOK_TIMEOUT_S = 60.0
COMMIT_TIMEOUT_S = 60.0
NOTE_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class _End:
    """What is to be done on the boot partition.

    Attributes:
        order: The deployments as they are to be, the default first.
        blessed: What loses its counters; None where nothing does.
        is_restored: The order changes since the loader gave up on the first one.
        clears: What counts beside the entries is cleared.
        is_blessed: What runs was on trial, and has come up.
        stays: What runs is on trial still: what counts its boots could not be cleared.
    """

    order: tuple[VerityDigest, ...] = ()
    blessed: VerityDigest | None = None
    is_restored: bool = False
    clears: bool = False
    is_blessed: bool = False
    stays: bool = False

    @property
    def is_nothing(self) -> bool:
        return not (self.order or self.clears)


@dataclass(frozen=True, slots=True)
class _View:
    """The boot entries, and the trials that are running by them."""

    survey: Survey
    boot: BootSnapshot
    counter: Counter
    context: CountContext
    trials: Mapping[VerityDigest, RunningTrial]

    @property
    def given_up(self) -> dict[VerityDigest, int]:
        """Deployments on which the loader gave up, and how often it had tried them; not what runs after all."""
        booted = self.survey.booted.digest
        return {
            digest: one.tries_done or 0 for digest, one in self.trials.items() if one.is_given_up and digest != booted
        }


def _order_without_counters(menu: BootMenu, digest: VerityDigest | None = None) -> tuple[VerityDigest, ...]:
    """Our deployments in the loader's order as if no counter, or none of one deployment, were at its end."""
    plain = [
        set_counters(entry, None) if entry.is_own and digest in {None, entry.digest} else entry
        for entry in menu.live.files
    ]
    menuentries = [entry for entry in menu.live.entries if entry.menu_id is not None]
    shown = [one.digest for one in (*menuentries, *sort_entries(plain, menu.rule)) if one.is_own and one.digest]
    # What has no entry that is shown is behind.
    return tuple(dict.fromkeys((*shown, *menu.own_order)))


def plan_trial_end(
    menu: BootMenu,
    booted: VerityDigest,
    trials: Mapping[VerityDigest, RunningTrial],
    given_up: Collection[VerityDigest],
    *,
    is_complete: bool,
) -> _End:
    """Decide what a boot changes on the boot partition. Pure.

    The order stays, but for what a trial itself made of it: what is at the end of its counter goes last in the loader's
    order, though it runs; with a one-shot the old default stays first until the new one is good; and what the loader
    gave up on goes behind the others for good, so that no later loader, nor another reader of the same entries, boots
    it again.

    Args:
        menu: The boot entries.
        booted: What runs.
        trials: What the loader has of trials.
        given_up: Of these the ones that are over, and that do not run.
        is_complete: What runs has come up.
    """
    running = trials.get(booted) if is_complete else None
    is_counted = any(one.is_own and one.digest == booted and one.tries_left is not None for one in menu.live.files)
    order: tuple[VerityDigest, ...] = ()
    blessed = booted if is_complete and is_counted else None
    if blessed is not None:
        order = _order_without_counters(menu, booted)
    elif running is not None and running.method is CountMethod.ONE_SHOT:
        order = tuple(dict.fromkeys((booted, *menu.own_order)))
    first = _order_without_counters(menu)[:1]
    is_restored = bool(set(first) & set(given_up))
    if is_restored:
        base = order or menu.own_order
        order = (*(one for one in base if one not in given_up), *(one for one in base if one in given_up))
    is_ours = booted in menu.own_order or any(one.digest == booted for one in menu.live.files)
    return _End(
        order if is_ours else (),
        blessed,
        is_restored and is_ours,
        clears=running is not None or bool(given_up),
        is_blessed=blessed is not None or running is not None,
    )


async def bless(
    root: Path | str = "/",
    *,
    is_complete: bool | None = None,
    timeout_s: float = 120.0,
    on_event: EventSink = ignore_event,
) -> BlessOutcome:
    """End the trials that this boot ends: what runs becomes good, and what the boot loader gave up on has failed.

    Safe at every boot, and again: where nothing is on trial nothing is written. Runs on trio and asyncio.
    Cancellation: at any moment; a publication that has begun is finished, and what it did not reach is done by the next
    call.

    Args:
        root: ``/``, or a directory laid out like a host.
        is_complete: What runs has come up; None asks the service manager for ``boot-complete.target``.
        timeout_s: For the whole, in seconds.
        on_event: Gets the steps; must not block.

    Returns:
        What was done. What could not be done is among its warnings, and is tried again at the next boot.

    Raises:
        NotBootcHostError: The host is none of ours.
        InvalidStateError: What runs cannot be told.
        MountError: /sysroot cannot be made writable.
        StepTimeoutError: It took too long.

    Source:
        Spec trial.md, "Health".
    """
    host = await run_blocking(open_host, root)
    steps = Steps(on_event, flow="ending trials", timeout_s=timeout_s)
    with single_error(), steps.limit_all():
        if is_complete is None:
            is_complete = await is_boot_complete(host)
        async with open_writable(host) as writable:
            return await end_trials(writable, is_complete=is_complete, steps=steps)


def _look(host: Host, warnings: list[str]) -> Survey:
    def note(part: SurveyPart, error: Exception) -> None:
        # A malformed marker is of this boot, in which `status` and the finalize tell it.
        if part is not SurveyPart.MARKER:
            warnings.append(f"{part} cannot be {part.verb}: {describe_error(error)}")

    return look_at_deployments(host, on_error=note)


async def end_trials(host: Host, *, is_complete: bool, steps: Steps) -> BlessOutcome:
    """Do what ``bless`` does, with a writable /sysroot."""
    warnings: list[str] = []
    survey = await run_blocking(_look, host, warnings)
    outcome = BlessOutcome(survey.booted.digest, is_complete)
    given_up: dict[VerityDigest, int] | None = None
    fallback: FallbackLook | None = None
    is_ended = True
    try:
        with single_error():
            async with AsyncExitStack() as stack:
                with steps.run("look", "Looking at trials", timeout_s=LOOK_TIMEOUT_S):
                    view = await _view(survey, stack, read_only=True)
                    end = _plan(view, is_complete=is_complete)
                    fallback = await run_blocking(look_at_fallback, host, view.context) if is_complete else None
                    given_up = await run_blocking(_sort_out, host, view.given_up)
            if not end.is_nothing:
                with steps.run("end", "Ending trials on the boot partition", timeout_s=COMMIT_TIMEOUT_S):
                    end, more = await _end_on_disk(host, survey, is_complete=is_complete)
                warnings += more
                is_ended = not end.stays
                outcome = replace(
                    outcome,
                    is_blessed=end.is_blessed,
                    is_restored=end.is_restored,
                )
    except (BootcFastError, OSError, ExceptionGroup) as error:
        is_ended = False
        what = (
            f"ending the trial of deployment {shorten_digest(survey.booted.digest)}" if is_complete else "ending trials"
        )
        warnings += [f"{what}: {describe_error(leaf)}; it is tried again at the next boot" for leaf in flatten(error)]
    with steps.run("note", "Noting how trials ended", timeout_s=NOTE_TIMEOUT_S):
        try:
            failed, said = await note_boot(host, survey, given_up, is_complete=is_complete and is_ended)
            outcome = replace(outcome, failed=failed)
            await run_blocking(note_given_up, host, failed)
            warnings += said
        except (BootcFastError, OSError) as error:
            warnings.append(f"noting how trials ended: {describe_error(error)}")
    if is_ended and fallback is not None:
        with steps.run("fallback", "Looking after the fallback entry", timeout_s=COMMIT_TIMEOUT_S):
            warnings += await keep_fallback(host, survey, fallback)
    if outcome.is_blessed or outcome.is_restored:
        await run_blocking(send_trial_ended, host, outcome)
    return replace(outcome, warnings=tuple(warnings))


async def _view(survey: Survey, stack: AsyncExitStack, *, read_only: bool) -> _View:
    boot = await open_boot_snapshot(survey, stack, loader=None, read_only=read_only)
    states, _unread = await run_blocking(read_states, survey.host)
    context = make_count_context(survey.host, survey, boot, states)
    counter = counter_of(boot.menu.record)
    trials = await run_blocking(counter.read, context)
    return _View(survey, boot, counter, context, {one.digest: one for one in trials})


def _plan(view: _View, *, is_complete: bool) -> _End:
    booted = view.survey.booted.digest
    end = plan_trial_end(view.boot.menu, booted, view.trials, view.given_up, is_complete=is_complete)
    # Of a finalize that was cut, and of what another tool made of the entries.
    return replace(end, clears=True) if is_complete and view.counter.has_leftovers(view.context) else end


def _sort_out(host: Host, given_up: dict[VerityDigest, int]) -> dict[VerityDigest, int]:
    """Leave out what may never have been tried: of a one-shot that was cut while it was being set nothing is left."""
    try:
        record = read_outcome(host)
    except (BootcFastError, OSError):
        return given_up
    is_cut = record is not None and record.result is Result.INTERRUPTED
    return {
        one: tries for one, tries in given_up.items() if not (is_cut and record is not None and record.staged == one)
    }


async def _end_on_disk(host: Host, survey: Survey, *, is_complete: bool) -> tuple[_End, list[str]]:
    """Look again under the lock, and publish; returns what was done, and warnings."""
    warnings: list[str] = []
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(hold_lock(host, timeout_s=LOCK_TIMEOUT_S))
        # Whoever held the lock may have changed all of it.
        survey = await run_blocking(_look, host, [])
        view = await _view(survey, stack, read_only=False)
        end = _plan(view, is_complete=is_complete)
        menu = view.boot.menu
        with anyio.CancelScope(shield=True):
            if end.order:
                plan = await run_blocking(_plan_entries, view, end)
                if not plan.is_noop:
                    published = await publish_menu(
                        view.boot.area,
                        menu,
                        plan,
                        set_variable=make_variable_setter(host),
                        protected=list_protected(survey, menu),
                    )
                    warnings += published.warnings
            if end.clears:
                failures = await run_blocking(view.counter.end, view.context)
                warnings += [f"{one}; it is tried again at the next boot" for one in failures]
                running = view.trials.get(survey.booted.digest)
                if failures and end.is_blessed and running is not None and running.method is CountMethod.GRUBENV:
                    # GRUB goes on counting, and falls back once no tries are left: nothing of that is over.
                    end = replace(end, is_blessed=False, stays=True)
    return end, warnings


def _plan_entries(view: _View, end: _End) -> MenuPlan:
    plan = plan_menu(
        view.boot.menu, order=end.order, staged=None, verify=False, blessed=end.blessed, renews=end.is_restored
    )
    # An update that waits for its finalize keeps its set.
    return plan if view.survey.marker is None else replace(plan, removes_staged=False)
