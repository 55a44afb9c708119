"""The few file operations that publishing needs, on a directory descriptor; tests put a model of FAT in their place.

Everything here blocks and runs in a worker thread. Names are bytes, paths are relative to the volume's root and
cannot lead out of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import errno
import fcntl
import os
import stat
import struct
from typing import TYPE_CHECKING, Protocol

from bootc_fast import _core
from bootc_fast.boot.area.fat import FatReader
from bootc_fast.boot.area.fat_detach import detach_name
from bootc_fast.boot.area.fat_device import device_path_of, open_volume_device
from bootc_fast.boot.area.fat_look import FatLook
from bootc_fast.errors import FatFormatError, FileSystemError
from bootc_fast.text import reason_of

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextlib import AbstractContextManager

    from bootc_fast.types import Loader

_FIBMAP = 1
_GET_FLAGS = 0x80086601  # FS_IOC_GETFLAGS
_FIXED_FLAGS = 0x10 | 0x20  # FS_IMMUTABLE_FL, FS_APPEND_FL
_RENAME_EXCHANGE = 2
_SLOT_BYTES = 32
_FAT_ROOT_INODE = 1
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# What the kernel says where a file system or a caller without CAP_SYS_RAWIO can not map blocks.
_NO_BLOCK_MAP = frozenset({errno.EINVAL, errno.ENOTTY, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.ERANGE})


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

    def write_new(self, name: bytes, data: bytes) -> None:
        """Make a file that is complete and flushed on return; ``EEXIST`` where the name is in use."""

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


class RealDirectory:
    """A directory of this machine.

    Args:
        fd: Opened for reading; owned from now on.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @property
    def fd(self) -> int:
        """Its descriptor, still owned."""
        return self._fd

    def list_names(self) -> list[bytes]:
        """See BootDirectory."""
        try:
            return [os.fsencode(name) for name in os.listdir(self._fd)]
        except OSError as error:
            # Python leaves the descriptor's number for a file name.
            error.filename = os.readlink(f"/proc/self/fd/{self._fd}")
            raise

    def find_kind(self, name: bytes) -> FileKind | None:
        """See BootDirectory."""
        try:
            mode = os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return None
        if stat.S_ISLNK(mode):
            return FileKind.LINK
        if stat.S_ISDIR(mode):
            return FileKind.DIRECTORY
        return FileKind.FILE if stat.S_ISREG(mode) else FileKind.OTHER

    def read(self, name: bytes, max_bytes: int) -> bytes:
        """See BootDirectory."""
        fd = os.open(name, _READ_FLAGS | os.O_NOFOLLOW, dir_fd=self._fd)
        try:
            return _read_regular(fd, name, max_bytes)
        finally:
            os.close(fd)

    def write_new(self, name: bytes, data: bytes) -> None:
        """See BootDirectory."""
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=self._fd)
        try:
            _write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)

    def overwrite(self, name: bytes, data: bytes) -> None:
        """See BootDirectory."""
        fd = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        try:
            if os.fstat(fd).st_size != len(data):
                raise OSError(errno.EINVAL, "the length changed", name)
            _write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, old: bytes, new: bytes) -> None:
        """See BootDirectory."""
        os.rename(old, new, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def hold(self, name: bytes) -> int:
        """See BootDirectory."""
        return os.open(name, _READ_FLAGS | os.O_NOFOLLOW, dir_fd=self._fd)

    def release(self, handle: int) -> None:
        """See BootDirectory."""
        os.close(handle)

    def unlink(self, name: bytes) -> None:
        """See BootDirectory."""
        os.unlink(name, dir_fd=self._fd)

    def is_immutable(self, name: bytes = b".") -> bool:
        """See BootDirectory."""
        fd = self.hold(name)
        try:
            answer = fcntl.ioctl(fd, _GET_FLAGS, struct.pack("l", 0))
        except OSError:
            # Not known to this file system.
            return False
        finally:
            os.close(fd)
        return bool(struct.unpack("l", answer)[0] & _FIXED_FLAGS)

    def first_block(self, name: bytes) -> int | None:
        """See BootDirectory. ``FIBMAP`` needs CAP_SYS_RAWIO and a file system with block maps, which vfat is."""
        fd = self.hold(name)
        try:
            answer = fcntl.ioctl(fd, _FIBMAP, struct.pack("=i", 0))
        except OSError as error:
            if error.errno in _NO_BLOCK_MAP:
                return None
            raise
        finally:
            os.close(fd)
        block: int = struct.unpack("=i", answer)[0]
        return block or None

    def exchange(self, one: bytes, two: bytes) -> None:
        """See BootDirectory. Who may not write what is live may not replace it as a whole either."""
        if not os.access(two, os.W_OK, dir_fd=self._fd, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), two)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.renameat2(self._fd, one, self._fd, two, _RENAME_EXCHANGE) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), one)

    def capacity_slots(self) -> int | None:
        """See BootDirectory. The size of a vfat directory is that of its clusters."""
        return os.fstat(self._fd).st_size // _SLOT_BYTES if _core.is_fat(self._fd) else None

    def barrier(self) -> None:
        """See BootDirectory."""
        _core.sync_filesystem(self._fd)
        os.fsync(self._fd)

    def close(self) -> None:
        """See BootDirectory."""
        os.close(self._fd)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _read_regular(fd: int, name: bytes, max_bytes: int) -> bytes:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", name)
    data = bytearray()
    while chunk := os.read(fd, min(1 << 16, max_bytes + 1 - len(data))):
        data += chunk
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), name)
    return bytes(data)


