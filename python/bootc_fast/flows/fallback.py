"""The fallback entry, by policy: kept up to date where a boot is complete, so that what it boots has come up before.

Source:
    docs/boot-entries.md, "A fallback entry".
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio

from bootc_fast.boot.counting.table import counter_of
from bootc_fast.boot.entries.keep import read_keep_policy
from bootc_fast.composefs.boot_snapshot import open_boot_snapshot
from bootc_fast.errors import BootcFastError
from bootc_fast.flows.counting import make_count_context
from bootc_fast.flows.steps import single_error
from bootc_fast.machine.lock import hold_lock
from bootc_fast.machine.native import run_blocking
from bootc_fast.text import describe_error, flatten, shorten_digest

if TYPE_CHECKING:
    from bootc_fast.boot.counting.records import Fallback
    from bootc_fast.composefs.survey import Survey
    from bootc_fast.machine.host import Host

LOCK_TIMEOUT_S = 30.0


async def keep_fallback(host: Host, survey: Survey) -> list[str]:
    """Have the fallback entry boot what runs, where the policy wants one; else take away the one that is there.

    Safe at every boot: where it is so already nothing is written. Cancellation: the file that has it is the old or the
    new one, whole.

    Args:
        host: With a writable /sysroot.
        survey: Its deployments; what runs has come up.

    Returns:
        Warnings: why there is none though it is wanted, and what failed. It is tried again at the next boot.
    """
    policy, _said = await run_blocking(read_keep_policy, host)
    what = f"fallback entry for {shorten_digest(survey.booted.digest)}"
    try:
        with single_error():
            async with AsyncExitStack() as stack:
                found = await _plan(survey, stack, is_wanted=policy.has_fallback, read_only=True)
            if found.write is not None:
                found = await _write(host, survey, is_wanted=policy.has_fallback)
    except (BootcFastError, OSError, ExceptionGroup) as error:
        return [f"{what}: {describe_error(leaf)}; it is tried again at the next boot" for leaf in flatten(error)]
    return [f"{what}: there is none: {found.reason}"] if found.reason and policy.has_fallback else []


async def _plan(survey: Survey, stack: AsyncExitStack, *, is_wanted: bool, read_only: bool) -> Fallback:
    boot = await open_boot_snapshot(survey, stack, loader=None, read_only=read_only)
    context = make_count_context(survey.host, survey, boot, {})
    return await run_blocking(lambda: counter_of(boot.menu.record).plan_fallback(context, is_wanted=is_wanted))


async def _write(host: Host, survey: Survey, *, is_wanted: bool) -> Fallback:
    """Look again under the lock: whoever held it may have changed all of it."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(hold_lock(host, timeout_s=LOCK_TIMEOUT_S))
        found = await _plan(survey, stack, is_wanted=is_wanted, read_only=False)
        if found.write is not None:
            with anyio.CancelScope(shield=True):
                await run_blocking(found.write)
        return found
