"""Errors on stderr: ``error: <what>: <why>``, the chain, ``hint: …`` (spec commands.md, "Exit codes")."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.errors import EtcConflictError
from bootc_fast.text import (
    UNEXPECTED,
    describe_error,
    error_chain,
    escape,
    escape_bytes,
    exit_code_of,
    flatten,
    hint_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["escape", "exit_code_of", "render_error"]

TRACEBACK_VERBOSITY = 2


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

        # Indented: a message that has a line end forges no line of ours.
        lines += [f"  {escape(line)}" for line in "".join(traceback.format_exception(error)).split("\n") if line]
    elif any(exit_code_of(leaf) == UNEXPECTED for leaf in leaves):
        lines.append("hint: this looks like a defect of bootc-fast; run again with -vv for a traceback")
    return "".join(f"{line}\n" for line in lines)


def _leaf_lines(error: BaseException) -> Iterator[str]:
    yield f"error: {describe_error(error)}"
    if isinstance(error, EtcConflictError):
        for conflict in error.conflicts:
            path = escape_bytes(conflict.path)
            yield f"  conflict: {path}: here {escape(conflict.current)}; new image {escape(conflict.new)}"
    yield from (f"  caused by: {text}" for text in error_chain(error))
    for note in getattr(error, "__notes__", ()):
        yield f"  note: {escape(note)}"
    hint = hint_of(error)
    if hint:
        yield f"hint: {escape(hint)}"
