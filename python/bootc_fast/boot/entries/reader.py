"""Reading the boot partition: entries, staged entries, what overrides them; whatever is odd is told, not raised."""

from __future__ import annotations

import errno
import re
from contextlib import closing
from typing import TYPE_CHECKING

from bootc_fast.boot.area.room import TEMPORARY_NAMES
from bootc_fast.boot.efi.sections import MAX_HEADER_BYTES, MAX_TEXT_BYTES, parse_section_table
from bootc_fast.boot.entries.settings import find_settings
from bootc_fast.boot.loaders.entry import MAX_ENTRY_BYTES, MenuEntry, parse_artifact_digest, parse_entry
from bootc_fast.boot.loaders.table import record_of
from bootc_fast.records import dataclass, field, replace
from bootc_fast.text import escape_bytes, reason_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bootc_fast.boot.area.directory import BootDirectory, BootVolume
    from bootc_fast.boot.loaders.record import LoaderRecord, LoaderRule
    from bootc_fast.types import Loader, VerityDigest

LOADER_DIRECTORY = b"loader"
ENTRIES = b"loader/entries"
STAGED_ENTRIES = b"loader/entries.staged"
MAX_COPIED_BYTES = 1 << 20
"""Of one file in ``entries``: what is longer is no entry, and the old way of renames leaves it where it is."""
BESIDE_NAMES = tuple(b"BFSET%d" % number for number in range(10))
"""Sets beside the live one, in ``loader``: while they are built, and when they are old. Upper case and short: Linux's
vfat gives such a name one slot. bootc reads none of them."""
GRUB_DIRECTORY = b"grub2"
"""Where bootc writes ``user.cfg``, whatever the GRUB."""

USER_CFG = b"user.cfg"
USER_CFG_STAGED = b"user.cfg.staged"
UKI_DIRECTORIES = (b"EFI/Linux/bootc", b"EFI/Linux")

OWN_NAME = re.compile(rb"(?:bootc[_-]|bootd-|zz_bootc-).*\.conf", re.DOTALL | re.IGNORECASE)
"""Names that bootc and we give to entries: a file that says nothing else about itself is ours by such a name."""

OWN_LEFTOVER = re.compile(rb"(?:bootc_zz|bootd|zz_bootc)-.*\.conf\.(?:new|gone)", re.DOTALL)
"""Names of a publication that was cut short."""

_STAGED_SUFFIX = b".staged"
# Longer than its limit, no regular file, a symlink: that is no failing disk.
_NO_FAILURE = frozenset({errno.EFBIG, errno.EINVAL, errno.ELOOP})
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


