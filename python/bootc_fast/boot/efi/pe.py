"""PE files as Authenticode sees them: sections, and what is hashed.

Headers are parsed by the core (Rust's ``object``); a file is read in pieces, never as a whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from bootc_fast import _core
from bootc_fast.errors import BootEntryError
from bootc_fast.records import dataclass, field
from bootc_fast.text import escape_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Part: TypeAlias = tuple[int | None, int]
"""Offset in the file and length; so many zeros where there is no offset."""

_LEAST_ZEROS = 1 << 20
_COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Section:
    """One entry of the section table.

    Attributes:
        raw_name: Eight bytes, padded with NUL.
        offset: In the file.
        raw_bytes: In the file.
        virtual_address: In memory.
        virtual_bytes: In memory.
        characteristics: Flags.
        has_relocations: It has some of its own, as object files have.
    """

    raw_name: bytes
    offset: int
    raw_bytes: int
    virtual_address: int
    virtual_bytes: int
    characteristics: int
    has_relocations: bool

    @property
    def name(self) -> str:
        """For people."""
        return escape_bytes(self.raw_name.rstrip(b"\0"))


@dataclass(frozen=True, slots=True)
class PeFile:
    """A PE file: `image` has its headers and reads its content.

    Whoever opened it closes it: a file that is kept open by an error's traceback keeps its file system mounted.

    Attributes:
        image: The core's.
        sections: In the order of the section table.
    """

    image: _core.PeImage = field(repr=False)
    sections: tuple[Section, ...]

    def close(self) -> None:
        """Let the file go; what the headers say stays."""
        self.image.close()

    @property
    def size_bytes(self) -> int:
        """Length of the file."""
        return self.image.size_bytes

    def find_parts(self, name: str) -> list[Part] | None:
        """Return where a section's content is; of several with one name the first, as systemd's stub takes.

        A section may be longer in memory than in the file: zeros follow.

        Raises:
            BootEntryError: More zeros than anything real has.
        """
        for section in self.sections:
            if section.name == name:
                length = min(section.raw_bytes, section.virtual_bytes)
                zeros = section.virtual_bytes - length
                if zeros > max(self.size_bytes, _LEAST_ZEROS):
                    raise BootEntryError(f"reading a PE file: its section {name!r} has {section.virtual_bytes} bytes")
                parts: list[Part] = [(section.offset, length), (None, zeros)]
                return [part for part in parts if part[1]]
        return None

    def read_section(self, name: str) -> bytes | None:
        """Read a section's content; for the large ones use `iterate_section`."""
        chunks = self.iterate_section(name)
        return None if chunks is None else b"".join(chunks)

    def iterate_section(self, name: str) -> Iterator[bytes] | None:
        """Return a section's content in pieces of at most 1 MiB; None where there is no such section."""
        parts = self.find_parts(name)
        return None if parts is None else self._read(parts)

    def _read(self, parts: Iterable[Part]) -> Iterator[bytes]:
        for offset, length in parts:
            for at in range(0, length, _COPY_BYTES):
                now = min(_COPY_BYTES, length - at)
                yield bytes(now) if offset is None else self.image.read(offset + at, now)


def parse_pe(source: bytes | int, *, check: Callable[[], object] | None = None) -> PeFile:
    """Parse a PE file's headers.

    Args:
        source: The whole file, or an open descriptor of it, which may be closed afterwards.
        check: Called once before anything is read; what it raises ends the call.

    Raises:
        BootEntryError: It is no PE file, or one whose parts do not lie within it.
        OSError: It cannot be read.

    Source:
        Microsoft, "PE Format".
    """
    if check is not None:
        check()
    image = _core.PeImage.from_bytes(source) if isinstance(source, bytes) else _core.PeImage.open(source)
    sections = tuple(Section(*fields) for fields in image.sections)
    for section in sections:
        if section.raw_bytes and section.offset + section.raw_bytes > image.size_bytes:
            image.close()
            raise BootEntryError(f"reading a PE file: its section {section.name!r} ends behind the end of the file")
    return PeFile(image, sections)


def list_hashed_parts(pe: PeFile) -> list[Part]:
    """Return the parts of the headers and sections that Authenticode hashes, in its order; what follows differs.

    Source:
        "Windows Authenticode Portable Executable Signature Format", "Calculating the PE Image Hash".
    """
    image = pe.image
    after_checksum = image.checksum_offset + 4
    if image.security_offset is None:
        ends = [(0, image.checksum_offset), (after_checksum, image.headers_bytes)]
    else:
        ends = [
            (0, image.checksum_offset),
            (after_checksum, image.security_offset),
            (image.security_offset + 8, image.headers_bytes),
        ]
    parts: list[Part] = [(start, end - start) for start, end in ends if end > start]
    ordered = sorted(pe.sections, key=lambda one: one.offset)
    return parts + [(one.offset, one.raw_bytes) for one in ordered if one.raw_bytes]
