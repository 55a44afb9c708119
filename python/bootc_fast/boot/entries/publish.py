"""Replacing the set of boot entries, so that power may fail at any point.

Invariants, at every point of time and for every subset of the writes since the last flush:

1. The loader's first entry of ours is the old default or the new one. A new default outranks every entry of ours,
   old and new (``naming``), and is the first that becomes visible; nothing else of the new set is, until the disk
   has it. Taking a failed set back goes the other way round.
2. The entry that is found is whole, and so is every file that it names. What the new default needs, and the text of
   the new entries, is flushed before a name ends in ``.conf``; old files keep their blocks until the disk has their
   names as gone (``replace.remove_files``).
3. Foreign entries are neither written nor removed nor renamed.
4. No name is used twice (``naming``). Removed is only what is known to own its blocks: neither of two names that
   share them (``replace.find_linked``), nor on FAT what a cut left half-made (``menu._find_leftovers``).
5. Whatever a cut leaves is a set that ``read_menu`` and ``plan_menu`` take as their start.

Until the first old entry is removed a failure puts the old set back; afterwards the new set is in force and what
fails is a warning. The sequence, with one barrier (``syncfs``, then ``fsync``) after each line:

====  =====================================================================================
1     the deployment's file system, the boot partition and the ESP as they are
2     each ``*.efi.staged`` gets its final name
3     the whole set, foreign entries copied, in a directory that no loader reads (``beside``)
4     ``RENAME_EXCHANGE`` of that directory and the live one, a barrier on both and on their parent
5     the set is read back and sorted by every rule that the loader may have
6     ``user.cfg`` is replaced, where GRUB boots UKIs, and read back
7     overrides that named an entry of ours name the new default
8     old entries: open, unlink, barrier, close; then their directory
9     the staged set
====  =====================================================================================

Where the kernel cannot exchange names on the file system, or ``entries`` holds what cannot be copied, 3 and 4 are:
``X.conf.new`` written and flushed, then renamed to ``X.conf``, the default's first, a barrier each; refused where the
names could make the live directory grow.

Source:
    Spec boot.md, "Replacing the set", where the sequence was measured on Linux's vfat.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bootc_fast import _core
from bootc_fast.boot.area.directory import RealVolume, hint_for, opened
from bootc_fast.boot.area.replace import GONE_SUFFIX, NEW_SUFFIX, find_linked, remove_files, replace_file
from bootc_fast.boot.entries.beside import (
    UNSUPPORTED,
    check_names_fit,
    choose_beside,
    exchange_with_live,
    flush_both,
    is_same_directory,
    remove_outdated,
    remove_set,
    write_set,
)
from bootc_fast.boot.entries.garbage import collect_volumes
from bootc_fast.boot.entries.menu import read_volumes, sort_menu
from bootc_fast.boot.entries.moves import VariableSetter, move_override
from bootc_fast.boot.entries.reader import (
    ENTRIES,
    GRUB_DIRECTORY,
    OWN_LEFTOVER,
    STAGED_ENTRIES,
    USER_CFG,
    USER_CFG_STAGED,
)
from bootc_fast.boot.loaders.user_cfg import MAX_USER_CFG_BYTES
from bootc_fast.errors import BootEntryError, FileSystemError
from bootc_fast.machine import native
from bootc_fast.text import reason_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from bootc_fast.boot.area.directory import Area, BootDirectory, BootVolume
    from bootc_fast.boot.entries.menu import BootMenu
    from bootc_fast.boot.entries.plan import MenuPlan
    from bootc_fast.boot.entries.reader import StagedRename
    from bootc_fast.types import VerityDigest

MAX_COPIED_BYTES = 1 << 20
"""Of one file in ``entries``: what is longer is no entry, and the old way of renames leaves it where it is."""

_NO_FILE = frozenset({errno.EINVAL, errno.EFBIG, errno.ELOOP, errno.ENXIO})
"""What reading says of a directory, a socket, a symlink, and what is too long; everything else is a failure."""

DIRECTORY_ENTRY_BYTES = 32 * 22
"""What the longest name takes in a FAT directory: 20 pieces of 13 characters, the short entry, and one to spare."""


@dataclass(frozen=True, slots=True)
class PublishOutcome:
    """What a publication did.

    Attributes:
        next_boot: The entry that the loader takes first of ours, read back: a file's name or a menuentry's title.
        written: How many entries were written.
        removed: How many entries were removed.
        warnings: What did not go as it should after the new set was in force.
    """

    next_boot: str
    written: int = 0
    removed: int = 0
    warnings: tuple[str, ...] = ()


def _refuse_unread(menu: BootMenu) -> None:
    """Say that entries cannot be read, where it would else be said that they are not what they must be."""
    if menu.odd.unread:
        raise OSError(errno.EIO, "; ".join(menu.odd.unread))


def _user_cfg_names(directory: BootDirectory) -> list[bytes]:
    return [name for name in directory.list_names() if name.startswith(USER_CFG)]


@dataclass
class _Publication:
    """One run of the sequence."""

    boot: BootVolume
    esp: BootVolume | None
    menu: BootMenu
    plan: MenuPlan
    set_variable: VariableSetter | None
    protected: Collection[VerityDigest] | None = None
    doing: str = "flushing the boot partition"
    beside: bytes | None = None
    is_exchanged: bool = False
    live: list[bytes] = field(default_factory=list)
    written: list[bytes] = field(default_factory=list)
    is_user_cfg_new: bool = False
    warnings: list[str] = field(default_factory=list)

    def check_space(self) -> None:
        """Refuse before the first write what would not fit, also after garbage is gone."""
        self.doing = "looking for space on the boot partition"
        try:
            self._check_free()
        except OSError as error:
            if error.errno != errno.ENOSPC or self.protected is None:
                raise
            self.warnings += collect_volumes(self.boot, self.esp, self.menu, known=self.protected).warnings
            self._check_free()

    def _check_free(self) -> None:
        free, unit = self.boot.free_bytes()
        files = [len(entry.raw) for entry in self.plan.new_files]
        files += [len(self.plan.user_cfg)] if self.plan.user_cfg is not None else []
        names = -(-len(files) * DIRECTORY_ENTRY_BYTES // unit) * unit
        needed = sum(-(-size // unit) * unit for size in files) + names
        if files and needed > free:
            raise OSError(errno.ENOSPC, f"{needed} bytes are needed and {free} are free")

    def flush_before(self) -> None:
        """Step 1."""
        self.doing = "flushing the boot partition"
        for volume in (self.boot, self.esp):
            if volume is not None:
                with opened(volume, b"") as root:
                    root.barrier()

    def rename_staged(self) -> None:
        """Step 2."""
        self.doing = "giving staged UKIs their final names"
        for item in self.plan.renames:
            if self.esp is not None:
                with opened(self.esp, item.directory) as directory:
                    self._rename_one(self.esp, directory, item)

    def _rename_one(self, volume: BootVolume, directory: BootDirectory, item: StagedRename) -> None:
        names = directory.list_names()
        if item.new in names:
            old_size = volume.find_size(item.directory + b"/" + item.old)
            new_size = volume.find_size(item.directory + b"/" + item.new)
            if old_size is None or (new_size and new_size == old_size):
                # Done by an earlier run; the two names may share their blocks.
                return
            if new_size:
                spare = next(
                    name
                    for n in range(len(names) + 1)
                    if (name := b"%s.%d%s" % (item.new, n, GONE_SUFFIX)) not in names
                )
                directory.rename(item.new, spare)
            else:
                directory.unlink(item.new)
            directory.barrier()
        directory.rename(item.old, item.new)
        directory.barrier()

    def write_entries(self) -> None:
        """Steps 3 and 4."""
        if self.plan.makes_directory:
            self.doing = "making loader/entries"
            self.boot.make_directory(ENTRIES)
        if not self.plan.new_files:
            return
        if not self.plan.makes_directory and self._exchange_sets():
            return
        self._write_beside_old()

    def _exchange_sets(self) -> bool:
        """Build the whole set beside the live one and exchange them; False where that cannot be done."""
        self.warnings += remove_outdated(self.boot)
        self.doing = "building the new set of boot entries beside the old one"
        files = {entry.file_name: entry.raw for entry in self.plan.new_files}
        with opened(self.boot, ENTRIES) as directory:
            gone = {*self.plan.removed, *(name for name in directory.list_names() if OWN_LEFTOVER.fullmatch(name))}
            try:
                files |= {
                    name: directory.read(name, MAX_COPIED_BYTES) for name in directory.list_names() if name not in gone
                }
            except OSError as error:
                # What cannot be copied, a directory say, must stay where it is.
                try:
                    self._check_renames_fit()
                except BootEntryError:
                    if error.errno in _NO_FILE:
                        raise
                    raise error from None
                return False
        path = choose_beside(self.boot)
        self.beside = path
        write_set(self.boot, path, files)
        self.doing = "exchanging the old set of boot entries and the new one"
        try:
            self.is_exchanged = True
            exchange_with_live(self.boot, path)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            self.is_exchanged, self.beside = False, None
            self.warnings += remove_set(self.boot, path)
            self._check_renames_fit()
            return False
        return True

    def _check_renames_fit(self) -> None:
        names = [entry.file_name + suffix for entry in self.plan.new_files for suffix in (NEW_SUFFIX, b"")]
        check_names_fit(self.boot, ENTRIES, names)

    def _write_beside_old(self) -> None:
        with opened(self.boot, ENTRIES) as directory:
            for entry in self.plan.new_files:
                self.doing = f"writing the boot entry {entry.label}"
                self.written.append(entry.file_name + NEW_SUFFIX)
                directory.write_new(entry.file_name + NEW_SUFFIX, entry.raw)
            directory.barrier()
            for entry in self.plan.new_files:
                self.doing = f"making the boot entry {entry.label} visible"
                self.live.append(entry.file_name)
                directory.rename(entry.file_name + NEW_SUFFIX, entry.file_name)
                directory.barrier()

    def check(self) -> None:
        """Step 5: read back what was written, and sort it as the loader does.

        Raises:
            BootEntryError: It is not what was written, or the wanted entry is not the first of ours.
        """
        self.doing = "reading the boot entries back"
        menu = read_volumes(self.boot, self.esp, loader=self.menu.loader, known=self.menu.known)
        found = {entry.file_name: entry.raw for entry in menu.live.files}
        for entry in self.plan.new_files:
            if found.get(entry.file_name) != entry.raw:
                _refuse_unread(menu)
                raise BootEntryError(f"the boot entry {entry.label} reads back otherwise than it was written")
        stays = [entry for entry in self.menu.live.files if entry.file_name not in self.plan.removed]
        for entry in stays:
            if found.get(entry.file_name) != entry.raw:
                _refuse_unread(menu)
                raise BootEntryError(
                    f"the boot entry {entry.label} changed when others were written",
                    hint="the file system is damaged: check it, with fsck.fat where it is FAT",
                )
        # Until user.cfg is replaced GRUB boots what stands there, which is the old set.
        is_user_cfg_pending = self.plan.user_cfg is not None and not self.is_user_cfg_new
        if is_user_cfg_pending:
            return
        known_missing = set(self.plan.default.missing)
        for rule in menu.record.rules:
            first = next((entry for entry in sort_menu(menu.live.chunks, menu.live.files, rule) if entry.is_own), None)
            if first is None or first.digest != self.plan.order[0] or set(first.missing) - known_missing:
                _refuse_unread(menu)
                label = "nothing" if first is None else first.label
                raise BootEntryError(f"after writing, {rule.name} would boot {label}, not {self.plan.default.label}")
            if menu.odd.unread_paths.intersection(first.paths):
                _refuse_unread(menu)

    def replace_user_cfg(self) -> None:
        """Step 6."""
        if self.plan.user_cfg is None:
            return
        self.doing = "replacing grub2/user.cfg"
        self.is_user_cfg_new = True
        with opened(self.boot, GRUB_DIRECTORY) as directory:
            replace_file(directory, USER_CFG, self.plan.user_cfg)
        self.check()

    def take_back(self) -> list[str]:
        """Put the old set back; what fails is said and left: every state on the way is a good one."""
        problems: list[str] = []
        try:
            if self.is_user_cfg_new:
                self._take_user_cfg_back()
            if self.beside is not None:
                problems += self._take_exchange_back(self.beside)
            if self.written:
                with opened(self.boot, ENTRIES) as directory:
                    linked = find_linked(directory, [*self.menu.names, *self.live, *self.written])
                    # The default last: an entry below it must never be the first.
                    for name in [*self.written[::-1], *self.live[::-1]]:
                        problems += remove_files(directory, [name], linked=linked)
        except OSError as error:
            problems.append(f"putting the old boot entries back: {reason_of(error)}")
        return problems

    def _take_exchange_back(self, path: bytes) -> list[str]:
        """Nothing is freed before the old set is live again, in memory and on the disk."""
        if self.is_exchanged:
            with opened(self.boot, ENTRIES) as directory:
                is_new_live = self.plan.new_files[0].file_name in directory.list_names()
            if is_new_live:
                exchange_with_live(self.boot, path)
            else:
                flush_both(self.boot, path)
        return remove_set(self.boot, path)

    def _take_user_cfg_back(self) -> None:
        with opened(self.boot, GRUB_DIRECTORY) as directory:
            if self.menu.live.user_cfg is None:
                remove_files(directory, [USER_CFG], linked=find_linked(directory, _user_cfg_names(directory)))
            elif directory.read(USER_CFG, MAX_USER_CFG_BYTES) != self.menu.live.user_cfg:
                replace_file(directory, USER_CFG, self.menu.live.user_cfg)

    def move_overrides(self) -> None:
        """Step 7: failures are warnings, since an override that names nothing is passed over by the loaders."""
        for override in self.plan.moved_overrides:
            try:
                self.warnings += move_override(
                    self.boot,
                    self.esp,
                    override,
                    self.plan.default,
                    set_variable=self.set_variable,
                    rule=self.menu.rule,
                )
            except OSError as error:
                self.warnings.append(f"changing {override.kind.value}: {reason_of(error)}")

    def remove_old(self) -> int:
        """Step 8; returns how many names were to go."""
        if self.beside is not None:
            self.warnings += remove_set(self.boot, self.beside)
            return len(self.plan.removed)
        if not self.plan.removed:
            return 0
        try:
            with opened(self.boot, ENTRIES) as directory:
                names = directory.list_names()
                linked = find_linked(directory, names)
                gone = [name for name in self.plan.removed if name in names]
                if self.boot.is_fat():
                    # A torn file's blocks may be free already, or another file's.
                    linked |= {name for name in self.menu.odd.torn if name in gone and directory.first_block(name)}
                self.warnings += remove_files(directory, gone, linked=linked)
                return len(gone)
        except OSError as error:
            self.warnings.append(f"removing the old boot entries: {reason_of(error)}")
            return 0

    def remove_staged(self) -> None:
        """Step 9."""
        if not self.plan.removes_staged:
            return
        try:
            directory = self.boot.open_directory(STAGED_ENTRIES)
            if directory is not None and is_same_directory(self.boot, STAGED_ENTRIES):
                directory.close()
                directory = None
                self.warnings.append("entries.staged is the same directory as entries, and is left")
            if directory is not None:
                try:
                    names = directory.list_names()
                    # What one of our own cuts left may have another file's blocks, in whatever directory it is now.
                    left = [name for name in names if self.boot.is_fat() and OWN_LEFTOVER.fullmatch(name)]
                    gone = [name for name in names if name not in left]
                    self.warnings += remove_files(directory, gone, linked=find_linked(directory, names))
                finally:
                    directory.close()
                if not left:
                    self.boot.remove_directory(STAGED_ENTRIES)
            directory = self.boot.open_directory(GRUB_DIRECTORY)
            if directory is not None:
                try:
                    linked = find_linked(directory, _user_cfg_names(directory))
                    self.warnings += remove_files(directory, [USER_CFG_STAGED], linked=linked)
                finally:
                    directory.close()
        except OSError as error:
            self.warnings.append(f"removing the staged boot entries: {reason_of(error)}")


def publish_volumes(
    boot: BootVolume,
    esp: BootVolume | None,
    menu: BootMenu,
    plan: MenuPlan,
    *,
    set_variable: VariableSetter | None = None,
    protected: Collection[VerityDigest] | None = None,
) -> PublishOutcome:
    """Do what ``publish_menu`` does, on volumes, but for the deployment's own file system."""
    run = _Publication(boot, esp, menu, plan, set_variable, protected)
    try:
        run.check_space()
        run.flush_before()
        run.rename_staged()
        run.write_entries()
        run.check()
        run.replace_user_cfg()
    except (OSError, BootEntryError) as error:
        problems = run.take_back()
        known = hint_for(error) if isinstance(error, OSError) else error.hint
        hint = "; ".join(filter(None, [*problems, known])) or None
        if isinstance(error, BootEntryError):
            raise BootEntryError(f"{run.doing}: {error}", hint=hint) from error
        raise FileSystemError(f"{run.doing}: {reason_of(error)}", hint=hint) from error
    run.move_overrides()
    removed = run.remove_old()
    run.remove_staged()
    return PublishOutcome(
        next_boot=plan.default.label,
        written=len(plan.new_files),
        removed=removed,
        warnings=tuple(run.warnings),
    )


