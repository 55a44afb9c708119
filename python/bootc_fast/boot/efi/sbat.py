"""SBAT: generations of components, below which shim starts nothing.

Source:
    shim ``SBAT.md``; ``sbat.c``, ``csv.c`` and ``verify.c``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bootc_fast.text import escape_bytes

if TYPE_CHECKING:
    from bootc_fast.boot.efi.pe import PeFile, Section

BUILT_IN_LEVEL = b"sbat,1,2025051000\nshim,4\ngrub,5\ngrub.proxmox,2\n"
"""What shim 16.1 carries: for a host where ``SbatLevelRT`` is not there, e.g. with a shim from before SBAT, which is
itself below it and will be replaced."""

_NAME = b".sbat\0\0\0"
_SECTION_COLUMNS, _LEVEL_COLUMNS = 6, 2
_MAX_SECTION_BYTES = 1 << 20
_BOM = b"\xef\xbb\xbf"


def _parse(data: bytes, columns: int) -> list[list[bytes]] | None:
    """Parse lines of at least so many columns, none of them empty; None where it is something else."""
    text = data.removeprefix(_BOM).partition(b"\0")[0]
    rows = [line.split(b",")[: max(columns, 3)] for line in re.split(rb"[\r\n]+", text) if line]
    return rows if all(len(row) >= columns and all(row) for row in rows) else None


def _generation(text: bytes) -> int:
    # As atoi does: what is no number is 0; 16 bits are kept.
    found = re.match(rb"\s*[+-]?\d+", text)
    return int(found[0]) & 0xFFFF if found else 0


def find_fault(pe: PeFile, level: bytes | None) -> str | None:
    """Say why shim does not start a file by its ``.sbat``; None where it does.

    Args:
        pe: The file.
        level: The value of ``SbatLevelRT``; None where there is none.
    """
    floors = _parse(BUILT_IN_LEVEL if level is None else level, _LEVEL_COLUMNS) or []
    sections = [one for one in pe.sections if one.raw_name == _NAME]
    if not floors or not sections:
        # A file that a loader behind shim starts needs none.
        return None
    if len(sections) > 1:
        return "it has several sections .sbat"
    if sections[0].has_relocations:
        return "its section .sbat has relocations"
    return _find_revoked(pe, sections[0], floors)


def _find_revoked(pe: PeFile, section: Section, floors: list[list[bytes]]) -> str | None:
    if not section.raw_bytes or section.raw_bytes < section.virtual_bytes:
        return None
    rows = _parse(pe.image.read(section.offset, min(section.raw_bytes, _MAX_SECTION_BYTES)), _SECTION_COLUMNS)
    if rows is None:
        return "its section .sbat is malformed"
    for name, generation, *_ in rows:
        floor = next((_generation(row[1]) for row in floors if row[0] == name), 0)
        if _generation(generation) < floor:
            found = f"{escape_bytes(name)} {_generation(generation)}"
            return f"its section .sbat has {found}, and shim wants {floor} (SbatLevelRT)"
    return None
