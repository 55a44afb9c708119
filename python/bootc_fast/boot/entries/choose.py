"""Which entry counts for a deployment, and what boots next: asked by every command, answered here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.boot.entries.reader import OWN_NAME
from bootc_fast.boot.loaders.entry import parse_entry, parse_text, rename_key, replace_sort_key
from bootc_fast.records import replace
from bootc_fast.text import escape_bytes
from bootc_fast.types import BootsInstead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bootc_fast.boot.entries.menu import BootMenu
    from bootc_fast.boot.entries.plan import MenuPlan
    from bootc_fast.boot.loaders.entry import MenuEntry
    from bootc_fast.boot.loaders.override import DefaultChoice
    from bootc_fast.types import VerityDigest


def _is_usable(entry: MenuEntry, menu: BootMenu) -> bool:
    bare = replace(entry, missing=())
    return entry.menu_id is not None or any(rule.shows(bare) for rule in menu.record.rules)


# What makes a loader start the same program otherwise: an entry that has one of these beside a plain one is a variant.
_SPECIAL_KEYS = frozenset({b"profile", b"extra"})
# What decides what an entry boots; its name, title and rank do not.
_BOOT_KEYS = frozenset(
    {b"initrd", b"devicetree", b"devicetree-overlay", b"architecture", b"uki-url", b"profile", b"extra", b"grub_arg"}
)


def list_traits(entry: MenuEntry) -> tuple[bytes | tuple[object, ...] | None, ...]:
    """Return what decides what an entry boots: two entries of one deployment with equal traits are one twice.

    Source:
        Spec boot.md, "Reading"; the keys of the Boot Loader Specification.
    """
    if entry.menu_id is not None:
        return tuple(entry.raw[entry.raw.find(b"{") :].split())
    text = parse_text(entry.raw)
    options = [*entry.linux_arguments, *b" ".join(text.find_all(b"options")).split()]
    # A profile that is not named is the first one.
    fields = [field for field in text.fields if field[0] in _BOOT_KEYS and field != (b"profile", b"0")]
    return entry.linux, entry.uki, tuple(options), tuple(fields)


def _is_special(entry: MenuEntry) -> bool:
    """Say whether an entry asks for more than to boot its deployment."""
    keys = {key for key, value in parse_text(entry.raw).fields if (key, value) != (b"profile", b"0")}
    return entry.menu_id is None and bool(keys & _SPECIAL_KEYS or (entry.linux is None and b"options" in keys))


def _rank_source(entry: MenuEntry, menu: BootMenu) -> tuple[bool, bool, bool, bool, int, int]:
    """Better sources first: whole, with all its files, plain, named as bootc and we do, short, high in the menu."""
    position = menu.live.entries.index(entry) if entry in menu.live.entries else len(menu.live.entries)
    return (
        not _is_usable(entry, menu),
        bool(entry.missing),
        _is_special(entry),
        not _has_own_name(entry),
        sum(1 if isinstance(part, bytes) else len(part) for part in list_traits(entry) if part),
        position,
    )


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
    live, staged = _list_sources(menu, digest)
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


def _list_sources(menu: BootMenu, digest: VerityDigest) -> tuple[list[MenuEntry], list[MenuEntry]]:
    """All entries of a deployment, live and staged, each in the loader's order and then those it does not show."""
    groups = ((*menu.live.entries, *menu.live.files), list_staged(menu))
    live, staged = (
        [_translate(entry, menu) for entry in dict.fromkeys(group) if entry.digest == digest and entry.is_own]
        for group in groups
    )
    return live, staged


