"""What is odd about a boot menu though every file of it could be read, in words for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.boot.loaders.order import find_dropped
from bootc_fast.text import escape_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bootc_fast.boot.loaders.entry import MenuEntry
    from bootc_fast.boot.loaders.override import DefaultChoice
    from bootc_fast.boot.loaders.record import LoaderRule


def find_oddities(
    entries: Sequence[MenuEntry], files: Sequence[MenuEntry], rule: LoaderRule, choice: DefaultChoice
) -> list[str]:
    """Tell names that GRUB takes for equal, files of our entries that are missing, and a foreign default.

    Args:
        entries: What the loader shows.
        files: Every entry file.
        rule: The loader's.
        choice: What it boots, and why.
    """
    found = [
        f"{rule.name} {rule.fate_of_equals} {entry.label}: its name compares equal to another one's"
        for entry in find_dropped(files, rule)
    ]
    found += [
        f"{entry.label} names {escape_bytes(path)}, which is missing or empty"
        for entry in (*entries, *(file for file in files if file not in entries))
        if entry.is_own
        for path in entry.missing
    ]
    if choice.entry is not None and not choice.entry.is_own:
        found.append(f"the loader boots {choice.entry.label} first, which is not of this host ({choice.reason})")
    return found


def find_unknown_keys(files: Sequence[MenuEntry], version: str | None) -> list[str]:
    """Tell entries of ours that a systemd-boot of this version shows as little as broken ones."""
    if version is None:
        return []
    return [
        f"systemd-boot {version} does not show {entry.label}: it knows UKIs by the key efi, not by uki; "
        "a finalize or rollback writes it so"
        for entry in files
        if entry.is_own and entry.needs_uki_key
    ]
