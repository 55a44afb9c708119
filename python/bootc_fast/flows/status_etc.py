"""Adding to a status what a rollback would change in /etc: the same for both kinds of hosts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from bootc_fast.errors import BootcFastError
from bootc_fast.flows.steps import single_error
from bootc_fast.text import describe_error, flatten

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bootc_fast.etc.diff import EtcDiffEntry
    from bootc_fast.report.status import HostStatus


async def add_rollback_etc(
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
