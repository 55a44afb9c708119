"""Everything about boot entries that is on the disk, read once; looking never writes."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bootc_fast.boot.directory import RealVolume
from bootc_fast.boot.entry import MAX_ENTRY_BYTES, MenuEntry, parse_artifact_digest, parse_entry
from bootc_fast.boot.grub import MAX_USER_CFG_BYTES, Chunk, parse_user_cfg
from bootc_fast.boot.oddities import find_oddities, find_unknown_keys
from bootc_fast.boot.order import OrderRule, rules_of, sort_entries
from bootc_fast.boot.override import (
    LoaderOverride,
    LoaderVariables,
    Outside,
    collect_overrides,
    find_default,
    find_outside,
)
from bootc_fast.errors import FileSystemError
from bootc_fast.types import Loader

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from bootc_fast.boot.directory import Area, BootDirectory, BootVolume
    from bootc_fast.types import VerityDigest

ENTRIES = b"loader/entries"
STAGED_ENTRIES = b"loader/entries.staged"
LOADER_DIRECTORY = b"loader"
LOADER_CONF = b"loader.conf"
GRUB_DIRECTORY = b"grub2"
GRUB_UPSTREAM_DIRECTORY = b"grub"
USER_CFG = b"user.cfg"
USER_CFG_STAGED = b"user.cfg.staged"
GRUBENV = b"grubenv"
IMAGE_DIRECTORY = b"EFI/Linux"
"""systemd-boot shows every UKI in it, with or without an entry file."""

UKI_DIRECTORIES = (b"EFI/Linux/bootc", IMAGE_DIRECTORY)

OWN_NAME = re.compile(rb"(?:bootc[_-]|bootd-|zz_bootc-).*\.conf", re.DOTALL | re.IGNORECASE)
"""Names that bootc and we give to entries: a file that says nothing else about itself is ours by such a name."""

OWN_LEFTOVER = re.compile(rb"(?:bootc_zz|bootd|zz_bootc)-.*\.conf\.(?:new|gone)", re.DOTALL)
"""Names of a publication that was cut short."""

_STAGED_SUFFIX = b".staged"
_ADDON_DIRECTORY_SUFFIX = b".extra.d"


@dataclass(frozen=True, slots=True)
class StagedRename:
    """A UKI or addon that still has the name under which it was staged.

    Attributes:
        directory: Path of its directory on the ESP.
        old: Its name there, which ends in ``.staged``.
        new: The name that it gets.
        digest: Whose it is.
    """

    directory: bytes
    old: bytes
    new: bytes
    digest: VerityDigest


@dataclass(frozen=True, slots=True)
class BootMenu:
    """What is there.

    Attributes:
        loader: Who reads it.
        rule: In which order.
        form: ``"user.cfg"`` where GRUB's user.cfg holds, or is to hold, menuentries of ours; else ``"entries"``.
        entries: What the loader shows, in its order.
        staged: The staged set, in the loader's order.
        default: What boots next; None where nothing is shown.
        default_reason: Why, in words.
        override: What picked the default; None where it is the first entry.
        overrides: All overrides, also those that match nothing.
        warnings: Everything odd.
        files: Every entry file in ``entries`` that could be read, shown or not.
        torn: Names of ours in ``entries`` whose file is empty or cut.
        leftovers: Names of ours in ``entries`` that are no entries and can be removed.
        names: All names in ``entries`` and ``entries.staged``: none of them is given again.
        chunks: ``user.cfg``; empty where it is absent.
        staged_chunks: ``user.cfg.staged``; empty where it is absent.
        user_cfg: Content of ``user.cfg``; None where absent.
        renames: UKIs and addons with staged names.
        is_exchange_unfinished: ``entries`` is missing and a staged set is there: bootc's exchange was cut.
        has_staged: ``entries.staged`` or ``user.cfg.staged`` is there.
        is_complete: Every file could be read, so that what nobody names is garbage.
        known: The deployments whose entries are ours.
        staged_files: Every entry file in ``entries.staged`` that could be read, shown or not.
    """

    loader: Loader
    rule: OrderRule
    form: str
    entries: tuple[MenuEntry, ...]
    staged: tuple[MenuEntry, ...]
    default: MenuEntry | None
    default_reason: str
    override: LoaderOverride | None
    overrides: tuple[LoaderOverride, ...] = ()
    warnings: tuple[str, ...] = ()
    files: tuple[MenuEntry, ...] = ()
    torn: tuple[bytes, ...] = ()
    leftovers: tuple[bytes, ...] = ()
    names: frozenset[bytes] = frozenset()
    chunks: tuple[Chunk, ...] = ()
    staged_chunks: tuple[Chunk, ...] = ()
    user_cfg: bytes | None = None
    renames: tuple[StagedRename, ...] = ()
    is_exchange_unfinished: bool = False
    has_staged: bool = False
    is_complete: bool = True
    known: frozenset[VerityDigest] = frozenset()
    staged_files: tuple[MenuEntry, ...] = ()

    @property
    def own_order(self) -> tuple[VerityDigest, ...]:
        """Our deployments in the loader's order, the default first, each once."""
        shown = [entry for entry in self.entries if entry.is_own and entry.digest is not None]
        if self.default in shown:
            shown.insert(0, self.default)
        return tuple(dict.fromkeys(entry.digest for entry in shown if entry.digest is not None))


