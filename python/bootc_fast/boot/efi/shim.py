"""shim's verdict, for what a loader behind it starts.

Source:
    shim ``verify.c``, ``verify_buffer``; ``pe.c``, ``generate_hash``; ``pe-relocate.c``, ``read_header`` and
    ``get_section_vma``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from bootc_fast.boot.efi import sbat
from bootc_fast.boot.efi.authenticode import decode_signature, try_anchors
from bootc_fast.boot.efi.chain import name_of
from bootc_fast.boot.efi.edk2 import MAX_SIGNATURE_BYTES, MAX_SIGNATURES
from bootc_fast.boot.efi.pe import Part, PeFile, list_hashed_parts
from bootc_fast.boot.efi.siglist import KeyList, load_certificate, parse_key_list
from bootc_fast.boot.efi.verdict import ACCEPTED, Verdict
from bootc_fast.errors import SignatureError
from bootc_fast.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bootc_fast._core import Certificate
    from bootc_fast.boot.efi.firmware import SecureBootState
    from bootc_fast.boot.efi.keys import Kind

_CERTIFICATE_HEADER = struct.Struct("<IHH")
_SIGNED_DATA = 0x0002
_MODULE_SIGNING = "1.3.6.1.4.1.2312.16.1.2"
_DATA_DIRECTORIES, _DIRECTORY_BYTES, _SECTION_BYTES = 16, 8, 40
_NT_HEADER_BYTES, _DOS_HEADER_BYTES = 24, 64
_OPTIONAL_BYTES = {False: 96, True: 112}
_RELOCS_STRIPPED, _NX_COMPATIBLE = 0x0001, 0x0100
_UNINITIALIZED, _DISCARDABLE = 0x00000080, 0x02000000


@dataclass(frozen=True, slots=True)
class _Source:
    """One variable: its digests and its certificates."""

    name: str
    keys: KeyList
    certificates: list[Certificate]
    has_sha1: bool


def _load(name: str, data: bytes, *, has_sha1: bool) -> _Source:
    keys = parse_key_list(data, what=name)
    found: list[Certificate] = []
    for der in keys.iterate_certificates(first_of_list=True):
        # DER with a length of two bytes, and nothing behind.
        if der[:2] != b"\x30\x82" or int.from_bytes(der[2:4], "big") != len(der) - 4:
            continue
        certificate = load_certificate(der)
        # A key that signs kernel modules must not sign what boots.
        if certificate is not None and _MODULE_SIGNING not in certificate.extended_usages:
            found.append(certificate)
    return _Source(name, keys, found, has_sha1)


def _find_module_key(signer: Certificate, sources: list[_Source]) -> bool:
    loaded = (load_certificate(der) for one in sources for der in one.keys.iterate_certificates(first_of_list=True))
    return any(
        one is not None and _MODULE_SIGNING in one.extended_usages and (one == signer or one.subject == signer.issuer)
        for one in loaded
    )


def _iterate_header_faults(pe: PeFile, *, requires_nx: bool) -> Iterator[str]:
    image = pe.image
    table = image.header_offset + _NT_HEADER_BYTES + image.optional_bytes
    directories = image.optional_bytes - _OPTIONAL_BYTES[image.is_64]
    if image.header_offset < _DOS_HEADER_BYTES or image.security_offset is None or image.file_alignment % 2:
        yield "its headers are not those of a file that shim starts"
    if image.directory_count > _DATA_DIRECTORIES or directories != image.directory_count * _DIRECTORY_BYTES:
        yield "its data directories do not fit its optional header"
    if image.image_bytes < table or (image.image_bytes - table) // _SECTION_BYTES <= len(pe.sections):
        yield "its section table does not fit its image"
    if image.headers_bytes < table or (image.headers_bytes - table) // _SECTION_BYTES < len(pe.sections):
        yield "its section table does not fit its headers"
    if image.characteristics & _RELOCS_STRIPPED:
        yield "its relocations have been stripped"
    if requires_nx and not image.dll_characteristics & _NX_COMPATIBLE:
        yield "MokPolicy wants NX, which it does not say it supports"
    if not image.headers_bytes <= min(image.image_bytes, pe.size_bytes):
        yield f"its headers have {image.headers_bytes} bytes"
    start, length = image.signatures_offset, image.signatures_bytes
    if start > pe.size_bytes or (start == pe.size_bytes and length):
        yield "its table of signatures does not lie within the file"
    yield from _iterate_section_faults(pe)


def _iterate_section_faults(pe: PeFile) -> Iterator[str]:
    image = pe.image
    hashed = image.headers_bytes
    for section in pe.sections:
        last = section.virtual_address + section.virtual_bytes - 1
        is_outside = section.virtual_address > image.image_bytes or not 0 <= last <= image.image_bytes
        if not section.characteristics & _DISCARDABLE and (is_outside or not section.virtual_bytes):
            yield f"its section {section.name} does not lie within the image"
        if not section.characteristics & _UNINITIALIZED and (
            min(section.virtual_address, section.offset) < image.headers_bytes
        ):
            yield f"its section {section.name} lies in the headers"
        hashed += section.raw_bytes
        if hashed > pe.size_bytes:
            yield "its sections are longer than the file"


def list_parts(pe: PeFile) -> list[Part]:
    """Return what shim hashes; a file without signatures is padded to 8 bytes, as sbsign would.

    Raises:
        SignatureError: Sections and signatures do not end the file together.
    """
    parts = list_hashed_parts(pe)
    hashed = pe.image.headers_bytes + sum(one.raw_bytes for one in pe.sections)
    signatures = pe.image.signatures_bytes
    if pe.size_bytes > hashed and signatures:
        left = pe.size_bytes - signatures - hashed
        if left < 0 or hashed + left != pe.image.signatures_offset:
            raise SignatureError("its sections and its signatures do not fit together")
        if left:
            parts.append((hashed, left))
            hashed += left
    if pe.size_bytes > hashed + signatures:
        parts.append((hashed, pe.size_bytes - hashed))
        parts.append((None, -pe.size_bytes % 8))
    return [part for part in parts if part[1]]


def _iterate_entries(pe: PeFile) -> Iterator[bytes]:
    start, size = pe.image.signatures_offset, pe.image.signatures_bytes
    offset = 0
    for _ in range(MAX_SIGNATURES):
        if offset >= size:
            return
        if offset + _CERTIFICATE_HEADER.size > size:
            raise SignatureError("its table of signatures is torn")
        length, _, kind = _CERTIFICATE_HEADER.unpack(pe.image.read(start + offset, _CERTIFICATE_HEADER.size))
        if length > size - offset or length < _CERTIFICATE_HEADER.size:
            raise SignatureError("its table of signatures is torn")
        if kind == _SIGNED_DATA:
            content = pe.image.read(start + offset, min(length, MAX_SIGNATURE_BYTES))
            yield content[_CERTIFICATE_HEADER.size :]
        offset = -(-(offset + length) // 8) * 8


class _Judge:
    """Judges one file."""

    def __init__(self, pe: PeFile, state: SecureBootState, known: frozenset[Kind]) -> None:
        self._pe, self._known, self._sbat_level = pe, known, state.sbat_level
        self._requires_nx = state.requires_nx
        db = [] if state.ignores_db else [_load("db", state.db, has_sha1=True)]
        self._allowed = [*db, _load("MokListRT", state.mok, has_sha1=False)]
        self._forbidden = [
            _load("dbx", state.dbx, has_sha1=True),
            _load("MokListXRT", state.mokx, has_sha1=False),
        ]
        self._sha1, self._sha256 = b"", b""

    def _find_hash(self, sources: list[_Source]) -> str | None:
        for source in sources:
            if source.keys.has_image("sha256", self._sha256, is_exact=False) or (
                source.has_sha1 and source.keys.has_image("sha1", self._sha1, is_exact=False)
            ):
                return source.name
        return None

    def judge(self) -> Verdict:
        """Judge it: signature, then SBAT."""
        fault = next(_iterate_header_faults(self._pe, requires_nx=self._requires_nx), None)
        if fault is not None:
            return Verdict(fault)
        try:
            self._sha1, self._sha256 = self._pe.image.hash(list_parts(self._pe), ["sha1", "sha256"])
            verdict = self._judge_signatures()
        except SignatureError as error:
            return Verdict(str(error))
        fault = sbat.find_fault(self._pe, self._sbat_level) if verdict.is_accepted else None
        return verdict if fault is None else Verdict(fault)

    def _judge_signatures(self) -> Verdict:
        forbidden = self._find_hash(self._forbidden)
        if forbidden is not None:
            return Verdict(f"{forbidden} forbids it by its hash")
        if self._find_hash(self._allowed) is not None:
            return ACCEPTED
        if not self._pe.image.signatures_bytes:
            return Verdict("it is not signed, and Secure Boot is on")
        if self._pe.image.signatures_offset + self._pe.image.signatures_bytes > self._pe.size_bytes:
            return Verdict("its table of signatures does not lie within the file")
        # All are looked at: a torn one behind a good one refuses the file.
        said = [self._judge_one(der) for der in _iterate_entries(self._pe)]
        if any(one.is_accepted for one in said):
            return ACCEPTED
        unknown = [one for one in said if one.is_unknown_signer]
        return (unknown or said or [Verdict("it has no signature that is accepted")])[0]

    def _judge_one(self, der: bytes) -> Verdict:
        try:
            signature = decode_signature(der)
        except SignatureError as error:
            return Verdict(f"a signature is malformed: {error}")
        for source in self._forbidden:
            found = try_anchors(signature, self._sha256, source.certificates, known=self._known)
            if found.anchor is not None:
                return Verdict(f"{source.name} forbids its signer by {name_of(found.anchor)}")
        problem: str | None = None
        for source in self._allowed:
            found = try_anchors(signature, self._sha256, source.certificates, known=self._known)
            if found.anchor is not None:
                return ACCEPTED
            problem = problem or found.problem
        if problem is not None:
            return Verdict(problem)
        name = signature.signer_names
        if any(_find_module_key(signer, self._allowed) for _, signer in signature.signers):
            return Verdict(f"its signer {name} may sign kernel modules only, which shim takes for nothing that boots")
        return Verdict(f"its signer {name} is in neither db nor MokListRT", is_unknown_signer=True)


def judge(pe: PeFile, state: SecureBootState, *, known: frozenset[Kind]) -> Verdict:
    """Judge a file as shim does when a loader behind it asks.

    Args:
        pe: The file.
        state: The lists and switches.
        known: Kinds of signatures that shim is taken to know besides RSA.

    Raises:
        InvalidStateError: A list is malformed.
        OSError: The file cannot be read.
    """
    if state.is_validation_off:
        return ACCEPTED
    return _Judge(pe, state, known).judge()
