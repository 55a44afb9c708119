"""The kernel command line, and the composefs arguments in it."""

from __future__ import annotations

import re

from bootc_fast.errors import InvalidStateError
from bootc_fast.records import dataclass
from bootc_fast.text import escape
from bootc_fast.types import VerityDigest

_HEX = re.compile(r"[0-9a-f]+")
_VERSIONED = re.compile(r"v(?P<version>[0-9]+)-(?P<algorithm>[a-z0-9]+)-(?P<block_bits>[0-9]+):(?P<hex>.*)", re.DOTALL)
_DIGEST_CHARS = {"sha256": 64, "sha512": 128}


@dataclass(frozen=True, slots=True)
class ComposefsArgument:
    """A ``composefs=`` or ``composefs.digest=`` argument.

    Attributes:
        digest: Which image.
        missing_verity_allowed: It stood with a leading ``?``.
        is_versioned: It was ``composefs.digest=``, of which several may be present.
    """

    digest: VerityDigest
    missing_verity_allowed: bool
    is_versioned: bool


def parse_digest(text: str, *, what: str) -> VerityDigest:
    """Check that `text` is an fs-verity digest.

    Args:
        text: 64 (SHA-256) or 128 (SHA-512) hex characters in lower case, nothing else.
        what: What was being read, for the error.

    Raises:
        InvalidStateError: It is anything else; it must never become a path component.

    Source:
        Spec host.md, "Which deployment is booted".
    """
    if len(text) not in _DIGEST_CHARS.values():
        shown = text if len(text) <= max(_DIGEST_CHARS.values()) else text[:40] + "…"
        raise InvalidStateError(f"{what}: the digest '{escape(shown)}' has {len(text)} characters, not 64 or 128")
    if not _HEX.fullmatch(text):
        raise InvalidStateError(f"{what}: the digest '{escape(text)}' is not lower-case hex")
    return VerityDigest(text)


def split_cmdline(text: str) -> list[str]:
    """Split a command line as the kernel does: at white space outside double quotes, which are dropped.

    Source:
        Linux ``lib/cmdline.c``, ``next_arg``.
    """
    arguments: list[str] = []
    current: list[str] = []
    is_quoted = False
    for char in text:
        if char == '"':
            is_quoted = not is_quoted
        elif (char.isspace() or char == "\0") and not is_quoted:
            if current:
                arguments.append("".join(current))
            current = []
        else:
            current.append(char)
    if current:
        arguments.append("".join(current))
    return arguments


def describe_argument_change(running: list[str], wanted: list[str]) -> str | None:
    """Say how two lists of kernel arguments differ, their order counts; None where they are equal.

    Args:
        running: Of what runs.
        wanted: Of what would.

    Returns:
        Words for people; what is not UTF-8 is escaped.
    """
    if running == wanted:
        return None
    gone = [one for one in running if one not in wanted]
    new = [one for one in wanted if one not in running]
    parts = [f"without {' '.join(gone)}"] if gone else []
    parts += [f"with {' '.join(new)}"] if new else []
    text = ", ".join(parts) or "the same ones, in another order or number"
    return escape(f"kernel arguments differ: {text}")


def _parse_versioned(value: str, *, what: str) -> ComposefsArgument:
    is_optional = value.startswith("?")
    match = _VERSIONED.fullmatch(value.removeprefix("?"))
    if match is None:
        raise InvalidStateError(f"{what}: composefs.digest={value[:160]!r} is not v1-<hash>-<block size>:<hex>")
    if match["version"] not in ("1", "2") or match["algorithm"] not in _DIGEST_CHARS:
        raise InvalidStateError(f"{what}: composefs.digest={value[:160]!r} has an unknown version or hash")
    digest = parse_digest(match["hex"], what=f"{what}: composefs.digest")
    if len(digest) != _DIGEST_CHARS[match["algorithm"]]:
        raise InvalidStateError(f"{what}: composefs.digest={value!r} is no {match['algorithm']} digest")
    return ComposefsArgument(digest, is_optional, is_versioned=True)


def parse_composefs_arguments(text: str, *, what: str) -> tuple[ComposefsArgument, ...]:
    """Find the images that a command line names, the ones that count first first.

    Args:
        text: A kernel command line, or a boot entry's options.
        what: What was being read, for the error.

    Returns:
        Every ``composefs.digest=`` in its order, then the first ``composefs=``, as the initramfs takes it.

    Raises:
        InvalidStateError: One of them is malformed.

    Source:
        Spec host.md, "Which deployment is booted"; composefs-rs ``composefs-boot/src/cmdline.rs``.
    """
    found: list[ComposefsArgument] = []
    plain: ComposefsArgument | None = None
    for argument in split_cmdline(text):
        key, separator, value = argument.partition("=")
        if not separator:
            continue
        if key == "composefs.digest":
            found.append(_parse_versioned(value, what=what))
        elif key == "composefs" and plain is None:
            digest = parse_digest(value.removeprefix("?"), what=f"{what}: composefs")
            plain = ComposefsArgument(digest, value.startswith("?"), is_versioned=False)
    return tuple(found) if plain is None else (*found, plain)
