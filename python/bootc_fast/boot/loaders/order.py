"""The order in which a boot loader shows the entries; the first one boots unless something overrides it."""

from __future__ import annotations

from functools import cmp_to_key
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bootc_fast.boot.loaders.entry import MenuEntry
    from bootc_fast.boot.loaders.record import LoaderRule


def sort_entries(entries: Iterable[MenuEntry], rule: LoaderRule) -> tuple[MenuEntry, ...]:
    """Return what the loader shows, in its order.

    Of entries that compare equal GRUB keeps the one that it reads first, which depends on the directory: here the
    one that `entries` has first. Upstream's (2.14) then reads no more: what the directory has behind the second one is
    not shown either, which cannot be told from here.
    """
    shown = sorted(filter(rule.shows, entries), key=cmp_to_key(rule.compare))
    if rule.fate_of_equals is None:
        return tuple(shown)
    return tuple(entry for i, entry in enumerate(shown) if i == 0 or rule.compare(shown[i - 1], entry) != 0)


def find_dropped(entries: Sequence[MenuEntry], rule: LoaderRule) -> tuple[MenuEntry, ...]:
    """Return the entries that GRUB silently leaves out because another one compares equal.

    Upstream's (2.14) stops at such an entry, and whatever the directory has behind it is left out too.
    """
    kept = {id(entry) for entry in sort_entries(entries, rule)}
    return tuple(entry for entry in entries if rule.shows(entry) and id(entry) not in kept)
