"""The command line: arguments to dataclass to call to text. The only code that prints or exits.

Start-up time is a promise (spec core.md, "Start-up"): nothing but argparse is imported before a command is chosen.
"""

from __future__ import annotations

import sys

from bootc_fast.cli.parser import build_parser

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: Arguments without the program's name; the process's own where None.

    Returns:
        Exit code of spec commands.md, "Exit codes".
    """
    arguments = build_parser().parse_args(argv)
    from bootc_fast.cli.runtime import call_guarded

    return call_guarded(arguments.run, arguments, stderr=sys.stderr)
