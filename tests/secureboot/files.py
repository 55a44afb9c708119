"""PE files and their signatures, in every form that a loader may meet."""

from __future__ import annotations

import hashlib
import struct
import uuid
from typing import TYPE_CHECKING

from secureboot import asn1
from secureboot.authorities import DIGESTS, RSA, Authority, sign, signature_algorithm

if TYPE_CHECKING:
    from collections.abc import Sequence

_LFANEW, _OPTIONAL, _TABLE = 0x80, 0x98, 0x188
CHECKSUM, SECURITY = _OPTIONAL + 64, _OPTIONAL + 112 + 32
HEADERS_BYTES = 0x400
FILE_ALIGNMENT, SECTION_ALIGNMENT = 0x200, 0x1000
CODE, DATA = 0x60000020, 0xC0000040
SPC_DATA, SPC_INDIRECT, SIGNED_DATA = "1.3.6.1.4.1.311.2.1.15", "1.3.6.1.4.1.311.2.1.4", "1.2.840.113549.1.7.2"
PKCS7_GUID = uuid.UUID("4aafd29d-68df-49ee-8aa9-347d375665a7")
OWNER = uuid.UUID("11111111-2222-3333-4444-123456789abc")
CERT_X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
IMAGE_HASH = {
    "sha1": uuid.UUID("826ca512-cf10-4ac9-b187-be01496631bd"),
    "sha256": uuid.UUID("c1c41626-504c-4092-aca9-41f936934328"),
    "sha384": uuid.UUID("ff3e5307-9fd0-48c9-85f1-8ad56c701e01"),
    "sha512": uuid.UUID("093e0fae-a6c4-4f50-9f1b-d41e2b89c19a"),
}
CERTIFICATE_HASH = {
    "sha256": uuid.UUID("3bd2a492-96c0-4079-b420-fcf98ef103ed"),
    "sha384": uuid.UUID("7076876e-80c2-4ee6-aad2-28b349a6865b"),
    "sha512": uuid.UUID("446dbf63-2502-4cda-bcfa-2465d2b0fe9d"),
}


def signature_list(kind: uuid.UUID, *entries: bytes) -> bytes:
    """An EFI signature list; all entries have the same length."""
    body = b"".join(OWNER.bytes_le + entry for entry in entries)
    return kind.bytes_le + struct.pack("<III", 28 + len(body), 0, 16 + len(entries[0])) + body


def build_pe(code: bytes, *sections: tuple[str, bytes], entry: int = 0, mark: int = 0) -> bytes:
    """A PE32+ file for x86-64; `code` needs no relocation.

    Args:
        code: Section ``.text``.
        sections: Name and content of the further ones; a pair of which the first ends with ``!`` has relocations.
        entry: Where in the code it starts.
        mark: Makes its digest its own.
    """
    parts = [(".text", code, CODE), *((name, content, DATA) for name, content in sections)]
    table, body, address, offset = b"", b"", SECTION_ALIGNMENT, HEADERS_BYTES
    for name, content, flags in parts:
        raw = content + bytes(-len(content) % FILE_ALIGNMENT)
        relocations = int(name.endswith("!"))
        table += struct.pack(
            "<8sIIIIIIHHI",
            name.rstrip("!").encode(),
            len(content),
            address,
            len(raw),
            offset,
            0,
            0,
            relocations,
            0,
            flags,
        )
        body += raw
        offset += len(raw)
        address += -(-max(len(content), 1) // SECTION_ALIGNMENT) * SECTION_ALIGNMENT
    dos = b"MZ" + struct.pack("<H", mark).ljust(58, b"\0") + struct.pack("<I", _LFANEW)
    file_header = struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, len(parts), 0, 0, 0, 0xF0, 0x020E)
    optional = struct.pack(
        "<HBBIIIIIQIIHHHHHHIIIIHHQQQQII",
        *(0x20B, 0, 0, len(code), 0, 0, SECTION_ALIGNMENT + entry, SECTION_ALIGNMENT, 0),
        *(SECTION_ALIGNMENT, FILE_ALIGNMENT, 0, 0, 0, 0, 0, 0, 0, address, HEADERS_BYTES, 0, 10, 0x100),
        *(0, 0, 0, 0, 0, 16),
    )
    headers = dos.ljust(_LFANEW, b"\0") + file_header + optional + bytes(16 * 8) + table
    return headers.ljust(HEADERS_BYTES, b"\0") + body


