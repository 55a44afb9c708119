"""Everything about boot entries that is on the disk, read once; looking never writes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bootc_fast.boot.area.directory import DAMAGE_HINT, hint_for
from bootc_fast.boot.area.real import RealVolume
from bootc_fast.boot.entries.choose import choose_entry
from bootc_fast.boot.entries.damage import find_damage, hint_for_damage
from bootc_fast.boot.entries.reader import (
    ENTRIES,
    OWN_LEFTOVER,
    OWN_NAME,
    STAGED_ENTRIES,
    USER_CFG,
    MenuReader,
    StagedRename,
    find_rule,
)
from bootc_fast.boot.entries.user_cfg_menu import read_user_cfg
from bootc_fast.boot.loaders.oddities import find_oddities, find_unknown_keys
from bootc_fast.boot.loaders.order import sort_entries
from bootc_fast.boot.loaders.override import DefaultChoice, LoaderOverride, LoaderVariables, Outside, find_default
from bootc_fast.boot.loaders.table import record_of
from bootc_fast.errors import BootEntryError, EspError, FileSystemError
from bootc_fast.records import dataclass, replace
from bootc_fast.text import escape_bytes, reason_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from bootc_fast.boot.area.directory import Area, BootVolume
    from bootc_fast.boot.loaders.entry import MenuEntry
    from bootc_fast.boot.loaders.record import LoaderRecord, LoaderRule
    from bootc_fast.boot.loaders.user_cfg import Chunk
    from bootc_fast.errors import BootcFastError
    from bootc_fast.types import Loader, VerityDigest


@dataclass(frozen=True, slots=True)
class LiveMenu:
    """What the loader reads now.

    Attributes:
        entries: What it shows, in its order.
        choice: Which of these boots next, and why.
        overrides: All overrides, also those that match nothing.
        elsewhere: What the loader shows too, and that is none of `files`: entries on a second partition, UKIs without
            an entry.
        outside: What the loader shows that is no file in ``entries``.
        files: Every entry file in ``entries`` that could be read, shown or not.
        names: All names there.
        chunks: ``user.cfg``; empty where it is absent.
        user_cfg: Content of ``user.cfg``; None where absent.
        fallback: What GRUB shows from ``custom.cfg`` since that is gone or empty.
        unread_overrides: What may pick another entry, in words, and cannot be read.
        environment: GRUB's variables that keep their values on disk.
    """

    entries: tuple[MenuEntry, ...]
    choice: DefaultChoice
    overrides: tuple[LoaderOverride, ...] = ()
    elsewhere: tuple[MenuEntry, ...] = ()
    outside: Outside = Outside()
    files: tuple[MenuEntry, ...] = ()
    names: frozenset[bytes] = frozenset()
    chunks: tuple[Chunk, ...] = ()
    user_cfg: bytes | None = None
    fallback: MenuEntry | None = None
    unread_overrides: tuple[str, ...] = ()
    environment: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class StagedMenu:
    """What bootc staged beside it.

    Attributes:
        entries: What the loader would show of it, in its order.
        files: Every entry file in ``entries.staged`` that could be read, shown or not.
        names: All names there.
        chunks: ``user.cfg.staged``; empty where it is absent.
        renames: UKIs and addons with staged names.
        is_present: ``entries.staged`` or ``user.cfg.staged`` is there.
    """

    entries: tuple[MenuEntry, ...] = ()
    files: tuple[MenuEntry, ...] = ()
    names: frozenset[bytes] = frozenset()
    chunks: tuple[Chunk, ...] = ()
    renames: tuple[StagedRename, ...] = ()
    is_present: bool = False


@dataclass(frozen=True, slots=True)
class OddMenu:
    """Anomalies: what is not as it should be.

    Attributes:
        warnings: All of it, in words.
        torn: Names of ours in ``entries`` whose file is empty or cut.
        leftovers: Names of ours in ``entries`` that are no entries and can be removed.
        old_sets: Paths of sets beside the live one, and of files that were to replace others, which a cut left.
        is_exchange_unfinished: ``entries`` is missing and a staged set is there: bootc's exchange was cut.
        is_complete: Every file could be read, so that what nobody names is garbage.
        is_user_cfg_unread: ``user.cfg`` is there and cannot be read: it must not be replaced.
        unread: Why entries, or files that they name, could not be looked at, in words.
        failure: The number of the system call's error, for the first of them where it is one of the disk or of
            permission; None where what is there is too long, or no file.
        unread_paths: Those files; they count as there.
        esp_error: Why the ESP, on which UKIs are, could not be opened; they count as missing.
    """

    warnings: tuple[str, ...] = ()
    torn: tuple[bytes, ...] = ()
    leftovers: tuple[bytes, ...] = ()
    old_sets: tuple[bytes, ...] = ()
    is_exchange_unfinished: bool = False
    is_complete: bool = True
    is_user_cfg_unread: bool = False
    unread: tuple[str, ...] = ()
    failure: int | None = None
    unread_paths: frozenset[bytes] = frozenset()
    esp_error: BootcFastError | None = None

    def refuse_unopened(self, entry: MenuEntry, what: str) -> None:
        """Say that nothing is known of an entry's UKI, where it would else be said that it is not there.

        Raises:
            EspError: The partition that it is on could not be opened; what was being done is `what`.
        """
        if entry.missing and entry.uki is not None and (error := self.esp_error) is not None:
            names = ", ".join(map(escape_bytes, entry.missing))
            raise EspError(f"{what}: it names {names}: {error}", hint=error.hint) from error.__cause__

    def refuse_unread(self, what: str) -> None:
        """Say that not all could be looked at, where it would else be said that something is not there.

        Raises:
            FileSystemError: The disk failed, or the caller may not; what was being done is `what`.
            BootEntryError: What is there is too long, or no file.
        """
        if not self.unread:
            return
        reasons = f"{what}: {'; '.join(self.unread)}"
        if self.failure is None:
            raise BootEntryError(reasons)
        cause = OSError(self.failure, os.strerror(self.failure))
        # Who may not look gets the hint of every other permission.
        hint = None if isinstance(cause, PermissionError) else hint_for(cause) or DAMAGE_HINT
        raise FileSystemError(reasons, hint=hint) from cause


@dataclass(frozen=True, slots=True)
class BootMenu:
    """What is there.

    Attributes:
        loader: Who reads it.
        rule: In which order.
        known: The deployments whose entries are ours.
        live: What the loader reads now.
        staged: What is staged.
        odd: What is not as it should be.
        knows_uki_key: The loader shows entries whose UKI stands under the key ``uki``.
    """

    loader: Loader
    rule: LoaderRule
    known: frozenset[VerityDigest]
    live: LiveMenu
    staged: StagedMenu
    odd: OddMenu
    knows_uki_key: bool = True

    @property
    def record(self) -> LoaderRecord:
        """What is to be known about the loader."""
        return record_of(self.loader)

    @property
    def needs_mending(self) -> bool:
        """A cut, or another tool, has left what `bootc-fast doctor` tells in full and mends."""
        broken = self.odd.torn or self.odd.leftovers or self.odd.is_exchange_unfinished
        return bool(broken) or any(entry.is_own and entry.missing for entry in self.live.files)

    @property
    def default(self) -> MenuEntry | None:
        """What boots next; None where nothing is shown."""
        return self.live.choice.entry

    @property
    def next_boot(self) -> MenuEntry | None:
        """What boots next: the fallback entry, which is no part of the set and chooses itself, or the default."""
        return self.live.fallback or self.default

    @property
    def names(self) -> frozenset[bytes]:
        """All names in ``entries`` and ``entries.staged``: none of them is given again."""
        return self.live.names | self.staged.names

    @property
    def settled(self) -> BootMenu:
        """The menu as it is to be: where bootc's exchange of the sets was cut, the staged set is live."""
        if not self.odd.is_exchange_unfinished:
            return self
        shown = self.staged.entries
        choice = find_default(shown, self.rule)
        return replace(self, live=replace(self.live, entries=shown, choice=choice))

    @property
    def own_order(self) -> tuple[VerityDigest, ...]:
        """Our deployments in the loader's order, the default first, each once; variants have no say in it."""
        shown = [entry for entry in self.live.entries if entry.is_own and entry.digest is not None]
        digests = dict.fromkeys(entry.digest for entry in shown if entry.digest is not None)
        chosen = {digest: choose_entry(self, digest, prefers_staged=False) for digest in digests}
        ranked = [
            entry
            for entry in shown
            if entry.digest is not None and (entry == chosen[entry.digest] or chosen[entry.digest] not in shown)
        ]
        if self.default in shown:
            ranked.insert(0, self.default)
        return tuple(dict.fromkeys(entry.digest for entry in ranked if entry.digest is not None))


