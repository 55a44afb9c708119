"""``bootc-fast status``."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

from bootc_fast.cli.options import add_bootloader
from bootc_fast.cli.progress import show_progress
from bootc_fast.cli.render import (
    can_write,
    find_width,
    print_errors,
    print_json,
    print_lines,
    want_colour,
    write_stdout,
)
from bootc_fast.cli.runtime import run_async
from bootc_fast.events import StepStarted
from bootc_fast.flows.status import COMPARE_TIMEOUT_S, get_status
from bootc_fast.report.check import check_status

if TYPE_CHECKING:
    import argparse

    from bootc_fast.report.check import Concern
    from bootc_fast.report.host_v1 import Document
    from bootc_fast.report.status import HostStatus

DESCRIPTION = """\
Shows what is booted, staged and kept; what boots next, and why (the loader's rule, or what overrides it); whether a
staged update will be applied at shutdown; which deployments a soft reboot leads to, or why not; how many local
changes in /etc a rollback would leave behind (with -v: which); and how the last finalize ended. Writes nothing. What
cannot be read is said and stops nothing.
"""
EPILOG = """\
examples:
  bootc-fast status
  bootc-fast status -v
  bootc-fast status --json
  bootc-fast status --booted --format yaml
  bootc-fast status --check >/dev/null
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument(
        "--json", action="store_const", const="json", dest="format", default="human", help="the same as --format json"
    )
    formats.add_argument(
        "--format", choices=("human", "json", "yaml"), default="human", help="how to print it (default: human)"
    )
    parser.add_argument(
        "--format-version", type=int, choices=(1,), default=1, metavar="1", help="version of the JSON and YAML form"
    )
    parser.add_argument("--booted", action="store_true", help="show the booted deployment only")
    parser.add_argument(
        "--check",
        action="store_true",
        help="exit with another code than 0 where a staged update will not be applied (10), the next boot is not as"
        " meant (7), or the last finalize failed (with its code); with several, the highest",
    )
    add_bootloader(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    compare_timeout_s = math.inf if arguments.verbose else COMPARE_TIMEOUT_S
    with show_progress(arguments, has_lines=False) as on_event:
        on_event(StepStarted("look", "Looking at the host"))
        status = run_async(
            lambda: get_status(
                arguments.root,
                loader=arguments.bootloader,
                compare_etc=not arguments.booted,
                compare_timeout_s=compare_timeout_s,
            )
        )
    concerns = check_status(status) if arguments.check else ()
    _print(status, arguments, concerns)
    print_errors(f"check: {concern.message}" for concern in concerns)
    return max((concern.exit_code for concern in concerns), default=0)


def _print(status: HostStatus, arguments: argparse.Namespace, concerns: tuple[Concern, ...]) -> None:
    if arguments.format == "human":
        from bootc_fast.cli.render_status import StatusText

        text = StatusText(
            status, colour=want_colour(sys.stdout), verbose=bool(arguments.verbose), width=find_width(sys.stdout)
        )
        print_lines(text.lines(booted_only=arguments.booted))
        return
    from bootc_fast.report.host_v1 import make_document

    document = make_document(status)
    if arguments.booted:
        _keep_booted(document)
    if arguments.check:
        document["bootcFast"]["check"] = [
            {"kind": one.kind, "message": one.message, "exitCode": one.exit_code} for one in concerns
        ]
    if arguments.format == "json":
        print_json(document)
    else:
        write_stdout(_make_yaml(document))


def _make_yaml(document: Document) -> str:
    """The document as YAML; where a text has what a terminal acts on, or the stream lacks, all but ASCII is escaped."""
    import yaml

    text = str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
    if all(line.isprintable() for line in text.split("\n")) and can_write(text):
        return text
    return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=False))


def _keep_booted(document: Document) -> None:
    """Drop what bootc's ``--booted`` drops: the staged and the rollback deployment, not the others."""
    document["status"].update(staged=None, rollback=None)
