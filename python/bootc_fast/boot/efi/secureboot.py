"""Whether the firmware, or shim, would start a file (spec boot.md, "UKIs"): the verdict of whoever will be asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.boot.efi import edk2, shim
from bootc_fast.boot.efi.authenticode import decode_signature, try_anchors
from bootc_fast.boot.efi.firmware import SecureBootState
from bootc_fast.boot.efi.keys import Kind
from bootc_fast.boot.efi.pe import PeFile, parse_pe
from bootc_fast.errors import BootEntryError, FileSystemError, SignatureError
from bootc_fast.text import reason_of

if TYPE_CHECKING:
    from bootc_fast.boot.efi.verdict import Verdict

__all__ = ["HINT", "SecureBootState", "judge", "verify_uki"]

HINT = "--no-verify-signatures applies the update all the same; the firmware may then refuse to boot it"
"""What can be done about a refusal."""
_NONE: frozenset[Kind] = frozenset()
_SETS = (frozenset({Kind.ECDSA}), frozenset({Kind.RSA_PSS}), frozenset(Kind))


def _parse(data: bytes | PeFile) -> PeFile:
    return data if isinstance(data, PeFile) else parse_pe(data)


def judge(pe: PeFile, state: SecureBootState, *, known: frozenset[Kind] = _NONE) -> Verdict:
    """Judge a file as whoever starts it does: shim where it runs, else the firmware.

    Args:
        pe: The file.
        state: Secure Boot's lists.
        known: Kinds of signatures that the loader is taken to know besides RSA.

    Raises:
        InvalidStateError: A list is malformed.
        OSError: The file cannot be read.
    """
    judge_by = shim.judge if state.has_shim else edk2.judge
    return judge_by(pe, state, known=known)


def _find_kinds(pe: PeFile, state: SecureBootState) -> frozenset[Kind]:
    """Return the kinds that a file needs the loader to know; empty where that would not help."""
    return next((kinds for kinds in _SETS if judge(pe, state, known=kinds).is_accepted), _NONE)


def _public_keys(pe: PeFile) -> set[bytes]:
    """Return the keys whose signatures fit a file's bytes, whoever trusts them."""
    keys: set[bytes] = set()
    for der in edk2.iterate_entries(pe):
        algorithm = edk2.find_algorithm(der)
        if algorithm is None:
            continue
        signature = decode_signature(der)
        digest = edk2.hash_image(pe, algorithm)
        for _, signer in signature.signers:
            if try_anchors(signature, digest, [signer], known=frozenset(Kind)).anchor is not None:
                keys.add(signer.public_key)
    return keys


def _has_same_signer(pe: PeFile, booted: PeFile) -> bool:
    try:
        return not _public_keys(pe).isdisjoint(_public_keys(booted))
    except (SignatureError, edk2.TornError):
        # The running one proves nothing then.
        return False


def _explain(pe: PeFile, state: SecureBootState, verdict: Verdict, booted: PeFile | None, what: str) -> list[str]:
    """Return warnings where what runs shows that the loader takes more than can be seen here; else refuse.

    Raises:
        SignatureError: It would be refused.
    """
    loader = "shim" if state.has_shim else "this firmware"
    kinds = _find_kinds(pe, state)
    if kinds:
        names = " and ".join(sorted(one.value for one in kinds))
        if booted is not None and not judge(booted, state).is_accepted and _find_kinds(booted, state) == kinds:
            return [f"{what}: it is signed with {names}, which not every firmware knows; what runs is so too"]
        raise SignatureError(f"checking {what}: it is signed with {names}, which {loader} may not know", hint=HINT)
    if verdict.is_unknown_signer and booted is not None and _has_same_signer(pe, booted):
        return [f"{what}: {verdict.reason}, but what runs has the same one"]
    raise SignatureError(f"checking {what}: {verdict.reason}", hint=HINT)


def verify_uki(
    data: bytes | PeFile, state: SecureBootState, *, booted: bytes | PeFile | None, what: str = "the UKI"
) -> list[str]:
    """Check a file as firmware or shim do before they start it; some 100 ms for 100 MB, so call it in a thread.

    Args:
        data: The file: its content, or opened.
        state: Secure Boot's keys; nothing is checked where it is off. shim judges where it left its lists.
        booted: What runs, to tell whether an unknown signer, or a kind of signature that not every firmware knows, is
            one that was accepted at this boot; None where it is unknown.
        what: What the file is, for messages.

    Returns:
        Warnings: the loader would refuse it by what can be seen here, but it has started the same kind.

    Raises:
        SignatureError: It would be refused: unsigned, changed, forbidden, of an unknown signer, …
        InvalidStateError: A list of keys is malformed.
        FileSystemError: The file cannot be read.

    Source:
        Spec boot.md, "UKIs"; EDK II ``DxeImageVerificationLib.c``; shim ``verify.c``; docs/secure-boot.md.
    """
    if not state.enabled:
        return []
    try:
        pe = _parse(data)
    except BootEntryError as error:
        raise SignatureError(f"checking {what}: {error}", hint=HINT) from error
    try:
        verdict = judge(pe, state)
        if verdict.is_accepted:
            return []
        return _explain(pe, state, verdict, _parse_booted(booted), what)
    except BootEntryError as error:
        raise SignatureError(f"checking {what}: {error}", hint=HINT) from error
    except OSError as error:
        raise FileSystemError(f"reading {what}: {reason_of(error)}") from error


def _parse_booted(booted: bytes | PeFile | None) -> PeFile | None:
    try:
        return None if booted is None else _parse(booted)
    except BootEntryError:
        return None
