"""Chains of certificates, built and checked as the OpenSSL in firmware and shim does.

It is called with one trusted certificate, which ends the chain whether or not it is self-signed; nothing expires, and
any purpose will do (``X509_V_FLAG_PARTIAL_CHAIN``, ``NO_CHECK_TIME``, ``X509_PURPOSE_ANY``).

Source:
    OpenSSL ``crypto/x509/x509_vfy.c``, ``build_chain`` and ``internal_verify``; EDK II ``CryptPkcs7VerifyCommon.c``.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from bootc_fast.boot.efi.constraints import find_violation
from bootc_fast.boot.efi.keys import Kind, is_signed_by
from bootc_fast.records import dataclass
from bootc_fast.text import escape

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bootc_fast._core import Certificate

MAX_CHAIN = 16
"""Longest chain of certificates; OpenSSL's default depth is 100, which is never needed."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain that was built; `problem` says why it does not hold, None where it does."""

    certificates: tuple[Certificate, ...]
    problem: str | None


def name_of(certificate: Certificate) -> str:
    """Return a certificate's name for people."""
    return escape(certificate.subject_text) or f"serial {certificate.serial.hex()}"


def _is_self_issued(certificate: Certificate) -> bool:
    return certificate.subject == certificate.issuer


def _fits_authority_key(certificate: Certificate, issuer: Certificate) -> bool:
    key_id, name, serial = certificate.authority_key
    if key_id is not None and issuer.subject_key_id is not None and key_id != issuer.subject_key_id:
        return False
    if serial is not None and serial != issuer.serial:
        return False
    return name is None or name == issuer.issuer


def _may_issue_by_usage(issuer: Certificate) -> bool:
    return issuer.may_sign_certificates is not False


def _is_issuer(certificate: Certificate, issuer: Certificate) -> bool:
    """Say whether names, key identifiers and usage fit; signatures are verified once the chain stands."""
    return (
        issuer.subject == certificate.issuer
        and _fits_authority_key(certificate, issuer)
        and _may_issue_by_usage(issuer)
    )


def _is_self_signed(certificate: Certificate) -> bool:
    return _is_self_issued(certificate) and _is_issuer(certificate, certificate)


def is_ca(certificate: Certificate) -> bool:
    """Say whether a certificate may sign others, as OpenSSL's ``check_ca`` decides."""
    if not _may_issue_by_usage(certificate) or certificate.malformed:
        return False
    if certificate.is_ca is not None:
        return certificate.is_ca
    is_old_root = certificate.is_v1 and _is_self_issued(certificate)
    return is_old_root or certificate.may_sign_certificates is not None or certificate.is_netscape_ca


def _build(signer: Certificate, embedded: Sequence[Certificate], anchor: Certificate) -> list[Certificate] | None:
    """Find the chain that OpenSSL would: at each link the trusted certificate first, then the first that fits."""
    chain, left = [signer], list(embedded)
    while len(chain) <= MAX_CHAIN:
        last = chain[-1]
        if _is_self_signed(last):
            # It needs no issuer: it is trusted itself, or nobody vouches for it.
            if anchor == last:
                return chain
            break
        if anchor.subject == last.issuer and _is_issuer(last, anchor) and anchor not in chain:
            return [*chain, anchor]
        found = next((one for one in left if one not in chain and _is_issuer(last, one)), None)
        if found is None:
            break
        left.remove(found)
        chain.append(found)
    # The last resort: the signer is the trusted certificate.
    return [signer] if anchor == signer else None


def _iterate_problems(chain: Sequence[Certificate]) -> Iterator[str]:
    below = 0
    for index, link in enumerate(chain):
        name = name_of(link)
        if link.unhandled_critical:
            yield f"the certificate {name} has the critical extension {link.unhandled_critical[0]}"
        if link.is_proxy or link.malformed:
            yield f"the certificate {name} has an extension that is not accepted"
        if index == 0:
            continue
        if not is_ca(link):
            yield f"the certificate {name} may not issue others"
        if link.path_length is not None and below > link.path_length:
            yield f"there are more certificates below {name} than its path length allows"
        below += not _is_self_issued(link)


def _iterate_violations(chain: Sequence[Certificate]) -> Iterator[str]:
    for index, link in enumerate(chain):
        if index and _is_self_issued(link):
            continue
        for above in chain[index + 1 :]:
            violation = find_violation(link, above, is_leaf=index == 0)
            if violation is not None:
                yield f"the certificate {name_of(above)}: {violation}"


def _iterate_bad_signatures(chain: Sequence[Certificate], known: frozenset[Kind]) -> Iterator[str]:
    for link, issuer in itertools.pairwise(chain):
        if not link.is_algorithm_consistent or not is_signed_by(
            issuer.public_key, link.signature_algorithm, link.signature, link.tbs, known=known
        ):
            yield f"the certificate {name_of(link)} is not signed by {name_of(issuer)} in a way that is accepted"


def find_chain(
    signer: Certificate, embedded: Sequence[Certificate], anchor: Certificate, *, known: frozenset[Kind]
) -> Chain | None:
    """Build the chain from a signer to a trusted certificate and check it.

    Args:
        signer: Where it starts.
        embedded: May be links.
        anchor: The trusted certificate.
        known: Kinds of signatures that the firmware is taken to know besides RSA.

    Returns:
        None where no names lead there.
    """
    chain = _build(signer, embedded, anchor)
    if chain is None:
        return None
    problems = itertools.chain(
        _iterate_problems(chain), _iterate_violations(chain), _iterate_bad_signatures(chain, known)
    )
    return Chain(tuple(chain), next(problems, None))
