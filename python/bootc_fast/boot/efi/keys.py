"""Signatures by public keys, as the firmware's OpenSSL verifies them.

Keys are those of ``cryptography``. RSA is compared by its DigestInfo, since the firmware takes SHA-1 and MD5, which
the system's policy may have switched off for ``cryptography``.
"""

from __future__ import annotations

import hashlib
import hmac
from enum import Enum

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

DIGESTS = {
    "1.2.840.113549.2.5": "md5",
    "1.3.14.3.2.26": "sha1",
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
}
"""Digests that EDK II registers with its OpenSSL, by OID."""
RSA_PSS = "1.2.840.113549.1.1.10"
"""OID of the signature algorithm RSASSA-PSS."""
_CERTIFICATE_SIGNATURES = {
    "1.2.840.113549.1.1.4": "md5",
    "1.2.840.113549.1.1.5": "sha1",
    "1.2.840.113549.1.1.11": "sha256",
    "1.2.840.113549.1.1.12": "sha384",
    "1.2.840.113549.1.1.13": "sha512",
    "1.2.840.10045.4.1": "sha1",
    "1.2.840.10045.4.3.2": "sha256",
    "1.2.840.10045.4.3.3": "sha384",
    "1.2.840.10045.4.3.4": "sha512",
}
# DER up to the digest itself: DigestInfo with the algorithm's parameters NULL (RFC 8017, 9.2, note 1).
_DIGEST_INFOS = {
    "md5": bytes.fromhex("3020300c06082a864886f70d020505000410"),
    "sha1": bytes.fromhex("3021300906052b0e03021a05000414"),
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha1": hashes.SHA1(),  # noqa: S303 - the firmware takes it
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


class Kind(Enum):
    """Kinds of signatures that one firmware knows and another does not; EDK II is built with and without them."""

    ECDSA = "ECDSA"
    RSA_PSS = "RSA-PSS"


def digest_of(algorithm: str, data: bytes) -> bytes:
    """Hash for comparing with what is signed."""
    return hashlib.new(algorithm, data, usedforsecurity=False).digest()


def _verify_rsa(key: rsa.RSAPublicKey, algorithm: str, signature: bytes, message: bytes) -> bool:
    recovered = key.recover_data_from_signature(signature, padding.PKCS1v15(), None)
    return hmac.compare_digest(recovered, _DIGEST_INFOS[algorithm] + digest_of(algorithm, message))


def _verify_pss(key: rsa.RSAPublicKey, signature: bytes, message: bytes) -> bool:
    # All hashes that EDK II knows; a salt of any length. The parameters are in what the issuer signed.
    for hasher in _HASHES.values():
        try:
            key.verify(signature, message, padding.PSS(padding.MGF1(hasher), padding.PSS.AUTO), hasher)
        except InvalidSignature:
            continue
        return True
    return False


def _verify(public_key: bytes, algorithm: str, signature: bytes, message: bytes, *, is_pss: bool) -> Kind | bool:
    """Verify; returns the kind where it is right and of one that not every firmware knows."""
    try:
        key = load_der_public_key(public_key)
        if isinstance(key, rsa.RSAPublicKey):
            if is_pss:
                return Kind.RSA_PSS if _verify_pss(key, signature, message) else False
            return _verify_rsa(key, algorithm, signature, message)
        if isinstance(key, ec.EllipticCurvePublicKey) and not is_pss and algorithm in _HASHES:
            key.verify(signature, message, ec.ECDSA(_HASHES[algorithm]))
            return Kind.ECDSA
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return False


def is_signed_by(public_key: bytes, oid: str, signature: bytes, message: bytes, *, known: frozenset[Kind]) -> bool:
    """Verify a certificate's signature.

    Args:
        public_key: The issuer's, SubjectPublicKeyInfo.
        oid: The signature's algorithm.
        signature: Of the issuer.
        message: What is signed.
        known: Kinds that the firmware is taken to know. RSA-PSS in a certificate it always does.
    """
    is_pss = oid == RSA_PSS
    algorithm = "" if is_pss else _CERTIFICATE_SIGNATURES.get(oid)
    if algorithm is None:
        return False
    found = _verify(public_key, algorithm, signature, message, is_pss=is_pss)
    return found in {True, Kind.RSA_PSS} or found in known


def is_message_signed_by(
    public_key: bytes, digest_oid: str, signature_oid: str, signature: bytes, message: bytes, *, known: frozenset[Kind]
) -> bool:
    """Verify a signer's signature in PKCS #7.

    OpenSSL goes by the key and the digest's algorithm and does not look at the signature's, so RSA-PSS fails.

    Args:
        public_key: The signer's, SubjectPublicKeyInfo.
        digest_oid: The digest's algorithm.
        signature_oid: The signature's algorithm.
        signature: Of the signer.
        message: What is signed.
        known: Kinds that the firmware is taken to know.

    Source:
        OpenSSL ``crypto/pkcs7/pk7_doit.c``, ``PKCS7_signatureVerify``.
    """
    algorithm = DIGESTS.get(digest_oid)
    if algorithm is None:
        return False
    is_pss = signature_oid == RSA_PSS and Kind.RSA_PSS in known
    found = _verify(public_key, algorithm, signature, message, is_pss=is_pss)
    return found is True or found in known
