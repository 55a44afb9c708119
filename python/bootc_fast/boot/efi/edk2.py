"""The firmware's verdict: EDK II's, which almost all firmware is made of.

Source:
    EDK II ``DxeImageVerificationLib.c``, ``DxeImageVerificationHandler``; ``BasePeCoff.c``,
    ``PeCoffLoaderGetPeHeader``.
"""

from __future__ import annotations

import struct
import uuid
from typing import TYPE_CHECKING

from bootc_fast.boot.efi.authenticode import Signature, decode_signature, try_anchors
from bootc_fast.boot.efi.chain import name_of
from bootc_fast.boot.efi.keys import digest_of
from bootc_fast.boot.efi.pe import Part, PeFile, list_hashed_parts
from bootc_fast.boot.efi.siglist import KeyList, parse_key_list
from bootc_fast.boot.efi.verdict import ACCEPTED, Verdict
from bootc_fast.errors import SignatureError
from bootc_fast.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bootc_fast._core import Certificate
    from bootc_fast.boot.efi.firmware import SecureBootState
    from bootc_fast.boot.efi.keys import Kind

MAX_SIGNATURES = 64
"""Signatures of one file; more than a handful is not a thing that exists."""
MAX_SIGNATURE_BYTES = 1 << 20
"""Longest signature that is read; one above 64 KiB nobody accepts."""

_CERTIFICATE_HEADER = struct.Struct("<IHH")
_SIGNED_DATA, _EFI_GUID = 0x0002, 0x0EF1
_PKCS7_GUID = uuid.UUID("4aafd29d-68df-49ee-8aa9-347d375665a7").bytes_le
_DATA_DIRECTORIES, _DIRECTORY_BYTES, _SECTION_BYTES = 16, 8, 40
_NT_HEADER_BYTES = 24
_RELOCS_STRIPPED = 0x0001
_OPTIONAL_BYTES = {False: 96, True: 112}
# EDK II finds the digest's OID by its place: 32 bytes into a structure whose lengths have two bytes each.
_ALGORITHM_OFFSET, _TWO_BYTES = 32, 0x82
_ALGORITHMS = {
    "sha1": bytes.fromhex("2b0e03021a"),
    "sha256": bytes.fromhex("608648016503040201"),
    "sha384": bytes.fromhex("608648016503040202"),
    "sha512": bytes.fromhex("608648016503040203"),
}


class TornError(Exception):
    """The table of signatures does not end where it says."""


@dataclass(frozen=True, slots=True)
class _Lists:
    db: KeyList
    dbx: KeyList
    allowed: list[Certificate]
    forbidden: list[Certificate]

    def find_revoked(self, certificate: Certificate) -> bool:
        """Say whether dbx has the certificate's digest; the time of revocation needs dbt, which nobody has."""
        return any(digest_of(name, certificate.tbs) == found for name, found in self.dbx.iterate_certificate_hashes())


def find_header_fault(pe: PeFile) -> str | None:
    """Say what in the headers EDK II does not take; None for nothing."""
    return next(_iterate_header_faults(pe), None)


def _iterate_header_faults(pe: PeFile) -> Iterator[str]:
    image = pe.image
    table = image.header_offset + _NT_HEADER_BYTES + image.optional_bytes
    directories = image.optional_bytes - _OPTIONAL_BYTES[image.is_64]
    if image.directory_count > _DATA_DIRECTORIES or directories != image.directory_count * _DIRECTORY_BYTES:
        yield "its data directories do not fit its optional header"
    if image.image_bytes <= table or (image.image_bytes - table) // _SECTION_BYTES <= len(pe.sections):
        yield "its section table does not fit its image"
    if not table < image.headers_bytes < image.image_bytes or image.headers_bytes > pe.size_bytes:
        yield f"its headers have {image.headers_bytes} bytes"
    if (image.headers_bytes - table) // _SECTION_BYTES < len(pe.sections):
        yield "its section table does not fit its headers"
    if image.signatures_bytes and image.signatures_offset + image.signatures_bytes > pe.size_bytes:
        yield "its table of signatures does not lie within the file"
    if image.characteristics & _RELOCS_STRIPPED:
        # No verdict of Secure Boot: it could be loaded at one address only, which is hardly ever free.
        yield "its relocations have been stripped"
    for section in pe.sections:
        if section.raw_bytes and min(section.virtual_address, section.offset) < image.headers_bytes:
            yield f"its section {section.name} lies in the headers"


def list_parts(pe: PeFile) -> list[Part]:
    """Return what the firmware hashes.

    Raises:
        SignatureError: Sections and signatures overlap.

    Source:
        EDK II ``HashPeImage``.
    """
    parts = list_hashed_parts(pe)
    hashed = pe.image.headers_bytes + sum(one.raw_bytes for one in pe.sections)
    if pe.size_bytes > hashed:
        signatures = 0 if pe.image.security_offset is None else pe.image.signatures_bytes
        left = pe.size_bytes - signatures - hashed
        if left < 0:
            raise SignatureError("its sections and its signatures overlap")
        if left:
            parts.append((hashed, left))
    return parts


def hash_image(pe: PeFile, algorithm: str) -> bytes:
    """Compute the Authenticode digest with ``sha1``, ``sha256``, ``sha384`` or ``sha512``.

    Raises:
        SignatureError: Sections and signatures overlap, which the firmware refuses.
        OSError: The file cannot be read.
    """
    return pe.image.hash(list_parts(pe), [algorithm])[0]


