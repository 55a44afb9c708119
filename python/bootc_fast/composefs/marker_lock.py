"""Locking and unlocking the finalization of what is staged, in bootc's own marker: everything else in it stays.

Source:
    bootc ``bootc_composefs/status.rs``, ``StagedDeployment``, and ``update.rs``, ``--from-downloaded``, which replaces
    the file as a whole.
"""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

from bootc_fast.composefs.deployments import parse_staged_marker
from bootc_fast.errors import FileSystemError, InvalidStateError
from bootc_fast.text import reason_of

if TYPE_CHECKING:
    from bootc_fast.machine.host import Host

KEY = "finalization_locked"
_BLANKS = " \t\n\r"


def edit_lock(text: str, *, is_locked: bool, what: str) -> str:
    """Set the flag in a marker's text; every other character stays.

    Args:
        text: Of the marker.
        is_locked: What the flag is to be.
        what: What is being done, for the error.

    Raises:
        InvalidStateError: It is no marker, or one of before 2026, which has no flag.
    """
    parse_staged_marker(text, what=what)
    start = _skip(text, 0)
    if text[start : start + 1] != "{":
        raise InvalidStateError(
            f"{what}: it is a bare digest, as bootc wrote it before 2026, and cannot be locked",
            hint="stage the update again with a newer bootc, or drop it with `bootc-fast unstage`",
        )
    spans = _find_values(text, start)
    value = "true" if is_locked else "false"
    if not spans:
        # bootc wants the key; no marker of its own is without.
        return f'{text[: start + 1]}"{KEY}":{value},{text[start + 1 :]}'
    for begin, end in reversed(spans):
        text = text[:begin] + value + text[end:]
    return text


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] and text[at] in _BLANKS:
        at += 1
    return at


def _find_values(text: str, start: int) -> list[tuple[int, int]]:
    """Find where the flag's values are in the object that begins at `start`; the text is known to be JSON."""
    decoder, found = json.JSONDecoder(), []
    at = _skip(text, start + 1)
    while text[at] != "}":
        key, at = decoder.raw_decode(text, at)
        begin = _skip(text, _skip(text, at) + 1)
        _value, end = decoder.raw_decode(text, begin)
        if key == KEY:
            found.append((begin, end))
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return found


def write_lock(host: Host, *, is_locked: bool) -> bool:
    """Lock or unlock the finalization of what is staged; says whether that changed anything. Blocks.

    Args:
        host: Whose; its lock is held.
        is_locked: What is wanted.

    Raises:
        InvalidStateError: The marker is malformed, is gone, or cannot be locked.
        FileSystemError: It cannot be read or written; it is as it was.
    """
    path = host.staged_marker
    what = f"locking {path}" if is_locked else f"unlocking {path}"
    try:
        raw = host.read_bytes(path)
        status = host.find_status(path)
    except FileNotFoundError as error:
        raise InvalidStateError(f"{what}: nothing is staged") from error
    except OSError as error:
        raise FileSystemError(f"{what}: {reason_of(error)}") from error
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidStateError(f"{what}: the byte at offset {error.start} is not UTF-8") from error
    edited = edit_lock(text, is_locked=is_locked, what=what).encode()
    if edited == raw:
        return False
    host.write_file(path, edited, mode=0o644 if status is None else stat.S_IMODE(status.st_mode))
    return True
