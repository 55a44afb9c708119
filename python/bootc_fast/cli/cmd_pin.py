"""``bootc-fast pin`` and ``bootc-fast unpin``."""

from __future__ import annotations

import argparse

from bootc_fast.cli.options import add_bootloader, add_progress
from bootc_fast.cli.progress import show_progress
from bootc_fast.cli.render import print_outcome
from bootc_fast.cli.runtime import run_async
from bootc_fast.flows.pin import PinOutcome, pin, unpin
from bootc_fast.text import shorten_digest

DESCRIPTION = """\
Keeps a deployment bootable, behind the new and the running one, however many updates come: `pin` pins it, `unpin`
undoes that, and it keeps its boot entry until the next update. `bootc-fast status` shows which ones are pinned.
"""
EPILOG = """\
examples:
  bootc-fast pin booted
  bootc-fast pin 43.20261101.0
  bootc-fast unpin 0123456789abcdef
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument(
        "deployment",
        metavar="DEPLOYMENT",
        help="`booted`, or the deployment by its digest or 8 characters of it, or by the version or image tag that "
        "one has",
    )
    # What `unpin` stands for.
    parser.add_argument("--undo", action="store_true", help=argparse.SUPPRESS)
    add_bootloader(parser)
    add_progress(parser)
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    function = unpin if arguments.undo else pin
    with show_progress(arguments) as on_event:
        outcome = run_async(
            lambda: function(arguments.root, arguments.deployment, loader=arguments.bootloader, on_event=on_event)
        )
    print_outcome(outcome, [render_outcome(outcome)], as_json=arguments.json)
    return 0


def render_outcome(outcome: PinOutcome) -> str:
    """Say what was done."""
    state = "pinned" if outcome.is_pinned else "not pinned"
    return f"Deployment {shorten_digest(outcome.deployment)}: {state}{'' if outcome.is_changed else ' (as before)'}"