def sort_menu(chunks: Sequence[Chunk], files: Sequence[MenuEntry], rule: LoaderRule) -> tuple[MenuEntry, ...]:
    """Return the menu: GRUB reads user.cfg before it reads the entries."""
    menuentries = [chunk.entry for chunk in chunks if chunk.entry is not None]
    return (*menuentries, *sort_entries(files, rule))


def read_volumes(
    boot: BootVolume,
    esp: BootVolume | None,
    *,
    loader: Loader,
    known: Collection[VerityDigest],
    variables: LoaderVariables | None = None,
    settings: BootVolume | None = None,
    elsewhere: BootVolume | None = None,
) -> BootMenu:
    """Do what ``read_menu`` does, on volumes.

    Args:
        boot: Holds the entries that are written.
        esp: Holds the UKIs.
        loader: Who reads them.
        known: The deployments whose entries are ours.
        variables: The EFI variables.
        settings: Holds the loader's own settings; None where that is `boot`.
        elsewhere: A second partition that the loader shows; never written.

    Raises:
        OSError: A directory cannot be listed.
    """
    record, rule = record_of(loader), find_rule(boot, loader)
    own = known if isinstance(known, frozenset) else frozenset(known)
    reader = MenuReader(boot, esp, own, record, settings)
    other = None if elsewhere is None else MenuReader(elsewhere, elsewhere, own, record)
    foreign = other.read_elsewhere() if other else []
    renames = reader.find_renames()
    available = frozenset(b"/" + item.directory.lower() + b"/" + item.new.lower() for item in renames)
    live = reader.read_set(ENTRIES)
    torn = tuple(reader.torn)
    staged = reader.read_set(STAGED_ENTRIES)
    files = [reader.find_missing(entry, available) for entry in live[0]] if live else []
    staged_files = [reader.find_missing(entry, available) for entry in staged[0]] if staged else []
    cfg = read_user_cfg(reader, record, available)
    is_beside_loader = settings is None
    files = [_hide(entry, rule, variables, is_beside_loader=is_beside_loader) for entry in files]
    staged_files = [_hide(entry, rule, variables, is_beside_loader=is_beside_loader) for entry in staged_files]
    foreign = [_hide(entry, rule, variables, is_beside_loader=not is_beside_loader) for entry in foreign]
    names = reader.list_images(rule), other.list_images(rule) if other else []
    foreign += reader.read_images(rule, names[0])
    foreign += other.read_images(rule, names[1]) if other else []
    entries = sort_menu(cfg.chunks, [*files, *foreign], rule)
    content = reader.read_settings(rule)
    overrides = rule.collect_overrides(content, variables)
    outside = rule.find_outside([*names[0], *names[1]], variables, overrides, OWN_NAME, [*files, *foreign])
    choice = find_default(entries, rule, overrides, outside)
    told = variables.unread if variables is not None and rule.reads_variables else ()
    unread_overrides = (*reader.unread_settings, *told)
    if unread_overrides:
        doubt = f"unless {' or '.join(unread_overrides)}, which cannot be read, picks another"
        choice = replace(choice, reason=f"{choice.reason}, {doubt}")
    old_version = record.find_version_without_uki_key(variables.info if variables is not None else None)
    live_names, staged_names = (found[1] if found else [] for found in (live, staged))
    warnings = (
        *reader.warnings,
        *(f"on the other partition: {warning}" for warning in (other.warnings if other else ())),
        *find_oddities(entries, files, rule, choice),
        *find_unknown_keys([*files, *staged_files], old_version),
    )
    return BootMenu(
        loader=loader,
        rule=rule,
        known=reader.known,
        live=LiveMenu(
            entries=entries,
            choice=choice,
            overrides=overrides,
            outside=outside,
            elsewhere=tuple(foreign),
            files=tuple(files),
            names=frozenset(live_names),
            chunks=cfg.chunks,
            user_cfg=cfg.raw,
            fallback=cfg.fallback,
            unread_overrides=unread_overrides,
            environment=tuple(record.read_variables(content).items()),
        ),
        staged=StagedMenu(
            entries=sort_menu(cfg.staged_chunks, staged_files, rule),
            files=tuple(staged_files),
            names=frozenset(staged_names),
            chunks=cfg.staged_chunks,
            renames=renames,
            is_present=cfg.has_staged or (staged is not None and _has_staged(staged_names)),
        ),
        odd=OddMenu(
            warnings=warnings,
            torn=torn,
            leftovers=_find_leftovers(boot, live_names),
            old_sets=reader.find_old_sets(),
            is_exchange_unfinished=live is None and bool(staged_files),
            is_complete=reader.is_complete,
            is_user_cfg_unread=USER_CFG in reader.unread,
            unread=tuple(reader.reasons),
            failure=reader.failure,
            unread_paths=frozenset(reader.unread_paths),
        ),
        knows_uki_key=old_version is None,
    )


