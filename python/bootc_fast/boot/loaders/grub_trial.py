"""What a trial is in GRUB's environment block: variables of ours, which the script in ``custom.cfg`` heeds.

Source:
    Spec trial.md, "Counting"; docs/trial.md, "GRUB".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.boot.loaders.override import LoaderOverride, OverrideKind

if TYPE_CHECKING:
    from collections.abc import Mapping

TRIAL, FALLBACK = b"bootc_fast_trial", b"bootc_fast_fallback"
"""Names of entries, as ``default`` takes them."""

PLACE = b"bootc_fast_fallback_place"
"""The fallback's place in the menu, from 0; absent where it is not known."""

TRIES = b"bootc_fast_tries"
"""Tries left, from 0: what GRUB counts down."""

ALLOWED = b"bootc_fast_tries_allowed"
"""Tries there were at first."""

SEEN = b"bootc_fast_tries_seen"
"""Tries left when they were written, or when a start of the tried deployment was seen last; GRUB does not know it."""

VARIABLES = (TRIAL, FALLBACK, PLACE, TRIES, ALLOWED, SEEN)

_MAX_DIGITS = 9


def quote_name(name: bytes) -> bytes:
    """Return an entry's name as ``default`` takes it: ``>`` would lead into a submenu."""
    return name.replace(b">", b">>")


def unquote_name(name: bytes) -> bytes:
    """Undo `quote_name`."""
    return name.replace(b">>", b">")


def parse_tries(values: Mapping[bytes, bytes]) -> tuple[int, int | None]:
    """Return tries left and allowed as the script takes them: what is no number from 1 to the allowed ones is none.

    Returns:
        The second is None where it does not stand there.
    """
    allowed = _parse_number(values.get(ALLOWED, b""))
    left = _parse_number(values.get(TRIES, b"")) or 0
    return (0 if allowed is not None and left > allowed else left), allowed


def _parse_number(text: bytes) -> int | None:
    is_plain = text.isdigit() and len(text) <= _MAX_DIGITS and not text.startswith(b"0")
    return int(text) if is_plain else None


def choose_override(values: Mapping[bytes, bytes]) -> LoaderOverride | None:
    """Say which entry the script would choose; None where nothing is on trial."""
    if not values.get(TRIAL):
        return None
    left, _allowed = parse_tries(values)
    if left:
        return LoaderOverride(OverrideKind.GRUB_TRIAL, unquote_name(values[TRIAL]))
    name = values.get(FALLBACK) or values.get(PLACE)
    return LoaderOverride(OverrideKind.GRUB_FALLBACK, unquote_name(name)) if name else None
