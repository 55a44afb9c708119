"""Errors as text: ``error: <what>: <why>``, the chain, ``hint: …`` (spec commands.md, "Exit codes")."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.errors import BootcFastError, EtcConflictError, FileSystemError

if TYPE_CHECKING:
    from collections.abc import Iterator

UNEXPECTED = 1
TRACEBACK_VERBOSITY = 2


def flatten(error: BaseException) -> list[BaseException]:
    """Return the single errors of a group, in order; the error itself where it is none."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for child in error.exceptions for leaf in flatten(child)]
    return [error]


def exit_code_of(error: BaseException) -> int:
    """Return the exit code: of a group, the highest of its errors."""
    return max(_code(leaf) for leaf in flatten(error))


def _code(error: BaseException) -> int:
    if isinstance(error, BootcFastError):
        return error.exit_code
    return FileSystemError.exit_code if isinstance(error, OSError) else UNEXPECTED


def render_error(error: BaseException, *, verbosity: int = 0) -> str:
    """Render an error for people; each of a group's errors on its own, all ending in a newline.

    Args:
        error: Anything that a command raised.
        verbosity: From 2 on, tracebacks follow.
    """
    leaves = flatten(error)
    lines = [line for leaf in leaves for line in _leaf_lines(leaf)]
    if verbosity >= TRACEBACK_VERBOSITY:
        import traceback

        lines += "".join(traceback.format_exception(error)).splitlines()
    elif any(_code(leaf) == UNEXPECTED for leaf in leaves):
        lines.append("hint: this looks like a defect of bootc-fast; run again with -vv for a traceback")
    return "".join(f"{line}\n" for line in lines)


def _leaf_lines(error: BaseException) -> Iterator[str]:
    yield f"error: {describe(error)}"
    if isinstance(error, EtcConflictError):
        for conflict in error.conflicts:
            path = escape(conflict.path.decode(errors="surrogateescape"))
            yield f"  conflict: {path}: here {conflict.current}; new image {conflict.new}"
    yield from (f"  caused by: {text}" for text in chain_of(error))
    for note in getattr(error, "__notes__", ()):
        yield f"  note: {escape(note)}"
    if isinstance(error, BootcFastError) and error.hint:
        yield f"hint: {escape(error.hint)}"


def chain_of(error: BaseException) -> list[str]:
    """Describe what an error was raised from, nearest first, without repeating what was said already."""
    said = [describe(error)]
    seen = {id(error)}
    cause = error.__cause__
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        text = describe(cause)
        # Messages often end with their cause's text already: "reading X: No space left on device".
        if not any(text in earlier for earlier in said):
            said.append(text)
        cause = cause.__cause__
    return said[1:]


def describe(error: BaseException) -> str:
    """One line for one error."""
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{_name(error.filename)}: "
        return escape(f"{where}{error.strerror}")
    text = str(error)
    if isinstance(error, BootcFastError):
        return escape(text or type(error).__name__)
    return escape(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def _name(filename: object) -> str:
    return filename.decode(errors="surrogateescape") if isinstance(filename, bytes) else str(filename)


def escape(text: str) -> str:
    r"""Escape what a terminal must not get: control characters, line ends, and bytes that are not UTF-8.

    A name in an error may come from an image that nobody has vetted yet. Bytes appear as ``\xff``.
    """
    return "".join(char if char.isprintable() else _escape_char(char) for char in text)


def _escape_char(char: str) -> str:
    code = ord(char)
    first, last = 0xDC80, 0xDCFF  # where "surrogateescape" puts bytes
    if first <= code <= last:
        return f"\\x{code - first + 0x80:02x}"
    return char.encode("unicode_escape").decode("ascii")
