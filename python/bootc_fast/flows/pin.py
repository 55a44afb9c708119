"""Pinning: a deployment keeps its boot entry and its boot files, however many updates come.

The package exports the functions ``pin`` and ``unpin``: import this module by its full name.

Source:
    Spec trial.md, "Unstage, hold, keep".
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from bootc_fast.boot.entries.choose import choose_entry
from bootc_fast.boot.entries.keep import read_keep_policy, read_pins, write_pins
from bootc_fast.composefs.boot_snapshot import open_boot_snapshot
from bootc_fast.composefs.survey import read_survey
from bootc_fast.errors import BootEntryError, UsageError
from bootc_fast.events import ignore_event
from bootc_fast.flows.backend import refuse_ostree
from bootc_fast.flows.naming import choose_deployment, try_read_menu
from bootc_fast.flows.steps import Steps, single_error
from bootc_fast.machine.host import open_host
from bootc_fast.machine.lock import hold_lock
from bootc_fast.machine.mounts import open_writable
from bootc_fast.machine.native import run_blocking
from bootc_fast.records import dataclass
from bootc_fast.report.journal import send_pin
from bootc_fast.report.rollback import BOOTED
from bootc_fast.text import shorten_digest

if TYPE_CHECKING:
    from pathlib import Path

    from bootc_fast.boot.entries.menu import BootMenu
    from bootc_fast.events import EventSink
    from bootc_fast.types import Loader, VerityDigest

LOOK_TIMEOUT_S = 60.0
WRITE_TIMEOUT_S = 10.0
_NAMES_HINT = "name a digest, version or image tag that `bootc-fast status` shows, or 'booted'"


@dataclass(frozen=True, slots=True)
class PinOutcome:
    """What pinning or unpinning did.

    Attributes:
        deployment: Which.
        is_pinned: It is, now.
        is_changed: It was otherwise before.
        warnings: Everything odd.
    """

    deployment: VerityDigest
    is_pinned: bool
    is_changed: bool
    warnings: tuple[str, ...] = ()


async def pin(
    root: Path | str = "/",
    deployment: str = BOOTED,
    *,
    loader: Loader | None = None,
    timeout_s: float = 120.0,
    on_event: EventSink = ignore_event,
) -> PinOutcome:
    """Keep a deployment bootable, behind the new and the running one, whatever is updated.

    Cancellation: at any moment; it is pinned then or it is not.

    Args:
        root: ``/``, or a directory laid out like a host.
        deployment: ``"booted"``, a digest (8 characters of it or more), or a version or image tag that one deployment
            has.
        loader: Wins over what the host says.
        timeout_s: For the whole, in seconds.
        on_event: Gets the steps; must not block.

    Returns:
        What was done.

    Raises:
        NotBootcHostError: The host is none of ours, or an ostree host.
        UsageError: `deployment` names none, or several.
        BootEntryError: It has no boot entry, so that bootc's garbage collection would take it all the same.
        InvalidStateError: What is pinned cannot be told, or is too much.
        FileSystemError: It could not be written.
        StepTimeoutError: It took too long.
        LockedError: Another process is at it.

    Source:
        Spec trial.md, "Unstage, hold, keep".
    """
    return await _set_pin(root, deployment, wanted=True, loader=loader, timeout_s=timeout_s, on_event=on_event)


async def unpin(
    root: Path | str = "/",
    deployment: str = BOOTED,
    *,
    loader: Loader | None = None,
    timeout_s: float = 120.0,
    on_event: EventSink = ignore_event,
) -> PinOutcome:
    """Undo a pin; the deployment keeps its boot entry until the next update.

    Cancellation: at any moment; it is pinned then or it is not.

    Args:
        root: ``/``, or a directory laid out like a host.
        deployment: As for `pin`; also one that is gone and still pinned.
        loader: Wins over what the host says.
        timeout_s: For the whole, in seconds.
        on_event: Gets the steps; must not block.

    Returns:
        What was done.

    Raises:
        NotBootcHostError: The host is none of ours, or an ostree host.
        UsageError: `deployment` names none, or several, or one that a policy file pins.
        InvalidStateError: What is pinned cannot be told.
        FileSystemError: It could not be written.
        StepTimeoutError: It took too long.
        LockedError: Another process is at it.

    Source:
        Spec trial.md, "Unstage, hold, keep".
    """
    return await _set_pin(root, deployment, wanted=False, loader=loader, timeout_s=timeout_s, on_event=on_event)


async def _set_pin(
    root: Path | str, deployment: str, *, wanted: bool, loader: Loader | None, timeout_s: float, on_event: EventSink
) -> PinOutcome:
    doing = "pinning" if wanted else "unpinning"
    host = await run_blocking(open_host, root)
    await refuse_ostree(host, doing, hint="there it is `ostree admin pin`")
    steps = Steps(on_event, flow=doing, timeout_s=timeout_s)
    warnings: list[str] = []
    with single_error(), steps.limit_all():
        async with AsyncExitStack() as stack:
            await read_survey(host, needs_marker=False)
            await stack.enter_async_context(hold_lock(host))
            host = await stack.enter_async_context(open_writable(host))
            with steps.run("look", "Looking at the deployments", timeout_s=LOOK_TIMEOUT_S):
                pins = await run_blocking(read_pins, host)
                survey = await read_survey(host, needs_marker=False)
                menu: BootMenu | None
                if wanted:
                    # Without them nothing can be pinned.
                    with single_error():
                        menu = (await open_boot_snapshot(survey, stack, loader=loader, read_only=True)).menu
                else:
                    menu, warnings = await try_read_menu(survey, stack, loader)
                digest = survey.booted.digest
                if deployment != BOOTED:
                    digest = await run_blocking(
                        choose_deployment, survey, menu, deployment, pins, doing=doing, hint=_NAMES_HINT
                    )
                if wanted and menu is not None and choose_entry(menu, digest, prefers_staged=True) is None:
                    menu.odd.refuse_unread(doing)
                    raise BootEntryError(
                        f"{doing} {shorten_digest(digest)}: it has no boot entry",
                        hint="bootc's garbage collection takes what has none; pin it before an update lets it fall out",
                    )
                if (
                    not wanted
                    and digest not in pins
                    and digest in (await run_blocking(read_keep_policy, host))[0].pinned
                ):
                    raise UsageError(
                        f"{doing} {shorten_digest(digest)}: a policy file pins it",
                        hint="it stands under 'pinned' in /etc/bootc-fast/boot.toml or /usr/lib/bootc-fast/boot.toml",
                    )
            is_changed = (digest in pins) is not wanted
            await anyio.lowlevel.checkpoint()
            if is_changed:
                with (
                    anyio.CancelScope(shield=True),
                    steps.run("write", "Writing what is pinned", timeout_s=WRITE_TIMEOUT_S),
                ):
                    left = [one for one in pins if one != digest]
                    await run_blocking(write_pins, host, [*left, *([digest] if wanted else [])])
                    await run_blocking(send_pin, host, deployment=digest, is_pinned=wanted)
    return PinOutcome(digest, is_pinned=wanted, is_changed=is_changed, warnings=tuple(warnings))
