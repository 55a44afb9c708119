"""Authenticode signatures: PKCS #7 SignedData over the digest of a PE file.

ASN.1 is parsed by asn1crypto, keys and certificates are those of ``cryptography``.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asn1crypto import algos, cms, core
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from bootc_fast.boot.efi.pe import PeFile, hash_image
from bootc_fast.boot.efi.siglist import load_certificate
from bootc_fast.errors import SignatureError

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_CHAIN = 16
"""Longest chain of certificates; OpenSSL's and the firmware's default depth are larger and never needed."""

_SPC_INDIRECT_DATA = "1.3.6.1.4.1.311.2.1.4"
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
# DER: a SET OF in place of the implicit [0] that stands in the file.
_SET_OF = b"\x31"


class _DigestInfo(core.Sequence):  # type: ignore[misc]  # asn1crypto has no types
    _fields = [("digest_algorithm", algos.DigestAlgorithm), ("digest", core.OctetString)]  # noqa: RUF012 - its API


class _SpcIndirectData(core.Sequence):  # type: ignore[misc]  # asn1crypto has no types
    _fields = [("data", core.Any), ("message_digest", _DigestInfo)]  # noqa: RUF012 - its API


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature that fits its file's bytes.

    Attributes:
        signer: The certificate whose key signed.
        certificates: All that came with it, the signer among them.
    """

    signer: x509.Certificate
    certificates: tuple[x509.Certificate, ...]


def _load_certificates(signed: cms.SignedData) -> tuple[x509.Certificate, ...]:
    # One that we cannot parse cannot be part of a chain either; one whose signature ends within a byte has been
    # changed where cryptography does not look and OpenSSL does.
    whole = (choice.chosen for choice in signed["certificates"] if not choice.chosen["signature_value"].unused_bits)
    return tuple(filter(None, (load_certificate(certificate.dump()) for certificate in whole)))


def _find_signer(
    info: cms.SignerInfo, signed: cms.SignedData, certificates: tuple[x509.Certificate, ...]
) -> x509.Certificate:
    identifier = info["sid"]
    for choice in signed["certificates"]:
        certificate = choice.chosen
        if identifier.name == "issuer_and_serial_number":
            wanted = identifier.chosen
            is_it = (
                certificate.issuer.dump() == wanted["issuer"].dump()
                and certificate.serial_number == wanted["serial_number"].native
            )
        else:
            is_it = certificate.key_identifier == identifier.chosen.native
        if is_it:
            der = certificate.dump()
            for loaded in certificates:
                if loaded.fingerprint(hashes.SHA256()) == hashlib.sha256(der).digest():
                    return loaded
    raise SignatureError("verifying the UKI's signature: the signer's certificate is not in it")


def _verify_with_key(certificate: x509.Certificate, info: cms.SignerInfo, signed_bytes: bytes) -> None:
    algorithm = info["digest_algorithm"]["algorithm"].native
    hasher = _HASHES.get(algorithm)
    if hasher is None:
        raise SignatureError(f"verifying the UKI's signature: the hash {algorithm} is not accepted")
    signature, key = info["signature"].native, certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        is_pss = info["signature_algorithm"].signature_algo == "rsassa_pss"
        scheme = padding.PSS(padding.MGF1(hasher), padding.PSS.AUTO) if is_pss else padding.PKCS1v15()
        key.verify(signature, signed_bytes, scheme, hasher)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, signed_bytes, ec.ECDSA(hasher))
    else:
        raise SignatureError("verifying the UKI's signature: its key is neither RSA nor ECDSA")


def _signed_bytes(info: cms.SignerInfo, content: bytes) -> bytes:
    """Return what the key has signed: the attributes, which must name the content's digest, else the content."""
    attributes = info["signed_attrs"]
    if not attributes or isinstance(attributes, core.Void):
        return content
    values = {attribute["type"].native: attribute["values"] for attribute in attributes}
    digest = hashlib.new(info["digest_algorithm"]["algorithm"].native, content).digest()
    stated = values.get("message_digest")
    if stated is None or len(stated) != 1 or not hmac.compare_digest(stated[0].native, digest):
        raise SignatureError("verifying the UKI's signature: its attributes do not fit its content")
    kind = values.get("content_type")
    if kind is None or len(kind) != 1 or kind[0].dotted != _SPC_INDIRECT_DATA:
        raise SignatureError("verifying the UKI's signature: its attributes are of another content type")
    return _SET_OF + bytes(attributes.dump()[1:])


