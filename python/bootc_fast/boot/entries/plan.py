"""What the set of boot entries is to be, and which writes lead there; pure functions, nothing is written here."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

from bootc_fast.boot.entries.choose import choose_entry, find_boots_instead, find_variants, list_staged
from bootc_fast.boot.entries.menu import BootMenu, sort_menu
from bootc_fast.boot.entries.naming import choose_names
from bootc_fast.boot.loaders.entry import set_counters
from bootc_fast.boot.loaders.override import OverrideKind, find_default
from bootc_fast.boot.loaders.user_cfg import parse_user_cfg, render_user_cfg
from bootc_fast.errors import BootEntryError, FileSystemError
from bootc_fast.records import dataclass, replace
from bootc_fast.text import escape_bytes, shorten_digest

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from bootc_fast.boot.entries.reader import StagedRename
    from bootc_fast.boot.loaders.entry import MenuEntry
    from bootc_fast.boot.loaders.override import LoaderOverride
    from bootc_fast.types import BootsInstead, VerityDigest

_COUNTING = frozenset({OverrideKind.GRUB_TRIAL, OverrideKind.GRUB_FALLBACK})


@dataclass(frozen=True, slots=True)
class MenuPlan:
    """The wanted set, and the writes that lead to it.

    Attributes:
        order: The deployments, the one that is to boot next first.
        default: Its entry, under its new name.
        new_files: Entries to write, the default first; empty where only their order in user.cfg changes.
        removed: Names in ``entries`` that go after the new ones are live.
        renames: UKIs and addons that get their final names before.
        user_cfg: New content of ``user.cfg``; None where it stays.
        is_default_in_user_cfg: The default is a menuentry, not a file.
        moved_overrides: Overrides that pick an entry of ours and have to name the new default.
        removes_staged: The staged set goes at last.
        makes_directory: ``entries`` has to be made.
        size_bytes: What the new files take, without rounding.
        warnings: What the reader should know.
        boots_instead: The entry that is not of this host, and that the loader boots all the same.
        shown: What the loader shows afterwards, in its order.
        boot_renames: How often the loader will rename the default, to count its boots; there is room for that.
    """

    order: tuple[VerityDigest, ...]
    default: MenuEntry
    new_files: tuple[MenuEntry, ...] = ()
    removed: tuple[bytes, ...] = ()
    renames: tuple[StagedRename, ...] = ()
    user_cfg: bytes | None = None
    is_default_in_user_cfg: bool = False
    moved_overrides: tuple[LoaderOverride, ...] = ()
    removes_staged: bool = False
    makes_directory: bool = False
    size_bytes: int = 0
    warnings: tuple[str, ...] = ()
    boots_instead: BootsInstead | None = None
    shown: tuple[MenuEntry, ...] = ()
    boot_renames: int = 0

    @property
    def is_noop(self) -> bool:
        """Nothing would be written or removed."""
        return not (
            self.new_files
            or self.removed
            or self.renames
            or self.user_cfg is not None
            or self.moved_overrides
            or self.removes_staged
        )


def _describe_staged(menu: BootMenu) -> str:
    found = sorted({shorten_digest(entry.digest) for entry in list_staged(menu) if entry.digest is not None})
    return f"the staged set has entries for {', '.join(found)}" if found else "there are no staged entries"


def _check_default(digest: VerityDigest, entry: MenuEntry | None, menu: BootMenu, *, verify: bool) -> MenuEntry:
    if entry is None:
        menu.odd.refuse_unread(f"looking for the boot entry of {shorten_digest(digest)}")
        hint = "stage the update again with `bootc upgrade`"
        raise BootEntryError(f"no boot entry for {digest}: {_describe_staged(menu)}", hint=hint)
    if not (entry.paths or entry.unknown):
        raise BootEntryError(f"the boot entry {entry.label} names nothing to boot")
    if entry.missing and verify:
        menu.odd.refuse_unopened(entry, f"looking at the boot entry {entry.label}")
        names = ", ".join(map(escape_bytes, entry.missing))
        raise BootEntryError(f"the boot entry {entry.label} names what is missing or empty: {names}")
    if menu.odd.unread_paths.intersection(entry.paths):
        menu.odd.refuse_unread(f"looking at the files of the boot entry {entry.label}")
    return entry


def _collect_sources(
    menu: BootMenu,
    order: Sequence[VerityDigest],
    staged: VerityDigest | None,
    *,
    verify: bool,
    blessed: VerityDigest | None,
) -> tuple[list[MenuEntry], list[str]]:
    if not order:
        raise ValueError("a set of boot entries has at least one deployment")
    if len(set(order)) != len(order):
        raise ValueError("a deployment stands twice in the wanted order")
    found: list[MenuEntry] = []
    warnings: list[str] = []
    for i, digest in enumerate(order):
        entry = choose_entry(menu, digest, prefers_staged=digest == staged)
        if entry is not None and digest == blessed:
            entry = set_counters(entry, None)
        if i == 0:
            entry = _check_default(digest, entry, menu, verify=verify)
        if entry is None:
            warnings.append(f"deployment {shorten_digest(digest)} has no boot entry and stays without one")
        else:
            found.append(entry)
    if staged is not None and staged not in {entry.digest for entry in found}:
        raise BootEntryError(f"no boot entry for the staged deployment {staged}: {_describe_staged(menu)}")
    return found, warnings


def _own_files(menu: BootMenu) -> list[MenuEntry]:
    return [entry for entry in menu.live.files if entry.is_own]


def _list_rivals(menu: BootMenu) -> list[MenuEntry]:
    """All that boot a deployment of ours: the new default outranks them, on whatever partition they are."""
    return [*_own_files(menu), *(entry for entry in menu.live.elsewhere if entry.digest in menu.known)]


def _is_wanted(override: LoaderOverride, tried: VerityDigest | None) -> bool:
    """Say whether a publication leaves an override as it is: it is a trial's."""
    return override.is_of_trial or (tried is not None and override.kind is OverrideKind.ONE_SHOT)


