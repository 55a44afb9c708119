"""Forgetting that a deployment failed its trial, so that it is taken like any other again.

The package exports the function of the module's name: import this module by its full name.

Source:
    Spec trial.md, "Known bad".
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from bootc_fast.composefs.survey import read_survey
from bootc_fast.events import ignore_event
from bootc_fast.flows.backend import refuse_ostree
from bootc_fast.flows.naming import choose_deployment, try_read_menu
from bootc_fast.flows.steps import Steps, single_error
from bootc_fast.machine.host import open_host
from bootc_fast.machine.lock import hold_lock
from bootc_fast.machine.mounts import open_writable
from bootc_fast.machine.native import run_blocking
from bootc_fast.records import dataclass
from bootc_fast.report.finalize import now_text
from bootc_fast.report.journal import send_forgotten
from bootc_fast.trial.states import TrialRecord, TrialState, change_states, read_states
from bootc_fast.trial.verdict import find_given_up, judge_deployment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bootc_fast.events import EventSink
    from bootc_fast.types import Loader, VerityDigest

LOOK_TIMEOUT_S = 60.0
WRITE_TIMEOUT_S = 10.0
_DOING = "forgetting a failed trial"
_NAMES_HINT = "name a digest, version or image tag that `bootc-fast status` shows, or that failed"


@dataclass(frozen=True, slots=True)
class ForgetOutcome:
    """What was forgotten.

    Attributes:
        deployment: Which.
        is_changed: It had failed, and counts as any other now.
        warnings: Everything odd.
    """

    deployment: VerityDigest
    is_changed: bool
    warnings: tuple[str, ...] = ()


async def forget_failure(
    root: Path | str = "/",
    deployment: str = "",
    *,
    loader: Loader | None = None,
    timeout_s: float = 120.0,
    on_event: EventSink = ignore_event,
) -> ForgetOutcome:
    """Forget that a deployment failed its trial: finalize and rollback take it like any other again.

    A boot entry without tries left stays as it is, and does not count any more.
    Cancellation: at any moment; it is forgotten then or it is not.

    Args:
        root: ``/``, or a directory laid out like a host.
        deployment: A digest (8 characters of it or more), also of one that is gone; or a version or image tag that one
            deployment has.
        loader: Wins over what the host says.
        timeout_s: For the whole, in seconds.
        on_event: Gets the steps; must not block.

    Returns:
        What was done.

    Raises:
        NotBootcHostError: The host is none of ours, or an ostree host.
        UsageError: `deployment` names none, or several.
        FileSystemError: It could not be written.
        StepTimeoutError: It took too long.
        LockedError: Another process is at it.

    Source:
        Spec trial.md, "Known bad".
    """
    host = await run_blocking(open_host, root)
    await refuse_ostree(host, _DOING, hint="trials are counted on composefs hosts only")
    steps = Steps(on_event, flow=_DOING, timeout_s=timeout_s)
    with single_error(), steps.limit_all():
        async with AsyncExitStack() as stack:
            await read_survey(host, needs_marker=False)
            await stack.enter_async_context(hold_lock(host))
            host = await stack.enter_async_context(open_writable(host))
            with steps.run("look", "Looking at the deployments", timeout_s=LOOK_TIMEOUT_S):
                survey = await read_survey(host, needs_marker=False)
                menu, warnings = await try_read_menu(survey, stack, loader)
                states, unread = await run_blocking(read_states, host)
                failed = (*(find_given_up(menu) if menu is not None else {}), *states)
                digest = await run_blocking(
                    choose_deployment, survey, menu, deployment, failed, doing=_DOING, hint=_NAMES_HINT
                )
                record = judge_deployment(states, digest, menu)
            is_changed = record is not None and record.state is TrialState.FAILED
            await anyio.lowlevel.checkpoint()
            if is_changed:
                given_up = digest in find_given_up(menu) if menu is not None else False

                def change(known: Mapping[VerityDigest, TrialRecord]) -> Mapping[VerityDigest, TrialRecord]:
                    rest = {one: record for one, record in known.items() if one != digest}
                    return {**rest, digest: TrialRecord(TrialState.NEW, is_forgiven=given_up)}

                with (
                    anyio.CancelScope(shield=True),
                    steps.run("write", "Writing what is known", timeout_s=WRITE_TIMEOUT_S),
                ):
                    warnings += await run_blocking(
                        lambda: change_states(host, change, with_state=survey.with_state, time=now_text())
                    )
                    await run_blocking(send_forgotten, host, deployment=digest)
            elif unread:
                warnings += unread
    return ForgetOutcome(digest, is_changed=is_changed, warnings=tuple(warnings))
