"""Unified kernel images: sections appended to a stub, or to a minimal PE file of our own.

Source:
    Microsoft "PE Format" (COFF header, optional header PE32+, section table); UAPI group "Unified Kernel Image".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from bootc_fast.errors import BootEntryError

if TYPE_CHECKING:
    from collections.abc import Sequence

_SECTION_ALIGNMENT = 0x1000
_FILE_ALIGNMENT = 0x200
_SECTION_HEADER_BYTES = 40
_OPTIONAL_HEADER_BYTES = 0xF0
_COFF_HEADER_BYTES = 24
# IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ
_READ_ONLY_DATA = 0x4000_0040
# IMAGE_SCN_CNT_CODE | IMAGE_SCN_MEM_EXECUTE | IMAGE_SCN_MEM_READ
_CODE = 0x6000_0020
# mov rax, EFI_UNSUPPORTED; ret: firmware that starts it by accident goes on with the next entry.
_ENTRY_CODE = bytes.fromhex("48b80300000000000080c3")


def _align(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment


def _minimal_stub() -> bytes:
    """A PE32+ EFI application for x86-64 that only returns; its header has room for 15 sections more."""
    headers_bytes = 0x400
    dos = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40)
    # Machine x86-64, 1 section, executable | large address aware.
    coff = b"PE\0\0" + struct.pack("<HHIIIHH", 0x8664, 1, 0, 0, 0, _OPTIONAL_HEADER_BYTES, 0x0022)
    optional = struct.pack(
        "<HBBIIIIIQIIHHHHHHIIIIHHQQQQII",
        *(0x20B, 0, 0, _FILE_ALIGNMENT, 0, 0, _SECTION_ALIGNMENT, _SECTION_ALIGNMENT),
        *(0x1_4000_0000, _SECTION_ALIGNMENT, _FILE_ALIGNMENT, 0, 0, 0, 0, 0, 0, 0),
        *(2 * _SECTION_ALIGNMENT, headers_bytes, 0, 10, 0, 0, 0, 0, 0, 0, 16),
    ).ljust(_OPTIONAL_HEADER_BYTES, b"\0")
    text = _section_header(
        b".text", len(_ENTRY_CODE), _SECTION_ALIGNMENT, _FILE_ALIGNMENT, raw_offset=headers_bytes, flags=_CODE
    )
    return (dos + coff + optional + text).ljust(headers_bytes, b"\0") + _ENTRY_CODE.ljust(_FILE_ALIGNMENT, b"\0")


def _section_header(name: bytes, size: int, address: int, raw_bytes: int, *, raw_offset: int, flags: int) -> bytes:
    return struct.pack("<8sIIIIIIHHI", name, size, address, raw_bytes, raw_offset, 0, 0, 0, 0, flags)


def build_uki(stub: bytes | None, sections: Sequence[tuple[str, bytes]]) -> bytes:
    """Append sections to a stub.

    Args:
        stub: An unsigned PE32+ file such as systemd's ``linuxx64.efi.stub``; None for a minimal one of our own,
            which firmware loads but which starts no kernel.
        sections: Name (up to 8 ASCII characters, as ``.linux``) and content, in the order they get.

    Returns:
        The UKI; sections are aligned as the stub's header says.

    Raises:
        BootEntryError: The stub is not PE32+, or its header has no room for the sections.
    """
    image = bytearray(_minimal_stub() if stub is None else stub)
    try:
        (pe,) = struct.unpack_from("<I", image, 0x3C)
        signature, count, optional_bytes = struct.unpack_from("<4s2xH12xH", image, pe)
        optional = pe + _COFF_HEADER_BYTES
        (magic,) = struct.unpack_from("<H", image, optional)
        section_alignment, file_alignment = struct.unpack_from("<II", image, optional + 32)
        (headers_bytes,) = struct.unpack_from("<I", image, optional + 60)
        table = optional + optional_bytes
        old = [struct.unpack_from("<8sIIII", image, table + index * _SECTION_HEADER_BYTES) for index in range(count)]
    except struct.error as error:
        raise BootEntryError("building a UKI: the stub is truncated") from error
    if signature != b"PE\0\0" or magic != 0x20B:  # noqa: PLR2004 - the PE32+ magic, named by the error below
        raise BootEntryError("building a UKI: the stub is not a PE32+ file")
    # Old stubs claim 512 bytes, which the firmware's page protection makes useless.
    section_alignment = max(section_alignment, _SECTION_ALIGNMENT)
    free = table + count * _SECTION_HEADER_BYTES
    first_raw = min((offset for *_, size, offset in old if size), default=headers_bytes)
    if free + len(sections) * _SECTION_HEADER_BYTES > min(headers_bytes, first_raw):
        raise BootEntryError(f"building a UKI: the stub's header has no room for {len(sections)} sections")
    address = max(start + size for _, size, start, *_ in old)
    for index, (name, content) in enumerate(sections):
        address = _align(address, section_alignment)
        offset = _align(len(image), file_alignment)
        raw_bytes = _align(len(content), file_alignment)
        header = _section_header(
            name.encode(), len(content), address, raw_bytes, raw_offset=offset, flags=_READ_ONLY_DATA
        )
        image[free + index * _SECTION_HEADER_BYTES : free + (index + 1) * _SECTION_HEADER_BYTES] = header
        image += bytes(offset - len(image)) + content + bytes(raw_bytes - len(content))
        address += len(content)
    struct.pack_into("<H", image, pe + 6, count + len(sections))
    struct.pack_into("<I", image, optional + 56, _align(address, section_alignment))
    return bytes(image)