def _find_picked(menu: BootMenu, tried: VerityDigest | None) -> frozenset[bytes]:
    """Names of our entries that some override picks."""
    overrides = [one for one in menu.live.overrides if not _is_wanted(one, tried)]
    choices = [find_default(menu.live.entries, menu.rule, [override]) for override in overrides]
    return frozenset(
        choice.entry.file_name
        for choice in choices
        if choice.override is not None and choice.entry is not None and choice.entry.is_own
    )


def _count_kept(
    wanted: Sequence[MenuEntry], variants: Sequence[MenuEntry], menu: BootMenu, tried: VerityDigest | None
) -> int:
    """How many of the wanted entries, from the end, can keep their files as they are: each before its own variants."""
    live = {entry.file_name: entry for entry in menu.live.files}
    rules = menu.record.rules
    by_digest: dict[VerityDigest | None, int] = {}
    for entry in _own_files(menu):
        by_digest[entry.digest] = by_digest.get(entry.digest, 0) + (entry not in variants)
    kept = 0
    below: MenuEntry | None = None
    picked = _find_picked(menu, tried)
    for entry in reversed(wanted):
        # Under a new name it is out of an override's reach, should the override not let itself be changed.
        if entry.file_name in picked and entry is not wanted[0]:
            break
        is_live = live.get(entry.file_name) == entry and by_digest[entry.digest] == 1
        if not is_live or not all(rule.shows(replace(entry, missing=())) for rule in rules):
            break
        behind = [one for one in (below, *variants) if one is not None and (one is below or one.digest == entry.digest)]
        if any(rule.compare(entry, one) >= 0 for one in behind for rule in rules):
            break
        kept, below = kept + 1, entry
    if kept == len(wanted) and kept:
        others = [entry for entry in _list_rivals(menu) if entry.file_name != wanted[0].file_name]
        if any(rule.compare(wanted[0], other) >= 0 for other in others for rule in rules):
            kept -= 1
    return kept


def _check_result(files: Sequence[MenuEntry], chunks_raw: bytes, wanted: Sequence[MenuEntry], menu: BootMenu) -> str:
    """Sort the planned set with each rule of the loader; returns a warning, or nothing.

    Raises:
        BootEntryError: The wanted entry would not be the first of ours.
    """
    known = {entry.digest for entry in wanted if entry.digest is not None}
    chunks = parse_user_cfg(chunks_raw, known=known)
    warning = ""
    for rule in menu.record.rules:
        shown = sort_menu(chunks, files, rule)
        first = next((entry for entry in shown if entry.is_own), None)
        if first is None or first.digest != wanted[0].digest:
            label = "nothing" if first is None else first.label
            raise BootEntryError(f"planning the boot entries: {rule.name} would boot {label}, not {wanted[0].label}")
        if shown[0] is not first and rule is menu.rule:
            warning = f"the loader boots {shown[0].label} first, which is not of this host"
    return warning


