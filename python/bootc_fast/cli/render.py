"""What several commands print with: JSON, lines, times and colours for people."""

from __future__ import annotations

import os
import sys

from bootc_fast.errors import FileSystemError
from bootc_fast.text import dump_json, escape, reason_of, shorten_digests

# Not from typing: importing that takes a tenth of the whole start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from typing import TextIO

    from bootc_fast.flows.forget_failure import ForgetOutcome
    from bootc_fast.flows.hold import HoldOutcome
    from bootc_fast.flows.pin import PinOutcome
    from bootc_fast.report.unstage import UnstageOutcome
    from bootc_fast.types import BootsInstead


class _Screen:
    """What holds for all that this process prints.

    Attributes:
        hider: Takes a progress bar off the terminal while something is printed; None where there is no bar.
        is_whole: Digests are shown whole.
    """

    def __init__(self) -> None:
        self.hider: Callable[[], AbstractContextManager[None]] | None = None
        self.is_whole = False


SCREEN = _Screen()


def _put(stream: TextIO, write: Callable[[], object]) -> None:
    """Call `write`, and while it writes to a terminal, have no bar there."""
    if SCREEN.hider is None or not stream.isatty():
        write()
        return
    with SCREEN.hider():
        write()
        # Before the bar comes back below it.
        stream.flush()


def _write_bytes(data: bytes) -> None:
    """Behind what was written as text, which has a buffer of its own."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)


def write_stdout(text: str | bytes = "") -> bool:
    """Write to the standard output; without text, make sure that all of it has gone there.

    Returns:
        False where the reader has gone away, as ``head`` does: whoever writes on and on may stop. That is no error: the
        work is done, and what is written from then on goes nowhere.

    Raises:
        FileSystemError: E.g. a full disk; names what was written to, since the work itself is done.
    """
    try:
        if isinstance(text, bytes):
            _put(sys.stdout, lambda: _write_bytes(text))
        else:
            _put(sys.stdout, lambda: sys.stdout.write(text) if text else sys.stdout.flush())
    except BrokenPipeError:
        drop_stream(sys.stdout)
        return False
    except OSError as error:
        raise FileSystemError(f"writing to the standard output: {reason_of(error)}") from error
    return True


def write_stderr(text: str) -> None:
    """Write to the standard error; that nobody reads it, or that it is full, stops no work."""
    try:
        _put(sys.stderr, lambda: sys.stderr.write(text))
        sys.stderr.flush()
    except OSError:
        drop_stream(sys.stderr)


def drop_stream(stream: TextIO) -> None:
    """Send what a stream's buffer holds, and all that comes, to /dev/null; else the interpreter complains at exit."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, stream.fileno())
    os.close(descriptor)


def print_json(value: object) -> None:
    """Print a value as indented JSON on stdout."""
    write_stdout(make_json(value) + "\n")


def make_json(value: object, *, indent: int | None = 2) -> str:
    """A value as JSON for the standard output; in ASCII where that has an encoding which lacks a character."""
    text = dump_json(value, indent=indent)
    return text if can_write(text) else dump_json(value, indent=indent, ascii_only=True)


def can_write(text: str) -> bool:
    """Whether the standard output's encoding has all characters of a text."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


class Painted(str):
    """A line with styles of our own, whose text was escaped before they were put around it."""

    __slots__ = ()


def print_lines(lines: Iterable[str], *, is_data: bool = False) -> bool:
    """Print lines on stdout for people.

    What is not `Painted` is escaped, has its digests shortened unless they were asked for whole, and is wrapped on a
    terminal, between words.

    Args:
        lines: Without their ends.
        is_data: Names and digests are what was asked for: they stay whole, and each on its line.

    Returns:
        As `write_stdout`.
    """
    return write_stdout("".join(f"{line}\n" for line in _layout(lines, sys.stdout, is_data=is_data)))


def print_errors(lines: Iterable[str]) -> None:
    """Print lines on stderr, as `print_lines` does on stdout."""
    write_stderr("".join(f"{line}\n" for line in _layout(lines, sys.stderr)))


def print_error(error: BaseException, *, verbosity: int = 0) -> None:
    """Print an error and what it comes from on stderr; with `verbosity` 2 a traceback."""
    from bootc_fast.cli.failure import render_error

    print_errors(render_error(error, verbosity=verbosity).splitlines())


def _layout(lines: Iterable[str], stream: TextIO, *, is_data: bool = False) -> Iterator[str]:
    width = None if is_data else find_width(stream)
    for line in lines:
        if isinstance(line, Painted):
            yield line
            continue
        safe = escape(line)
        if not is_data and not SCREEN.is_whole:
            safe = shorten_digests(safe)
        yield from wrap_line(safe, width)


def wrap_line(line: str, width: int | None) -> list[str]:
    """Wrap a line between words, if at all; what follows is indented by four more than the line is."""
    if width is None or len(line) <= width:
        return [line]
    from bootc_fast.cli.help_text import wrap

    indent = " " * (len(line) - len(line.lstrip(" ")))
    return wrap(line[len(indent) :], width, begin=indent, rest=f"{indent}    ")


def print_outcome(
    outcome: ForgetOutcome | HoldOutcome | PinOutcome | UnstageOutcome, lines: Iterable[str], *, as_json: bool
) -> None:
    """Print what a flow did: its warnings on stderr; on stdout its fields as JSON, or the lines for people."""
    print_errors(f"warning: {warning}" for warning in outcome.warnings)
    if as_json:
        from bootc_fast.records import asdict

        print_json(asdict(outcome))
    else:
        print_lines(lines)


def text_seconds(seconds: float) -> str:
    """A duration for people, e.g. ``12 ms`` or ``3.4 s``."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def want_colour(stream: object) -> bool:
    """Whether to colour what goes to `stream`: a terminal, and no ``NO_COLOR``."""
    is_terminal = getattr(stream, "isatty", None)
    return bool(is_terminal and is_terminal()) and not os.environ.get("NO_COLOR")


def find_width(stream: object) -> int | None:
    """Where to wrap what goes to `stream`, in characters: a terminal's width; None elsewhere, for grep."""
    is_terminal = getattr(stream, "isatty", None)
    if is_terminal is None or not is_terminal():
        return None
    # With it come three kinds of compression.
    import shutil

    return shutil.get_terminal_size().columns


def paint(text: str, style: str, *, enabled: bool) -> Painted:
    """Escape text and wrap it in an ANSI style (``bold``, ``red``, …, ``dim``) where colours are enabled."""
    codes = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
    safe = escape(text)
    return Painted(f"\x1b[{codes[style]}m{safe}\x1b[0m" if enabled else safe)


def render_boots_instead(instead: BootsInstead | None, *, dry_run: bool) -> list[str]:
    """Say what really boots, and what to do about it; nothing where what was wanted boots."""
    if instead is None:
        return []
    verb = "Would be next boot" if dry_run else "Next boot"
    return [f"{verb}: {instead.entry_name}, not of this host ({instead.reason}); {instead.remedy}"]