def patch(data: bytes, offset: int, form: str, *values: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into("<" + form, changed, offset, *values)
    return bytes(changed)


def section_field(index: int, field: int) -> int:
    """Where a field of a section's header is: 8 virtual size, 12 address, 16 raw size, 20 offset."""
    return _TABLE + 40 * index + field


def count_sections(data: bytes) -> int:
    return int(struct.unpack_from("<H", data, _LFANEW + 6)[0])


def pe_hash(data: bytes, digest: str) -> bytes:
    """The Authenticode digest, written down once more and apart from what is tested."""
    hasher = hashlib.new(digest)
    _, signatures = struct.unpack_from("<II", data, SECURITY)
    (headers,) = struct.unpack_from("<I", data, _OPTIONAL + 60)
    hasher.update(data[:CHECKSUM] + data[CHECKSUM + 4 : SECURITY] + data[SECURITY + 8 : headers])
    places = sorted(struct.unpack_from("<II", data, section_field(i, 16))[::-1] for i in range(count_sections(data)))
    end = headers
    for offset, length in places:
        hasher.update(data[offset : offset + length])
        end += length
    hasher.update(data[end : max(end, len(data) - signatures)])
    return hasher.digest()


def spc_content(digest_bytes: bytes, digest: str, kind: str = SPC_DATA) -> bytes:
    link = asn1.tlv(0xA0, asn1.tlv(0xA2, asn1.tlv(0x80, "<<<Obsolete>>>".encode("utf-16-be"))))
    data = asn1.sequence(asn1.oid(kind), asn1.sequence(b"\x03\x01\x00", link))
    return data + asn1.sequence(asn1.algorithm(DIGESTS[digest]), asn1.tlv(asn1.OCTETS, digest_bytes))


def _attribute(kind: str, *values: bytes) -> bytes:
    return asn1.sequence(asn1.oid(kind), asn1.tlv(asn1.SET, *values))


def signer_info(
    signer: Authority,
    content: bytes,
    digest: str,
    *,
    attributes: str = "type digest",
    pss: bool = False,
    algorithm: bytes | None = None,
    by_key_id: bytes | None = None,
) -> bytes:
    """One SignerInfo.

    Args:
        signer: Who.
        content: What is signed.
        digest: With which hash.
        attributes: Words: ``type``, ``digest``, ``wrong`` for a wrong digest; empty for none.
        pss: Sign with RSA-PSS.
        algorithm: The signature's, where it should not be the usual one.
        by_key_id: Name the signer by a key id, which makes it version 3.
    """
    signed, block = content, b""
    if attributes:
        found = hashlib.new(digest, content).digest()
        words = {
            "type": _attribute("1.2.840.113549.1.9.3", asn1.oid(SPC_INDIRECT)),
            "digest": _attribute("1.2.840.113549.1.9.4", asn1.tlv(asn1.OCTETS, found)),
            "wrong": _attribute("1.2.840.113549.1.9.4", asn1.tlv(asn1.OCTETS, bytes(len(found)))),
        }
        inner = b"".join(words[word] for word in attributes.split())
        signed, block = asn1.tlv(asn1.SET, inner), asn1.tlv(0xA0, inner)
    if algorithm is None:
        plain = asn1.algorithm(RSA)
        is_rsa = not pss and RSA.encode() and hasattr(signer.key, "private_numbers") and hasattr(signer.key, "decrypt")
        algorithm = plain if is_rsa else signature_algorithm(signer.key, digest, pss=pss)
    who = asn1.sequence(signer.issuer, asn1.integer(signer.serial))
    if by_key_id is not None:
        who = asn1.tlv(0x80, by_key_id)
    return asn1.sequence(
        asn1.integer(1 if by_key_id is None else 3),
        who,
        asn1.algorithm(DIGESTS[digest]),
        block,
        algorithm,
        asn1.tlv(asn1.OCTETS, sign(signer.key, signed, digest, pss=pss)),
    )


def pkcs7(
    data: bytes,
    *signers: Authority,
    chain: Sequence[Authority | bytes] = (),
    digest: str = "sha256",
    content_digest: str | None = None,
    announced: Sequence[str] | None = None,
    image_digest: bytes | None = None,
    content_type: str = SPC_INDIRECT,
    embeds: bool = True,
    attributes: str = "type digest",
    pss: bool = False,
    algorithm: bytes | None = None,
    by_key_id: bytes | None = None,
) -> bytes:
    """A PKCS #7 signature over a PE file's digest."""
    over = content_digest or digest
    content = spc_content(image_digest or pe_hash(data, over), over)
    infos = [
        signer_info(one, content, digest, attributes=attributes, pss=pss, algorithm=algorithm, by_key_id=by_key_id)
        for one in signers
    ]
    certificates = [one if isinstance(one, bytes) else one.der for one in [*(signers if embeds else ()), *chain]]
    signed = asn1.sequence(
        asn1.integer(1),
        asn1.tlv(asn1.SET, *(asn1.algorithm(DIGESTS[one]) for one in announced or [digest])),
        asn1.sequence(asn1.oid(content_type), asn1.tlv(0xA0, asn1.sequence(content))),
        asn1.tlv(0xA0, *certificates),
        asn1.tlv(asn1.SET, *infos),
    )
    return asn1.sequence(asn1.oid(SIGNED_DATA), asn1.tlv(0xA0, signed))


def entry(
    der: bytes, *, revision: int = 0x200, kind: int = 2, padded: bool = True, guid: uuid.UUID = PKCS7_GUID
) -> bytes:
    """One entry of the table of signatures."""
    if kind == 0xEF1:
        der = guid.bytes_le + der
    if padded:
        der += bytes(-len(der) % 8)
    return struct.pack("<IHH", 8 + len(der), revision, kind) + der


def attach(data: bytes, *entries: bytes, size: int | None = None, tail: bytes = b"") -> bytes:
    """Append a table of signatures and point to it."""
    table = b"".join(one + bytes(-len(one) % 8) for one in entries[:-1]) + b"".join(entries[-1:])
    return patch(data, SECURITY, "II", len(data), len(table) if size is None else size) + table + tail
