"""Where things are on this host, and access to them that never leaves ``--root DIR``.

Every file of a host is reached through :class:`Host`, which resolves names with ``openat2(RESOLVE_IN_ROOT)``: under
``--root`` a symlink inside DIR, absolute or with ``..``, ends inside DIR as it would after a chroot.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from pathlib import Path

from bootc_fast import _core
from bootc_fast.errors import FileSystemError, InvalidStateError, UsageError
from bootc_fast.records import dataclass
from bootc_fast.text import reason_of

# Not from typing: importing that takes a tenth of the whole start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator

    from bootc_fast.types import VerityDigest

__all__ = ["MAX_STATE_FILE_BYTES", "Host", "open_host"]

MAX_STATE_FILE_BYTES = 4 << 20
"""Largest file that is read whole: a mountinfo of a host with 10,000 containers takes about 3 MiB."""

_NAMES_NOTHING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
"""Whoever asked for such a path made a mistake; any other error is the disk's or the file system's."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Host:
    """A host: this machine, or one laid out in a directory.

    Paths are made from `root` by name only; open them with the methods here, which keep inside it.

    Attributes:
        root: ``/``, or the directory, absolute.
        is_live: `root` is ``/``: mounts, lsblk, systemd and journal may be used.
        sysroot_fd: Where set, what lies below `sysroot` is reached through it: on a live host /sysroot is mounted
            read-only, and ``mounts.open_writable`` gives a Host with a writable one. Not owned.

    Source:
        Spec host.md, "Paths"; commands.md, "--root DIR".
    """

    root: Path
    is_live: bool
    sysroot_fd: int | None = None

    @property
    def sysroot(self) -> Path:
        """The physical root."""
        return self.root / "sysroot"

    @property
    def etc(self) -> Path:
        """The running /etc."""
        return self.root / "etc"

    @property
    def run(self) -> Path:
        """Runtime state."""
        return self.root / "run"

    @property
    def boot(self) -> Path:
        """/boot, whatever it is here."""
        return self.root / "boot"

    @property
    def efi(self) -> Path:
        """The ESP under ``--root``; on a live host one of its usual mount points."""
        return self.root / "efi"

    @property
    def var(self) -> Path:
        """/var of the running deployment."""
        return self.root / "var"

    @property
    def proc_cmdline(self) -> Path:
        """The kernel command line."""
        return self.root / "proc/cmdline"

    @property
    def mountinfo(self) -> Path:
        """The mount table of this process."""
        return self.root / "proc/self/mountinfo"

    @property
    def efivars(self) -> Path:
        """EFI variables."""
        return self.root / "sys/firmware/efi/efivars"

    @property
    def composefs(self) -> Path:
        """The composefs repository."""
        return self.sysroot / "composefs"

    @property
    def images(self) -> Path:
        """Symlinks to EROFS images, by digest."""
        return self.composefs / "images"

    @property
    def objects(self) -> Path:
        """Content, by digest."""
        return self.composefs / "objects"

    @property
    def state_deploy(self) -> Path:
        """Deployments' state directories."""
        return self.sysroot / "state/deploy"

    @property
    def staged_marker(self) -> Path:
        """Names the staged deployment."""
        return self.run / "composefs/staged-deployment"

    @property
    def reboot_marker(self) -> Path:
        """Says that a reboot is wanted; kured reads it."""
        return self.run / "reboot-required"

    @property
    def nextroot(self) -> Path:
        """Root of a soft reboot."""
        return self.run / "nextroot"

    @property
    def lock_file(self) -> Path:
        """Held by the one writer."""
        return self.run / "bootc-fast.lock"

    @property
    def last_finalize(self) -> Path:
        """The last finalize's outcome."""
        return self.sysroot / "state/bootc-fast/last-finalize.json"

    @property
    def last_boot(self) -> Path:
        """What ran, and which deployments there were, when the last boot was complete."""
        return self.sysroot / "state/bootc-fast/last-boot.json"

    @property
    def boot_id(self) -> Path:
        """The kernel's name of this boot; a soft reboot keeps it."""
        return self.root / "proc/sys/kernel/random/boot_id"

    @property
    def journal_socket(self) -> Path:
        """The journal's native protocol."""
        return self.run / "systemd/journal/socket"

    @property
    def ostree_booted(self) -> Path:
        """There on ostree hosts."""
        return self.run / "ostree-booted"

    def state_dir(self, digest: VerityDigest) -> Path:
        """Return the deployment's state directory, which holds ``etc``, ``var`` and the origin."""
        return self.state_deploy / digest

    def origin_file(self, digest: VerityDigest) -> Path:
        """Return the deployment's origin file."""
        return self.state_deploy / digest / f"{digest}.origin"

    def image_file(self, digest: VerityDigest) -> Path:
        """Return the image's name in the repository, a symlink to its object."""
        return self.images / digest

    def open_file(self, path: Path, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
        """Open `path` with `root` as the root of the lookup.

        Args:
            path: One of the paths of this host.
            flags: As for ``os.open``; ``O_CLOEXEC`` is added.
            mode: Counts with ``O_CREAT``.

        Returns:
            A descriptor that the caller closes.

        Raises:
            OSError: As ``openat2(2)``; ``ELOOP`` also for a magic link of procfs.

        Source:
            openat2(2), ``RESOLVE_IN_ROOT``.
        """
        if self.sysroot_fd is not None and path.is_relative_to(self.sysroot):
            return self._open_below(self.sysroot_fd, path, path.relative_to(self.sysroot), flags, mode)
        inside = path.relative_to(self.root)
        root_fd = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return self._open_below(root_fd, path, inside, flags, mode)
        finally:
            os.close(root_fd)

    def _open_below(self, dir_fd: int, path: Path, inside: Path, flags: int, mode: int) -> int:
        mode = mode if flags & os.O_CREAT else 0
        try:
            return _core.open_in_root(dir_fd, os.fsencode(inside), flags, mode)
        except OSError as error:
            error.filename = os.fspath(path)
            # Some sandboxes (systemd's RestrictSUIDSGID=) have no openat2; in "/" nothing leads out anyhow.
            if error.errno != errno.ENOSYS or not self.is_live:
                raise
        return os.open(inside, flags | os.O_CLOEXEC, mode, dir_fd=dir_fd)

    @contextmanager
    def open_directory(self, path: Path) -> Generator[int]:
        """Open a directory for the length of a block; yields its descriptor."""
        fd = self.open_file(path, _DIRECTORY)
        try:
            yield fd
        finally:
            os.close(fd)

    def read_bytes(self, path: Path, *, max_bytes: int = MAX_STATE_FILE_BYTES) -> bytes:
        """Read a whole regular file.

        Opened without waiting, so that a FIFO with the file's name stops nothing.

        Raises:
            OSError: As from ``open`` and ``read``.
            InvalidStateError: No regular file, or more than `max_bytes`.
        """
        fd = self.open_file(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise InvalidStateError(f"reading {path}: it is not a regular file")
            data = bytearray()
            # /proc and efivarfs say nothing about their files' sizes, so only the end of the data ends this.
            while chunk := os.read(fd, min(1 << 16, max_bytes + 1 - len(data))):
                data += chunk
        finally:
            os.close(fd)
        if len(data) > max_bytes:
            raise InvalidStateError(f"reading {path}: it is longer than {max_bytes} bytes")
        return bytes(data)

    def list_directory(self, path: Path) -> list[bytes]:
        """List a directory's names, sorted; an absent directory has none."""
        try:
            with self.open_directory(path) as fd:
                return sorted(os.fsencode(name) for name in os.listdir(fd))
        except FileNotFoundError:
            return []

    def find_status(self, path: Path, *, follow: bool = True) -> os.stat_result | None:
        """Return what `path` is, or None where it is not there.

        Raises:
            OSError: It cannot be told, e.g. for want of permission.
        """
        try:
            fd = self.open_file(path, os.O_PATH | (0 if follow else os.O_NOFOLLOW))
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def look_at(self, path: Path, *, follow: bool = True) -> os.stat_result | None:
        """Return what `find_status` does, for who can do nothing about an error.

        Raises:
            FileSystemError: It cannot be told.
        """
        try:
            return self.find_status(path, follow=follow)
        except OSError as error:
            raise FileSystemError(f"looking at {path}: {reason_of(error)}") from error

    def make_directory(self, path: Path, mode: int = 0o755) -> None:
        """Make a directory and the missing ones above it; each is flushed with its parent's next ``fsync``."""
        for step in [*reversed(path.relative_to(self.root).parents), path.relative_to(self.root)][1:]:
            with self.open_directory(self.root / step.parent) as fd:
                try:
                    os.mkdir(step.name, mode, dir_fd=fd)
                except FileExistsError:
                    continue

    def write_file(self, path: Path, data: bytes, *, mode: int = 0o644) -> None:
        """Replace a file, or make it, in an existing directory, and flush it.

        After a failure or a power cut the name holds the old or the new content, never a part; a temporary name
        is removed on failure.

        Raises:
            FileSystemError: With the OSError as its cause.
        """
        temporary = f".bootc-fast-{os.urandom(8).hex()}"
        try:
            with self.open_directory(path.parent) as dir_fd:
                fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=dir_fd)
                try:
                    with os.fdopen(fd, "wb") as file:
                        file.write(data)
                        file.flush()
                        os.fchmod(file.fileno(), mode)
                        os.fsync(file.fileno())
                    os.rename(temporary, path.name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
                except BaseException:
                    with suppress(OSError):
                        os.unlink(temporary, dir_fd=dir_fd)
                    raise
                os.fsync(dir_fd)
        except OSError as error:
            raise FileSystemError(f"writing {path}: {reason_of(error)}") from error

    def overwrite_file(self, path: Path, data: bytes) -> bool:
        """Write over a file's content in place, and flush it: no space is asked for that the file does not have.

        Not atomic: a power cut may leave a part of it, less likely of the first 4096 bytes, which most disks write at
        once.

        Returns:
            False where it is no regular file of one name and of this size; nothing was written then.

        Raises:
            OSError: As from ``open`` and ``write``.
        """
        fd = self.open_file(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_size != len(data):
                return False
            written = 0
            while written < len(data):
                written += os.pwrite(fd, data[written:], written)
            os.fdatasync(fd)
        finally:
            os.close(fd)
        return True

    def move_file(self, path: Path, name: str) -> Path:
        """Give what `path` names another name in its directory, and flush that; what had that name is replaced.

        Raises:
            FileSystemError: With the OSError as its cause.
        """
        try:
            with self.open_directory(path.parent) as dir_fd:
                os.rename(path.name, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
                os.fsync(dir_fd)
        except OSError as error:
            raise FileSystemError(f"renaming {path}: {reason_of(error)}") from error
        return path.parent / name

    def remove_file(self, path: Path) -> bool:
        """Remove a file's name and flush the directory; says whether it was there.

        Raises:
            FileSystemError: With the OSError as its cause.
        """
        try:
            with self.open_directory(path.parent) as dir_fd:
                os.unlink(path.name, dir_fd=dir_fd)
                os.fsync(dir_fd)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise FileSystemError(f"removing {path}: {reason_of(error)}") from error
        return True


def open_host(root: Path | str = "/") -> Host:
    """Say which host is meant; reads nothing of it.

    Args:
        root: ``/`` for this machine, or a directory laid out like one.

    Raises:
        UsageError: `root` is no directory.
        FileSystemError: It cannot be looked at.
    """
    what = f"opening the host in {root}"
    try:
        resolved = Path(root).resolve(strict=True)
        is_directory = stat.S_ISDIR(os.stat(resolved).st_mode)
    except OSError as error:
        if error.errno in _NAMES_NOTHING:
            raise UsageError(f"{what}: {reason_of(error)}") from error
        raise FileSystemError(f"{what}: {reason_of(error)}") from error
    except (RuntimeError, ValueError) as error:
        reason = "symbolic links form a loop" if isinstance(error, RuntimeError) else str(error)
        raise UsageError(f"{what}: {reason}") from error
    if not is_directory:
        raise UsageError(f"{what}: {os.strerror(errno.ENOTDIR)}")
    return Host(root=resolved, is_live=resolved == Path("/"))
