"""Holding a staged update: it stays staged and is not finalized at shutdown, until it is released.

The package exports the function of the module's name: import this module by its full name.

Source:
    Spec trial.md, "Unstage, hold, keep".
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from bootc_fast.composefs.boot_snapshot import open_boot_snapshot
from bootc_fast.composefs.marker_lock import write_lock
from bootc_fast.composefs.survey import read_survey
from bootc_fast.errors import BootcFastError, InvalidStateError
from bootc_fast.events import ignore_event
from bootc_fast.flows.backend import refuse_ostree
from bootc_fast.flows.steps import Steps, single_error
from bootc_fast.machine.host import open_host
from bootc_fast.machine.lock import hold_lock
from bootc_fast.machine.native import run_blocking
from bootc_fast.machine.systemd import find_finalize_unit
from bootc_fast.records import dataclass
from bootc_fast.report.journal import send_hold
from bootc_fast.text import describe_error, flatten, shorten_digest

if TYPE_CHECKING:
    from pathlib import Path

    from bootc_fast.composefs.survey import Survey
    from bootc_fast.events import EventSink
    from bootc_fast.types import Loader, VerityDigest

LOOK_TIMEOUT_S = 60.0
WRITE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class HoldOutcome:
    """What holding or releasing did.

    Attributes:
        staged: The deployment that is staged; None where none is, and there was nothing to release.
        is_held: It is not finalized at shutdown, by us or by bootc.
        is_changed: It was otherwise before.
        warnings: Everything odd.
    """

    staged: VerityDigest | None
    is_held: bool
    is_changed: bool
    warnings: tuple[str, ...] = ()


async def hold(
    root: Path | str = "/",
    *,
    release: bool = False,
    loader: Loader | None = None,
    timeout_s: float = 120.0,
    on_event: EventSink = ignore_event,
) -> HoldOutcome:
    """Keep the staged update from being finalized at shutdown, or with `release` let it be.

    The flag is bootc's own (``finalization_locked``, what ``bootc upgrade --download-only`` sets); nothing else in the
    marker changes.
    Cancellation: at any moment; the marker is the old or the new one, whole.

    Args:
        root: ``/``, or a directory laid out like a host.
        release: Take the flag away.
        loader: Wins over what the host says.
        timeout_s: For the whole, in seconds.
        on_event: Gets the steps; must not block.

    Returns:
        What was done.

    Raises:
        NotBootcHostError: The host is none of ours, or an ostree host.
        InvalidStateError: Nothing is staged, the marker is malformed or older than the flag, or the update is finalized
            already and boots next.
        FileSystemError: The marker cannot be read or written; it is as it was.
        StepTimeoutError: It took too long.
        LockedError: Another process is at it.

    Source:
        Spec trial.md, "Unstage, hold, keep".
    """
    doing = "releasing the staged update" if release else "holding the staged update"
    host = await run_blocking(open_host, root)
    await refuse_ostree(host, doing, hint="there it is `ostree admin lock-finalization`")
    steps = Steps(on_event, flow=doing, timeout_s=timeout_s)
    with single_error(), steps.limit_all():
        async with AsyncExitStack() as stack:
            await read_survey(host, needs_marker=False)
            await stack.enter_async_context(hold_lock(host))
            with steps.run("look", "Looking at what is staged", timeout_s=LOOK_TIMEOUT_S):
                survey = await read_survey(host)
                if survey.marker is None:
                    if not release:
                        raise InvalidStateError(f"{doing}: nothing is staged", hint="`bootc upgrade` stages an update")
                    return HoldOutcome(None, is_held=False, is_changed=False)
                warnings = await _look_further(survey, stack, loader, doing)
            await anyio.lowlevel.checkpoint()
            with (
                anyio.CancelScope(shield=True),
                steps.run("write", "Writing the marker", timeout_s=WRITE_TIMEOUT_S),
            ):
                is_changed = await run_blocking(write_lock, host, is_locked=not release)
                if is_changed:
                    await run_blocking(send_hold, host, staged=survey.marker.digest, is_held=not release)
        if release:
            runs, why = await find_finalize_unit(host)
            warnings += [f"it is not applied at shutdown all the same: {why}"] if runs is False else []
    return HoldOutcome(survey.marker.digest, is_held=not release, is_changed=is_changed, warnings=tuple(warnings))


async def _look_further(survey: Survey, stack: AsyncExitStack, loader: Loader | None, doing: str) -> list[str]:
    """Refuse where the flag would say what is not so; what cannot be looked at is a warning: the flag is in /run.

    Raises:
        InvalidStateError: It is finalized.
    """
    assert survey.marker is not None  # noqa: S101 the caller has looked
    try:
        with single_error():
            boot = await open_boot_snapshot(survey, stack, loader=loader, read_only=True)
    except (BootcFastError, OSError, ExceptionGroup) as error:
        return [f"whether it is finalized already cannot be told: {describe_error(leaf)}" for leaf in flatten(error)]
    default = boot.menu.default
    if default is not None and default.digest == survey.marker.digest:
        message = f"{doing}: {shorten_digest(survey.marker.digest)} is finalized already, and boots next"
        raise InvalidStateError(message, hint="`bootc-fast rollback --to booted` takes that back, and drops it")
    return []
