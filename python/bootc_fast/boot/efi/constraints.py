"""Name constraints of X.509, as OpenSSL checks them.

Source:
    RFC 5280, 4.2.1.10; OpenSSL ``crypto/x509/v3_ncons.c``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bootc_fast._core import Certificate

_EMAIL, _DNS, _DIRECTORY, _URI, _ADDRESS = 1, 2, 4, 6, 7
_HOST = re.compile(rb"(?!-)[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+\Z")


def _is_dns_below(name: bytes, base: bytes) -> bool:
    name, base = name.lower(), base.lower()
    if not base or name == base:
        return True
    return name.endswith(base) and (base.startswith(b".") or name[: -len(base)].endswith(b"."))


def _is_email_below(name: bytes, base: bytes) -> bool:
    local, at, host = name.rpartition(b"@")
    if not at:
        return False
    if b"@" in base:
        wanted_local, _, wanted_host = base.rpartition(b"@")
        return (not wanted_local or wanted_local == local) and wanted_host.lower() == host.lower()
    if base.startswith(b"."):
        return host.lower().endswith(base.lower())
    return host.lower() == base.lower()


def _is_uri_below(name: bytes, base: bytes) -> bool:
    _, separator, rest = name.partition(b"://")
    host = re.split(rb"[:/]", rest, maxsplit=1)[0].lower()
    if not separator or not host:
        return False
    return host.endswith(base.lower()) if base.startswith(b".") else host == base.lower()


def _is_address_below(name: bytes, base: bytes) -> bool:
    if len(base) != 2 * len(name):
        return False
    network, mask = base[: len(name)], base[len(name) :]
    return all((mine ^ theirs) & bits == 0 for mine, theirs, bits in zip(name, network, mask, strict=True))


_MATCHERS = {
    _EMAIL: _is_email_below,
    _DNS: _is_dns_below,
    # Canonical names: a subtree is a prefix of whole relative names, each of which begins with its own length.
    _DIRECTORY: lambda name, base: name.startswith(base),
    _URI: _is_uri_below,
    _ADDRESS: _is_address_below,
}


def _names_of(certificate: Certificate, *, is_leaf: bool) -> list[tuple[int, bytes]]:
    names = list(certificate.alternative_names)
    if certificate.subject:
        names.append((_DIRECTORY, certificate.subject))
    names += [(_EMAIL, address.encode()) for address in certificate.email_addresses]
    if is_leaf and not any(kind == _DNS for kind, _ in certificate.alternative_names):
        hosts = (name.encode() for name in certificate.common_names)
        names += [(_DNS, host) for host in hosts if _HOST.match(host)]
    return names


def find_violation(certificate: Certificate, issuer: Certificate, *, is_leaf: bool) -> str | None:
    """Say which of an issuer's constraints a certificate violates; None for none.

    Args:
        certificate: Below the issuer, at any distance.
        issuer: May have constraints.
        is_leaf: It is the signer's: its common name counts as a host name where it looks like one.
    """
    constraints = issuer.name_constraints
    if constraints is None:
        return None
    permitted, excluded, has_bounds = constraints
    if has_bounds:
        return "its name constraints have bounds"
    for kind, name in _names_of(certificate, is_leaf=is_leaf):
        allowed = [base for one, base in permitted if one == kind]
        denied = [base for one, base in excluded if one == kind]
        matches = _MATCHERS.get(kind)
        if matches is None:
            if allowed or denied:
                return "its name constraints are of a kind that is not checked"
            continue
        if (allowed and not any(matches(name, base) for base in allowed)) or any(
            matches(name, base) for base in denied
        ):
            return "a name is against its issuer's name constraints"
    return None
