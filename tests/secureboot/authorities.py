"""Keys and certificates of the generated files: the same bytes at every run, from numbers that lie beside.

The keys are no secret: nothing but the tests trusts them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from secureboot import asn1

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

HASHES = {
    "md5": hashes.MD5(),  # noqa: S303 - the firmware takes it
    "sha1": hashes.SHA1(),  # noqa: S303
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
DIGESTS = {
    "md5": "1.2.840.113549.2.5",
    "sha1": "1.3.14.3.2.26",
    "sha256": "2.16.840.1.101.3.4.2.1",
    "sha384": "2.16.840.1.101.3.4.2.2",
    "sha512": "2.16.840.1.101.3.4.2.3",
}
RSA, RSA_PSS, ED25519 = "1.2.840.113549.1.1.1", "1.2.840.113549.1.1.10", "1.3.101.112"
RSA_WITH = {
    "md5": "1.2.840.113549.1.1.4",
    "sha1": "1.2.840.113549.1.1.5",
    "sha256": "1.2.840.113549.1.1.11",
    "sha384": "1.2.840.113549.1.1.12",
    "sha512": "1.2.840.113549.1.1.13",
}
ECDSA_WITH = {"sha256": "1.2.840.10045.4.3.2", "sha384": "1.2.840.10045.4.3.3", "sha512": "1.2.840.10045.4.3.4"}
_PRIMES = Path(__file__).with_name("primes.txt")
_EXPONENT = 65537


@cache
def _all_primes() -> dict[int, list[tuple[int, int]]]:
    found: dict[int, list[tuple[int, int]]] = {}
    for line in _PRIMES.read_text().splitlines():
        if line and not line.startswith("#"):
            p, q = (int(word, 16) for word in line.split())
            found.setdefault((p * q).bit_length(), []).append((p, q))
    return found


@cache
def rsa_key(label: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """The key of a label; several labels may share one, which changes nothing: loaders find by names."""
    pool = _all_primes()[bits]
    p, q = pool[int.from_bytes(hashlib.sha256(label.encode()).digest()[:4], "big") % len(pool)]
    d = pow(_EXPONENT, -1, (p - 1) * (q - 1))
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), rsa.RSAPublicNumbers(_EXPONENT, p * q)
    )
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


def ec_key(number: int, curve: ec.EllipticCurve) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(number, curve)


def ed_key(number: int) -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))


def sign(key: Key, message: bytes, digest: str, *, pss: bool = False) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        # Without salt, so that the bytes are always the same.
        scheme = padding.PSS(padding.MGF1(HASHES[digest]), 0) if pss else padding.PKCS1v15()
        return key.sign(message, scheme, HASHES[digest])
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(message, ec.ECDSA(HASHES[digest], deterministic_signing=True))
    return key.sign(message)


def pss_parameters(digest: str) -> bytes:
    inner = asn1.algorithm(DIGESTS[digest])
    mask = asn1.algorithm("1.2.840.113549.1.1.8", inner)
    return asn1.sequence(asn1.tlv(0xA0, inner), asn1.tlv(0xA1, mask), asn1.tlv(0xA2, asn1.integer(0)))


def signature_algorithm(key: Key, digest: str, *, pss: bool = False) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return asn1.algorithm(RSA_PSS, pss_parameters(digest)) if pss else asn1.algorithm(RSA_WITH[digest])
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return asn1.algorithm(ECDSA_WITH[digest], b"")
    return asn1.algorithm(ED25519, b"")


@dataclass(frozen=True)
class Authority:
    """A key with its certificate.

    Attributes:
        key: Private.
        der: The certificate.
        issuer: Name in it.
        subject: Name in it.
        serial: Number in it.
    """

    key: Key
    der: bytes
    issuer: bytes
    subject: bytes
    serial: int

    @property
    def tbs(self) -> bytes:
        """What its issuer signed."""
        length = int.from_bytes(self.der[6:8], "big") + 4
        return self.der[4 : 4 + length]

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Write key and certificate for sbsign, in PEM."""
        from cryptography import x509

        key, certificate = directory / f"{name}.key", directory / f"{name}.crt"
        pem, encryption = serialization.Encoding.PEM, serialization.NoEncryption()
        key.write_bytes(self.key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, encryption))
        certificate.write_bytes(x509.load_der_x509_certificate(self.der).public_bytes(pem))
        return key, certificate


def make(
    common_name: str,
    issuer: Authority | None = None,
    *extensions: bytes,
    ca: bool = True,
    path_length: int | None = None,
    has_basic: bool = True,
    key: Key | None = None,
    subject: bytes | None = None,
    issuer_name: bytes | None = None,
    serial: int | None = None,
    digest: str = "sha256",
    pss: bool = False,
    version: int = 3,
    expired: bool = False,
    bad_signature: bool = False,
) -> Authority:
    """Make a certificate, self-signed without an issuer."""
    key = key or rsa_key(common_name)
    subject = subject or asn1.name(common_name)
    issuer_name = issuer_name or (issuer.subject if issuer else subject)
    if serial is None:
        serial = int.from_bytes(hashlib.sha256(common_name.encode()).digest()[:8], "big") >> 1
    issuing = issuer.key if issuer else key
    named = signature_algorithm(issuing, digest, pss=pss)
    end = b"020101000000Z" if expired else b"450101000000Z"
    validity = asn1.sequence(asn1.tlv(0x17, b"010101000000Z"), asn1.tlv(0x17, end))
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    parts = [asn1.integer(serial), named, issuer_name, validity, subject, public]
    if version == 3:
        own = ([asn1.basic(ca=ca, path_length=path_length)] if has_basic else []) + list(extensions)
        parts.insert(0, asn1.tlv(0xA0, asn1.integer(2)))
        if own:
            parts.append(asn1.tlv(0xA3, asn1.sequence(*own)))
    tbs = asn1.sequence(*parts)
    signature = sign(issuing, tbs + b"!" * bad_signature, digest, pss=pss)
    return Authority(
        key, asn1.sequence(tbs, named, asn1.tlv(asn1.BITS, b"\0", signature)), issuer_name, subject, serial
    )
