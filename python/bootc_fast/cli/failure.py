"""Errors on stderr: ``error: <what>: <why>``, the chain, ``hint: …``; with ``--json`` an object on stdout as well.

Source:
    Spec commands.md, "Exit codes".
"""

from __future__ import annotations

import os
from itertools import pairwise

from bootc_fast.errors import EtcConflictError
from bootc_fast.text import (
    UNEXPECTED,
    describe_error,
    encode_bytes,
    error_chain,
    escape,
    exit_code_of,
    flatten,
    hint_of,
)
from bootc_fast.types import Result

# Not from typing: importing that takes a tenth of the whole start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from typing import Any

__all__ = ["encode_error", "escape", "exit_code_of", "render_error", "want_json", "want_json_of"]

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
    elif any(exit_code_of(leaf) == UNEXPECTED and not isinstance(leaf, ImportError) for leaf in leaves):
        lines.append("hint: this looks like a defect of bootc-fast; run again with -vv for a traceback")
    return "".join(f"{line}\n" for line in lines)


def _leaf_lines(error: BaseException) -> Iterator[str]:
    yield f"error: {describe_error(error)}"
    if isinstance(error, EtcConflictError):
        for conflict in error.conflicts:
            from bootc_fast.etc.render import render_path

            path = render_path(conflict.path)
            yield f"  conflict: {path}: here {escape(conflict.current)}; new image {escape(conflict.new)}"
    yield from (f"  caused by: {text}" for text in error_chain(error))
    for note in getattr(error, "__notes__", ()):
        yield f"  note: {escape(note)}"
    hint = hint_of(error)
    if hint:
        yield f"hint: {escape(hint)}"


def encode_error(error: BaseException) -> dict[str, Any]:
    """Turn a failure into plain values for JSON: schemas/error.json."""
    return {
        "result": Result.FAILED.value,
        "exit_code": exit_code_of(error),
        "errors": [
            {
                "type": type(leaf).__name__,
                "message": describe_error(leaf),
                "chain": error_chain(leaf),
                "hint": hint_of(leaf),
                "paths": [encode_bytes(path) for path in _paths_of(leaf)],
                "conflicts": [
                    {"path": encode_bytes(one.path), "current": one.current, "new": one.new}
                    for one in getattr(leaf, "conflicts", ())
                ],
            }
            for leaf in flatten(error)
        ],
    }


def _paths_of(error: BaseException) -> list[bytes]:
    """The files that an error is about, of itself and of what it comes from, each once."""
    found: list[bytes] = [one.path for one in getattr(error, "conflicts", ())]
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        for name in ("path", "filename", "filename2"):
            # A call on a descriptor has its number there, an ImportError its module's name or path.
            value = None if isinstance(cause, ImportError) else getattr(cause, name, None)
            if isinstance(value, str | bytes | os.PathLike):
                found.append(os.fsencode(value))
        cause = cause.__cause__
    return list(dict.fromkeys(found))


def want_json(arguments: argparse.Namespace) -> bool:
    """Whether the command was asked for JSON, or YAML, of which JSON is a part."""
    return bool(getattr(arguments, "json", False)) or getattr(arguments, "format", None) in ("json", "yaml")


def want_json_of(words: Sequence[str]) -> bool:
    """As `want_json`, where the words could not be made arguments."""
    return bool({"--json", "--format=json", "--format=yaml"} & set(words)) or any(
        pair in {("--format", "json"), ("--format", "yaml")} for pair in pairwise(words)
    )