def plan_menu(
    menu: BootMenu,
    *,
    order: Sequence[VerityDigest],
    staged: VerityDigest | None,
    verify: bool = True,
    blessed: VerityDigest | None = None,
    tried: VerityDigest | None = None,
    renews: bool = False,
) -> MenuPlan:
    """Plan the set in which the loader's order of our deployments is `order`.

    Foreign entries stay byte for byte. An entry whose place among ours is right keeps its file; another one gets a
    new name and sort-key, every other byte stays. Entries of ours whose deployment is not in `order` go, and so
    does a second entry that boots the same as the first; variants stay with their deployment, and behind its entry.

    Args:
        menu: What is there.
        order: Wanted deployments, n ≥ 1 and each once; the first boots next. All that shall stay bootable are in it.
        staged: The marker's deployment, whose entry is taken from the staged set; None where nothing is staged or a
            staged update is dropped.
        verify: Refuse a default that names files which are not there.
        blessed: The deployment whose entry loses its boot counters.
        tried: The deployment that a one-shot names, or will: that is not made to name the default.
        renews: Every entry of ours gets a new name and sort-key, so that the order holds without boot counters, too.

    Returns:
        The plan; ``is_noop`` where the set is as wanted.

    Raises:
        BootEntryError: The first deployment, or the staged one, has no entry; or its entry names what is not there.
        FileSystemError: Whether it has one, or what it names is there, cannot be told.
        ValueError: `order` is empty or names a deployment twice.

    Source:
        Spec boot.md, "Reading" and "Replacing the set".
    """
    sources, warnings = _collect_sources(menu, order, staged, verify=verify, blessed=blessed)
    variants = {
        entry.digest: find_variants(menu, entry.digest, prefers_staged=entry.digest == staged)
        for entry in sources
        if entry.digest is not None
    }
    everything = [
        one for entry in sources for one in (entry, *(variants[entry.digest] if entry.digest is not None else ()))
    ]
    menuentries = [entry for entry in everything if entry.menu_id is not None]
    wanted = [entry for entry in sources if entry.menu_id is None]
    is_in_user_cfg = sources[0].menu_id is not None
    if not is_in_user_cfg and menuentries:
        # GRUB reads user.cfg first, so that a menuentry of ours there would stay the default.
        warnings += [f"menuentry {entry.label} goes: GRUB would boot it first" for entry in menuentries]
        menuentries = []
    user_cfg = _plan_user_cfg(menu, menuentries)
    new_files, kept_files = _plan_files(
        menu, wanted, [one for one in everything if one.menu_id is None and one not in sources], tried, renews=renews
    )
    replaced = {entry.file_name for entry in _own_files(menu)} - {entry.file_name for entry in kept_files}
    # Where bootc's exchange of the sets was cut, the staged set is the only one, with what others put there.
    carried = tuple(one for one in menu.staged.files if not one.is_own) if menu.odd.is_exchange_unfinished else ()
    foreign = [*(entry for entry in menu.live.files if not entry.is_own), *carried, *menu.live.elsewhere]
    cfg_after = user_cfg if user_cfg is not None else menu.live.user_cfg or b""
    default = sources[0] if is_in_user_cfg else (*new_files, *kept_files)[0]
    results = [*menuentries, *new_files, *kept_files]
    foreign_first = _check_result([*new_files, *kept_files, *foreign], cfg_after, results, menu)
    warnings += [foreign_first] if foreign_first else []
    if menu.live.unread_overrides:
        names = " or ".join(menu.live.unread_overrides)
        warnings.append(f"the first boot entry boots, unless {names}, which cannot be read, picks another")
    shown = sort_menu(parse_user_cfg(cfg_after, known=menu.known), [*new_files, *kept_files, *foreign], menu.rule)
    new_files = (*new_files, *carried)
    digests = {entry.digest for entry in sources}
    moved = _find_moves(menu, shown, default, tried)
    return MenuPlan(
        order=tuple(entry.digest for entry in sources if entry.digest is not None),
        default=default,
        new_files=new_files,
        removed=(*sorted(replaced), *menu.odd.torn, *menu.odd.leftovers),
        renames=_sort_renames([item for item in menu.staged.renames if item.digest in digests]),
        user_cfg=user_cfg,
        is_default_in_user_cfg=is_in_user_cfg,
        moved_overrides=moved,
        removes_staged=menu.staged.is_present,
        makes_directory=menu.odd.is_exchange_unfinished or (bool(new_files) and not menu.live.files),
        size_bytes=sum(len(entry.raw) for entry in new_files) + len(user_cfg or b""),
        warnings=tuple(warnings),
        boots_instead=_foretell(menu, shown, default, moved),
        shown=shown,
    )


def _foretell(
    menu: BootMenu, shown: Sequence[MenuEntry], default: MenuEntry, moved: Collection[LoaderOverride]
) -> BootsInstead | None:
    """Say what boots in place of the default, as far as that is known before anything is written."""
    overrides = [override for override in menu.live.overrides if not override.is_of_trial]
    before = list(takewhile(lambda override: override not in moved, overrides))
    choice = find_default(shown, menu.rule, before, menu.live.outside)
    if choice.override is None and moved:
        return None
    return find_boots_instead(menu, choice, default)


