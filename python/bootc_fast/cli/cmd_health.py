"""``bootc-fast health``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from bootc_fast.cli.failure import encode_error
from bootc_fast.cli.options import add_progress
from bootc_fast.cli.progress import show_progress
from bootc_fast.cli.render import print_errors, print_json, print_lines, text_seconds
from bootc_fast.cli.runtime import run_async
from bootc_fast.errors import TrialFailedError, UsageError
from bootc_fast.flows.health import HealthOutcome, judge_health
from bootc_fast.restart.full import restart_through_firmware
from bootc_fast.trial.checks import CheckResult

if TYPE_CHECKING:
    import argparse

DESCRIPTION = """\
Runs the health checks of what runs, side by side, each with a time limit: executables in /etc/greenboot and
/usr/lib/greenboot, check/required.d and check/wanted.d, as greenboot has them, and in required.d and wanted.d of
/etc/bootc-fast/health.d and /usr/lib/bootc-fast/health.d; and what trial.toml switches on: no failed unit, a
default route, names that resolve, URLs that answer. Then those in green.d or red.d. Exits with 0 where every required
check passed, else with 12. Nothing restarts, but with --reboot, which is for the unit: what is on trial and not healthy
is left to the boot loader, by a full reboot, where that tries it again or boots another deployment.
"""
EPILOG = """\
examples:
  bootc-fast health
  bootc-fast health --dry-run
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument("--dry-run", action="store_true", help="say what would be run, run nothing")
    parser.add_argument("--reboot", action="store_true", help="reboot where what runs is on trial and not healthy")
    add_progress(parser)
    parser.add_argument("--json", action="store_true", help="print how each check ended as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    if arguments.reboot and str(arguments.root) != "/":
        raise UsageError("--reboot is for the machine itself: it does not go with --root")
    with show_progress(arguments) as on_event:
        restart = partial(restart_through_firmware, root=arguments.root) if arguments.reboot else None
        outcome = run_async(
            lambda: judge_health(arguments.root, dry_run=arguments.dry_run, restart=restart, on_event=on_event)
        )
    for check in outcome.checks:
        # Into the journal of the unit that runs this.
        if arguments.verbose or check.result not in {CheckResult.PASSED, CheckResult.NOT_RUN}:
            print_errors(f"{check.path}: {line}" for line in check.output)
    print_errors(f"warning: {warning}" for warning in outcome.warnings)
    if arguments.json:
        print_json(encode_outcome(outcome))
    else:
        print_lines(render_outcome(outcome, dry_run=arguments.dry_run))
    return 0 if outcome.is_healthy else TrialFailedError.exit_code


def encode_outcome(outcome: HealthOutcome) -> dict[str, object]:
    """Turn an outcome into plain values for JSON; what is unhealthy has the form of every failure, too."""
    from bootc_fast.records import asdict

    document = asdict(outcome)
    if outcome.is_healthy:
        return document
    reasons = "; ".join(f"{one.path}: {one.reason}" for one in outcome.failures)
    return {**document, **encode_error(TrialFailedError(f"judging the host's health: {reasons}"))}


def render_outcome(outcome: HealthOutcome, *, dry_run: bool) -> list[str]:
    """Say how each check ended."""
    lines = []
    for one in outcome.checks:
        why = f": {one.reason}" if one.reason else ""
        took = "" if dry_run else f" ({text_seconds(one.seconds)})"
        lines.append(f"{one.kind} {one.path}: {one.result}{why}{took}")
    if dry_run:
        return lines or ["There is no health check."]
    follows = f"{'Rebooting' if outcome.restarts else 'On trial'}: {outcome.consequence}"
    verdict = "Healthy" if outcome.is_healthy else "NOT healthy"
    return [*lines, verdict, *([follows] if outcome.consequence else [])]
