"""``bootc-fast boot-complete``: what ``bootc-fast-boot-complete.service`` runs at boot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.cli.render import print_errors
from bootc_fast.cli.runtime import run_async

if TYPE_CHECKING:
    import argparse

DESCRIPTION = """\
Fails, once, where an update was not applied: with the text of the last finalize's failure, or because what was staged
was never finalized, or because something else runs than was to boot. The unit that runs it at boot then shows up
among the failed ones. Exits with 0 where all went well or was told already. It also makes room on disk for the next
finalize's record, moves a record that cannot be read aside, and removes, after a soft reboot, the markers in /run
that ask for what runs now. What a power cut left of boot entries goes: a second entry for one deployment, a set beside
the one in force.

Where boot-complete.target is reached, what runs is no longer on trial: its boot entry loses its counters, and it is
good. Where the boot loader gave up on a new deployment, that one has failed, which is told once, and what runs becomes
the regular default again.
"""
EPILOG = """\
example:
  bootc-fast boot-complete
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command; it has no arguments of its own."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from bootc_fast.flows.boot_complete import forget_soft_reboot, report_last_finalize

    was_soft = forget_soft_reboot(arguments.root)
    report = run_async(lambda: report_last_finalize(arguments.root, run_was_kept=was_soft))
    if report is None:
        return 0
    print_errors(report.lines)
    return report.exit_code