def _hide(
    entry: MenuEntry, rule: LoaderRule, variables: LoaderVariables | None, *, is_beside_loader: bool
) -> MenuEntry:
    is_hidden = rule.hides(entry, variables, is_beside_loader=is_beside_loader)
    return replace(entry, is_hidden=True) if is_hidden else entry


def _has_staged(names: Sequence[bytes]) -> bool:
    """Say whether there is more in the staged directory than a cut left, which stays on FAT; an empty one goes."""
    return not names or any(not OWN_LEFTOVER.fullmatch(name) for name in names)


def _find_leftovers(boot: BootVolume, names: Sequence[bytes]) -> tuple[bytes, ...]:
    """Find what a publication that was cut left.

    On FAT such a file stays for good: its name may have reached the disk without its clusters, which then belong to
    nobody, or to another file or directory by now; removing it would free those. It costs one cluster.
    """
    found = tuple(name for name in names if OWN_LEFTOVER.fullmatch(name))
    return () if found and boot.is_fat() else found


def read_menu(area: Area, *, known: Collection[VerityDigest], variables: LoaderVariables | None = None) -> BootMenu:
    """Read entries, staged entries, user.cfg, and what overrides their order. Blocks; writes nothing.

    Args:
        area: The boot directories, open for reading.
        known: Digests of the deployments that have, or had, a state directory or an image here: entries for these
            are ours, all others are foreign and never touched.
        variables: The EFI variables; None on a host without.

    Returns:
        The menu. A file that cannot be read, is empty or torn is one of its warnings.

    Raises:
        FileSystemError: A directory cannot be listed.

    Source:
        Spec boot.md, "Reading"; host.md, "Boot entries".
    """
    boot, esp = RealVolume(area.boot_fd), None if area.esp_fd is None else RealVolume(area.esp_fd)
    settings, elsewhere = (None if fd is None else RealVolume(fd) for fd in (area.loader_fd, area.other_fd))
    damage = find_damage(boot, esp)
    try:
        menu = read_volumes(
            boot, esp, loader=area.loader, known=known, variables=variables, settings=settings, elsewhere=elsewhere
        )
    except OSError as error:
        for text, device in damage or find_damage(boot, esp, has_failed=True):
            message = f"reading the boot entries: {text}, so that the firmware takes it for empty"
            raise FileSystemError(message, hint=hint_for_damage(device)) from error
        raise FileSystemError(f"reading the boot entries: {reason_of(error)}", hint=hint_for(error)) from error
    told = tuple(f"{text}: the firmware takes it for empty; {hint_for_damage(device)}" for text, device in damage)
    return replace(menu, odd=replace(menu.odd, warnings=(*told, *menu.odd.warnings), esp_error=area.esp_error))