class RealVolume:
    """A file system of this machine.

    Args:
        fd: Its root, or the directory that stands for it; stays the caller's.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def _open(self, path: bytes, flags: int) -> int:
        return _core.open_in_root(self._fd, path.strip(b"/") or b".", flags)

    def open_directory(self, path: bytes) -> RealDirectory | None:
        """See BootVolume."""
        try:
            return RealDirectory(self._open(path, _DIRECTORY_FLAGS))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open_plain_directory(self, path: bytes) -> RealDirectory | None:
        """See BootVolume."""
        fd = self._open(b"", _DIRECTORY_FLAGS)
        for name in filter(None, path.strip(b"/").split(b"/")):
            parent = fd
            try:
                fd = os.open(name, _DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=parent)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError as error:
                if error.errno == errno.ELOOP:
                    return None
                raise
            finally:
                os.close(parent)
        return RealDirectory(fd)

    def read_file(self, path: bytes, max_bytes: int) -> bytes | None:
        """See BootVolume."""
        try:
            fd = self._open(path, _READ_FLAGS)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return None if stat.S_ISDIR(os.fstat(fd).st_mode) else _read_regular(fd, path, max_bytes)
        finally:
            os.close(fd)

    def read_part(self, path: bytes, offset: int, size_bytes: int) -> bytes:
        """See BootVolume."""
        try:
            fd = self._open(path, _READ_FLAGS)
        except (FileNotFoundError, NotADirectoryError):
            return b""
        try:
            return os.pread(fd, size_bytes, offset) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
        finally:
            os.close(fd)

    def make_directory(self, path: bytes) -> None:
        """See BootVolume."""
        steps = path.strip(b"/").split(b"/")
        for i in range(len(steps)):
            parent = self._open(b"/".join(steps[:i]), _DIRECTORY_FLAGS)
            try:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(steps[i], 0o755, dir_fd=parent)
                _core.sync_filesystem(parent)
                os.fsync(parent)
            finally:
                os.close(parent)

    def remove_directory(self, path: bytes) -> None:
        """See BootVolume."""
        head, _slash, name = path.strip(b"/").rpartition(b"/")
        with contextlib.ExitStack() as stack:
            parent = RealDirectory(self._open(head, _DIRECTORY_FLAGS))
            stack.callback(parent.close)
            with contextlib.closing(RealDirectory(self._open(path, _DIRECTORY_FLAGS))):
                os.rmdir(name, dir_fd=parent.fd)
                parent.barrier()
            parent.barrier()

    def find_size(self, path: bytes) -> int | None:
        """See BootVolume."""
        try:
            fd = self._open(path.replace(b"\\", b"/"), os.O_PATH)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            # A name that this file system can not hold is not there; a failing disk is another matter.
            if error.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP):
                return None
            raise
        try:
            status = os.fstat(fd)
        finally:
            os.close(fd)
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def read_link(self, path: bytes) -> bytes | None:
        """See BootVolume."""
        head, _slash, name = path.strip(b"/").rpartition(b"/")
        try:
            parent = self._open(head, _DIRECTORY_FLAGS)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return os.readlink(name, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return None
            raise
        finally:
            os.close(parent)

    def is_alias(self, path: bytes, other: bytes) -> bool:
        """See BootVolume."""
        head, _slash, name = path.strip(b"/").rpartition(b"/")
        found: list[os.stat_result] = []
        try:
            with contextlib.ExitStack() as stack:
                parent = self._open(head, _DIRECTORY_FLAGS)
                stack.callback(os.close, parent)
                found.append(os.stat(name, dir_fd=parent, follow_symlinks=False))
                fd = self._open(other, os.O_PATH)
                stack.callback(os.close, fd)
                found.append(os.fstat(fd))
        except (FileNotFoundError, NotADirectoryError):
            pass
        if found and stat.S_ISLNK(found[0].st_mode):
            return True
        return len(found) > 1 and os.path.samestat(found[0], found[1])

    def is_fat(self) -> bool:
        """See BootVolume."""
        return _core.is_fat(self._fd)

    @contextlib.contextmanager
    def look_at_fat(self, *, flush: bool = True) -> Generator[FatLook | None]:
        """See BootVolume."""
        # Paths are from the volume's root.
        if not self.is_fat() or os.fstat(self._fd).st_ino != _FAT_ROOT_INODE:
            yield None
            return
        if flush:
            _core.sync_filesystem(self._fd)
        fd = open_volume_device(self._fd)
        if fd is None:
            yield None
            return
        try:
            yield FatLook(FatReader(fd), str(device_path_of(self._fd)))
        finally:
            os.close(fd)

    def detach_name(self, path: bytes) -> bool:
        """See BootVolume."""
        if not self.is_fat() or os.fstat(self._fd).st_ino != _FAT_ROOT_INODE:
            return False
        _core.sync_filesystem(self._fd)
        fd = open_volume_device(self._fd, is_for_writing=True)
        if fd is None:
            return False
        try:
            return detach_name(fd, path.decode("utf-8", "surrogateescape"))
        except FatFormatError:
            return False
        finally:
            os.close(fd)

    def free_bytes(self) -> tuple[int, int]:
        """See BootVolume."""
        status = os.fstatvfs(self._fd)
        return status.f_bavail * status.f_frsize, status.f_bsize
