"""Whether the firmware, or shim, would start a UKI (spec boot.md, "UKIs")."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bootc_fast.boot.efi.authenticode import Signature, find_chains, list_links, verify_signature
from bootc_fast.boot.efi.firmware import SecureBootState
from bootc_fast.boot.efi.pe import PeFile, hash_image, list_signatures, parse_pe
from bootc_fast.boot.efi.siglist import KeyList, parse_key_list
from bootc_fast.errors import BootEntryError, SignatureError

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["SecureBootState", "verify_uki"]

_HINT = "--no-verify-signatures applies the update all the same; the firmware may then refuse to boot it"
_CERTIFICATE_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


def _name_of(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or f"serial {certificate.serial_number:x}"


def _has_image_hash(pe: PeFile, keys: KeyList) -> bool:
    algorithms = {algorithm for algorithm, _ in keys.image_hashes}
    return any((algorithm, hash_image(pe, algorithm)) in keys.image_hashes for algorithm in algorithms)


def _hash_certificate(certificate: x509.Certificate, algorithm: str) -> bytes:
    digest = hashes.Hash(_CERTIFICATE_HASHES[algorithm])
    digest.update(certificate.tbs_certificate_bytes)
    return digest.finalize()


def _check_forbidden(signature: Signature, keys: KeyList, name: str) -> None:
    """Refuse a signer that a list of forbidden keys names, or that chains to one it names."""
    for anchor in find_chains(signature, keys.certificates):
        raise SignatureError(f"checking the UKI: {name} forbids its signer by {_name_of(anchor)}", hint=_HINT)
    for link in (signature.signer, *list_links(signature)):
        for algorithm, digest in keys.certificate_hashes:
            if _hash_certificate(link, algorithm) == digest:
                raise SignatureError(f"checking the UKI: {name} forbids the certificate {_name_of(link)}", hint=_HINT)


def _read_signatures(pe: PeFile) -> list[Signature]:
    """Verify all signatures against the bytes; one that does not fit is an error, as it may hide a forbidden one."""
    try:
        entries = list_signatures(pe)
    except BootEntryError as error:
        raise SignatureError(f"checking the UKI: {error}", hint=_HINT) from error
    try:
        return [verify_signature(pe, entry) for entry in entries]
    except SignatureError as error:
        error.hint = _HINT
        raise


def _public_key(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _has_same_signer(signatures: list[Signature], booted: bytes | None) -> bool:
    """Say whether the running UKI was signed with one of the same keys."""
    if booted is None:
        return False
    try:
        running = _read_signatures(parse_pe(booted))
        keys = {_public_key(signature.signer) for signature in running}
        return any(_public_key(signature.signer) in keys for signature in signatures)
    except (BootEntryError, SignatureError):
        # The running one proves nothing then.
        return False


def _check_allowed(signatures: list[Signature], anchors: list[x509.Certificate], booted: bytes | None) -> list[str]:
    if not signatures:
        raise SignatureError("checking the UKI: it is not signed, and Secure Boot is on", hint=_HINT)
    if any(find_chains(signature, anchors) for signature in signatures):
        return []
    name = _name_of(signatures[0].signer)
    if _has_same_signer(signatures, booted):
        return [f"UKI: its signer {name} is in neither db nor MokListRT, but the running UKI has the same one"]
    raise SignatureError(f"checking the UKI: its signer {name} is in neither db nor MokListRT", hint=_HINT)


def verify_uki(data: bytes, state: SecureBootState, *, booted: bytes | None) -> list[str]:
    """Check a UKI as firmware and shim do before they start it; some 100 ms for 100 MB, so call it in a thread.

    Args:
        data: The whole file.
        state: Secure Boot's keys; nothing is checked where it is off.
        booted: The UKI that runs, to tell whether an unknown signer is the one that was accepted at this boot;
            None where it is unknown or the host runs from a BLS entry.

    Returns:
        Warnings: the signer is in no list that can be seen here, but the running UKI's is the same.

    Raises:
        SignatureError: The firmware would refuse it: unsigned, changed, forbidden, or of an unknown signer.
        InvalidStateError: A list of keys is malformed.

    Source:
        Spec boot.md, "UKIs"; EDK II ``DxeImageVerificationLib.c``; shim ``shim.c``, ``verify_buffer``.
    """
    if not state.enabled:
        return []
    try:
        pe = parse_pe(data)
    except BootEntryError as error:
        raise SignatureError(f"checking the UKI: {error}", hint=_HINT) from error
    allowed = [parse_key_list(state.db, what="db"), parse_key_list(state.mok, what="MokListRT")]
    forbidden = {
        "dbx": parse_key_list(state.dbx, what="dbx"),
        "MokListXRT": parse_key_list(state.mokx, what="MokListXRT"),
    }
    for name, keys in forbidden.items():
        if _has_image_hash(pe, keys):
            raise SignatureError(f"checking the UKI: {name} forbids it by its hash", hint=_HINT)
    # An enrolled hash needs no signature: neither the firmware nor shim looks at one then.
    if any(_has_image_hash(pe, keys) for keys in allowed):
        return []
    signatures = _read_signatures(pe)
    for signature in signatures:
        for name, keys in forbidden.items():
            _check_forbidden(signature, keys, name)
    anchors = [certificate for keys in allowed for certificate in keys.certificates]
    return _check_allowed(signatures, anchors, booted)
