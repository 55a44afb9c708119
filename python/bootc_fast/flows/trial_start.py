"""A try that no boot loader has counted: after a soft reboot or a kexec, the start-up of what is on trial counts it.

Once, and before the health checks: a failure of theirs leads to a full reboot, and from there the loader counts on.

Source:
    Spec trial.md, "Counting": "Soft reboot and kexec go around the loader".
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio

from bootc_fast.boot.counting.records import CountMethod, CountWish, WantedMethod
from bootc_fast.boot.counting.table import counter_of
from bootc_fast.boot.entries.plan import plan_menu
from bootc_fast.boot.entries.publish import publish_menu
from bootc_fast.boot.entries.variables import make_variable_setter
from bootc_fast.boot.loaders.entry import strip_counters
from bootc_fast.composefs.boot_files import list_protected
from bootc_fast.composefs.boot_snapshot import open_boot_snapshot
from bootc_fast.composefs.survey import read_survey
from bootc_fast.errors import BootcFastError, NotBootcHostError
from bootc_fast.flows.counting import make_count_context
from bootc_fast.flows.steps import single_error
from bootc_fast.machine.lock import hold_lock
from bootc_fast.machine.mounts import open_writable
from bootc_fast.machine.native import run_blocking
from bootc_fast.text import describe_error, flatten
from bootc_fast.trial.states import TrialState, read_states

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bootc_fast.boot.entries.plan import MenuPlan
    from bootc_fast.composefs.boot_snapshot import BootSnapshot
    from bootc_fast.composefs.survey import Survey
    from bootc_fast.machine.host import Host
    from bootc_fast.types import VerityDigest

LOCK_TIMEOUT_S = 30.0
MAX_NOTE_BYTES = 1 << 10


async def count_start(host: Host) -> tuple[str, ...]:
    """Count this try where the loader has not; nothing happens where nothing is on trial, and at a second call.

    By one-shot the one try is this one: the variable goes. By counter the set is published anew with one try less and
    one more done; with one left the loader has that one all the same. Under GRUB its variables say whether it has
    counted.
    Cancellation: at any moment; a publication that has begun is finished.

    Returns:
        Warnings: what cannot be counted is tried all the same.
    """
    try:
        with single_error():
            survey = await read_survey(host, needs_marker=False)
            states, _unread = await run_blocking(read_states, host)
            record = states.get(survey.booted.digest)
            if record is None or record.state is not TrialState.TRIAL or record.method is None:
                return ()
            if await run_blocking(_was_started, host, survey.booted.digest):
                return ()
            return await _count(host, record.method)
    except NotBootcHostError:
        return ()
    except (BootcFastError, OSError, ExceptionGroup) as error:
        return tuple(f"counting this try: {describe_error(leaf)}" for leaf in flatten(error))


def _was_started(host: Host, digest: VerityDigest) -> bool:
    """Whether this start-up of a deployment was seen; it is from now on. /run stays over a soft reboot."""
    path = host.run / "bootc-fast/started"
    try:
        if host.read_bytes(path, max_bytes=MAX_NOTE_BYTES).decode("ascii", "replace").strip() == digest:
            return True
    except (FileNotFoundError, NotADirectoryError):
        pass
    if host.find_status(path.parent) is None:
        host.make_directory(path.parent)
    host.write_file(path, f"{digest}\n".encode())
    return False


async def _count(host: Host, method: CountMethod) -> tuple[str, ...]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(hold_lock(host, timeout_s=LOCK_TIMEOUT_S))
        writable = await stack.enter_async_context(open_writable(host))
        survey = await read_survey(writable, needs_marker=False)
        look = await open_boot_snapshot(survey, stack, loader=None, read_only=False)
        if method is not CountMethod.GRUBENV and _did_loader_start_it(look, survey.booted.digest):
            return ()
        if method is not CountMethod.COUNTER:
            states, _unread = await run_blocking(read_states, writable)
            context = make_count_context(writable, survey, look, states)
            return tuple(await run_blocking(counter_of(look.menu.record).count_start, context))
        plan = await run_blocking(_plan, writable, survey, look)
        if plan is None:
            return ("this try is not counted: the boot loader's last one stays",)
        with anyio.CancelScope(shield=True):
            published = await publish_menu(
                look.area,
                look.menu,
                plan,
                set_variable=make_variable_setter(writable),
                protected=list_protected(survey, look.menu),
            )
        return tuple(published.warnings)


def _did_loader_start_it(look: BootSnapshot, booted: VerityDigest) -> bool:
    """Whether what the loader says that it has started is an entry of what runs."""
    selected = look.variables.entry_selected
    if selected is None:
        return True
    name = strip_counters(selected.lower().encode("utf-8", "replace"))
    return any(entry.loader_id == name and entry.digest == booted for entry in look.menu.live.files)


def _plan(host: Host, survey: Survey, look: BootSnapshot) -> MenuPlan | None:
    """The same set with one try less; None where no try would be left."""
    menu, booted = look.menu, survey.booted.digest
    counted = [entry for entry in menu.live.files if entry.is_own and entry.digest == booted and entry.tries_left]
    # Of two names, as a cut in the firmware's rename leaves them, the loader takes the one with more tries.
    left, done = max(((entry.tries_left or 0, entry.tries_done or 0) for entry in counted), default=(0, 0))
    left, done = left - 1, done + 1
    if left < 1 or menu.own_order[:1] != (booted,):
        return None

    def replan(order: Sequence[VerityDigest], tried: VerityDigest | None = None) -> MenuPlan:
        del tried
        return plan_menu(menu, order=order, staged=None, verify=False, blessed=booted)

    plan = replan(menu.own_order)
    states, _unread = read_states(host)
    context = make_count_context(host, survey, look, states, target=booted, replan=replan)
    decision = counter_of(menu.record).decide(context, plan, CountWish(left, WantedMethod.COUNTER, done))
    return decision.plan if decision.method is CountMethod.COUNTER else None