def iterate_entries(pe: PeFile) -> Iterator[bytes]:
    """Yield the PKCS #7 signatures of the table, DER with possible padding behind.

    Raises:
        TornError: The table is torn at this place.
    """
    offset, end = pe.image.signatures_offset, pe.image.signatures_offset + pe.image.signatures_bytes
    count = 0
    while offset < end:
        left = end - offset
        if left <= _CERTIFICATE_HEADER.size or count >= MAX_SIGNATURES:
            raise TornError
        length, _, kind = _CERTIFICATE_HEADER.unpack(pe.image.read(offset, _CERTIFICATE_HEADER.size))
        padded = -(-length // 8) * 8
        if padded > left or length < _CERTIFICATE_HEADER.size:
            raise TornError
        start = _CERTIFICATE_HEADER.size
        if kind == _EFI_GUID:
            start += len(_PKCS7_GUID)
        if kind in {_SIGNED_DATA, _EFI_GUID} and length <= start:
            raise TornError
        content = pe.image.read(offset, min(length, MAX_SIGNATURE_BYTES))
        if kind == _SIGNED_DATA or (kind == _EFI_GUID and content[8:24] == _PKCS7_GUID):
            yield content[start:]
        offset += padded
        count += 1


def find_algorithm(der: bytes) -> str | None:
    """Return the hash that EDK II sees announced; None where it sees none, and passes the signature over."""
    if len(der) > 1 and der[1] & _TWO_BYTES != _TWO_BYTES:
        return None
    return next((name for name, oid in _ALGORITHMS.items() if der.startswith(oid, _ALGORITHM_OFFSET)), None)


class _Hashes:
    """Digests of one file, each computed once."""

    def __init__(self, pe: PeFile) -> None:
        self._pe = pe
        self._found: dict[str, bytes] = {}

    def get(self, algorithm: str) -> bytes:
        if algorithm not in self._found:
            self._found[algorithm] = hash_image(self._pe, algorithm)
        return self._found[algorithm]


def _judge_unsigned(lists: _Lists, hashes: _Hashes) -> Verdict:
    # Old firmware looks for the SHA-256 digest only, new one for all: forbidden is what either forbids, allowed what
    # both allow.
    for algorithm in sorted(lists.dbx.list_image_algorithms()):
        if lists.dbx.has_image(algorithm, hashes.get(algorithm)):
            return Verdict("dbx forbids it by its hash")
    if lists.db.has_image("sha256", hashes.get("sha256")):
        return ACCEPTED
    return Verdict("it is not signed, and Secure Boot is on")


def _judge_signature(
    der: bytes, algorithm: str, lists: _Lists, hashes: _Hashes, known: frozenset[Kind]
) -> tuple[bool, Verdict]:
    """Judge one signature alone; returns whether it forbids the file, and what is said."""
    digest = hashes.get(algorithm)
    try:
        signature = decode_signature(der)
    except SignatureError as error:
        # It cannot be told whom it would forbid: where there is a dbx, the firmware refuses.
        return bool(lists.dbx.lists), Verdict(f"a signature is malformed: {error}")
    forbidden = try_anchors(signature, digest, lists.forbidden, known=known).anchor
    if forbidden is not None:
        return True, Verdict(f"dbx forbids its signer by {name_of(forbidden)}")
    for _, signer in signature.signers:
        if lists.find_revoked(signer):
            return True, Verdict(f"dbx forbids the certificate {name_of(signer)}")
    finding = try_anchors(signature, digest, lists.allowed, known=known)
    verdict = _say(signature, finding.problem)
    if finding.anchor is not None:
        is_revoked = lists.find_revoked(finding.anchor)
        verdict = Verdict(f"dbx forbids the certificate {name_of(finding.anchor)}") if is_revoked else ACCEPTED
    if lists.dbx.has_image(algorithm, digest):
        return True, Verdict("dbx forbids it by its hash")
    if not verdict.is_accepted and lists.db.has_image(algorithm, digest):
        verdict = ACCEPTED
    return False, verdict


def _say(signature: Signature, problem: str | None) -> Verdict:
    if problem is not None:
        return Verdict(problem)
    return Verdict(f"its signer {signature.signer_names} is in neither db nor MokListRT", is_unknown_signer=True)


def judge(pe: PeFile, state: SecureBootState, *, known: frozenset[Kind]) -> Verdict:
    """Judge a file as the firmware does before it starts it.

    Args:
        pe: The file.
        state: Its lists.
        known: Kinds of signatures that the firmware is taken to know besides RSA.

    Raises:
        InvalidStateError: A list is malformed.
        OSError: The file cannot be read.
    """
    db, dbx = parse_key_list(state.db, what="db"), parse_key_list(state.dbx, what="dbx")
    lists = _Lists(db, dbx, db.load_certificates(), dbx.load_certificates())
    hashes = _Hashes(pe)
    try:
        fault = find_header_fault(pe)
        if fault is not None:
            return Verdict(fault)
        if not pe.image.signatures_bytes:
            return _judge_unsigned(lists, hashes)
        return _judge_signed(pe, lists, hashes, known)
    except SignatureError as error:
        return Verdict(str(error))
    except TornError:
        return Verdict("its table of signatures is torn")


def _judge_signed(pe: PeFile, lists: _Lists, hashes: _Hashes, known: frozenset[Kind]) -> Verdict:
    said: list[Verdict] = []
    for der in iterate_entries(pe):
        algorithm = find_algorithm(der)
        if algorithm is None:
            said.append(Verdict("a signature announces a hash that is not accepted, or is too long"))
            continue
        is_forbidding, verdict = _judge_signature(der, algorithm, lists, hashes, known)
        if is_forbidding:
            return verdict
        said.append(verdict)
    if any(one.is_accepted for one in said):
        return ACCEPTED
    # Of several reasons the one that more keys would mend, else the first.
    unknown = [one for one in said if one.is_unknown_signer]
    return (unknown or said or [Verdict("it has no signature that is accepted")])[0]
