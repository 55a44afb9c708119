"""The fallback entry, by policy: kept up to date where a boot is complete, so that what it boots has come up before.

Source:
    docs/boot-entries.md, "A fallback entry".
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio

from bootc_fast.boot.counting.records import Fallback
from bootc_fast.boot.counting.table import counter_of
from bootc_fast.boot.entries.keep import read_keep_policy
from bootc_fast.composefs.boot_snapshot import open_boot_snapshot
from bootc_fast.errors import BootcFastError
from bootc_fast.flows.counting import make_count_context
from bootc_fast.flows.steps import single_error
from bootc_fast.machine.lock import hold_lock
from bootc_fast.machine.native import run_blocking
from bootc_fast.records import dataclass
from bootc_fast.text import describe_error, flatten, shorten_digest

if TYPE_CHECKING:
    from bootc_fast.boot.counting.records import CountContext
    from bootc_fast.composefs.survey import Survey
    from bootc_fast.machine.host import Host

LOCK_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class FallbackLook:
    """What was found, and what the policy wants.

    Attributes:
        is_wanted: By the policy.
        fallback: What it takes; its `write` is not to be called any more.
        error: Why that could not be told.
    """

    is_wanted: bool
    fallback: Fallback = Fallback()
    error: OSError | None = None


def look_at_fallback(host: Host, context: CountContext) -> FallbackLook:
    """Look whether the fallback entry is as it has to be; blocks, and never raises."""
    is_wanted = read_keep_policy(host)[0].has_fallback
    try:
        return FallbackLook(is_wanted, counter_of(context.menu.record).plan_fallback(context, is_wanted=is_wanted))
    except OSError as error:
        return FallbackLook(is_wanted, error=error)


async def keep_fallback(host: Host, survey: Survey, seen: FallbackLook) -> list[str]:
    """Have the fallback entry boot what runs, where the policy wants one; else take away the one that is there.

    Safe at every boot: where it is so already nothing is opened, nor written. Cancellation: the file that has it is the
    old or the new one, whole.

    Args:
        host: With a writable /sysroot.
        survey: Its deployments; what runs has come up.
        seen: What was found.

    Returns:
        Warnings: why there is none though it is wanted, and what failed. It is tried again at the next boot.
    """
    what = f"fallback entry for {shorten_digest(survey.booted.digest)}"
    found = seen.fallback
    try:
        if seen.error is not None:
            raise seen.error
        if found.write is not None:
            with single_error():
                found = await _write(host, survey, is_wanted=seen.is_wanted)
    except (BootcFastError, OSError, ExceptionGroup) as error:
        return [f"{what}: {describe_error(leaf)}; it is tried again at the next boot" for leaf in flatten(error)]
    return [f"{what}: there is none: {found.reason}"] if found.reason and seen.is_wanted else []


async def _write(host: Host, survey: Survey, *, is_wanted: bool) -> Fallback:
    """Look again under the lock: whoever held it may have changed all of it."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(hold_lock(host, timeout_s=LOCK_TIMEOUT_S))
        boot = await open_boot_snapshot(survey, stack, loader=None, read_only=False)
        context = make_count_context(host, survey, boot, {})
        found = await run_blocking(lambda: counter_of(boot.menu.record).plan_fallback(context, is_wanted=is_wanted))
        if found.write is not None:
            with anyio.CancelScope(shield=True):
                await run_blocking(found.write)
        return found
