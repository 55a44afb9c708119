"""``bootc-fast soft-reboot``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.cli.options import add_bootloader, add_progress
from bootc_fast.cli.progress import show_progress
from bootc_fast.cli.render import print_json, print_lines
from bootc_fast.cli.runtime import run_async

if TYPE_CHECKING:
    import argparse

    from bootc_fast.flows.next_boot import NextBootOutcome

DESCRIPTION = """\
Prepares a soft reboot into the deployment that boots next: its root is mounted at /run/nextroot, a staged update is
finalized before. Nothing restarts without --apply; --reset clears what was prepared, a loaded kernel too.
"""
EPILOG = """\
examples:
  bootc-fast soft-reboot --dry-run
  bootc-fast soft-reboot --apply
  bootc-fast soft-reboot --reset
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    from bootc_fast.restart.ways import SoftRebootMode

    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument("--reset", action="store_true", help="clear what was prepared, do nothing else")
    parser.add_argument("--apply", action="store_true", help="restart, unless the running deployment boots next")
    parser.add_argument(
        "--mode",
        type=SoftRebootMode,
        choices=list(SoftRebootMode),
        default=SoftRebootMode.REQUIRED,
        help="a soft reboot (required, the default), a kexec, or the fastest that is possible (auto)",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, change nothing")
    add_bootloader(parser)
    add_progress(parser)
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    if arguments.reset:
        return _reset(arguments)
    from bootc_fast.flows.next_boot import enter_next_boot

    with show_progress(arguments) as on_event:
        outcome = run_async(
            lambda: enter_next_boot(
                arguments.root,
                mode=arguments.mode,
                apply=arguments.apply,
                dry_run=arguments.dry_run,
                loader=arguments.bootloader,
                on_event=on_event,
            )
        )
    if arguments.json:
        from bootc_fast.records import asdict

        print_json(asdict(outcome))
    else:
        print_lines(render_outcome(outcome))
    return 0


def _reset(arguments: argparse.Namespace) -> int:
    from bootc_fast.restart.ways import reset_restart

    if arguments.apply or arguments.dry_run:
        from bootc_fast.errors import UsageError

        raise UsageError("reading the command line: --reset goes with neither --apply nor --dry-run")
    is_found = run_async(lambda: reset_restart(arguments.root))
    if arguments.json:
        print_json({"cleared": is_found})
    else:
        print_lines(["Cleared what was prepared" if is_found else "Nothing was prepared"])
    return 0


def render_outcome(outcome: NextBootOutcome) -> list[str]:
    """Say what was prepared."""
    lines = [f"Next boot: {outcome.target}"]
    if outcome.is_finalized:
        lines.append(f"The staged update {'would be' if outcome.dry_run else 'was'} finalized first")
    lines += outcome.notes
    if outcome.way is not None:
        lines.append(f"{'Would restart' if outcome.dry_run else 'Restart'} by: systemctl {outcome.way}")
    return lines
