"""GRUB's environment block, and what every GRUB lets pick another entry than the first."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bootc_fast.boot.loaders.override import LoaderOverride, OverrideKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bootc_fast.boot.loaders.entry import MenuEntry
    from bootc_fast.boot.loaders.override import LoaderVariables

GRUBENV = b"grubenv"
"""Name of the environment block."""

GRUBENV_HEADER = b"# GRUB Environment Block\n"

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
    escaped = value.replace(b"\\", b"\\\\").replace(b"\n", b"\\\n")
    # Of several the last one counts.
    lines = [match for name, match in _assignments(raw) if name == key] if raw.startswith(GRUBENV_HEADER) else []
    if not lines:
        return None
    padded = (raw[: lines[-1].start("value")] + escaped + raw[lines[-1].end("value") :]).rstrip(b"#")
    return padded.ljust(len(raw), b"#") if len(padded) <= len(raw) else None


def collect_grub_overrides(
    grubenv: bytes | None,
    variables: LoaderVariables | None,  # noqa: ARG001 - the EFI variables are systemd-boot's
) -> tuple[LoaderOverride, ...]:
    """Return what the environment block picks, in GRUB's precedence."""
    values = parse_grubenv(grubenv or b"")
    return tuple(LoaderOverride(kind, values[key]) for kind, key in GRUBENV_KEYS.items() if values.get(key))


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
