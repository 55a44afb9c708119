"""What is found out before the first write: space, room for names, whether the directories are whole."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

from bootc_fast.boot.area.directory import opened
from bootc_fast.boot.area.replace import list_new_names
from bootc_fast.boot.area.room import has_room_for
from bootc_fast.boot.entries.beside import describe_room, remove_outdated
from bootc_fast.boot.entries.damage import find_damage, hint_for_damage
from bootc_fast.boot.entries.garbage import collect_volumes, measure
from bootc_fast.boot.entries.reader import (
    BESIDE_NAMES,
    ENTRIES,
    GRUB_DIRECTORY,
    LOADER_DIRECTORY,
    UKI_DIRECTORIES,
    USER_CFG,
)
from bootc_fast.boot.loaders.systemd_boot import CONF_KEYS
from bootc_fast.errors import BootEntryError
from bootc_fast.text import count, escape_bytes

if TYPE_CHECKING:
    from collections.abc import Collection

    from bootc_fast.boot.area.directory import BootDirectory, BootVolume
    from bootc_fast.boot.entries.menu import BootMenu
    from bootc_fast.boot.entries.plan import MenuPlan
    from bootc_fast.types import VerityDigest

DIRECTORY_ENTRY_BYTES = 32 * 22
"""What the longest name takes in a FAT directory: 20 pieces of 13 characters, the short entry, and one to spare."""

_MAX_NAMED = 3


def check_beforehand(
    boot: BootVolume,
    esp: BootVolume | None,
    menu: BootMenu,
    plan: MenuPlan,
    protected: Collection[VerityDigest] | None,
    *,
    settings: BootVolume | None = None,
) -> list[str]:
    """Refuse before the first write what would not end well.

    Where space or room is short, what a cut left and garbage go first, if `protected` says what is none.

    Returns:
        Warnings.

    Raises:
        BootEntryError: A directory is broken, or would have to grow.
        OSError: ``ENOSPC``.
    """
    for text, device in find_damage(boot, esp):
        raise BootEntryError(f"{text}, so that the firmware takes it for empty", hint=hint_for_damage(device))
    try:
        check_room(boot, esp, menu, plan, settings or boot)
        check_free(boot, menu, plan)
    except (OSError, BootEntryError) as error:
        if isinstance(error, OSError) and error.errno != errno.ENOSPC:
            raise
        warnings = remove_outdated(boot)
        if protected is not None:
            warnings += collect_volumes(boot, esp, menu, known=protected).warnings
        check_room(boot, esp, menu, plan, settings or boot)
        check_free(boot, menu, plan)
        return warnings
    return []


def check_free(boot: BootVolume, menu: BootMenu, plan: MenuPlan, *, freed: int = 0) -> None:
    """Refuse what does not fit: the set is written beside the old one, foreign entries and all, before anything goes.

    Args:
        boot: The boot partition.
        menu: What is there.
        plan: What is to be.
        freed: Bytes that garbage takes, which goes first where that helps.

    Raises:
        OSError: ``ENOSPC``.
    """
    if not plan.new_files and plan.user_cfg is None:
        return
    files = [len(entry.raw) for entry in plan.new_files]
    files += [len(plan.user_cfg)] if plan.user_cfg is not None else []
    if plan.new_files:
        stays = [name for name in menu.live.names if name not in plan.removed]
        files += [boot.find_size(ENTRIES + b"/" + name) or 0 for name in stays]
    free, unit = boot.free_bytes()
    names = -(-len(files) * DIRECTORY_ENTRY_BYTES // unit) * unit
    needed = sum(-(-size // unit) * unit for size in files) + names
    if needed > free + freed:
        raise OSError(errno.ENOSPC, f"{needed} bytes are needed and {free} are free{_describe_usage(boot, menu)}")


def _describe_usage(boot: BootVolume, menu: BootMenu) -> str:
    """What takes the space: the largest of what deployments boot from, and of what else lies beside it."""
    found: dict[bytes, int] = {}
    for path in dict.fromkeys((menu.record.kernel_directory, *UKI_DIRECTORIES)):
        directory = boot.open_plain_directory(path)
        if directory is not None:
            with contextlib.closing(directory):
                paths = [(path + b"/" + name).lstrip(b"/") for name in directory.list_names()]
            found |= {one: measure(boot, one) for one in paths if one not in UKI_DIRECTORIES}
    largest = sorted(((size, path) for path, size in found.items() if size), reverse=True)[:_MAX_NAMED]
    names = [f"/{escape_bytes(path)} takes {size}" for size, path in largest]
    return f": {', '.join(names)}" if names else ""


def check_room(boot: BootVolume, esp: BootVolume | None, menu: BootMenu, plan: MenuPlan, settings: BootVolume) -> None:
    """Refuse new names for which a directory in use has no room.

    Raises:
        BootEntryError: One would have to grow.
    """
    loader: list[bytes] = []
    if plan.makes_directory:
        loader.append(ENTRIES.rpartition(b"/")[2])
    elif plan.new_files:
        loader.append(BESIDE_NAMES[0])
    wanted = {(boot, LOADER_DIRECTORY): loader}
    if plan.user_cfg is not None:
        wanted.setdefault((boot, GRUB_DIRECTORY), []).extend(_names_to_replace(boot, GRUB_DIRECTORY, USER_CFG))
    if any(override.kind in CONF_KEYS for override in plan.moved_overrides):
        home, name = menu.rule.home, menu.rule.settings
        wanted.setdefault((settings, home), []).extend(_names_to_replace(settings, home, name))
    for item in plan.renames if esp is not None else ():
        if esp is not None and esp.find_size(item.directory + b"/" + item.new) is None:
            # Each leaves the places of its old name, which is longer, to the next one.
            wanted[esp, item.directory] = [max(wanted.get((esp, item.directory), [b""])[0], item.new, key=len)]
    for (volume, path), names in wanted.items():
        if not has_room_for(volume, path, names):
            where = escape_bytes(path)
            more = count(len(names), "more names")
            raise BootEntryError(f"/{where} has no room for {more}: it would grow", hint=describe_room(path))


def _names_to_replace(boot: BootVolume, path: bytes, name: bytes) -> list[bytes]:
    try:
        directory: BootDirectory
        with opened(boot, path) as directory:
            return list_new_names(directory, name)
    except FileNotFoundError:
        return []
