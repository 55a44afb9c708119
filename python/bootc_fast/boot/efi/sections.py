"""The section table of a PE file, without reading the file: systemd-boot looks into every UKI for its .osrel only."""

from __future__ import annotations

import struct

from bootc_fast.records import dataclass

MAX_HEADER_BYTES = 1 << 16
"""How much of a file is read for its section table; a stub's ends within 1 KiB."""

MAX_TEXT_BYTES = 1 << 16
"""How much of a section is read that holds text; an os-release has less than 1 KiB."""

_SECTION = struct.Struct("<8sIIIIIIHHI")
_OFFSET_OF_PE = 0x3C
_FILE_HEADER_BYTES = 24


@dataclass(frozen=True, slots=True)
class SectionPlace:
    """Where a section is.

    Attributes:
        name: Without the zeros behind it.
        offset: In the file, in bytes.
        size_bytes: Of what the file has of it.
    """

    name: bytes
    offset: int
    size_bytes: int


def parse_section_table(head: bytes) -> tuple[SectionPlace, ...]:
    """Find the sections of a PE file by its first bytes; empty for what is none.

    Source:
        Microsoft, "PE Format"; systemd ``src/boot/pe.c``.
    """
    if head[:2] != b"MZ" or len(head) < _OFFSET_OF_PE + 4:
        return ()
    (start,) = struct.unpack_from("<I", head, _OFFSET_OF_PE)
    if head[start : start + 4] != b"PE\0\0" or len(head) < start + _FILE_HEADER_BYTES:
        return ()
    count, optional_bytes = (struct.unpack_from("<H", head, start + offset)[0] for offset in (6, 20))
    table = start + _FILE_HEADER_BYTES + optional_bytes
    found = []
    for number in range(count):
        at = table + number * _SECTION.size
        if at + _SECTION.size > len(head):
            break
        name, virtual_bytes, _address, raw_bytes, offset, *_rest = _SECTION.unpack_from(head, at)
        found.append(SectionPlace(name.rstrip(b"\0"), offset, min(virtual_bytes, raw_bytes)))
    return tuple(found)
