"""What ``doctor --repair`` writes, on volumes; tests put the model of FAT in their place.

Boot files first, each whole at every moment; then the set of entries, by ``publish_volumes`` only. Whatever a cut
leaves is no worse than what was there, and the next run finds what is left to do.

Source:
    Spec boot.md, "Replacing the set"; "A directory that grows".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.boot.entries.beside import remove_outdated
from bootc_fast.boot.entries.garbage import collect_volumes
from bootc_fast.boot.entries.mentions import GRUB_DIRECTORIES, MAX_TEXT_BYTES
from bootc_fast.boot.entries.plan import plan_menu
from bootc_fast.boot.entries.publish import publish_volumes
from bootc_fast.boot.loaders.grub_fallback import without_fallback
from bootc_fast.boot.loaders.user_cfg import parse_user_cfg, sets_esp
from bootc_fast.boot.loaders.user_cfg_mend import mend_text
from bootc_fast.composefs.recover import write_boot_file
from bootc_fast.errors import BootEntryError, FileSystemError
from bootc_fast.records import dataclass, replace
from bootc_fast.text import escape_bytes, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from bootc_fast.boot.area.directory import BootVolume
    from bootc_fast.boot.entries.menu import BootMenu
    from bootc_fast.boot.entries.moves import VariableSetter
    from bootc_fast.boot.loaders.entry import MenuEntry
    from bootc_fast.types import VerityDigest


@dataclass(frozen=True, slots=True)
class Repair:
    """What is to be done.

    Attributes:
        wanted: Deployments that can boot, the running one first.
        files: Boot files and their contents; paths from the root of the partition.
        made: Entries to write for deployments that have none.
        user_cfg: GRUB's menuentries for them, as a whole ``user.cfg``.
        writes_menu: The set of entries is written anew.
        collects: Boot files of deployments that are gone go, all but those of `known`.
        known: Deployments with a state directory.
        removes_sets: Sets beside the live one that a cut left go, where that is safe.
        keeps_staged: An update waits for its finalize: its set stays.
        protected: Deployments whose boot files stay, however short space is.
    """

    wanted: tuple[VerityDigest, ...]
    files: tuple[tuple[bytes, bytes], ...] = ()
    made: tuple[MenuEntry, ...] = ()
    user_cfg: bytes = b""
    writes_menu: bool = False
    collects: bool = False
    known: Collection[VerityDigest] = ()
    removes_sets: bool = False
    keeps_staged: bool = False
    protected: Collection[VerityDigest] | None = None


def list_own_entries(menu: BootMenu, digest: VerityDigest) -> list[MenuEntry]:
    """Every entry of a deployment, live or staged, shown or not."""
    every = (*menu.live.entries, *menu.live.files, *menu.staged.entries, *menu.staged.files)
    found: list[MenuEntry] = []
    for entry in every:
        if entry.is_own and entry.digest == digest and entry not in found:
            found.append(entry)
    return found


def repair_volumes(
    boot: BootVolume,
    esp: BootVolume | None,
    repair: Repair,
    *,
    read_menu: Callable[[], BootMenu],
    set_variable: VariableSetter | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[str, ...]:
    """Carry a repair out; blocks.

    Args:
        boot: Where the entries and kernels are.
        esp: Where UKIs are.
        repair: What is to be done.
        read_menu: Reads the menu, again after the boot files are there.
        set_variable: As for ``publish_menu``.
        progress: Told after every boot file how many bytes of how many are written.

    Returns:
        What was left as it was, and why.

    Raises:
        FileSystemError: A write failed; what booted before still does.
        BootEntryError: The set did not become what was wanted; likewise.
    """
    warnings: tuple[str, ...] = ()
    done, total = 0, sum(len(data) for _, data in repair.files)
    for path, data in repair.files:
        try:
            write_boot_file(boot, path, data)
        except BootEntryError as error:
            # All kernels may be in the directory that would grow: the others are worth more than this one.
            warnings = (*warnings, f"{escape_bytes(path)} is not written: {error}")
        except OSError as error:
            raise FileSystemError(f"writing {escape_bytes(path)}: {reason_of(error)}") from error
        done += len(data)
        if progress:
            progress(done, total)
    warnings = (*warnings, *(remove_outdated(boot) if repair.removes_sets else ()))
    if repair.writes_menu:
        warnings = (*warnings, *_write_menu(boot, esp, repair, read_menu(), set_variable))
    if repair.collects:
        warnings = (*warnings, *collect_volumes(boot, esp, read_menu(), known=repair.known).warnings)
    return warnings


def _write_menu(
    boot: BootVolume, esp: BootVolume | None, repair: Repair, menu: BootMenu, set_variable: VariableSetter | None
) -> tuple[str, ...]:
    whole = mend_text(menu.live.chunks, known=menu.known, has_esp=is_esp_told(boot))
    menu = _add_made(repair, replace(menu, live=replace(menu.live, chunks=whole)))
    order = _choose_order(repair, menu)
    if not order:
        return ("no deployment has an entry whose files are all there: the entries stay as they are",)
    plan = plan_menu(menu, order=order, staged=None)
    if repair.keeps_staged:
        plan = replace(plan, removes_staged=False)
    published = publish_volumes(boot, esp, menu, plan, set_variable=set_variable, protected=repair.protected)
    return (*plan.warnings, *published.warnings)


def is_esp_told(boot: BootVolume) -> bool:
    """Whether GRUB is told which partition the ESP is by another file than user.cfg.

    Raises:
        FileSystemError: One of them cannot be read.
    """
    for path in (directory + b"/" + name for directory in GRUB_DIRECTORIES for name in (b"grub.cfg", b"custom.cfg")):
        try:
            if sets_esp(without_fallback(boot.read_file(path, MAX_TEXT_BYTES) or b"")):
                return True
        except OSError as error:
            raise FileSystemError(f"reading {escape_bytes(path)}: {reason_of(error)}") from error
    return False


def _add_made(repair: Repair, menu: BootMenu) -> BootMenu:
    """What was made anew counts as staged: from there publishing takes what has no live entry."""
    staged = menu.staged
    chunks = parse_user_cfg(repair.user_cfg, known=menu.known)
    menuentries = tuple(chunk.entry for chunk in chunks if chunk.entry is not None)
    files = tuple(one for one in repair.made if one.menu_id is None)
    return replace(
        menu,
        staged=replace(
            staged,
            entries=(*staged.entries, *menuentries, *files),
            files=(*staged.files, *files),
            chunks=staged.chunks or chunks,
        ),
    )


def _choose_order(repair: Repair, menu: BootMenu) -> tuple[VerityDigest, ...]:
    """The menu's own order; where an exchange was cut, that of the staged set; what runs where there is none."""
    order = menu.own_order
    if menu.odd.is_exchange_unfinished and not repair.keeps_staged:
        order = tuple(entry.digest for entry in menu.staged.entries if entry.is_own and entry.digest is not None)
    made = [entry.digest for entry in repair.made if entry.digest is not None]
    wanted = [digest for digest in (*order, *repair.wanted, *made) if digest in repair.wanted]
    usable = {entry.digest for digest in wanted for entry in list_own_entries(menu, digest) if not entry.missing}
    return tuple(dict.fromkeys(digest for digest in wanted if digest in usable))
