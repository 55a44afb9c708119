"""GRUB's environment block, and what every GRUB lets pick another entry than the first."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bootc_fast.boot.loaders.grub_trial import choose_override
from bootc_fast.boot.loaders.override import LoaderOverride, OverrideKind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bootc_fast.boot.loaders.entry import MenuEntry
    from bootc_fast.boot.loaders.override import LoaderVariables

GRUBENV = b"grubenv"
"""Name of the environment block."""

GRUBENV_HEADER = b"# GRUB Environment Block\n"

GRUBENV_BYTES = 1024
"""Length of a block: two sectors of a disk, which GRUB writes over where they lie."""

# Possessive: what does not match is not tried again in every other way.
_LINE = re.compile(rb"(?P<key>(?:\\.|[^\\\n=])*+)(?:=(?P<value>(?:\\.|[^\\\n])*+))?\n", re.DOTALL)

_MAX_PLACE_DIGITS = 9

GRUBENV_KEYS = {OverrideKind.GRUB_NEXT: b"next_entry", OverrideKind.GRUB_SAVED: b"saved_entry"}
"""Its variables that pick an entry, in GRUB's precedence."""


def parse_grubenv(raw: bytes) -> dict[bytes, bytes]:
    """Return the variables of an environment block; a malformed block has none, as for GRUB.

    Source:
        GRUB ``grub-core/lib/envblk.c``: a backslash takes the next character, a newline too, as it is.
    """
    if not raw.startswith(GRUBENV_HEADER):
        return {}
    return {key: re.sub(rb"\\(.)", rb"\1", match["value"], flags=re.DOTALL) for key, match in _assignments(raw)}


def _assignments(raw: bytes) -> list[tuple[bytes, re.Match[bytes]]]:
    """Find the lines that set a variable: a value may have line ends of its own, which begin none."""
    found: list[tuple[bytes, re.Match[bytes]]] = []
    at = len(GRUBENV_HEADER)
    while match := _LINE.match(raw, at):
        if match["value"] is not None and match["key"][:1] != b"#":
            found.append((match["key"], match))
        at = match.end()
    return found


def read_variables(grubenv: bytes | None) -> dict[bytes, bytes]:
    """Return the variables of an environment block; none where it is absent."""
    return parse_grubenv(grubenv or b"")


def replace_grubenv_value(raw: bytes, key: bytes, value: bytes) -> bytes | None:
    """Return the block with another value of `key`, of the same length; None where it does not fit."""
    escaped = _escape(value)
    # Of several the last one counts.
    lines = [match for name, match in _assignments(raw) if name == key] if raw.startswith(GRUBENV_HEADER) else []
    if not lines:
        return None
    padded = (raw[: lines[-1].start("value")] + escaped + raw[lines[-1].end("value") :]).rstrip(b"#")
    return padded.ljust(len(raw), b"#") if len(padded) <= len(raw) else None


def change_grubenv(raw: bytes | None, values: Mapping[bytes, bytes | None]) -> bytes:
    """Return a whole environment block with other values of some variables; everything else in it stays byte for byte.

    What has no header is no block to GRUB, and neither are zeros behind it: a new one begins.

    Args:
        raw: The block as it is, of any length; None where there is none.
        values: What is to stand there: None for a variable that goes. They come last, in this order.

    Returns:
        `GRUBENV_BYTES` bytes, which is all that GRUB can write over in place.

    Raises:
        ValueError: There is no room, or the last line has no end, so that another one would become part of it.

    Source:
        GRUB ``grub-core/lib/envblk.c``.
    """
    block = raw if raw is not None and raw.startswith(GRUBENV_HEADER) else GRUBENV_HEADER
    for key, match in reversed(_assignments(block)):
        if key in values:
            block = block[: match.start()] + block[match.end() :]
    block = block.rstrip(b"#\0")
    if not _has_whole_lines(block):
        raise ValueError("its last line has no end")
    for key, value in values.items():
        block += b"" if value is None else key + b"=" + _escape(value) + b"\n"
    if len(block) > GRUBENV_BYTES:
        raise ValueError(f"it is full: {len(block)} of {GRUBENV_BYTES} bytes would be needed")
    return block.ljust(GRUBENV_BYTES, b"#")


def _has_whole_lines(block: bytes) -> bool:
    at = len(GRUBENV_HEADER)
    while match := _LINE.match(block, at):
        at = match.end()
    return at == len(block)


def _escape(value: bytes) -> bytes:
    return value.replace(b"\\", b"\\\\").replace(b"\n", b"\\\n")


def collect_grub_overrides(
    grubenv: bytes | None,
    variables: LoaderVariables | None,  # noqa: ARG001 - the EFI variables are systemd-boot's
) -> tuple[LoaderOverride, ...]:
    """Return what the environment block picks, in GRUB's precedence."""
    values = parse_grubenv(grubenv or b"")
    found = [LoaderOverride(kind, values[key]) for kind, key in GRUBENV_KEYS.items() if values.get(key)]
    trial = choose_override(values)
    at = sum(override.kind is OverrideKind.GRUB_NEXT for override in found)
    return (*found[:at], *((trial,) if trial is not None else ()), *found[at:])


def find_grub_match(override: LoaderOverride, shown: Sequence[MenuEntry]) -> MenuEntry | None:
    """Return the entry with that id or title, else the one at that place in the menu."""
    for entry in shown:
        if override.value in (entry.grub_id, entry.title):
            return entry
    # Python refuses to make a number of some thousand digits.
    number = override.value.lstrip(b"0")[:_MAX_PLACE_DIGITS] or b"0"
    return shown[int(number)] if override.value.isdigit() and int(number) < len(shown) else None


def explain_grub_first(entry: MenuEntry) -> str:  # noqa: ARG001 - the same for every entry
    """Say why the first entry is the first."""
    return "first by file name"
