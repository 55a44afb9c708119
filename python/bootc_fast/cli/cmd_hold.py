"""``bootc-fast hold``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.cli.options import add_bootloader, add_progress
from bootc_fast.cli.progress import show_progress
from bootc_fast.cli.render import print_outcome
from bootc_fast.cli.runtime import run_async
from bootc_fast.flows.hold import HoldOutcome, hold
from bootc_fast.text import shorten_digest

if TYPE_CHECKING:
    import argparse

DESCRIPTION = """\
Keeps the staged update from being finalized at shutdown, by bootc's own flag (what `bootc upgrade --download-only`
sets); it stays staged. --release lets it be finalized again. `bootc-fast status` says whether it is held.
"""
EPILOG = """\
examples:
  bootc-fast hold
  bootc-fast hold --release
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument("--release", action="store_true", help="let the staged update be finalized again")
    add_bootloader(parser)
    add_progress(parser)
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    with show_progress(arguments) as on_event:
        outcome = run_async(
            lambda: hold(arguments.root, release=arguments.release, loader=arguments.bootloader, on_event=on_event)
        )
    print_outcome(outcome, [render_outcome(outcome)], as_json=arguments.json)
    return 0


def render_outcome(outcome: HoldOutcome) -> str:
    """Say what was done."""
    if outcome.staged is None:
        return "Nothing is staged"
    state = "held: it is not finalized at shutdown" if outcome.is_held else "not held"
    return f"Staged update {shorten_digest(outcome.staged)}: {state}{'' if outcome.is_changed else ' (as before)'}"