def _show(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


@dataclass
class _Reader:
    """Collects while it reads."""

    boot: BootVolume
    esp: BootVolume | None
    known: frozenset[VerityDigest]
    warnings: list[str] = field(default_factory=list)
    torn: list[bytes] = field(default_factory=list)
    is_complete: bool = True

    def read_file(self, directory: BootDirectory, name: bytes, max_bytes: int) -> bytes | None:
        """Read a file; a warning and None where that fails, None where it is absent."""
        try:
            return directory.read(name, max_bytes)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.is_complete = False
            self.warnings.append(f"boot entry file {_show(name)} cannot be read: {error.strerror or error}")
            return None

    def read_optional(self, path: bytes, name: bytes, max_bytes: int) -> bytes | None:
        """Read a file in a directory that may be absent."""
        directory = self.boot.open_directory(path)
        if directory is None:
            return None
        with closing(directory):
            return self.read_file(directory, name, max_bytes)

    def read_set(self, path: bytes) -> tuple[list[MenuEntry], list[bytes]] | None:
        """Read a directory of entries: the entries, and all names. None where it is absent."""
        directory = self.boot.open_directory(path)
        if directory is None:
            return None
        try:
            names = directory.list_names()
            found = [entry for name in names if (entry := self._read_entry(directory, name, path)) is not None]
        finally:
            directory.close()
        return found, names

    def _read_entry(self, directory: BootDirectory, name: bytes, path: bytes) -> MenuEntry | None:
        if not name.lower().endswith(b".conf"):
            return None
        raw = self.read_file(directory, name, MAX_ENTRY_BYTES)
        if raw is None:
            return None
        entry = parse_entry(name, raw, known=self.known)
        if b"\0" in raw or not (entry.is_bootable or entry.is_grub_bootable or entry.is_grub_linux):
            self.warnings.append(f"{_show(path)}/{_show(name)} is empty or torn: the loader skips it")
            # Text that is no entry may be an admin's note; nothing, or zeros, is what a power cut leaves.
            if (not raw.strip() or b"\0" in raw) and not entry.is_own and OWN_NAME.fullmatch(name):
                self.torn.append(name)
        return entry

    def read_overrides(self, rule: OrderRule, variables: LoaderVariables | None) -> tuple[LoaderOverride, ...]:
        """Read everything that picks another entry than the first."""
        conf = self.read_optional(LOADER_DIRECTORY, LOADER_CONF, MAX_ENTRY_BYTES)
        grubenv = self.read_optional(grub_directory(rule), GRUBENV, MAX_ENTRY_BYTES)
        return collect_overrides(rule, variables=variables, loader_conf=conf, grubenv=grubenv)

    def find_outside(
        self, rule: OrderRule, variables: LoaderVariables | None, overrides: tuple[LoaderOverride, ...]
    ) -> Outside:
        """Tell what systemd-boot shows that is no entry file."""
        if rule is not OrderRule.SYSTEMD_BOOT:
            return Outside()
        directory = self.boot.open_directory(IMAGE_DIRECTORY)
        if directory is None:
            return find_outside((), variables, overrides, OWN_NAME)
        with closing(directory):
            return find_outside(directory.list_names(), variables, overrides, OWN_NAME)

    def find_missing(self, entry: MenuEntry, available: frozenset[bytes]) -> MenuEntry:
        """Fill in which of the entry's files are not there or empty."""
        missing = [path for path in entry.paths if not self._has_file(path, entry, available)]
        return replace(entry, missing=tuple(missing))

    def _has_file(self, path: bytes, entry: MenuEntry, available: frozenset[bytes]) -> bool:
        if path.lower() in available:
            return True
        volume = self.esp if entry.menu_id is not None else self.boot
        if volume is None:
            self.warnings.append(f"{entry.label} names {_show(path)} on an ESP that was not found")
            return False
        # GRUB's paths start at the root of the partition, which may have /boot as a directory.
        candidates = [path, path.removeprefix(b"/boot")] if path.startswith(b"/boot/") else [path]
        try:
            return any(volume.find_size(candidate) for candidate in candidates)
        except OSError as error:
            self.warnings.append(f"{_show(path)} cannot be looked at: {error.strerror or error}")
            return False

    def find_renames(self) -> tuple[StagedRename, ...]:
        """List UKIs and addons with staged names."""
        found: list[StagedRename] = []
        for path in UKI_DIRECTORIES if self.esp is not None else ():
            directory = self.esp.open_directory(path) if self.esp is not None else None
            if directory is None:
                continue
            try:
                names = directory.list_names()
            finally:
                directory.close()
            found += _staged_names(path, names)
            for name in names:
                found += self._find_addons(path, name)
        return tuple(found)

    def _find_addons(self, path: bytes, name: bytes) -> list[StagedRename]:
        digest = parse_artifact_digest(_addon_owner(name)) if _addon_owner(name) else None
        directory = self.esp.open_directory(path + b"/" + name) if digest is not None and self.esp else None
        if digest is None or directory is None:
            return []
        try:
            names = directory.list_names()
        finally:
            directory.close()
        # The directory gets its final name after the files in it, see plan.
        return [
            StagedRename(path + b"/" + name, addon, addon.removesuffix(_STAGED_SUFFIX), digest)
            for addon in names
            if addon.endswith(b".addon.efi" + _STAGED_SUFFIX)
        ]


def _addon_owner(name: bytes) -> bytes:
    """The UKI whose addon directory this is; empty for other names."""
    stem = name.removesuffix(_STAGED_SUFFIX)
    return stem.removesuffix(_ADDON_DIRECTORY_SUFFIX) if stem.endswith(b".efi" + _ADDON_DIRECTORY_SUFFIX) else b""


def _staged_names(path: bytes, names: Sequence[bytes]) -> list[StagedRename]:
    found = []
    for name in names:
        stem = name.removesuffix(_STAGED_SUFFIX)
        digest = parse_artifact_digest(_addon_owner(name) or stem)
        if stem != name and digest is not None:
            found.append(StagedRename(path, name, stem, digest))
    return found


def grub_directory(rule: OrderRule) -> bytes:
    """Where GRUB has its environment block."""
    return GRUB_UPSTREAM_DIRECTORY if rule is OrderRule.GRUB_UPSTREAM else GRUB_DIRECTORY


def _find_rule(boot: BootVolume, loader: Loader) -> OrderRule:
    """Fedora and its kin keep GRUB in ``grub2``, upstream in ``grub``."""
    rules = rules_of(loader)
    if len(rules) == 1:
        return rules[0]
    for name, rule in ((GRUB_DIRECTORY, OrderRule.GRUB_FEDORA), (GRUB_UPSTREAM_DIRECTORY, OrderRule.GRUB_UPSTREAM)):
        directory = boot.open_directory(name)
        if directory is not None:
            directory.close()
            return rule
    return OrderRule.GRUB_FEDORA


def sort_menu(chunks: Sequence[Chunk], files: Sequence[MenuEntry], rule: OrderRule) -> tuple[MenuEntry, ...]:
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
) -> BootMenu:
    """Do what ``read_menu`` does, on volumes.

    Raises:
        OSError: A directory cannot be listed.
    """
    reader = _Reader(boot, esp, frozenset(known))
    rule = _find_rule(boot, loader)
    renames = reader.find_renames()
    available = frozenset(b"/" + item.directory.lower() + b"/" + item.new.lower() for item in renames)
    live = reader.read_set(ENTRIES)
    torn = tuple(reader.torn)
    staged = reader.read_set(STAGED_ENTRIES)
    files = [reader.find_missing(entry, available) for entry in live[0]] if live else []
    staged_files = [reader.find_missing(entry, available) for entry in staged[0]] if staged else []
    chunks, staged_chunks, user_cfg, has_staged_cfg = _read_user_cfg(reader, loader, available)
    entries = sort_menu(chunks, files, rule)
    overrides = reader.read_overrides(rule, variables)
    choice = find_default(entries, rule, overrides, reader.find_outside(rule, variables, overrides))
    live_names, staged_names = (found[1] if found else [] for found in (live, staged))
    is_user_cfg = any(chunk.entry is not None and chunk.entry.is_own for chunk in (*chunks, *staged_chunks))
    return BootMenu(
        loader=loader,
        rule=rule,
        form="user.cfg" if is_user_cfg else "entries",
        entries=entries,
        staged=sort_menu(staged_chunks, staged_files, rule),
        default=choice.entry,
        default_reason=choice.reason,
        override=choice.override,
        overrides=overrides,
        warnings=(
            *reader.warnings,
            *find_oddities(entries, files, rule, choice),
            *find_unknown_keys([*files, *staged_files], variables),
        ),
        files=tuple(files),
        torn=torn,
        leftovers=_find_leftovers(boot, live_names),
        names=frozenset((*live_names, *staged_names)),
        chunks=chunks,
        staged_chunks=staged_chunks,
        user_cfg=user_cfg,
        renames=renames,
        is_exchange_unfinished=live is None and bool(staged_files),
        has_staged=staged is not None or has_staged_cfg,
        is_complete=reader.is_complete,
        known=reader.known,
        staged_files=tuple(staged_files),
    )