def _parse(der: bytes) -> tuple[cms.SignedData, bytes, _SpcIndirectData]:
    # Padding to 8 bytes follows the structure, so it is not loaded strictly.
    outer = cms.ContentInfo.load(der)
    if outer["content_type"].native != "signed_data":
        raise SignatureError("verifying the UKI's signature: it is no PKCS #7 SignedData")
    signed = outer["content"]
    inner = signed["encap_content_info"]
    if inner["content_type"].dotted != _SPC_INDIRECT_DATA:
        raise SignatureError("verifying the UKI's signature: it is not over the digest of a PE file")
    content = inner["content"].parse(_SpcIndirectData)
    return signed, bytes(content.contents), content


def _verify(pe: PeFile, der: bytes) -> Signature:
    signed, content_bytes, content = _parse(der)
    stated = content["message_digest"]
    algorithm = stated["digest_algorithm"]["algorithm"].native
    if algorithm not in _HASHES:
        raise SignatureError(f"verifying the UKI's signature: the hash {algorithm} is not accepted")
    if not hmac.compare_digest(hash_image(pe, algorithm), stated["digest"].native):
        raise SignatureError("verifying the UKI's signature: the file was changed after it was signed")
    if len(signed["signer_infos"]) != 1:
        raise SignatureError(f"verifying the UKI's signature: it has {len(signed['signer_infos'])} signers, not one")
    info = signed["signer_infos"][0]
    if (signed["version"].native, info["version"].native) != ("v1", "v1"):
        raise SignatureError("verifying the UKI's signature: its version is not 1")
    # The firmware's OpenSSL hashes the content with the algorithms of this list only.
    if info["digest_algorithm"]["algorithm"].dotted not in {
        one["algorithm"].dotted for one in signed["digest_algorithms"]
    }:
        raise SignatureError("verifying the UKI's signature: its list of hashes lacks the signer's")
    certificates = _load_certificates(signed)
    signer = _find_signer(info, signed, certificates)
    try:
        _verify_with_key(signer, info, _signed_bytes(info, content_bytes))
    except InvalidSignature as error:
        raise SignatureError("verifying the UKI's signature: it is not of the signer's key") from error
    return Signature(signer, certificates)


def verify_signature(pe: PeFile, der: bytes) -> Signature:
    """Check that a signature fits a file's bytes; says nothing about whether the signer is trusted.

    Args:
        pe: The file.
        der: One entry of its table of signatures.

    Raises:
        SignatureError: It is malformed, is of something else, or does not fit.

    Source:
        "Windows Authenticode Portable Executable Signature Format"; RFC 2315, 9.3.
    """
    try:
        return _verify(pe, der)
    except SignatureError:
        raise
    except UnsupportedAlgorithm as error:
        raise SignatureError(f"verifying the UKI's signature: {error}") from error
    except Exception as error:
        message = f"verifying the UKI's signature: it is malformed ({type(error).__name__})"
        raise SignatureError(message) from error


def _may_issue(certificate: x509.Certificate) -> bool:
    """Say whether a certificate may sign others, as OpenSSL's ``check_ca`` decides, which the firmware uses."""
    try:
        extensions = certificate.extensions
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return False
    usage, constraints = None, None
    for extension in extensions:
        if isinstance(extension.value, x509.KeyUsage):
            usage = extension.value
        elif isinstance(extension.value, x509.BasicConstraints):
            constraints = extension.value
    if usage is not None and not usage.key_cert_sign:
        return False
    if constraints is not None:
        return constraints.ca
    return usage is not None or (certificate.version is x509.Version.v1 and certificate.issuer == certificate.subject)


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return _may_issue(issuer)


def find_chains(signature: Signature, anchors: Iterable[x509.Certificate]) -> list[x509.Certificate]:
    """Find the anchors that a signer chains to.

    An anchor is the end of a chain whether or not it is self-signed, and no certificate expires: so the firmware
    does it.

    Args:
        signature: Its certificates may be links of the chain.
        anchors: Certificates of a list.

    Returns:
        The anchors reached.

    Source:
        EDK II ``CryptPkcs7VerifyCommon.c``, ``Pkcs7Verify``: ``X509_V_FLAG_PARTIAL_CHAIN``, ``NO_CHECK_TIME``.
    """
    candidates = list(anchors)
    reached: list[x509.Certificate] = []
    seen: list[x509.Certificate] = []
    frontier = [signature.signer]
    for _ in range(MAX_CHAIN):
        following: list[x509.Certificate] = []
        for link in frontier:
            seen.append(link)
            reached += [anchor for anchor in candidates if anchor == link or _is_issued_by(link, anchor)]
            following += [one for one in signature.certificates if one not in seen and _is_issued_by(link, one)]
        frontier = following
        if not frontier:
            break
    return reached


def list_links(signature: Signature) -> list[x509.Certificate]:
    """Return the signer and those of its certificates that it chains to."""
    return find_chains(signature, signature.certificates)
