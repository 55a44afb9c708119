"""EFI signature lists: what ``db``, ``dbx`` and shim's lists hold."""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from bootc_fast.errors import InvalidStateError

_HEADER = struct.Struct("<16sIII")
_OWNER_BYTES = 16

_X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
_IMAGE_HASHES = {
    uuid.UUID("c1c41626-504c-4092-aca9-41f936934328"): ("sha256", 32),
    uuid.UUID("ff3e5307-9fd0-48c9-85f1-8ad56c701e01"): ("sha384", 48),
    uuid.UUID("093e0fae-a6c4-4f50-9f1b-d41e2b89c19a"): ("sha512", 64),
}
_CERTIFICATE_HASHES = {
    uuid.UUID("3bd2a492-96c0-4079-b420-fcf98ef103ed"): ("sha256", 32),
    uuid.UUID("7076876e-80c2-4ee6-aad2-28b349a6865b"): ("sha384", 48),
    uuid.UUID("446dbf63-2502-4cda-bcfa-2465d2b0fe9d"): ("sha512", 64),
}


@dataclass(frozen=True, slots=True)
class KeyList:
    """A list's content, by kind.

    Attributes:
        certificates: Certificates; those that cannot be parsed are left out, as nothing can chain to them.
        image_hashes: (algorithm, Authenticode digest).
        certificate_hashes: (algorithm, digest of a certificate's to-be-signed part); whatever time of revocation.
    """

    certificates: tuple[x509.Certificate, ...] = ()
    image_hashes: frozenset[tuple[str, bytes]] = frozenset()
    certificate_hashes: frozenset[tuple[str, bytes]] = frozenset()


def load_certificate(der: bytes) -> x509.Certificate | None:
    """Load a certificate that can be part of a chain; None for one whose names or key cannot be read.

    ``cryptography`` parses the parts when they are asked for, so all that is needed later is asked for here.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        certificate.public_key()
        certificate.subject.rfc4514_string()
        certificate.issuer.rfc4514_string()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return certificate


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
    certificates: list[x509.Certificate] = []
    images: set[tuple[str, bytes]] = set()
    hashes: set[tuple[str, bytes]] = set()
    offset = 0
    while offset < len(data):
        kind, entries, offset = _parse_list(data, offset, what=what)
        for entry in entries:
            if kind == _X509:
                certificates += filter(None, [load_certificate(entry)])
            elif kind in _IMAGE_HASHES:
                name, length = _IMAGE_HASHES[kind]
                images.add((name, entry[:length]))
            elif kind in _CERTIFICATE_HASHES:
                name, length = _CERTIFICATE_HASHES[kind]
                hashes.add((name, entry[:length]))
    return KeyList(tuple(certificates), frozenset(images), frozenset(hashes))


def _parse_list(data: bytes, offset: int, *, what: str) -> tuple[uuid.UUID, list[bytes], int]:
    problem = f"reading the EFI variable {what}: its signature list at offset {offset:#x} is malformed"
    hint = "--no-verify-signatures leaves the check out"
    if offset + _HEADER.size > len(data):
        raise InvalidStateError(problem, hint=hint)
    kind, list_bytes, header_bytes, entry_bytes = _HEADER.unpack_from(data, offset)
    start, end = offset + _HEADER.size + header_bytes, offset + list_bytes
    if start > end or end > len(data) or entry_bytes <= _OWNER_BYTES or (end - start) % entry_bytes:
        raise InvalidStateError(problem, hint=hint)
    entries = [data[at + _OWNER_BYTES : at + entry_bytes] for at in range(start, end, entry_bytes)]
    return uuid.UUID(bytes_le=kind), entries, end
