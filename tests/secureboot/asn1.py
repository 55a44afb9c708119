"""Just enough of DER to write certificates and signatures that no tool would make."""

from __future__ import annotations

BOOLEAN, INTEGER, BITS, OCTETS, NULL, OID, SEQUENCE, SET = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x30, 0x31
UTF8, PRINTABLE, T61, IA5, BMP = 0x0C, 0x13, 0x14, 0x16, 0x1E


def tlv(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + content


def sequence(*contents: bytes) -> bytes:
    return tlv(SEQUENCE, *contents)


def integer(number: int) -> bytes:
    return tlv(INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True))


def oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    out = b""
    for number in (first * 40 + second, *rest):
        part = bytes([number & 0x7F])
        while number := number >> 7:
            part = bytes([0x80 | number & 0x7F]) + part
        out += part
    return tlv(OID, out)


def algorithm(dotted: str, parameters: bytes = b"\x05\x00") -> bytes:
    return sequence(oid(dotted), parameters)


def name(text: str, tag: int = UTF8, kind: str = "2.5.4.3") -> bytes:
    """A distinguished name with one attribute: by default the common name."""
    encoded = text.encode("utf-16-be" if tag == BMP else "latin-1" if tag == T61 else "utf-8")
    return sequence(tlv(SET, sequence(oid(kind), tlv(tag, encoded))))


def extension(dotted: str, value: bytes, *, critical: bool = False) -> bytes:
    return sequence(oid(dotted), tlv(BOOLEAN, b"\xff") if critical else b"", tlv(OCTETS, value))


def basic(*, ca: bool, path_length: int | None = None) -> bytes:
    inner = [tlv(BOOLEAN, b"\xff")] if ca else []
    if path_length is not None:
        inner.append(integer(path_length))
    return extension("2.5.29.19", sequence(*inner), critical=True)


def key_usage(*bits: int, critical: bool = True) -> bytes:
    value = sum(0x80 >> bit for bit in bits)
    return extension("2.5.29.15", tlv(BITS, b"\0", bytes([value])), critical=critical)


def extended_usage(*dotted: str, critical: bool = False) -> bytes:
    return extension("2.5.29.37", sequence(*map(oid, dotted)), critical=critical)


def subject_key(value: bytes) -> bytes:
    return extension("2.5.29.14", tlv(OCTETS, value))


def authority_key(*, key_id: bytes | None = None, issuer: bytes | None = None, serial: int | None = None) -> bytes:
    parts = [] if key_id is None else [tlv(0x80, key_id)]
    if issuer is not None:
        parts.append(tlv(0xA1, tlv(0xA4, issuer)))
    if serial is not None:
        parts.append(tlv(0x82, integer(serial)[2:]))
    return extension("2.5.29.35", sequence(*parts))


def alternative_names(*names: bytes) -> bytes:
    return extension("2.5.29.17", sequence(*names))


def dns(text: str) -> bytes:
    return tlv(0x82, text.encode())


def email(text: str) -> bytes:
    return tlv(0x81, text.encode())


def uri(text: str) -> bytes:
    return tlv(0x86, text.encode())


def address(text: bytes) -> bytes:
    return tlv(0x87, text)


def directory(named: bytes) -> bytes:
    return tlv(0xA4, named)


def name_constraints(permitted: tuple[bytes, ...] = (), excluded: tuple[bytes, ...] = (), tail: bytes = b"") -> bytes:
    parts = [
        tlv(tag, *(sequence(one, tail) for one in names))
        for tag, names in ((0xA0, permitted), (0xA1, excluded))
        if names
    ]
    return extension("2.5.29.30", sequence(*parts), critical=True)
