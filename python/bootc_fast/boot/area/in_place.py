"""Whether a boot loader can write over a file where it lies, as GRUB does with its environment block.

Source:
    GRUB ``grub-core/commands/loadenv.c`` (a file that is not made of whole sectors of the disk is refused) and
    ``grub-core/disk/diskfilter.c`` (LVM and MD: "diskfilter writes are not supported"); statfs(2).
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_MAGIC = {
    0x9123683E: "btrfs",
    0x2FC12FC1: "ZFS",
    0xCA451A4E: "bcachefs",
    0xF2F52010: "F2FS",
    0x73717368: "squashfs",
    0xE0F5E1E2: "EROFS",
}
_STATFS_BYTES = 256


def why_not_in_place(fd: int) -> str | None:
    """Say why GRUB cannot write over files of the file system that a directory is on; None where it can.

    What is not known to stand in the way counts as none: GRUB itself does not start what it could not count.

    Raises:
        OSError: It cannot be told.
    """
    number = os.fstat(fd).st_dev
    device = Path("/sys/dev/block") / f"{os.major(number)}:{os.minor(number)}"
    return why_not_on_file_system(read_magic(fd)) or why_not_on_device(device)


def why_not_on_file_system(magic: int) -> str | None:
    """Say it of a file system, by its number of statfs(2)."""
    name = _MAGIC.get(magic)
    return None if name is None else f"GRUB cannot write to {name}"


def why_not_on_device(device: Path) -> str | None:
    """Say it of a block device, by its directory in sysfs."""
    if any((path / "md").is_dir() for path in (device, device.resolve().parent)):
        return "GRUB cannot write to an MD RAID"
    try:
        kind = (device / "dm/uuid").read_text(encoding="utf-8", errors="replace").strip().partition("-")[0]
    except OSError:
        return None
    if kind == "mpath" or kind.startswith("part"):
        # To the firmware a disk on several paths is a disk.
        return None
    return f"GRUB cannot write to a device of the device mapper ({kind or 'of an unknown kind'})"


def read_magic(fd: int) -> int:
    """Return ``f_type`` of fstatfs(2), the first word on every 64-bit Linux.

    Raises:
        OSError: It cannot be told.
    """
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fstatfs(fd, buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF
