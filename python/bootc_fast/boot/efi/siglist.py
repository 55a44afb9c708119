"""EFI signature lists: what ``db``, ``dbx`` and shim's lists hold."""

from __future__ import annotations

import struct
import uuid
from typing import TYPE_CHECKING

from bootc_fast import _core
from bootc_fast.errors import InvalidStateError, SignatureError
from bootc_fast.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER = struct.Struct("<16sIII")
_OWNER_BYTES = 16

_X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
IMAGE_HASHES = {
    uuid.UUID("826ca512-cf10-4ac9-b187-be01496631bd"): "sha1",
    uuid.UUID("c1c41626-504c-4092-aca9-41f936934328"): "sha256",
    uuid.UUID("ff3e5307-9fd0-48c9-85f1-8ad56c701e01"): "sha384",
    uuid.UUID("093e0fae-a6c4-4f50-9f1b-d41e2b89c19a"): "sha512",
}
"""Types of lists of image digests."""
CERTIFICATE_HASHES = {
    uuid.UUID("3bd2a492-96c0-4079-b420-fcf98ef103ed"): "sha256",
    uuid.UUID("7076876e-80c2-4ee6-aad2-28b349a6865b"): "sha384",
    uuid.UUID("446dbf63-2502-4cda-bcfa-2465d2b0fe9d"): "sha512",
}
"""Types of lists of certificates' digests, each followed by the time of revocation."""
_DIGEST_BYTES = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}


@dataclass(frozen=True, slots=True)
class SignatureList:
    """One list: entries of one type and length.

    Attributes:
        kind: Its GUID.
        entries: Each without its owner.
    """

    kind: uuid.UUID
    entries: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class KeyList:
    """A variable's content: lists, in its order."""

    lists: tuple[SignatureList, ...] = ()

    def iterate_certificates(self, *, first_of_list: bool = False) -> Iterator[bytes]:
        """Yield certificates as encoded.

        Args:
            first_of_list: Only the first one of each list, as shim looks at them.
        """
        for one in self.lists:
            if one.kind == _X509:
                yield from one.entries[: 1 if first_of_list else None]

    def load_certificates(self, *, first_of_list: bool = False) -> list[_core.Certificate]:
        """Return the certificates that can be decoded; nothing can chain to another."""
        loaded = (load_certificate(der) for der in self.iterate_certificates(first_of_list=first_of_list))
        return [one for one in loaded if one is not None]

    def has_image(self, algorithm: str, digest: bytes, *, is_exact: bool = True) -> bool:
        """Say whether a digest of a file is in it.

        Args:
            algorithm: E.g. ``sha256``.
            digest: The file's.
            is_exact: Only entries as long as a digest count; shim looks at the first bytes of any.
        """
        return any(
            entry[: len(digest)] == digest and (not is_exact or len(entry) == len(digest))
            for one in self.lists
            if IMAGE_HASHES.get(one.kind) == algorithm
            for entry in one.entries
        )

    def list_image_algorithms(self) -> set[str]:
        """Return the algorithms of its digests of files."""
        return {IMAGE_HASHES[one.kind] for one in self.lists if one.kind in IMAGE_HASHES}

    def iterate_certificate_hashes(self) -> Iterator[tuple[str, bytes]]:
        """Yield algorithm and digest of a certificate's to-be-signed part, whenever it was revoked."""
        for one in self.lists:
            algorithm = CERTIFICATE_HASHES.get(one.kind)
            if algorithm is not None:
                yield from ((algorithm, entry[: _DIGEST_BYTES[algorithm]]) for entry in one.entries)


def load_certificate(der: bytes) -> _core.Certificate | None:
    """Decode a certificate; None for one that no chain could contain."""
    try:
        return _core.Certificate.parse(der)
    except SignatureError:
        return None


def parse_key_list(data: bytes, *, what: str) -> KeyList:
    """Parse concatenated EFI signature lists.

    Args:
        data: A variable's value; empty for none.
        what: The variable's name, for the error.

    Raises:
        InvalidStateError: A list does not lie within the data: what it forbids would be unknown.

    Source:
        UEFI 2.10, 32.4.1, "EFI_SIGNATURE_LIST".
    """
    lists: list[SignatureList] = []
    offset = 0
    while offset < len(data):
        found, offset = _parse_list(data, offset, what=what)
        lists.append(found)
    return KeyList(tuple(lists))


def _parse_list(data: bytes, offset: int, *, what: str) -> tuple[SignatureList, int]:
    problem = f"reading the EFI variable {what}: its signature list at offset {offset:#x} is malformed"
    hint = "--no-verify-signatures leaves the check out"
    if offset + _HEADER.size > len(data):
        raise InvalidStateError(problem, hint=hint)
    kind, list_bytes, header_bytes, entry_bytes = _HEADER.unpack_from(data, offset)
    start, end = offset + _HEADER.size + header_bytes, offset + list_bytes
    if start > end or end > len(data) or entry_bytes <= _OWNER_BYTES or (end - start) % entry_bytes:
        raise InvalidStateError(problem, hint=hint)
    entries = [data[at + _OWNER_BYTES : at + entry_bytes] for at in range(start, end, entry_bytes)]
    return SignatureList(uuid.UUID(bytes_le=kind), tuple(entries)), end