def _find_moves(
    menu: BootMenu, shown: Sequence[MenuEntry], default: MenuEntry, tried: VerityDigest | None
) -> tuple[LoaderOverride, ...]:
    """Overrides that pick one of ours now, and afterwards something that is not the default, or nothing."""
    found = []
    for override in menu.live.overrides:
        if override.is_saved or _is_wanted(override, tried):
            # The loader writes what it boots; the name that it has is gone, so that it picks nothing until then.
            continue
        before = find_default(menu.live.entries, menu.rule, [override])
        after = find_default(shown, menu.rule, [override])
        is_right = after.override is not None and after.entry is not None and after.entry.digest == default.digest
        if before.override is not None and before.entry is not None and before.entry.is_own and not is_right:
            found.append(override)
    return tuple(found)


def _sort_renames(renames: Collection[StagedRename]) -> tuple[StagedRename, ...]:
    """Files in addon directories before the directories themselves."""
    return tuple(sorted(renames, key=lambda item: (-item.directory.count(b"/"), item.directory, item.old)))


def _plan_user_cfg(menu: BootMenu, menuentries: Sequence[MenuEntry]) -> bytes | None:
    if not menu.record.has_user_cfg:
        return None
    if menu.odd.is_user_cfg_unread and menuentries:
        menu.odd.refuse_unread("planning the boot entries: grub2/user.cfg would be replaced")
    chunks = menu.live.chunks
    if menu.live.user_cfg is None or not menu.live.user_cfg.strip():
        if not menuentries:
            return None
        chunks = menu.staged.chunks
    content = render_user_cfg(chunks, menuentries)
    return None if content == (menu.live.user_cfg or b"") else content


def _plan_files(
    menu: BootMenu,
    wanted: Sequence[MenuEntry],
    variants: Sequence[MenuEntry],
    tried: VerityDigest | None,
    *,
    renews: bool,
) -> tuple[tuple[MenuEntry, ...], tuple[MenuEntry, ...]]:
    """Tell the files to write, the default's first, and those that stay as they are."""
    live = {entry.file_name: entry for entry in menu.live.files}
    loose = [entry for entry in variants if live.get(entry.file_name) == entry]
    # What cannot be read may name any entry that there is, and none that there is not.
    is_blind = renews or bool(menu.live.unread_overrides)
    count = 0 if is_blind or len(loose) < len(variants) else _count_kept(wanted, loose, menu, tried)
    kept = wanted[len(wanted) - count :]
    fresh = wanted[: len(wanted) - count]
    if not fresh:
        return (), (*kept, *loose)
    own = _list_rivals(menu)
    try:
        maker = choose_names(fresh[0], own, menu.names, menu.loader)
    except BootEntryError:
        # A variant that no name outranks gets another name itself.
        maker = choose_names(fresh[0], [entry for entry in own if entry not in loose], menu.names, menu.loader)
    renamed = [maker.rename(entry, rank) for rank, entry in enumerate(fresh)]
    mains = {entry.digest: entry for entry in (*renamed, *kept)}

    def is_behind(entry: MenuEntry) -> bool:
        main = mains.get(entry.digest)
        return main is None or all(rule.compare(main, entry) < 0 for rule in menu.record.rules)

    stays = [entry for entry in loose if is_behind(entry)]
    moved = [entry for entry in variants if entry not in stays]
    renamed += [maker.rename(entry, len(fresh) + rank) for rank, entry in enumerate(moved)]
    return tuple(renamed), (*kept, *stays)


def check_next_boot(menu: BootMenu, target: VerityDigest) -> None:
    """Check, on a menu that was read after writing, that no override picks another deployment of ours.

    It can: an entry that could not be read is neither replaced nor known to be what an override names.

    Raises:
        BootEntryError: It does.
        FileSystemError: It cannot be told, since not all entries could be read; or what counted boots of another
            deployment could not be cleared.
    """
    default = menu.default
    if default is not None and default.is_own and default.digest != target:
        menu.odd.refuse_unread("reading the boot entries")
        what = f"the new boot entries are in place, but the loader boots {default.label} ({menu.live.choice.reason})"
        override = menu.live.choice.override
        if override is not None and override.kind in _COUNTING:
            # Ours, and it was to be gone: its file could not be written.
            raise FileSystemError(what, hint=f"run this again; {override.remedy}")
        raise BootEntryError(what, hint="clear what names that entry, or run this again once all entries can be read")