def _find_leftovers(boot: BootVolume, names: Sequence[bytes]) -> tuple[bytes, ...]:
    """Find what a publication that was cut left.

    On FAT such a file stays for good: its name may have reached the disk without its clusters, which then belong to
    nobody, or to another file or directory by now; removing it would free those. It costs one cluster.
    """
    found = tuple(name for name in names if OWN_LEFTOVER.fullmatch(name))
    return () if found and boot.is_fat() else found


def _read_user_cfg(
    reader: _Reader, loader: Loader, available: frozenset[bytes]
) -> tuple[tuple[Chunk, ...], tuple[Chunk, ...], bytes | None, bool]:
    if loader is not Loader.GRUB:
        return (), (), None, False
    live = reader.read_optional(GRUB_DIRECTORY, USER_CFG, MAX_USER_CFG_BYTES)
    staged = reader.read_optional(GRUB_DIRECTORY, USER_CFG_STAGED, MAX_USER_CFG_BYTES)

    def parse(raw: bytes | None) -> tuple[Chunk, ...]:
        chunks = parse_user_cfg(raw or b"", known=reader.known)
        return tuple(
            replace(chunk, entry=reader.find_missing(chunk.entry, available))
            if chunk.entry is not None and chunk.entry.is_own
            else chunk
            for chunk in chunks
        )

    return parse(live), parse(staged), live, staged is not None


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
    esp = None if area.esp_fd is None else RealVolume(area.esp_fd)
    try:
        return read_volumes(RealVolume(area.boot_fd), esp, loader=area.loader, known=known, variables=variables)
    except OSError as error:
        raise FileSystemError(f"reading the boot entries: {error.strerror or error}") from error
