"""One run of the sequence that ``publish`` describes, step by step."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

from bootc_fast.boot.area.directory import opened
from bootc_fast.boot.area.replace import NEW_SUFFIX, find_linked, find_shared, find_unsafe, remove_files, replace_file
from bootc_fast.boot.area.room import choose_fill
from bootc_fast.boot.entries.beforehand import check_beforehand
from bootc_fast.boot.entries.beside import (
    UNSUPPORTED,
    check_names_fit,
    choose_beside,
    detach_path,
    exchange_with_live,
    flush_both,
    remove_outdated,
    remove_set,
    write_set,
)
from bootc_fast.boot.entries.menu import read_volumes, sort_menu
from bootc_fast.boot.entries.moves import VariableSetter, move_override
from bootc_fast.boot.entries.reader import ENTRIES, GRUB_DIRECTORY, MAX_COPIED_BYTES, OWN_LEFTOVER, USER_CFG
from bootc_fast.boot.entries.staged_set import list_user_cfgs, remove_staged_set
from bootc_fast.boot.loaders.user_cfg import MAX_USER_CFG_BYTES
from bootc_fast.errors import BootEntryError
from bootc_fast.records import dataclass, field
from bootc_fast.text import reason_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from bootc_fast.boot.area.directory import BootDirectory, BootVolume
    from bootc_fast.boot.entries.menu import BootMenu
    from bootc_fast.boot.entries.plan import MenuPlan
    from bootc_fast.boot.entries.reader import StagedRename
    from bootc_fast.boot.entries.trial_hooks import TrialHooks
    from bootc_fast.types import VerityDigest

_NO_FREE_SLOTS = "/loader/entries would have no room for the boot loader's renames"
_COUNT_HINT = "`tries = 0` in /etc/bootc-fast/trial.toml takes the update without counting its boots"

_NO_FILE = frozenset({errno.EINVAL, errno.EFBIG, errno.ELOOP, errno.ENXIO})
"""What reading says of a directory, a socket, a symlink, and what is too long; everything else is a failure."""


def _refuse_unread(menu: BootMenu) -> None:
    """Say that entries cannot be read, where it would else be said that they are not what they must be."""
    if menu.odd.unread:
        raise OSError(menu.odd.failure or errno.EIO, "; ".join(menu.odd.unread))


@dataclass
class Publication:
    """One run of the sequence."""

    boot: BootVolume
    esp: BootVolume | None
    menu: BootMenu
    plan: MenuPlan
    set_variable: VariableSetter | None
    protected: Collection[VerityDigest] | None = None
    settings: BootVolume | None = None
    trial: TrialHooks | None = None
    doing: str = "flushing the boot partition"
    beside: bytes | None = None
    is_exchanged: bool = False
    live: list[bytes] = field(default_factory=list)
    written: list[bytes] = field(default_factory=list)
    is_user_cfg_new: bool = False
    is_trial_begun: bool = False
    warnings: list[str] = field(default_factory=list)

    def check_before(self) -> None:
        """Refuse before the first write what would not end well."""
        self.doing = "looking at the boot partition"
        self.warnings += check_beforehand(
            self.boot, self.esp, self.menu, self.plan, self.protected, settings=self.settings
        )

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
        held: int | None = None
        if item.new in directory.list_names():
            old_size = volume.find_size(item.directory + b"/" + item.old)
            new_size = volume.find_size(item.directory + b"/" + item.new)
            if old_size is None or (new_size and new_size == old_size):
                # Done by an earlier run; the two names may share their blocks.
                return
            # Another file has the name: it keeps its blocks until the disk has the name for the new one.
            held = directory.hold(item.new)
        try:
            directory.rename(item.old, item.new)
            directory.barrier()
        finally:
            if held is not None:
                directory.release(held)
        if held is not None:
            directory.barrier()

    def begin_trial(self) -> None:
        """Step 2: what counts the new default's boots is there before it boots."""
        if self.trial is not None:
            self.doing = "beginning the trial of the new deployment"
            self.is_trial_begun = True
            self.warnings += self.trial.begin()

    def arm_trial(self) -> None:
        """Step 7."""
        if self.trial is not None:
            self.warnings += self.trial.arm()

    def write_entries(self) -> None:
        """Steps 3 and 4."""
        self.doing = "removing sets of boot entries that a power cut left"
        self.warnings += remove_outdated(self.boot)
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
        self.doing = "building the new set of boot entries beside the old one"
        try:
            files = self._read_whole_set()
        except OSError as error:
            # What cannot be copied, a directory say, must stay where it is.
            files = None
            if error.errno not in _NO_FILE:
                self._check_renames_fit(error)
        if files is None:
            self._check_renames_fit()
            return False
        path = self._build_beside(files)
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

    def _build_beside(self, files: Mapping[bytes, bytes]) -> bytes:
        """Build a set of which no cluster is another's too, and return its path.

        Linux gives new files what the FAT has as free, also where a name leads there: any name on the partition that a
        power cut left, ours or not. A set that got such a cluster never becomes live. It keeps its clusters, so that
        the next try gets others.
        """
        files, fill = self._leave_room(files)
        while True:
            self.beside = path = choose_beside(self.boot)
            write_set(self.boot, path, files, fill)
            shared = find_shared(self.boot, path)
            if shared is None:
                return path
            self.beside = None
            self.warnings.append(detach_path(self.boot, path, shared))

    def _leave_room(self, files: Mapping[bytes, bytes]) -> tuple[Mapping[bytes, bytes], int]:
        """Put last what the firmware renames; returns how many places are to be taken first, so that it has room."""
        default, promised = self.plan.default, self.plan.boot_renames
        renames = promised or default.tries_left or 0
        if not renames or default.file_name not in files:
            return files, 0
        others = {one: data for one, data in files.items() if one != default.file_name}
        fill = choose_fill(self.boot, list(others), default.file_name, renames)
        if fill is None and promised:
            raise BootEntryError(_NO_FREE_SLOTS, hint=_COUNT_HINT)
        return {**others, default.file_name: files[default.file_name]}, fill or 0

    def _read_whole_set(self) -> dict[bytes, bytes] | None:
        """The wanted set in memory; None where ``entries`` is a symlink, which an exchange would replace.

        Raises:
            OSError: Something there is no file, or cannot be read.
        """
        directory = self.boot.open_plain_directory(ENTRIES)
        if directory is None:
            return None
        files = {entry.file_name: entry.raw for entry in self.plan.new_files}
        with contextlib.closing(directory):
            gone = {*self.plan.removed, *(name for name in directory.list_names() if OWN_LEFTOVER.fullmatch(name))}
            stays = [name for name in directory.list_names() if name not in gone]
            return files | {name: directory.read(name, MAX_COPIED_BYTES) for name in stays}

    def _check_renames_fit(self, failure: OSError | None = None) -> None:
        """The way of renames needs names in the live directory; where it is shut, `failure` is what has to be told."""
        if self.plan.boot_renames and self.boot.is_fat():
            raise failure or BootEntryError(_NO_FREE_SLOTS, hint=_COUNT_HINT)
        names = [entry.file_name + suffix for entry in self.plan.new_files for suffix in (NEW_SUFFIX, b"")]
        try:
            check_names_fit(self.boot, ENTRIES, names)
        except BootEntryError:
            if failure is None:
                raise
            raise failure from None

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
                # What the first look could not read was planned without, and may be what comes before it.
                _refuse_unread(self.menu)
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
        replace_file(self.boot, GRUB_DIRECTORY, USER_CFG, self.plan.user_cfg)
        self.check()

    def take_back(self) -> list[str]:
        """Put the old set back; what fails is said and left: every state on the way is a good one."""
        problems: list[str] = []
        if self.trial is not None and self.is_trial_begun:
            problems += self.trial.take_back()
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
                unsafe = find_unsafe(self.boot, GRUB_DIRECTORY, directory, list_user_cfgs(directory))
                remove_files(directory, [USER_CFG], linked=unsafe)
                return
            is_old = directory.read(USER_CFG, MAX_USER_CFG_BYTES) == self.menu.live.user_cfg
        if not is_old:
            replace_file(self.boot, GRUB_DIRECTORY, USER_CFG, self.menu.live.user_cfg)

    def move_overrides(self) -> None:
        """Step 7: failures are warnings, since an override that names nothing is passed over by the loaders."""
        for override in self.plan.moved_overrides:
            try:
                self.warnings += move_override(
                    self.settings or self.boot,
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
                unsafe = dict(find_unsafe(self.boot, ENTRIES, directory, names))
                gone = [name for name in self.plan.removed if name in names]
                if self.boot.is_fat():
                    # A torn file's blocks may be free already, or another file's.
                    torn = [name for name in self.menu.odd.torn if name in gone and directory.first_block(name)]
                    unsafe |= dict.fromkeys(torn, "it is torn")
                self.warnings += remove_files(directory, gone, linked=unsafe)
                return len(gone)
        except OSError as error:
            self.warnings.append(f"removing the old boot entries: {reason_of(error)}")
            return 0

    def remove_staged(self) -> None:
        """Step 9."""
        if not self.plan.removes_staged:
            return
        try:
            self.warnings += remove_staged_set(self.boot)
        except OSError as error:
            self.warnings.append(f"removing the staged boot entries: {reason_of(error)}")

    def confirm(self) -> None:
        """Step 10: read the menu once more; what the removals damaged is written again from memory.

        Raises:
            OSError, BootEntryError: It is still not what it has to be.
        """
        try:
            self.check()
        except (OSError, BootEntryError) as error:
            reason = reason_of(error) if isinstance(error, OSError) else error
            self.warnings.append(f"the boot entries are written once more: {reason}")
            self._write_again()
            self.check()

    def _write_again(self) -> None:
        self.doing = "writing the boot entries once more"
        stays = [entry for entry in self.menu.live.files if entry.file_name not in self.plan.removed]
        files = {entry.file_name: entry.raw for entry in (*self.plan.new_files, *stays)}
        if files:
            self.boot.make_directory(ENTRIES)
            exchange_with_live(self.boot, self._build_beside(files))
        if self.plan.user_cfg is not None:
            replace_file(self.boot, GRUB_DIRECTORY, USER_CFG, self.plan.user_cfg)
