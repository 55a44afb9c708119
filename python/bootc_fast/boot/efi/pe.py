"""PE files as Authenticode sees them: sections, what is hashed, and the table of signatures.

Headers are parsed by ``pefile``; every offset that follows from them is checked here, since the file is untrusted.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bootc_fast.errors import BootEntryError, SignatureError
from bootc_fast.text import escape_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pefile

MAX_HEADERS_BYTES = 1 << 20
"""Headers are looked for in this much of the file; a stub's are 1 KiB."""
MAX_SECTIONS = 96
"""Microsoft's "PE Format": the loader takes no more."""
MAX_CERTIFICATES = 64
"""Signatures of one file; more than a handful is not a thing that exists."""

_CHECKSUM_OFFSET = 64  # in the optional header, the same in PE32 and PE32+
_SECURITY_DIRECTORY = 4
_DIRECTORY_ENTRY_BYTES = 8
_PE32 = 0x10B
_PE32_PLUS = 0x20B
# Where the data directories start in the optional header.
_DIRECTORIES_OFFSET = {_PE32: 96, _PE32_PLUS: 112}
_CERTIFICATE_HEADER = struct.Struct("<IHH")
_WIN_CERT_REVISION_2 = 0x0200
_WIN_CERT_TYPE_PKCS_SIGNED_DATA = 0x0002


@dataclass(frozen=True, slots=True)
class Section:
    """One section: its name, where its bytes are in the file, and how many of them count."""

    name: str
    offset: int
    raw_bytes: int
    virtual_bytes: int


@dataclass(frozen=True, slots=True)
class PeFile:
    """A PE file.

    Attributes:
        data: All of it.
        sections: In the order of the section table.
        headers_bytes: Length of all headers, which are hashed.
        checksum_offset: Of the 4 bytes that are not hashed.
        security_offset: Of the 8 bytes of the security directory that are not hashed; None where the header has none.
        signatures_offset: Of the attribute certificate table; the file's size where there is none.
        signatures_bytes: Its length.
    """

    data: bytes = field(repr=False)
    sections: tuple[Section, ...]
    headers_bytes: int
    checksum_offset: int
    security_offset: int | None
    signatures_offset: int
    signatures_bytes: int

    def find_section(self, name: str) -> memoryview | None:
        """Return a section's content, not copied; of several with one name the first, as systemd's stub takes.

        A section may be longer in memory than in the file: zeros follow.
        """
        for section in self.sections:
            if section.name == name:
                length = min(section.raw_bytes, section.virtual_bytes)
                content = memoryview(self.data)[section.offset : section.offset + length]
                return (
                    content
                    if length == section.virtual_bytes
                    else memoryview(bytes(content).ljust(section.virtual_bytes, b"\0"))
                )
        return None


def _read_headers(data: bytes) -> pefile.PE:
    # Half of the start-up time of a command that may not meet a UKI at all.
    import pefile

    try:
        # Its objects form cycles, which would keep the whole file alive until the next garbage collection.
        return pefile.PE(data=data[:MAX_HEADERS_BYTES], fast_load=True)
    except pefile.PEFormatError as error:
        raise BootEntryError(f"reading a PE file: {error}") from error
    except Exception as error:
        raise BootEntryError(f"reading a PE file: its headers are malformed ({type(error).__name__})") from error


def _parse_sections(headers: pefile.PE, size: int) -> tuple[Section, ...]:
    found: list[Section] = []
    for header in headers.sections:
        name = escape_bytes(header.Name.rstrip(b"\0"))
        section = Section(name, header.PointerToRawData, header.SizeOfRawData, header.Misc_VirtualSize)
        if section.raw_bytes and section.offset + section.raw_bytes > size:
            raise BootEntryError(f"reading a PE file: its section {name!r} ends behind the end of the file")
        # Zeros may follow the bytes in the file, but not by the gigabyte.
        if section.virtual_bytes > max(size, 1 << 20):
            raise BootEntryError(f"reading a PE file: its section {name!r} has {section.virtual_bytes} bytes")
        found.append(section)
    return tuple(found)


def _find_signatures(data: bytes, security_offset: int | None) -> tuple[int, int]:
    if security_offset is None:
        return len(data), 0
    offset, length = struct.unpack_from("<II", data, security_offset)
    if offset == 0 or length == 0:
        return len(data), 0
    if offset + length > len(data) or offset < security_offset + _DIRECTORY_ENTRY_BYTES:
        raise BootEntryError("reading a PE file: its table of signatures does not lie within the file")
    return offset, length


