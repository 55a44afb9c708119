"""Unified diffs of files that ``patch -p1`` applies, whatever their names, new and empty ones among them.

Each begins with the line of ``git diff``, without which an empty file can neither come nor go, and a file that takes
a symlink's place cannot either; names are quoted as in C where a blank, a quote, a control character or what is no
UTF-8 is in them.

Source:
    GNU patch 2.7 (``pch.c``, ``intuit_diff_type`` and ``parse_c_string``); ``git-diff(1)``, "Generating patch text".
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, NamedTuple

from bootc_fast.text import escape_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

_LETTERS = {7: b"a", 8: b"b", 9: b"t", 10: b"n", 11: b"v", 12: b"f", 13: b"r", 34: b'"', 92: b"\\"}
_EMPTY = b"e69de29"
"""Git's name for a content of no bytes; that of no file is zeros."""
_C0_END, _DELETE = 0x20, 0x7F


class Version(NamedTuple):
    """A file or a symlink on one side.

    Attributes:
        mode: As ``st_mode``.
        data: Content, or target.
    """

    mode: int
    data: bytes


def unify(path: bytes, side: bytes, before: Version | None, after: Version | None) -> bytes:
    """Make one patch, or two where a symlink becomes a file or the other way round.

    Args:
        path: Below the directory that ``patch -p1`` is called in.
        side: What the second tree is called; the first is "pristine".
        before: None where it was not there.
        after: None where it is not there any more.
    """
    if before is None or after is None or stat.S_IFMT(before.mode) == stat.S_IFMT(after.mode):
        return b"".join(_one(path, side, before, after))
    return b"".join([*_one(path, side, before, None), *_one(path, side, None, after)])


def _one(path: bytes, side: bytes, before: Version | None, after: Version | None) -> Iterator[bytes]:
    import difflib

    names = [quote(b"pristine/" + path), quote(side + b"/" + path)]
    yield b"diff --git %s %s\n" % (names[0], names[1])
    if before is None and after is not None:
        yield b"new file mode %o\n" % _mode(after)
        if not after.data:
            yield b"index 0000000..%s\n" % _EMPTY
        names[0] = b"/dev/null"
    elif before is not None and after is None:
        yield b"deleted file mode %o\n" % _mode(before)
        if not before.data:
            # Without that, patch(1) asks whether to empty what is empty.
            yield b"index %s..0000000\n" % _EMPTY
        names[1] = b"/dev/null"
    old, new = (_lines(b"" if one is None else one.data) for one in (before, after))
    for line in difflib.diff_bytes(difflib.unified_diff, old, new, names[0], names[1]):
        yield line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n"


def _mode(version: Version) -> int:
    """Type and permissions; a symlink has none, and what runs as its owner is not made by a patch."""
    if stat.S_ISLNK(version.mode):
        return stat.S_IFLNK
    return stat.S_IFREG | version.mode & 0o777


def quote(name: bytes) -> bytes:
    """Spell a name so that it ends where it ends."""
    if escape_bytes(name).encode() == name and not any(byte in name for byte in b' "\\'):
        return name
    return b'"%s"' % b"".join(map(_quote_byte, name))


def _quote_byte(byte: int) -> bytes:
    if byte in _LETTERS:
        return b"\\" + _LETTERS[byte]
    if _C0_END <= byte < _DELETE:
        return bytes([byte])
    return b"\\%03o" % byte


def _lines(data: bytes) -> list[bytes]:
    """Split at newlines only."""
    parts = data.split(b"\n")
    last = parts.pop()
    return [part + b"\n" for part in parts] + ([last] if last else [])


def is_harmless(data: bytes) -> bool:
    """Whether a terminal that is shown this does nothing but show letters, though not all of them may be right.

    Line ends of DOS, form feeds and other encodings than UTF-8 are; escape sequences are not, nor what turns the
    direction of writing round.
    """
    text = data.replace(b"\r\n", b"\n").decode(errors="surrogateescape")
    kept = "".join(char for char in set(text) if char not in "\t\n\f\v" and not "\udca0" <= char <= "\udcff")
    return escape_bytes(kept.encode(errors="surrogateescape")) == kept
