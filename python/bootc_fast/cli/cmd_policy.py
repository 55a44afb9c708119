"""``bootc-fast policy check``: what the policy files say, and where each value comes from."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from bootc_fast.cli.failure import encode_error, exit_code_of
from bootc_fast.cli.parser import add_global_options
from bootc_fast.cli.render import print_error, print_json, print_lines
from bootc_fast.errors import BootcFastErrorGroup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bootc_fast.report.policies import PolicyReport, PolicyValue

DESCRIPTION = """\
Reads the policy files of this host, or those that are named (by kind one on top of the other, in this order), and says
what holds: each value, what it is for, and which file it comes from. Whatever cannot be understood is named with what
may stand there. Writes nothing.
"""
EPILOG = """\
examples:
  bootc-fast policy check
  bootc-fast policy check --json
  bootc-fast policy check ./merge.toml

The files are merge.toml, boot.toml and trial.toml in /usr/lib/bootc-fast, which comes with the image, and in
/etc/bootc-fast, which is the administrator's; man pages: bootc-fast-merge.toml(5), bootc-fast-boot.toml(5),
bootc-fast-trial.toml(5).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-command."""
    parser.description = "Checks policy files."
    parser.epilog = EPILOG
    commands = parser.add_subparsers(dest="policy_command", metavar="COMMAND", required=True)
    check = commands.add_parser("check", help="say what the policy files mean, and what is wrong with them")
    check.description = DESCRIPTION
    check.epilog = EPILOG
    check.add_argument("files", metavar="FILE", nargs="*", type=Path, help="default: those of the host")
    check.add_argument("--json", action="store_true", help="print JSON")
    add_global_options(check, default=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Run the sub-command."""
    from bootc_fast.machine.host import open_host
    from bootc_fast.report.policies import check_files, check_host

    reports = check_files(arguments.files) if arguments.files else check_host(open_host(arguments.root))
    errors = [error for report in reports for error in report.errors]
    if arguments.json:
        failure = encode_error(BootcFastErrorGroup("reading policy files", errors)) if errors else {}
        print_json({"policies": [encode_report(report) for report in reports], **failure})
    else:
        print_lines(line for report in reports for line in render_report(report))
    if not errors:
        return 0
    group = BootcFastErrorGroup("reading policy files", errors)
    print_error(group)
    return exit_code_of(group)


def encode_report(report: PolicyReport) -> dict[str, object]:
    """Turn a report into plain values for JSON."""
    return {
        "name": report.name,
        "files": [{"path": one.path, "is_there": one.is_there, "is_valid": one.error is None} for one in report.files],
        "values": [
            {"key": one.key, "value": one.value, "source": one.source, "meaning": one.meaning} for one in report.values
        ],
    }


def render_report(report: PolicyReport) -> Iterator[str]:
    """Render a report for people."""
    yield f"{report.name}: {report.about}"
    for one in report.files:
        state = "not there" if not one.is_there else "understood" if one.error is None else "NOT UNDERSTOOD"
        yield f"  {one.path}: {state}"
    said = ""
    for value in report.values:
        if value.meaning != said:
            said = value.meaning
            yield f"  # {said}"
        yield f"  {value.key} = {render_value(value)}  ({value.source})"
    yield ""


def render_value(value: PolicyValue) -> str:
    """A value as TOML."""
    one = value.value
    if isinstance(one, float):
        return f"{one:g}"
    return json.dumps(list(one) if isinstance(one, tuple) else one, ensure_ascii=False)
