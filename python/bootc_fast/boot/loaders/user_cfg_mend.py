"""What cuts of bootc's writing leave of ``user.cfg``, made into a file that GRUB can use to its end.

Source:
    docs/power-cuts.md: states of bootc's own sequence, recorded on a real vfat.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bootc_fast.boot.loaders.grub_commands import find_stray_end, has_open_end
from bootc_fast.boot.loaders.user_cfg import (
    ESP_HEADER,
    Chunk,
    ScriptScanner,
    needs_esp,
    parse_user_cfg,
    read_menuentry,
    sets_esp,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from bootc_fast.types import VerityDigest

_MENUENTRY_LINE = re.compile(rb"(?m)^[ \t]*menuentry(?=[ \t])")
# Lines of bootc's menuentries: outside of one they would be run while the file is read.
_BODY = re.compile(rb"\A(?:[ \t]*(?:insmod (?:fat|chain)|search [^\n]*EFI_PART_UUID[^\n]*|chainloader [^\n]*)\n)+")
# Of a sector, or of what a file has of its last one; one alone may be anything.
_ZEROS = re.compile(rb"\0{2,}")


def mend_text(chunks: Sequence[Chunk], *, known: Collection[VerityDigest], has_esp: bool) -> tuple[Chunk, ...]:
    """Make of what cuts of bootc's writing left a file that GRUB can use to its end.

    Args:
        chunks: The file.
        known: Digests by which a torn menuentry at the end is ours.
        has_esp: Another file says which partition the ESP is.
    """
    whole = drop_torn_end(drop_zeros(chunks, known=known), known=known)
    return whole if has_esp or not lacks_esp(whole) else (Chunk(ESP_HEADER), *whole)


def drop_torn_end(chunks: Sequence[Chunk], *, known: Collection[VerityDigest]) -> tuple[Chunk, ...]:
    """Leave out a menuentry of ours at the end that never closes, as a cut of bootc's writing leaves it.

    GRUB reads nothing from its beginning on, and nothing that is put behind it.

    Args:
        chunks: The file.
        known: Digests by which it is ours; a file system's zeros say so, too.
    """
    if not chunks or chunks[-1].entry is not None:
        return tuple(chunks)
    raw = chunks[-1].raw
    for match in _MENUENTRY_LINE.finditer(raw):
        scanner = ScriptScanner(raw)
        scanner.at = match.end()
        tail = raw[match.start() :]
        is_ours = b"\0" in tail or any(digest.encode() in tail for digest in known)
        if read_menuentry(scanner) is None and is_ours:
            rest = raw[: match.start()]
            return (*chunks[:-1], *([Chunk(rest)] if rest else []))
    return tuple(chunks)


def has_zeros(chunks: Sequence[Chunk]) -> bool:
    """Whether sectors of the file never arrived."""
    return _ZEROS.search(b"".join(chunk.raw for chunk in chunks)) is not None


def drop_zeros(chunks: Sequence[Chunk], *, known: Collection[VerityDigest]) -> tuple[Chunk, ...]:
    """Leave out the zeros that stand for sectors which never arrived, and what they have left of a menuentry.

    To GRUB a line ends at a zero. What is before the zeros of a line, and behind them to the next one, has lost its
    other half; so has what closes a block that began in them, and a menuentry that has them inside. All else stays.

    Args:
        chunks: The file.
        known: Digests by which a menuentry is ours.
    """
    first, *others = _ZEROS.split(b"".join(chunk.raw for chunk in chunks))
    if not others:
        return tuple(chunks)
    pieces = [first, *map(_drop_begun, others[:-1])]
    return parse_user_cfg(b"".join([*map(_drop_half_line, pieces), _drop_begun(others[-1])]), known=known)


def _drop_half_line(text: bytes) -> bytes:
    """Leave out the last line's beginning, and what began before it and does not end."""
    text = text[: text.rfind(b"\n") + 1]
    while text and has_open_end(text):
        text = text[: text.rfind(b"\n", 0, -1) + 1]
    return text


def _drop_begun(text: bytes) -> bytes:
    """Leave out the first line's end, and what ends something that began before it."""
    if not _MENUENTRY_LINE.match(text):
        text = text[text.find(b"\n") + 1 or len(text) :]
    while (stray := find_stray_end(text)) is not None:
        text = text[text.find(b"\n", stray) + 1 or len(text) :]
    return _BODY.sub(b"", text, count=1)


def lacks_esp(chunks: Sequence[Chunk]) -> bool:
    """Whether a menuentry finds the ESP by bootc's variable, and nothing before it in the file sets that."""
    before = b""
    for chunk in chunks:
        if chunk.entry is None:
            before += chunk.raw
        elif needs_esp(chunk.raw) and not sets_esp(before):
            return True
    return False
