"""Whether what runs is healthy: the admin's and the image's own checks, side by side, each with a limit.

Source:
    Spec trial.md, "Health"; systemd, "Automatic Boot Assessment"; greenboot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from bootc_fast.events import ignore_event
from bootc_fast.flows.steps import Steps, single_error
from bootc_fast.flows.trial_failure import find_consequence
from bootc_fast.flows.trial_notes import note_unhealthy
from bootc_fast.flows.trial_start import count_start
from bootc_fast.machine.host import open_host
from bootc_fast.machine.native import run_blocking
from bootc_fast.machine.systemd import list_failed_units
from bootc_fast.records import dataclass, replace
from bootc_fast.report.journal import send_health
from bootc_fast.trial.checks import Check, CheckKind, CheckResult, Found, find_and_run, find_scripts, run_scripts
from bootc_fast.trial.network import list_network_checks, run_network_checks
from bootc_fast.trial.policy import HealthPolicy, read_health_policy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from pathlib import Path

    from bootc_fast.events import EventSink
    from bootc_fast.machine.host import Host

LOOK_TIMEOUT_S = 30.0
# What is left of the whole's time when the checks have taken all of theirs.
MARGIN_S = 30.0
RESTART_TIMEOUT_S = 60.0
FAILED_UNITS = "no failed unit"


@dataclass(frozen=True, slots=True)
class HealthOutcome:
    """How healthy what runs is.

    Attributes:
        is_healthy: No required check failed.
        checks: Every check, in the order of directories and names; then the scripts of ``green.d`` or ``red.d``.
        warnings: What was not run, and wanted checks that failed.
        restarts: The machine reboots: what runs is on trial, and not healthy.
        consequence: Why it does, or why not though it is on trial, in words; empty where nothing follows.
    """

    is_healthy: bool
    checks: tuple[Check, ...]
    warnings: tuple[str, ...] = ()
    restarts: bool = False
    consequence: str = ""

    @property
    def failures(self) -> tuple[Check, ...]:
        """The required checks that did not pass."""
        return tuple(
            one for one in self.checks if one.kind is CheckKind.REQUIRED and one.result is not CheckResult.PASSED
        )


async def judge_health(
    root: Path | str = "/",
    *,
    dry_run: bool = False,
    restart: Callable[[str], Awaitable[None]] | None = None,
    on_event: EventSink = ignore_event,
) -> HealthOutcome:
    """Run the health checks of a host, then its ``green.d`` or ``red.d``; on trial, note why it is not healthy.

    Every required and every wanted script runs, side by side, whatever becomes of the others.
    Cancellation: at any moment; what is running is killed.

    Args:
        root: ``/``, or a directory laid out like a host: its scripts are run on this machine then.
        dry_run: Say what would be run, run nothing.
        restart: Called at last, with a reason, where what runs is on trial and not healthy, the policy lets it, and the
            boot loader counts the next try or boots another deployment: ``restart_through_firmware``, or what an
            embedder has in its place. None restarts nothing.
        on_event: Gets the steps; must not block.

    Returns:
        How it ended; a check that fails is no exception.

    Raises:
        UsageError: `root` is no directory.
        StepTimeoutError: Reading the policy took too long.

    Source:
        Spec trial.md, "Health".
    """
    host = await run_blocking(open_host, root)
    steps = Steps(on_event, flow="judging the host's health", timeout_s=float("inf"))
    with single_error(), steps.limit_all():
        with steps.run("look", "Looking for health checks", timeout_s=LOOK_TIMEOUT_S):
            policy, warnings = await run_blocking(read_health_policy, host)
            found = await run_blocking(_find, host, policy)
        said = [*warnings, *(warning for one in found for warning in one.warnings)]
        unknown = [name for name in policy.disabled if not any(name in one.seen for one in found)]
        said += [f"the disabled check {name} is not there" for name in unknown]
        if dry_run:
            checks = [
                Check(str(script.path), script.kind, CheckResult.NOT_RUN) for one in found for script in one.scripts
            ]
            checks += [Check(name, CheckKind.REQUIRED, CheckResult.NOT_RUN) for name in _list_built_in(policy)]
            return HealthOutcome(is_healthy=True, checks=tuple(checks), warnings=tuple(said))
        said += await count_start(host)
        with steps.run("check", "Running health checks", timeout_s=policy.timeout_s + MARGIN_S):
            checks = await _check(host, policy, found)
        said += _list_wanted(checks)
        outcome = HealthOutcome(_is_healthy(checks), tuple(checks), tuple(said))
        reasons = [f"{one.path}: {one.reason}" for one in outcome.failures]
        if not outcome.is_healthy:
            # Before red.d, which may restart the machine.
            said += await note_unhealthy(host, reasons)
        kind = CheckKind.GREEN if outcome.is_healthy else CheckKind.RED
        with steps.run(kind.value, f"Running {kind.value}.d", timeout_s=policy.timeout_s + MARGIN_S):
            after, more = await find_and_run(
                host,
                kind,
                disabled=(),
                script_timeout_s=policy.script_timeout_s,
                timeout_s=policy.timeout_s,
            )
        said += [*more.warnings, *_list_wanted(after)]
    outcome = HealthOutcome(outcome.is_healthy, (*checks, *after), tuple(said))
    await run_blocking(lambda: send_health(host, is_healthy=outcome.is_healthy, reasons=reasons))
    if outcome.is_healthy or restart is None:
        return outcome
    return await _restart(host, outcome, restart, reasons, steps)


async def _restart(
    host: Host,
    outcome: HealthOutcome,
    restart: Callable[[str], Awaitable[None]],
    reasons: Iterable[str],
    steps: Steps,
) -> HealthOutcome:
    """Leave a deployment on trial that is not healthy to the boot loader, where that leads on."""
    with single_error(), steps.run("consequence", "Looking at what boots next", timeout_s=LOOK_TIMEOUT_S):
        found = await find_consequence(host)
    outcome = replace(
        outcome,
        restarts=found.restarts,
        consequence=found.reason,
        warnings=(*outcome.warnings, *found.warnings),
    )
    if found.restarts:
        with single_error(), steps.run("restart", "Rebooting", timeout_s=RESTART_TIMEOUT_S):
            await restart(f"not healthy, and on trial: {'; '.join(reasons)}")
    return outcome


def _find(host: Host, policy: HealthPolicy) -> list[Found]:
    return [find_scripts(host, kind, disabled=policy.disabled) for kind in (CheckKind.REQUIRED, CheckKind.WANTED)]


async def _check(host: Host, policy: HealthPolicy, found: list[Found]) -> list[Check]:
    """Run all of them at once, and what is built in."""
    together = Found([script for one in found for script in one.scripts])
    checks: list[Check] = []
    units: list[Check] = []
    network: list[Check] = []

    async def run_all() -> None:
        checks.extend(
            await run_scripts(
                together, script_timeout_s=policy.script_timeout_s, timeout_s=policy.timeout_s, cwd=host.root
            )
        )

    async def run_network() -> None:
        with anyio.move_on_after(policy.timeout_s):
            network.extend(await run_network_checks(policy))
            return
        reason = f"all checks together took longer than {policy.timeout_s:g} s"
        network.extend(
            Check(name, CheckKind.REQUIRED, CheckResult.TIMED_OUT, reason, policy.timeout_s)
            for name in list_network_checks(policy)
        )

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_all)
        tasks.start_soon(run_network)
        if policy.no_failed_units:
            units.append(await check_units(host, policy))
    return [*checks, *units, *network]


def _list_built_in(policy: HealthPolicy) -> list[str]:
    return [*([FAILED_UNITS] if policy.no_failed_units else []), *list_network_checks(policy)]


async def check_units(host: Host, policy: HealthPolicy) -> Check:
    """No unit has failed; where that cannot be asked it did not pass: somebody wanted to be sure."""
    units = await list_failed_units(host)
    if units is None:
        return Check(FAILED_UNITS, CheckKind.REQUIRED, CheckResult.FAILED, "the service manager cannot be asked")
    left = sorted(set(units) - set(policy.failed_units_except))
    if left:
        return Check(FAILED_UNITS, CheckKind.REQUIRED, CheckResult.FAILED, f"failed: {', '.join(left)}")
    return Check(FAILED_UNITS, CheckKind.REQUIRED, CheckResult.PASSED)


def _is_healthy(checks: Iterable[Check]) -> bool:
    return all(one.result is CheckResult.PASSED for one in checks if one.kind is CheckKind.REQUIRED)


def _list_wanted(checks: Iterable[Check]) -> list[str]:
    return [
        f"{one.path}: {one.reason}"
        for one in checks
        if one.kind is not CheckKind.REQUIRED and one.result is not CheckResult.PASSED
    ]
