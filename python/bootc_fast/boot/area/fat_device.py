"""From a directory on a mounted vfat to the block device below it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from bootc_fast.boot.area.fat import FatReader
from bootc_fast.errors import FatFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

_GET_VOLUME_ID = 0x80047213  # FAT_IOCTL_GET_VOLUME_ID; only vfat and msdos answer it
_OPEN_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def volume_id_of(directory_fd: int) -> int | None:
    """Return the serial number of the mounted FAT volume; None where the directory is on no FAT."""
    try:
        return int(struct.unpack("I", fcntl.ioctl(directory_fd, _GET_VOLUME_ID, b"\0\0\0\0"))[0])
    except OSError:
        return None


def device_path_of(directory_fd: int) -> Path | None:
    """Find the block device that a directory's file system lies on; None where there is none in sight."""
    number = os.fstat(directory_fd).st_dev
    if os.major(number) == 0:  # btrfs, overlay, tmpfs: no device of their own
        return None
    for path in _candidates(number):
        with contextlib.suppress(OSError):
            status = path.stat()
            if stat.S_ISBLK(status.st_mode) and status.st_rdev == number:
                return path
    return None


def _candidates(number: int) -> Iterator[Path]:
    name = f"{os.major(number)}:{os.minor(number)}"
    try:
        facts = Path("/sys/dev/block", name, "uevent").read_text(encoding="utf-8", errors="replace")
    except OSError:
        facts = ""
    for line in facts.splitlines():
        key, _, value = line.partition("=")
        if key == "DEVNAME" and value and ".." not in value:
            yield Path("/dev", value)
    yield Path("/dev/block", name)


def open_volume_device(directory_fd: int, *, is_for_writing: bool = False) -> int | None:
    """Open the device below a mounted FAT; the caller closes it.

    Args:
        directory_fd: A directory on it.
        is_for_writing: Not for reading only; kernels can be told to refuse that while it is mounted.

    Returns:
        A descriptor of exactly the volume that the directory is on; None where it cannot be had (no FAT, no device
        node, not allowed).
    """
    volume_id = volume_id_of(directory_fd)
    path = device_path_of(directory_fd) if volume_id is not None else None
    if path is None:
        return None
    try:
        fd = os.open(path, _OPEN_FLAGS | (os.O_RDWR if is_for_writing else os.O_RDONLY))
    except OSError:
        return None
    try:
        is_same = os.fstat(fd).st_rdev == os.fstat(directory_fd).st_dev
        if is_same and FatReader(fd).geometry.volume_id == volume_id:
            return fd
    except (OSError, FatFormatError):
        pass
    os.close(fd)
    return None
