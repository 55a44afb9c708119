"""``bootc-fast boot-complete``: what ``bootc-fast-boot-complete.service`` runs at boot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.cli.render import print_errors
from bootc_fast.cli.runtime import run_async

if TYPE_CHECKING:
    import argparse

DESCRIPTION = """\
Fails with the text of the last finalize's failure, once: the unit that runs it at boot then shows up among the
failed ones. Exits with 0 where the last finalize ended well or was told already. After a soft reboot it also removes
the markers in /run that ask for what runs now.
"""
EPILOG = """\
example:
  bootc-fast boot-complete; systemctl status bootc-fast-boot-complete.service
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command; it has no arguments of its own."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from bootc_fast.flows.boot_complete import forget_soft_reboot, report_last_finalize

    forget_soft_reboot(arguments.root)
    report = run_async(lambda: report_last_finalize(arguments.root))
    if report is None:
        return 0
    print_errors(report.lines)
    return report.exit_code
