"""``bootc-fast forget-failure``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.cli.options import add_bootloader, add_progress
from bootc_fast.cli.progress import show_progress
from bootc_fast.cli.render import print_outcome
from bootc_fast.cli.runtime import run_async
from bootc_fast.flows.forget_failure import ForgetOutcome, forget_failure
from bootc_fast.text import shorten_digest

if TYPE_CHECKING:
    import argparse

DESCRIPTION = """\
Forgets that a deployment failed its trial: it is finalized, and rolled back to, like any other again. Without, only
--force takes it. `bootc-fast status` says which ones have failed, and why.
"""
EPILOG = """\
examples:
  bootc-fast forget-failure 0123456789abcdef
  bootc-fast forget-failure 43.20261101.0
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument(
        "deployment",
        metavar="DEPLOYMENT",
        help="the deployment, by its digest or 8 characters of it, also of one that is gone, or by the version or "
        "image tag that one has",
    )
    add_bootloader(parser)
    add_progress(parser)
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    with show_progress(arguments) as on_event:
        outcome = run_async(
            lambda: forget_failure(arguments.root, arguments.deployment, loader=arguments.bootloader, on_event=on_event)
        )
    print_outcome(outcome, [render_outcome(outcome)], as_json=arguments.json)
    return 0


def render_outcome(outcome: ForgetOutcome) -> str:
    """Say what was done."""
    state = "its failed trial is forgotten" if outcome.is_changed else "no failed trial is known"
    return f"Deployment {shorten_digest(outcome.deployment)}: {state}"