def parse_pe(data: bytes) -> PeFile:
    """Parse a PE file's headers.

    Args:
        data: The whole file.

    Raises:
        BootEntryError: It is no PE file, or one whose parts do not lie within it.

    Source:
        Microsoft, "PE Format"; "Windows Authenticode Portable Executable Signature Format".
    """
    headers = _read_headers(data)
    optional = headers.OPTIONAL_HEADER
    start = optional.get_file_offset()
    directories = _DIRECTORIES_OFFSET.get(optional.Magic)
    if directories is None:
        raise BootEntryError(f"reading a PE file: its optional header has the magic {optional.Magic:#x}")
    security = start + directories + _SECURITY_DIRECTORY * _DIRECTORY_ENTRY_BYTES
    has_security = optional.NumberOfRvaAndSizes > _SECURITY_DIRECTORY
    if len(headers.sections) != headers.FILE_HEADER.NumberOfSections or len(headers.sections) > MAX_SECTIONS:
        raise BootEntryError(
            f"reading a PE file: its section table has not {headers.FILE_HEADER.NumberOfSections} entries"
        )
    least = security + _DIRECTORY_ENTRY_BYTES
    if not least <= optional.SizeOfHeaders <= min(len(data), MAX_HEADERS_BYTES):
        raise BootEntryError(f"reading a PE file: its headers have {optional.SizeOfHeaders} bytes")
    signatures_offset, signatures_bytes = _find_signatures(data, security if has_security else None)
    return PeFile(
        data=data,
        sections=_parse_sections(headers, len(data)),
        headers_bytes=optional.SizeOfHeaders,
        checksum_offset=start + _CHECKSUM_OFFSET,
        security_offset=security if has_security else None,
        signatures_offset=signatures_offset,
        signatures_bytes=signatures_bytes,
    )


def _hashed_ranges(pe: PeFile) -> Iterator[tuple[int, int]]:
    """Yield the parts of the file that Authenticode hashes, in its order, as the firmware does."""
    yield 0, pe.checksum_offset
    after_checksum = pe.checksum_offset + 4
    if pe.security_offset is None:
        yield after_checksum, pe.headers_bytes
    else:
        yield after_checksum, pe.security_offset
        yield pe.security_offset + _DIRECTORY_ENTRY_BYTES, pe.headers_bytes
    hashed = pe.headers_bytes
    for section in sorted(pe.sections, key=lambda one: one.offset):
        if section.raw_bytes:
            yield section.offset, section.offset + section.raw_bytes
            hashed += section.raw_bytes
    # What lies behind the last section, e.g. symbols; the signatures are left out.
    end = len(pe.data) - pe.signatures_bytes
    if end < hashed:
        raise SignatureError("hashing a PE file: its sections and its signatures overlap")
    yield hashed, end


def hash_image(pe: PeFile, algorithm: str) -> bytes:
    """Compute the Authenticode digest.

    Args:
        pe: The file.
        algorithm: ``sha256``, ``sha384`` or ``sha512``.

    Returns:
        The digest; it covers everything but the checksum, the security directory and the signatures.

    Raises:
        SignatureError: Sections overlap, which the firmware refuses.

    Source:
        "Windows Authenticode Portable Executable Signature Format", "Calculating the PE Image Hash"; EDK II
        ``DxeImageVerificationLib.c``, ``HashPeImage``.
    """
    hasher = hashlib.new(algorithm)
    view = memoryview(pe.data)
    for start, end in _hashed_ranges(pe):
        hasher.update(view[start:end])
    return hasher.digest()


def list_signatures(pe: PeFile) -> list[bytes]:
    """Return the PKCS #7 signatures in the attribute certificate table, DER with possible padding behind.

    Raises:
        BootEntryError: The table is torn.
    """
    found: list[bytes] = []
    offset, end = pe.signatures_offset, pe.signatures_offset + pe.signatures_bytes
    while offset + _CERTIFICATE_HEADER.size <= end:
        length, revision, kind = _CERTIFICATE_HEADER.unpack_from(pe.data, offset)
        if length <= _CERTIFICATE_HEADER.size or offset + length > end or len(found) >= MAX_CERTIFICATES:
            raise BootEntryError(f"reading a PE file: its signature at offset {offset:#x} is torn")
        if revision == _WIN_CERT_REVISION_2 and kind == _WIN_CERT_TYPE_PKCS_SIGNED_DATA:
            found.append(pe.data[offset + _CERTIFICATE_HEADER.size : offset + length])
        offset += -(-length // 8) * 8
    return found
