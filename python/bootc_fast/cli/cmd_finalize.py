"""``bootc-fast composefs-finalize-staged``, alias ``finalize``."""

from __future__ import annotations

from bootc_fast.cli.options import add_bootloader, add_on_conflict, add_progress, parse_choice
from bootc_fast.cli.render import print_errors, print_json, print_lines, render_boots_instead, text_seconds
from bootc_fast.composefs.deployments import read_marker
from bootc_fast.errors import BootcFastError, FileSystemError
from bootc_fast.machine.booted import read_booted
from bootc_fast.machine.host import open_host
from bootc_fast.records import asdict
from bootc_fast.report.journal import send_finalize
from bootc_fast.text import describe_error
from bootc_fast.types import FinalizeOutcome, Result

# Not from typing: importing that takes a tenth of the whole start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from bootc_fast.etc.policy import ConflictChoice
    from bootc_fast.types import Strategy

DESCRIPTION = """\
Merges the running /etc into the staged deployment and makes it the next boot. With nothing staged, or the staged
deployment locked or finalized already, nothing changes. A unit runs this when the machine goes down.
"""
EPILOG = """\
examples:
  bootc-fast composefs-finalize-staged --dry-run
  bootc-fast composefs-finalize-staged --on-conflict current --report /run/finalize.json
"""

_HEADLINES = {
    Result.NOTHING_STAGED: "Nothing is staged: nothing to do",
    Result.LOCKED: "The staged deployment is locked (download-only): nothing was changed",
    Result.ALREADY_DONE: "The staged deployment is finalized already: nothing to do",
    Result.DRY_RUN: "Nothing was changed (dry run)",
    Result.DONE: "The staged deployment boots next",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, write nothing on the host")
    add_on_conflict(parser)
    parser.add_argument(
        "--timeout", type=_seconds, default=240.0, metavar="SECONDS", help="for the whole (default: 240)"
    )
    parser.add_argument("--report", metavar="FILE", help="write what was done as JSON to FILE, also after a failure")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    parser.add_argument(
        "--hold",
        action="store_true",
        help="finalize nothing: keep automounted boot partitions mounted until SIGTERM, as bootc's hold unit asks",
    )
    add_bootloader(parser)
    add_progress(parser)
    parser.add_argument(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="do not check that what the boot entry names is there and what was staged, nor its signature",
    )
    parser.add_argument(
        "--force", action="store_true", help="also take a deployment that failed its trial (see 'forget-failure')"
    )
    parser.add_argument(
        "--no-verify-signatures",
        action="store_true",
        help="with Secure Boot on, do not refuse a UKI or kernel that the firmware, or shim, would refuse",
    )


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    if arguments.hold:
        return _hold(arguments.root)
    # Whatever is staged: a mistake in a unit is found before the shutdown that it would cost.
    on_conflict = parse_choice(arguments.on_conflict)
    outcome = _find_nothing_staged(arguments.root, dry_run=arguments.dry_run) or _finalize(arguments, on_conflict)
    if arguments.report:
        _write_report(arguments.report, encode_outcome(outcome))
    print_errors(f"warning: {warning}" for warning in outcome.warnings)
    if arguments.json:
        print_json(encode_outcome(outcome))
    else:
        print_lines(render_outcome(outcome))
    return 0


def _hold(root: str) -> int:
    """Hold the boot partitions open until a signal says that it is enough."""
    import os
    import signal

    from bootc_fast.boot.area.hold import open_boot_directories

    enough = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, enough)
    held = open_boot_directories(open_host(root))
    try:
        signal.sigwait(enough)
    finally:
        for fd in held.values():
            os.close(fd)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return 0


def _find_nothing_staged(root: str, *, dry_run: bool) -> FinalizeOutcome | None:
    """Look, before the flow is even imported, whether nothing is staged; None where there may be something to do.

    On most shutdowns there is nothing, and trio and the flow are most of what the command costs then:
    287 ms of processor time without this, 75 ms with it.
    What is wrong with a host is the flow's to find, and to tell.
    """
    try:
        host = open_host(root)
        booted = read_booted(host)
        marker = read_marker(host, booted)
    except (BootcFastError, OSError):
        return None
    if marker is not None:
        return None
    outcome = FinalizeOutcome(Result.NOTHING_STAGED, booted=booted.digest)
    if not dry_run:
        send_finalize(host, outcome)
    return outcome


def _finalize(arguments: argparse.Namespace, on_conflict: Strategy | ConflictChoice | None) -> FinalizeOutcome:
    from bootc_fast.cli.progress import show_progress
    from bootc_fast.cli.runtime import run_async
    from bootc_fast.flows.finalize import finalize_staged
    from bootc_fast.flows.finalize_run import FinalizeOptions

    options = FinalizeOptions(
        on_conflict=on_conflict,
        dry_run=arguments.dry_run,
        timeout_s=arguments.timeout,
        loader=arguments.bootloader,
        verify_signatures=not arguments.no_verify_signatures,
        verify=arguments.verify,
        force=arguments.force,
    )
    with show_progress(arguments) as on_event:
        try:
            return run_async(lambda: finalize_staged(arguments.root, options, on_event=on_event))
        except Exception as error:
            if arguments.report:
                from bootc_fast.cli.failure import encode_error

                _write_report(arguments.report, encode_error(error))
            raise


def render_outcome(outcome: FinalizeOutcome) -> list[str]:
    """Say what was done: the merge's report, the next boot, how long it took."""
    lines = []
    if outcome.etc is not None:
        from bootc_fast.etc.render import render_report

        lines = render_report(outcome.etc)
    is_first = outcome.boots_instead is None
    is_done = outcome.result is Result.DONE
    lines.append(_HEADLINES[outcome.result] if is_first or not is_done else "The staged deployment is finalized")
    if outcome.result in {Result.DONE, Result.DRY_RUN}:
        verb = ("Next boot" if is_done else "Would be next boot") if is_first else "First of this host"
        total = text_seconds(sum(outcome.phase_s.values()))
        lines.append(f"{verb}: {outcome.staged} ({outcome.next_boot or ''}), in {total}")
    return [*lines, *render_boots_instead(outcome.boots_instead, dry_run=outcome.result is Result.DRY_RUN)]


def encode_outcome(outcome: FinalizeOutcome) -> dict[str, Any]:
    """Turn an outcome into plain values for JSON."""
    from bootc_fast.etc.render import encode_report

    return {
        "result": outcome.result.value,
        "booted": outcome.booted,
        "staged": outcome.staged,
        "next_boot": outcome.next_boot,
        "boots_instead": None if outcome.boots_instead is None else asdict(outcome.boots_instead),
        "etc": None if outcome.etc is None else encode_report(outcome.etc),
        "warnings": list(outcome.warnings),
        "phase_s": {name: round(seconds, 6) for name, seconds in outcome.phase_s.items()},
    }


def _write_report(path: str, document: dict[str, Any]) -> None:
    from bootc_fast.cli.report_file import write_report

    try:
        write_report(path, document)
    except FileSystemError as error:
        # The finalize has been done, or has failed with an error of its own: this must not hide that.
        print_errors([f"warning: {describe_error(error)}"])
