"""Which entry counts for a deployment, and what boots next: asked by every command, answered here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bootc_fast.boot.loaders.entry import parse_entry, rename_key, replace_sort_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bootc_fast.boot.entries.menu import BootMenu
    from bootc_fast.boot.loaders.entry import MenuEntry
    from bootc_fast.types import VerityDigest


def _is_usable(entry: MenuEntry, menu: BootMenu) -> bool:
    bare = replace(entry, missing=())
    return entry.menu_id is not None or any(rule.shows(bare) for rule in menu.record.rules)


def _rank_source(entry: MenuEntry, menu: BootMenu) -> tuple[bool, bool, int]:
    """Better sources first: whole, with all its files, high in the menu."""
    position = menu.live.entries.index(entry) if entry in menu.live.entries else len(menu.live.entries)
    return not _is_usable(entry, menu), bool(entry.missing), position


def _translate(entry: MenuEntry, menu: BootMenu) -> MenuEntry:
    """Write an entry so that the loader shows it.

    bootc chooses the key of a UKI by the systemd of its image; the systemd-boot on the ESP may be older, and would
    boot something else without a word. All versions know ``efi``.
    """
    if menu.knows_uki_key or not entry.needs_uki_key:
        return entry
    written = parse_entry(entry.file_name, rename_key(entry.raw, b"uki", b"efi"), known=menu.known)
    return replace(written, missing=entry.missing)


def choose_entry(menu: BootMenu, digest: VerityDigest, *, prefers_staged: bool) -> MenuEntry | None:
    """Find the one entry that counts for a deployment: what is checked, shown, compared and published is this one.

    Args:
        menu: What is there.
        digest: Whose.
        prefers_staged: The deployment is the staged one: its staged entry is the one that is to boot.

    Returns:
        None where no entry of it is one that the loader could show. Files that it names may be missing.
    """
    groups = ((*menu.live.entries, *menu.live.files), list_staged(menu))
    live, staged = (
        [_translate(entry, menu) for entry in group if entry.digest == digest and entry.is_own] for group in groups
    )
    staged_best, live_best = (_pick_best(group, menu) for group in (staged, live))
    if staged_best is None or live_best is None:
        return live_best or staged_best
    if live_best.missing and not staged_best.missing:
        # bootc renames kernels' directories and then exchanges the sets: it may have been cut in between.
        return staged_best
    if not prefers_staged:
        return live_best
    # A run that was cut short may have put the staged entry in its place already.
    is_same = live_best.sort_key is not None and replace_sort_key(staged_best.raw, live_best.sort_key) == live_best.raw
    return live_best if is_same or (staged_best.missing and not live_best.missing) else staged_best


def _pick_best(entries: Sequence[MenuEntry], menu: BootMenu) -> MenuEntry | None:
    usable = [entry for entry in entries if _is_usable(entry, menu)]
    return min(usable, key=lambda entry: _rank_source(entry, menu), default=None)


def list_staged(menu: BootMenu) -> tuple[MenuEntry, ...]:
    """The staged set, also what a loader would not show because its files are missing."""
    return (*menu.staged.entries, *(entry for entry in menu.staged.files if entry not in menu.staged.entries))


def find_rollback_target(menu: BootMenu, *, booted: VerityDigest, staged: VerityDigest | None) -> VerityDigest | None:
    """Return the first of our other deployments in the loader's order; None where there is none.

    Source:
        Spec boot.md, "The order is the loader's".
    """
    return next((digest for digest in menu.own_order if digest not in (booted, staged)), None)


def is_rollback_queued(menu: BootMenu, *, booted: VerityDigest) -> bool:
    """Say whether the first of our deployments in the loader's order is not the booted one.

    A foreign default says nothing: a rollback orders ours, and goes back where they are in another order already.

    Source:
        Spec boot.md, "The order is the loader's".
    """
    return bool(menu.own_order) and menu.own_order[0] != booted
