"""``bootc-fast doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.cli.failure import encode_error
from bootc_fast.cli.options import add_bootloader, add_progress
from bootc_fast.cli.progress import show_progress
from bootc_fast.cli.render import print_errors, print_json, print_lines
from bootc_fast.cli.runtime import run_async
from bootc_fast.errors import BootcFastErrorGroup, BootEntryError
from bootc_fast.flows.doctor import DoctorOutcome, doctor
from bootc_fast.text import escape

if TYPE_CHECKING:
    import argparse

    from bootc_fast.composefs.diagnosis import Finding

DESCRIPTION = """\
Finds what power cuts and other tools leave on the boot partition: entries that are torn, double or absent, a lost
grub2/user.cfg, an exchange of the sets that was cut, sets left beside it, a stale staged set, kernels that are missing
or damaged, a file system that is read-only, and on FAT broken directories and names that share clusters. Without
--repair it says what it would do and writes nothing. A FAT whose directories are broken is not written to: it says
which `fsck.fat -a` comes first, on the unmounted partition.
Exits with 0 where nothing is wrong any more, else with 7.
"""
EPILOG = """\
examples:
  bootc-fast doctor
  bootc-fast doctor --repair
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument("--repair", action="store_true", help="mend what can be mended")
    add_bootloader(parser)
    add_progress(parser)
    parser.add_argument("--json", action="store_true", help="print what was found and done as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    with show_progress(arguments) as on_event:
        outcome = run_async(
            lambda: doctor(arguments.root, repair=arguments.repair, loader=arguments.bootloader, on_event=on_event)
        )
    print_errors(f"warning: {warning}" for warning in outcome.warnings)
    wrong = [finding for finding in outcome.remaining if not finding.is_harmless]
    if arguments.json:
        from bootc_fast.records import asdict

        document = asdict(outcome)
        print_json({**document, **_encode_wrong(wrong)} if wrong else document)
    else:
        print_lines(render_outcome(outcome))
    return BootEntryError.exit_code if wrong else 0


def _encode_wrong(wrong: list[Finding]) -> dict[str, object]:
    """What stays wrong, in the form of every failure."""
    return encode_error(
        BootcFastErrorGroup(
            "looking at the boot partition",
            [BootEntryError(f"{finding.kind}: {finding.detail}", hint=finding.repair) for finding in wrong],
        )
    )


def render_outcome(outcome: DoctorOutcome) -> list[str]:
    """Say what is wrong, and what was or would be done."""
    lines = []
    for finding in outcome.findings:
        lines.append(escape(f"{finding.kind}: {finding.detail}"))
        verb = "repair" if outcome.repaired else "--repair would"
        lines.append(escape(f"  {verb}: {finding.repair}" if finding.repair else "  nothing is done about it here"))
    if not outcome.findings:
        lines.append("Nothing is wrong on the boot partition.")
    elif outcome.repaired:
        lines.append(f"Still wrong: {len(outcome.remaining)} of {len(outcome.findings)}")
    lines.append(f"Next boot: {escape(outcome.next_boot or 'nothing')}")
    return lines
