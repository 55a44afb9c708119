"""Authenticode signatures: PKCS #7 SignedData over the digest of a PE file, verified as EDK II and shim do.

Both have the same code for it: AuthenticodeVerify and Pkcs7Verify of EDK II over OpenSSL's PKCS7_verify.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from bootc_fast import _core
from bootc_fast.boot.efi.chain import find_chain, name_of
from bootc_fast.boot.efi.keys import DIGESTS, digest_of, is_message_signed_by
from bootc_fast.errors import SignatureError
from bootc_fast.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bootc_fast.boot.efi.keys import Kind

_SPC_INDIRECT_DATA = "1.3.6.1.4.1.311.2.1.4"
# ContentInfo with lengths of two bytes, then the type's OID and the content's tag: anything else EDK II takes for
# SignedData without ContentInfo and wraps it once more, which then is none.
_CONTENT_INFO = bytes.fromhex("06092a864886f70d010702a082")
_OID_OFFSET = 4
_LONG_SEQUENCE = bytes.fromhex("3082")


@dataclass(frozen=True, slots=True)
class Signature:
    """A decoded signature; says nothing yet about whether it fits or who is trusted.

    Attributes:
        signed: What was decoded.
        certificates: All that came with it.
        signers: Each signer with its certificate.
        is_wrapped: Its outer structure has the one encoding that EDK II takes.
    """

    signed: _core.SignedData
    certificates: tuple[_core.Certificate, ...]
    signers: tuple[tuple[_core.SignerInfo, _core.Certificate], ...]
    is_wrapped: bool

    @property
    def signer_names(self) -> str:
        """For people."""
        return ", ".join(name_of(certificate) for _, certificate in self.signers)


def decode_signature(der: bytes) -> Signature:
    """Decode one entry of a file's table of signatures; padding may follow.

    Raises:
        SignatureError: OpenSSL would not decode it either, or finds no certificate of a signer in it.

    Source:
        "Windows Authenticode Portable Executable Signature Format"; RFC 2315, 9; OpenSSL ``PKCS7_get0_signers``.
    """
    signed = _core.SignedData.parse(der)
    certificates = tuple(_core.Certificate.parse(one) for one in signed.certificates)
    signers: list[tuple[_core.SignerInfo, _core.Certificate]] = []
    for info in signed.signers:
        found = [one for one in certificates if (one.issuer, one.serial) == (info.issuer, info.serial)]
        if not found:
            raise SignatureError("the signer's certificate is not in it")
        signers.append((info, found[0]))
    if not signers:
        raise SignatureError("nobody has signed it")
    is_wrapped = der[:2] == _LONG_SEQUENCE and der[_OID_OFFSET:].startswith(_CONTENT_INFO)
    return Signature(signed, certificates, tuple(signers), is_wrapped)


def _iterate_misfits(signature: Signature, digest: bytes, known: frozenset[Kind]) -> Iterator[str]:
    """Yield why a signature is not the signers' over a file's digest; nothing where it is."""
    signed = signature.signed
    if not signature.is_wrapped:
        yield "its encoding is not the one that is accepted"
    if signed.content_type != _SPC_INDIRECT_DATA:
        yield "it is not over the digest of a PE file"
    if not hmac.compare_digest(signed.content[-len(digest) :], digest):
        yield "the file was changed after it was signed, or another hash is signed than is announced"
    if not set(signed.digest_algorithms) <= DIGESTS.keys():
        yield "it announces a hash that is not accepted"
    for info, certificate in signature.signers:
        if info.digest_algorithm not in signed.digest_algorithms:
            yield "it does not announce its signer's hash"
        message = signed.content
        if info.attributes is not None:
            stated = digest_of(DIGESTS[info.digest_algorithm], message)
            if info.message_digest is None or not hmac.compare_digest(info.message_digest, stated):
                yield "its attributes do not fit its content"
            message = info.attributes
        if not is_message_signed_by(
            certificate.public_key,
            info.digest_algorithm,
            info.signature_algorithm,
            info.signature,
            message,
            known=known,
        ):
            yield f"it is not of the key of {name_of(certificate)}, or of a kind that is not accepted"


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of trying certificates.

    Attributes:
        anchor: The first that verifies the signature; None for none.
        problem: Why none does, where the reason is another than that nobody is known.
    """

    anchor: _core.Certificate | None = None
    problem: str | None = None


def try_anchors(
    signature: Signature, digest: bytes, anchors: Iterable[_core.Certificate], *, known: frozenset[Kind]
) -> Finding:
    """Find the first certificate that verifies a signature: all its signers chain to it.

    Args:
        signature: The signature.
        digest: Of the file, as the loader hashes it.
        anchors: Certificates of a list, in its order.
        known: Kinds of signatures that the firmware is taken to know besides RSA.
    """
    misfit = next(_iterate_misfits(signature, digest, known), None)
    if misfit is not None:
        return Finding(problem=misfit)
    problem: str | None = None
    for anchor in anchors:
        chains = [find_chain(one, signature.certificates, anchor, known=known) for _, one in signature.signers]
        if all(chain is not None and chain.problem is None for chain in chains):
            return Finding(anchor)
        problem = problem or next((chain.problem for chain in chains if chain is not None and chain.problem), None)
    return Finding(problem=problem)