def _sync_all(descriptors: Sequence[int]) -> None:
    for fd in descriptors:
        try:
            _core.sync_filesystem(fd)
            os.fsync(fd)
        except OSError as error:
            raise FileSystemError(f"flushing what the new deployment needs: {reason_of(error)}") from error


async def publish_menu(
    area: Area,
    menu: BootMenu,
    plan: MenuPlan,
    *,
    set_variable: VariableSetter | None = None,
    sync_fds: Sequence[int] = (),
    protected: Collection[VerityDigest] | None = None,
) -> PublishOutcome:
    """Replace the set of boot entries with the planned one; see this module's text for what holds meanwhile.

    The work is one call in a worker thread that is never abandoned: a cancellation that arrives meanwhile takes
    effect after it. The number of writes is bounded (n new entries and n + 8 flushes). The caller still puts a
    shield around this call and the decision before it, so that a cancellation cannot fall between the two.

    Args:
        area: The boot directories, open for writing.
        menu: What ``read_menu`` found, under the lock that is still held.
        plan: What ``plan_menu`` made of it.
        set_variable: Sets an EFI variable; None leaves it, with a warning where that matters.
        sync_fds: Directories on file systems that have to be on disk first: the deployment's state, the objects.
        protected: Deployments with a state directory: where space is short, boot files of all others that no entry
            names are removed first. None removes nothing.

    Returns:
        What was done; its warnings are no failure: the new set is in force.

    Raises:
        FileSystemError: A write or flush failed, or there is no space; the old set is in force again.
        BootEntryError: The set did not read back as planned; the old set is in force again.

    Source:
        Spec boot.md, "Replacing the set"; commands.md, "composefs-finalize-staged", 4.
    """
    esp = None if area.esp_fd is None else RealVolume(area.esp_fd)
    boot = RealVolume(area.boot_fd)

    def run() -> PublishOutcome:
        _sync_all(sync_fds)
        return publish_volumes(boot, esp, menu, plan, set_variable=set_variable, protected=protected)

    return await native.run_blocking(run)
