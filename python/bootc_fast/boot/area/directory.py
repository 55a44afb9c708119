"""The few file operations that publishing needs, on a directory descriptor; tests put a model of FAT in their place.

Everything here blocks and runs in a worker thread. Names are bytes, paths are relative to the volume's root and
cannot lead out of it.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
from typing import TYPE_CHECKING, Protocol

from bootc_fast.errors import FileSystemError
from bootc_fast.text import reason_of

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextlib import AbstractContextManager

    from bootc_fast.boot.area.fat_look import FatLook
    from bootc_fast.errors import BootcFastError
    from bootc_fast.types import Loader


class Area(Protocol):
    """What ``boot.esp.open_boot_area`` yields."""

    @property
    def loader(self) -> Loader:
        """Who reads the entries."""

    @property
    def boot_fd(self) -> int:
        """The directory that holds ``loader/`` and ``grub2/``."""

    @property
    def esp_fd(self) -> int | None:
        """The directory that holds ``EFI/``; None where there is none."""

    @property
    def loader_fd(self) -> int | None:
        """The one that holds the loader's own settings; None where that is the boot directory."""

    @property
    def other_fd(self) -> int | None:
        """A second partition whose entries the loader shows, and that is not written; None where there is none."""

    @property
    def esp_error(self) -> BootcFastError | None:
        """Why there is no ESP where there is none."""


class FileKind(enum.Enum):
    """What a name leads to, itself and not what a symlink leads to."""

    FILE = enum.auto()
    DIRECTORY = enum.auto()
    LINK = enum.auto()
    OTHER = enum.auto()


class BootDirectory(Protocol):
    """One directory. Every method raises OSError; none is atomic on FAT unless it says so."""

    def list_names(self) -> list[bytes]:
        """Return the names of everything in it in its own order, by which the firmware lists equal entries."""

    def find_kind(self, name: bytes) -> FileKind | None:
        """Say what a name is, by ``lstat``; None where there is none."""

    def read(self, name: bytes, max_bytes: int) -> bytes:
        """Return a regular file's content; ``EFBIG`` where it is longer, ``EINVAL`` where it is no file."""

    def write_new(self, name: bytes, data: bytes, like: bytes | None = None) -> None:
        """Make a file that is complete and flushed on return; ``EEXIST`` where the name is in use.

        With `like` it has that file's mode and owner, where there is one.
        """

    def overwrite(self, name: bytes, data: bytes) -> None:
        """Write over a file's bytes in place, its length unchanged, and flush."""

    def rename(self, old: bytes, new: bytes) -> None:
        """Give a file or directory another name; on the disk with the next barrier."""

    def hold(self, name: bytes) -> int:
        """Open a file, so that its blocks outlive its name."""

    def release(self, handle: int) -> None:
        """Close what ``hold`` opened; blocks without a name are freed."""

    def unlink(self, name: bytes) -> None:
        """Remove a file's name; on the disk with the next barrier."""

    def is_immutable(self, name: bytes = b".") -> bool:
        """Say whether a file, or the directory itself, has the attribute ``i`` or ``a`` of ``chattr``."""

    def first_block(self, name: bytes) -> int | None:
        """Return where the file's first block is; None where it has none or nobody can tell."""

    def exchange(self, one: bytes, two: bytes) -> None:
        """Exchange two names, as ``RENAME_EXCHANGE`` does; ``EINVAL`` where the file system cannot."""

    def capacity_slots(self) -> int | None:
        """Return how many FAT slots it has room for without another cluster; None where it is not on FAT."""

    def barrier(self) -> None:
        """Put everything on the disk, in this order: ``syncfs``, then ``fsync`` of the directory.

        On vfat ``syncfs`` alone sends no cache flush and ``fsync`` alone writes no other file's inode.
        """

    def close(self) -> None:
        """Give the descriptor back."""


class BootVolume(Protocol):
    """A file system that the loader reads, seen from a root directory."""

    def open_directory(self, path: bytes) -> BootDirectory | None:
        """Open a directory; None where it is absent."""

    def open_plain_directory(self, path: bytes) -> BootDirectory | None:
        """Open a directory; None where it is absent, or any part of the path is a symlink."""

    def read_file(self, path: bytes, max_bytes: int) -> bytes | None:
        """Return a regular file's content, symlinks followed; None where absent, ``EFBIG`` where longer."""

    def read_part(self, path: bytes, offset: int, size_bytes: int) -> bytes:
        """Return a part of a regular file, shorter where the file ends; empty where there is no such file."""

    def make_directory(self, path: bytes) -> None:
        """Make a directory and the missing ones above it, flushed."""

    def remove_directory(self, path: bytes) -> None:
        """Remove an empty directory, flushed; held open until the disk has its name as gone, as files are."""

    def find_size(self, path: bytes) -> int | None:
        """Return a regular file's length in bytes; None where there is none."""

    def read_link(self, path: bytes) -> bytes | None:
        """Return where a symlink leads; None where there is none at that path."""

    def is_alias(self, path: bytes, other: bytes) -> bool:
        """Say whether a path is a symlink, or the same inode as another one."""

    def is_fat(self) -> bool:
        """Say whether a power cut can leave names whose blocks are free or another file's."""

    def look_at_fat(self, *, flush: bool = True) -> AbstractContextManager[FatLook | None]:
        """Look at the FAT below; None where there is none, or its device cannot be had.

        Args:
            flush: First, so that where files begin is on the device; directories are, with and without.
        """

    def detach_name(self, path: bytes) -> bool:
        """Make a name on FAT lead to nothing, an empty file, flushed; its clusters stay as they are.

        For what the kernel cannot remove (``fat_detach``), and only for what it has not written to since it was
        mounted. What it remembers of the name it goes on remembering.

        Returns:
            False where that cannot be done: the device cannot be had for writing, or there is no such name.
        """

    def why_not_in_place(self) -> str | None:
        """Say why GRUB cannot write over a file where it lies, as it does with its variables; None where it can."""

    def free_bytes(self) -> tuple[int, int]:
        """Return free space and the size of an allocation unit, in bytes."""


DAMAGE_HINT = "the disk fails, or the file system is damaged: look at the kernel's log, and ask `bootc-fast doctor`"
_HINTS = {
    errno.ENOSPC: "make space on the boot partition: only what belongs to deployments that are gone is removed for you",
    errno.EROFS: "the kernel makes a damaged file system read-only: look at its log, and ask `bootc-fast doctor`",
    errno.EIO: DAMAGE_HINT,
}


def hint_for(error: OSError) -> str | None:
    """Say what an admin can do about a boot partition that does not take a write."""
    return _HINTS.get(error.errno or 0)


@contextlib.contextmanager
def flushing_what_is_needed() -> Generator[None]:
    """Tell what fails inside as a flush of what the new deployment needs, of whichever file system.

    Raises:
        FileSystemError: A flush failed.
    """
    try:
        yield
    except OSError as error:
        is_full = error.errno == errno.ENOSPC
        hint = "make space on the file systems of the deployments and of /boot" if is_full else hint_for(error)
        raise FileSystemError(f"flushing what the new deployment needs: {reason_of(error)}", hint=hint) from error


@contextlib.contextmanager
def opened(volume: BootVolume, path: bytes) -> Generator[BootDirectory]:
    """Open a directory for the length of a block.

    Raises:
        FileNotFoundError: It is absent.
    """
    directory = volume.open_directory(path)
    if directory is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    with contextlib.closing(directory):
        yield directory
