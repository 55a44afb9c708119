"""``bootc-fast unstage``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.cli.options import add_bootloader, add_progress
from bootc_fast.cli.progress import show_progress
from bootc_fast.cli.render import print_outcome
from bootc_fast.cli.runtime import run_async
from bootc_fast.flows.unstage import unstage
from bootc_fast.text import shorten_digest

if TYPE_CHECKING:
    import argparse

    from bootc_fast.report.unstage import UnstageOutcome

DESCRIPTION = """\
Drops the staged update: its marker first, then its boot entries, then its state directory and its kernel or UKI, where
nothing else names them. The boot order stays. What a cut left of an earlier run goes, too. An update that is finalized
already boots next; `bootc-fast rollback` takes that back.
"""
EPILOG = """\
examples:
  bootc-fast unstage --dry-run
  bootc-fast unstage
  bootc-fast unstage --keep-files
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument(
        "--keep-files", action="store_true", help="leave its state directory and its kernel or UKI where they are"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would go, write nothing")
    add_bootloader(parser)
    add_progress(parser)
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    with show_progress(arguments) as on_event:
        outcome = run_async(
            lambda: unstage(
                arguments.root,
                keep_files=arguments.keep_files,
                dry_run=arguments.dry_run,
                loader=arguments.bootloader,
                on_event=on_event,
            )
        )
    print_outcome(outcome, render_outcome(outcome), as_json=arguments.json)
    return 0


def render_outcome(outcome: UnstageOutcome) -> list[str]:
    """Say what was dropped."""
    would = "would be " if outcome.dry_run else ""
    if outcome.unstaged is not None:
        lines = [f"Unstaged: {'would drop ' if outcome.dry_run else ''}{shorten_digest(outcome.unstaged)}"]
    else:
        lines = ["Nothing is staged"]
    lines += [f"  {would}removed: {one}" for one in outcome.removed]
    lines += [f"  {one}" for one in outcome.kept]
    return [*lines, f"Next boot: {outcome.next_boot or 'cannot be told'} (as before)"]