@dataclass
class MenuReader:
    """Collects while it reads."""

    boot: BootVolume
    esp: BootVolume | None
    known: frozenset[VerityDigest]
    record: LoaderRecord
    settings: BootVolume | None = None
    warnings: list[str] = field(default_factory=list)
    torn: list[bytes] = field(default_factory=list)
    is_complete: bool = True
    failure: int | None = None
    unread: list[bytes] = field(default_factory=list)
    unread_settings: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    unread_paths: set[bytes] = field(default_factory=set)

    def read_file(
        self, directory: BootDirectory, name: bytes, max_bytes: int, *, what: str = "boot entry file"
    ) -> bytes | None:
        """Read a file; a warning and None where that fails, None where it is absent."""
        try:
            return directory.read(name, max_bytes)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.is_complete = False
            self.unread.append(name)
            reason = f"{what} {escape_bytes(name)} cannot be read: {reason_of(error)}"
            self.warnings.append(reason)
            self.reasons.append(reason)
            if error.errno not in _NO_FAILURE:
                self.failure = self.failure or error.errno
            return None

    def read_optional(self, path: bytes, name: bytes, max_bytes: int) -> bytes | None:
        """Read a file in a directory that may be absent."""
        directory = self.boot.open_directory(path)
        if directory is None:
            return None
        with closing(directory):
            return self.read_file(directory, name, max_bytes, what="the loader's")

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
        entry = self.record.resolve(parse_entry(name, raw, known=self.known), None)
        if b"\0" in raw or not (entry.is_bootable or entry.is_grub_bootable or entry.is_grub_linux):
            self.warnings.append(f"{escape_bytes(path)}/{escape_bytes(name)} is empty or torn: the loader skips it")
            # Text that is no entry may be an admin's note; nothing, or zeros, is what a power cut leaves.
            if (not raw.strip() or b"\0" in raw) and not entry.is_own and OWN_NAME.fullmatch(name):
                self.torn.append(name)
        return entry

    def read_settings(self, rule: LoaderRule) -> bytes | None:
        """Read the file that may pick another entry than the first, and gives variables their values."""
        shown = rule.home + b"/" + rule.settings
        try:
            volume, home, name = find_settings(self.settings or self.boot, self.esp, rule)
            directory = volume.open_directory(home)
            if directory is None:
                return None
            with closing(directory):
                return directory.read(name, MAX_ENTRY_BYTES)
        except FileNotFoundError as error:
            if (self.settings or self.boot).read_link(shown) is None:
                return None
            self._note_unread_settings(shown, error)
        except OSError as error:
            self._note_unread_settings(shown, error)
        return None

    def _note_unread_settings(self, shown: bytes, error: OSError) -> None:
        self.unread_settings.append(escape_bytes(shown))
        self.warnings.append(f"the loader's {escape_bytes(shown)} cannot be read: {reason_of(error)}")

    def find_old_sets(self) -> tuple[bytes, ...]:
        """List the paths of what a cut left beside the live set, and of files that were to replace others."""
        found: list[bytes] = []
        for place, names in ((LOADER_DIRECTORY, (*BESIDE_NAMES, *TEMPORARY_NAMES)), (GRUB_DIRECTORY, TEMPORARY_NAMES)):
            directory = self.boot.open_plain_directory(place)
            if directory is not None:
                with closing(directory):
                    found += [place + b"/" + name for name in directory.list_names() if name in names]
        return tuple(found)

    def list_images(self, rule: LoaderRule) -> list[bytes]:
        """List the names where the loader finds UKIs without an entry."""
        directory = None if rule.image_directory is None else self.boot.open_directory(rule.image_directory)
        if directory is None:
            return []
        with closing(directory):
            return directory.list_names()

    def read_images(self, rule: LoaderRule, names: Sequence[bytes]) -> list[MenuEntry]:
        """Read the UKIs that the loader shows without an entry: only their headers and what the system is called."""
        found = []
        for name in names if rule.image_directory is not None else ():
            path = (rule.image_directory or b"") + b"/" + name
            if not name.lower().endswith(b".efi"):
                continue
            try:
                sections = parse_section_table(self.boot.read_part(path, 0, MAX_HEADER_BYTES))
                place = next((one for one in sections if one.name == b".osrel"), None)
                if place is not None:
                    size = min(place.size_bytes, MAX_TEXT_BYTES)
                    found.append(rule.make_image_entry(name, self.boot.read_part(path, place.offset, size)))
            except OSError as error:
                self.warnings.append(f"{escape_bytes(path)} cannot be read: {reason_of(error)}")
        return [entry for entry in found if entry is not None]

    def read_elsewhere(self) -> list[MenuEntry]:
        """Read the entries of a partition that is not ours to write: they are shown all the same, as foreign ones."""
        found = self.read_set(ENTRIES)
        entries = found[0] if found else []
        return [replace(self.find_missing(entry, frozenset()), is_own=False) for entry in entries]

    def find_missing(self, entry: MenuEntry, available: frozenset[bytes]) -> MenuEntry:
        """Fill in which of the entry's files are not there or empty."""
        missing = [path for path in entry.paths if not self._has_file(path, entry, available)]
        return replace(entry, missing=tuple(missing))

    def _has_file(self, path: bytes, entry: MenuEntry, available: frozenset[bytes]) -> bool:
        if path.lower() in available:
            return True
        volume = self.esp if entry.menu_id is not None else self.boot
        if volume is None:
            self.warnings.append(f"{entry.label} names {escape_bytes(path)} on an ESP that was not found")
            return False
        # GRUB's paths start at the root of the partition, which may have /boot as a directory.
        candidates = [path, path.removeprefix(b"/boot")] if path.startswith(b"/boot/") else [path]
        try:
            return any(volume.find_size(candidate) for candidate in candidates)
        except OSError as error:
            # Not missing: who wants to boot from it asks `unread_paths`.
            self.warnings.append(f"{escape_bytes(path)} cannot be looked at: {reason_of(error)}")
            self.reasons.append(self.warnings[-1])
            self.failure = self.failure or error.errno
            self.unread_paths.add(path)
            return True

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


def find_rule(boot: BootVolume, loader: Loader) -> LoaderRule:
    """Tell which build of the loader it is: Fedora and its kin keep GRUB in ``grub2``, upstream in ``grub``."""
    rules = record_of(loader).rules
    for rule in rules if len(rules) > 1 else ():
        directory = boot.open_directory(rule.home)
        if directory is not None:
            directory.close()
            return rule
    return rules[0]