def find_variants(menu: BootMenu, digest: VerityDigest, *, prefers_staged: bool) -> tuple[MenuEntry, ...]:
    """Find the entries that boot a deployment otherwise than the one that counts: recovery entries, other options.

    They stay as long as their deployment does. An entry that would boot the same as another one is none, nor is one
    whose program is gone.

    Args:
        menu: What is there.
        digest: Whose.
        prefers_staged: As for `choose_entry`: what the staged set has beside the staged entry counts too, and the live
            entry that it replaces does not.

    Returns:
        n >= 0 entries, live ones first.

    Source:
        Spec boot.md, "Reading".
    """
    chosen = choose_entry(menu, digest, prefers_staged=prefers_staged)
    if chosen is None:
        return ()
    live, staged = _list_sources(menu, digest)
    replaced = None
    if chosen not in live:
        best = _pick_best(live, menu)
        replaced = best if best is not None and not _is_special(best) and _has_own_name(best) else None
    found: dict[tuple[bytes | tuple[object, ...] | None, ...], MenuEntry] = {list_traits(chosen): chosen}
    for entry in (*live, *(staged if prefers_staged or not live else ())):
        program = entry.linux if entry.linux is not None else entry.uki
        is_whole = entry.is_bootable or entry.is_grub_bootable or entry.is_grub_linux
        if entry != replaced and is_whole and program is not None and program not in entry.missing:
            found.setdefault(list_traits(entry), entry)
    return tuple(found.values())[1:]


def _has_own_name(entry: MenuEntry) -> bool:
    return entry.menu_id is not None or OWN_NAME.fullmatch(entry.file_name) is not None


def _pick_best(entries: Sequence[MenuEntry], menu: BootMenu) -> MenuEntry | None:
    usable = [entry for entry in entries if _is_usable(entry, menu)]
    return min(usable, key=lambda entry: _rank_source(entry, menu), default=None)


def list_staged(menu: BootMenu) -> tuple[MenuEntry, ...]:
    """The staged set, also what a loader would not show because its files are missing."""
    return (*menu.staged.entries, *(entry for entry in menu.staged.files if entry not in menu.staged.entries))


def find_boots_instead(menu: BootMenu, choice: DefaultChoice, wanted: MenuEntry | None) -> BootsInstead | None:
    """Say what boots in place of an entry of ours.

    Args:
        menu: What is there.
        choice: What the loader boots.
        wanted: Ours that is to boot; None where there is none.

    Returns:
        None where one of ours boots, or nothing.
    """
    if choice.entry is None or choice.entry.is_own:
        return None
    if wanted is not None and wanted.digest is not None and choice.entry.digest == wanted.digest:
        # An entry on the partition that we do not write, for the same deployment.
        return None
    if choice.override is not None:
        remedy = choice.override.remedy
    else:
        ours = "ID" if wanted is None else escape_bytes(menu.rule.identify(wanted))
        remedy = f"it comes first by itself: remove it, or `{menu.rule.choose_command.format(ours)}`"
    return BootsInstead(choice.entry.label, choice.reason, remedy)


def find_rollback_target(menu: BootMenu, *, booted: VerityDigest, staged: VerityDigest | None) -> VerityDigest | None:
    """Return the first of our other deployments in the loader's order; None where there is none.

    Source:
        Spec boot.md, "The order is the loader's".
    """
    return next((digest for digest in menu.own_order if digest not in (booted, staged)), None)


def is_next_boot(menu: BootMenu, digest: VerityDigest) -> bool:
    """Say whether the loader takes that deployment of ours first as things are, so that nothing need be written."""
    return menu.own_order[:1] == (digest,) and not menu.odd.is_exchange_unfinished


def is_rollback_queued(menu: BootMenu, *, booted: VerityDigest) -> bool:
    """Say whether the first of our deployments in the loader's order is not the booted one.

    A foreign default says nothing: a rollback orders ours, and goes back where they are in another order already.

    Source:
        Spec boot.md, "The order is the loader's".
    """
    return bool(menu.own_order) and menu.own_order[0] != booted


def name_entry(plan: MenuPlan, digest: VerityDigest) -> str:
    """Name the entry that boots a deployment once a plan is published: with one try by one-shot it is not the first."""
    tried = next((entry for entry in plan.shown if entry.is_own and entry.digest == digest), plan.default)
    return (plan.default if plan.order[0] == digest else tried).label
