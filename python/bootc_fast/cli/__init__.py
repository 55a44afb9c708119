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
    from typing import NoReturn


_OUTPUT_LOST = 120

# So many more objects than are freed, and the collector looks for circles. Importing makes hundreds of thousands that
# all stay: at the usual 700 it goes over them again and again, a tenth of a command's whole time.
_COLLECT_EVERY = 200_000


def run_and_exit() -> NoReturn:
    """Run the command line as a process that has nothing else to do; ends it with the exit code.

    What is left in memory is not taken apart first, which takes longer than some commands: what was to be closed,
    removed or waited for is, by the command itself or by what it left for the exit.
    """
    import atexit
    import gc

    gc.set_threshold(_COLLECT_EVERY, 10, 10)
    try:
        code = main()
    except SystemExit as stop:
        # argparse: 0 after --help and --version, 2 after a wrong command line.
        code = stop.code if isinstance(stop.code, int) else 0
    try:
        # The interpreter's own order at its end: threads, exit functions, streams.
        atexit._run_exitfuncs()  # noqa: SLF001 there is no other way to call them
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        # As the interpreter has it.
        code = code or _OUTPUT_LOST
    os._exit(code)


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
    from bootc_fast.cli.failure import encode_error, exit_code_of, want_json_of
    from bootc_fast.cli.render import print_error, print_json

    print_error(error)
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
