"""The command line: arguments to dataclass to call to text. The only code that prints or exits.

Start-up time is a promise (spec core.md, "Start-up"): nothing but argparse is imported before a command is chosen.
"""

from __future__ import annotations

import os
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
    _open_closed_streams()
    _make_streams_lenient()
    words = sys.argv[1:] if argv is None else argv
    try:
        arguments = build_parser().parse_args(argv)
        from bootc_fast.cli.runtime import call_guarded
    except KeyboardInterrupt:
        # While modules were imported: nothing was begun.
        from bootc_fast.errors import CancelledByUserError

        return _tell(CancelledByUserError("cancelled by SIGINT"), words)
    except ImportError as error:
        return _tell(error, words)
    return call_guarded(arguments.run, arguments)


def _tell(error: Exception, words: Sequence[str]) -> int:
    """Say what kept a command from being found, as a library that is missing; what says it needs none."""
    from bootc_fast.cli.failure import encode_error, exit_code_of, render_error, want_json_of
    from bootc_fast.cli.render import print_json, write_stderr

    write_stderr(render_error(error))
    if want_json_of(words):
        print_json(encode_error(error))
    return exit_code_of(error)


def _make_streams_lenient() -> None:
    for stream in (sys.stdout, sys.stderr):
        if (getattr(stream, "encoding", None) or "utf-8").lower() != "utf-8":
            from bootc_fast.text import make_stream_lenient

            make_stream_lenient(stream)


def _open_closed_streams() -> None:
    """Put /dev/null where the caller closed a standard stream.

    Else a file that is opened next takes the stream's number, and what is printed goes into it, or fails after the
    work is done.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            fd = os.open(os.devnull, os.O_RDWR)
            if fd != number:
                os.dup2(fd, number)
                os.close(fd)
            setattr(sys, name, open(number, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
