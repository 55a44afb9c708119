"""Directories and file systems of this machine, behind the operations that publishing needs."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import struct
from typing import TYPE_CHECKING

from bootc_fast import _core
from bootc_fast.boot.area.directory import FileKind
from bootc_fast.errors import FatFormatError

if TYPE_CHECKING:
    from collections.abc import Generator

    from bootc_fast.boot.area.fat_look import FatLook

_FIBMAP = 1
_GET_FLAGS = 0x80086601  # FS_IOC_GETFLAGS
_FIXED_FLAGS = 0x10 | 0x20  # FS_IMMUTABLE_FL, FS_APPEND_FL
_RENAME_EXCHANGE = 2
_AT_EACCESS = 0x200
_SLOT_BYTES = 32
_FAT_ROOT_INODE = 1
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# What the kernel says where a file system or a caller without CAP_SYS_RAWIO can not map blocks.
_NO_BLOCK_MAP = frozenset({errno.EINVAL, errno.ENOTTY, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.ERANGE})


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

    def write_new(self, name: bytes, data: bytes, like: bytes | None = None) -> None:
        """See BootDirectory."""
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=self._fd)
        try:
            if like is not None:
                self._copy_status(like, fd)
            _write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)

    def _copy_status(self, name: bytes, fd: int) -> None:
        """Give a new file the mode and the owner of another one; FAT has neither of its own, and says so."""
        try:
            status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISREG(status.st_mode):
            with contextlib.suppress(PermissionError):
                os.fchown(fd, status.st_uid, status.st_gid)
            with contextlib.suppress(PermissionError):
                os.fchmod(fd, stat.S_IMODE(status.st_mode))

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
        libc = ctypes.CDLL(None, use_errno=True)

        def refuse_failure(answer: int, name: bytes) -> None:
            if answer != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), name)

        # Not os.access, to which a failing disk is a missing permission.
        refuse_failure(libc.faccessat(self._fd, two, os.W_OK, _AT_EACCESS), two)
        refuse_failure(libc.renameat2(self._fd, one, self._fd, two, _RENAME_EXCHANGE), one)

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
        from bootc_fast.boot.area.fat import FatReader
        from bootc_fast.boot.area.fat_device import device_path_of, open_volume_device
        from bootc_fast.boot.area.fat_look import FatLook

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
        from bootc_fast.boot.area.fat_detach import detach_name
        from bootc_fast.boot.area.fat_device import open_volume_device

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

    def why_not_in_place(self) -> str | None:
        """See BootVolume."""
        from bootc_fast.boot.area.in_place import why_not_in_place

        return why_not_in_place(self._fd)

    def free_bytes(self) -> tuple[int, int]:
        """See BootVolume."""
        status = os.fstatvfs(self._fd)
        return status.f_bavail * status.f_frsize, status.f_bsize
