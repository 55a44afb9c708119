"""Whether a publication would be refused: asked by a dry run, by status, and before anything else is written."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from bootc_fast.boot.area.directory import hint_for
from bootc_fast.boot.area.fat_device import device_path_of
from bootc_fast.boot.area.real import RealVolume
from bootc_fast.boot.entries.beforehand import check_free, check_room
from bootc_fast.boot.entries.damage import find_damage, hint_for_damage
from bootc_fast.boot.entries.garbage import find_garbage
from bootc_fast.boot.entries.reader import ENTRIES, GRUB_DIRECTORY, LOADER_DIRECTORY, USER_CFG
from bootc_fast.errors import BootEntryError, FileSystemError, InvalidStateError
from bootc_fast.machine.mountinfo import parse_mountinfo
from bootc_fast.text import escape_bytes, reason_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from bootc_fast.boot.area.directory import Area, BootVolume
    from bootc_fast.boot.entries.menu import BootMenu
    from bootc_fast.boot.entries.plan import MenuPlan
    from bootc_fast.types import VerityDigest


def check_ahead(area: Area, menu: BootMenu, plan: MenuPlan, *, protected: Collection[VerityDigest]) -> None:
    """Refuse what ``publish_menu`` would refuse, as far as that can be told without writing. Blocks.

    Args:
        area: The boot directories; read-only is enough.
        menu: What is there.
        plan: What is to be.
        protected: Deployments whose boot files are no garbage.

    Raises:
        FileSystemError: The device is read-only, a directory immutable, or there is no space; it says where.
        BootEntryError: A directory is broken, or would have to grow.
    """
    if plan.is_noop:
        return
    boot = RealVolume(area.boot_fd)
    esp = None if area.esp_fd is None else RealVolume(area.esp_fd)
    settings = None if area.loader_fd is None else RealVolume(area.loader_fd)
    try:
        _check_device(area.boot_fd)
        check_volumes_ahead(boot, esp, menu, plan, protected=protected, settings=settings)
    except OSError as error:
        where = describe_place(area.boot_fd)
        raise FileSystemError(
            f"looking at the boot partition{where}: {reason_of(error)}", hint=hint_for(error)
        ) from error


def check_volumes_ahead(
    boot: BootVolume,
    esp: BootVolume | None,
    menu: BootMenu,
    plan: MenuPlan,
    *,
    protected: Collection[VerityDigest],
    settings: BootVolume | None = None,
) -> None:
    """Do what ``check_ahead`` does, on volumes.

    Raises:
        BootEntryError: A directory is broken, or would have to grow.
        OSError: Everything else.
    """
    for text, device in find_damage(boot, esp):
        raise BootEntryError(f"{text}, so that the firmware takes it for empty", hint=hint_for_damage(device))
    _check_attributes(boot, plan)
    garbage = find_garbage(boot, menu, known=protected)
    check_free(boot, menu, plan, freed=sum(garbage.values()))
    try:
        check_room(boot, esp, menu, plan, settings or boot)
    except BootEntryError:
        if not garbage and not menu.odd.old_sets:
            raise


def _check_attributes(boot: BootVolume, plan: MenuPlan) -> None:
    wanted: list[tuple[bytes, bytes]] = []
    if plan.new_files or plan.removed:
        wanted += [(LOADER_DIRECTORY, b"."), (ENTRIES, b".")]
    if plan.user_cfg is not None:
        wanted += [(GRUB_DIRECTORY, b"."), (GRUB_DIRECTORY, USER_CFG)]
    for path, name in wanted:
        directory = boot.open_directory(path)
        if directory is None:
            continue
        with contextlib.closing(directory), contextlib.suppress(FileNotFoundError):
            if directory.is_immutable(name):
                where = escape_bytes(path + b"/" + name).removesuffix("/.")
                raise OSError(errno.EPERM, f"/{where} is immutable: `chattr -i -a` makes it writable")


def _check_device(directory_fd: int) -> None:
    """A file system that is mounted read-only is made writable for the publication; a device cannot be."""
    number = os.fstat(directory_fd).st_dev
    try:
        flag = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/ro").read_text(encoding="ascii")
    except OSError:
        return
    if flag.strip() == "1":
        raise OSError(errno.EROFS, "the device is read-only")


def describe_place(directory_fd: int) -> str:
    """Say which device a directory is on and where that is mounted; empty where neither is known."""
    number = os.fstat(directory_fd).st_dev
    device = device_path_of(directory_fd)
    try:
        mounts = parse_mountinfo(Path("/proc/self/mountinfo").read_bytes())
    except (OSError, InvalidStateError):
        mounts = ()
    named = f"{os.major(number)}:{os.minor(number)}"
    points = [escape_bytes(one.mount_point) for one in mounts if one.device == named and one.root == b"/"]
    parts = [*([str(device)] if device is not None else []), *([f"mounted at {points[-1]}"] if points else [])]
    return f" {', '.join(parts)}" if parts else ""
