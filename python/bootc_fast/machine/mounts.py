"""Detached mounts: reached by descriptor, never attached to the tree.

Nobody else sees them, no flag of an existing mount changes, and the kernel drops them with the process, also after
``kill -9``. All need ``CAP_SYS_ADMIN``; under ``--root`` nothing here is used.
"""

from __future__ import annotations

import errno
import logging
import os
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import anyio

from bootc_fast import _core
from bootc_fast.errors import MountError
from bootc_fast.machine.directories import hold_directory
from bootc_fast.machine.held import Held
from bootc_fast.machine.native import run_blocking
from bootc_fast.records import replace
from bootc_fast.text import reason_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from bootc_fast.machine.host import Host

_LOG = logging.getLogger(__name__)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

# Count for a device that is not mounted yet; else the other mount's stay. The boot loader's files are nobody's but
# root's; FAT keeps no modes. After a power cut in bootc's own exchange of the sets there are names whose clusters are
# free already: unlinking one is an error that by default (errors=remount-ro) makes the whole file system read-only, in
# the middle of a publication. With `continue` that one unlink fails, or leaves clusters lost, which is harmless.
_OPTIONS: dict[str, list[tuple[bytes, bytes | int | None]]] = {"vfat": [(b"umask", b"0077"), (b"errors", b"continue")]}


def _mount_error(what: str, error: OSError) -> MountError:
    hint = None
    if error.errno in (errno.EPERM, errno.EACCES):
        hint = "mounting needs root (CAP_SYS_ADMIN)"
    elif error.errno == errno.EINVAL and "overlay" in what:
        hint = "composefs images are stacked with Linux 6.6 and newer"
    elif error.errno == errno.ENODEV:
        hint = "the kernel has no such file system, or its module cannot be loaded"
    return MountError(f"mounting {what}: {reason_of(error)}", hint=hint)


@asynccontextmanager
async def hold_mount(what: str, make: Callable[[Held], int]) -> AsyncIterator[int]:
    """Run `make` in a thread; yield the descriptor it returns; close everything it opened.

    Cancellation: waits for `make`.

    Raises:
        MountError: `make` raised an OSError.
    """
    held = Held()
    try:
        try:
            fd = await run_blocking(make, held)
        except OSError as error:
            raise _mount_error(what, error) from error
        yield fd
    finally:
        # The last close unmounts, which writes what is dirty: not on the event loop, and not half of it.
        with anyio.CancelScope(shield=True):
            await run_blocking(held.close)


def _open_root_of(held: Held, mount_fd: int) -> int:
    """Open a mount's root directory for reading: the mount's own descriptor is an ``O_PATH`` one."""
    return held.add(os.open(".", _DIRECTORY, dir_fd=mount_fd))


def _restore_read_only(mount_fd: int) -> None:
    try:
        _core.remount_file_system(mount_fd, read_only=True)
    except OSError as error:
        _LOG.warning("making a file system read-only again: %s", reason_of(error))


def _make_writable(held: Held, mount_fd: int) -> None:
    """Make the file system behind a mount writable until the end; other mounts' own read-only flags stay."""
    _core.remount_file_system(mount_fd, read_only=False)
    held.before_close(partial(_restore_read_only, mount_fd))


def _make_device_mount(device: Path, fstype: str, *, read_only: bool, held: Held) -> int:
    def mount(*, super_read_only: bool) -> int:
        parameters = [(b"source", os.fsencode(device)), *_OPTIONS.get(fstype, [])]
        if super_read_only:
            parameters.append((b"ro", None))
        return held.add(_core.mount_detached(os.fsencode(fstype), parameters, read_only=read_only))

    try:
        return _open_root_of(held, mount(super_read_only=read_only))
    except OSError as error:
        # A device has one file system, read-only or not: EBUSY says that a mount elsewhere has it the other way.
        if error.errno != errno.EBUSY:
            raise
    mount_fd = mount(super_read_only=not read_only)
    if not read_only:
        _make_writable(held, mount_fd)
    return _open_root_of(held, mount_fd)


@asynccontextmanager
async def mount_device(device: Path, *, fstype: str, read_only: bool) -> AsyncIterator[int]:
    """Mount a block device for the length of a block.

    It may be mounted elsewhere, read-only or not, or be an expired automount: the other mount's flags stay as they
    are. Where the file system was read-only as a whole and is to be written, it is writable for the length of the
    block and read-only again after it. Cancellation: between system calls; nothing stays mounted.

    Args:
        device: A block device.
        fstype: Its file system's name in the kernel, e.g. ``vfat``.
        read_only: Whether the mount refuses writes.

    Yields:
        A descriptor of the root directory, valid inside the block.

    Raises:
        MountError: The kernel refused; ``__cause__`` is the OSError.

    Source:
        Spec host.md, "ESP"; Linux ``fs/super.c``, ``get_tree_bdev_flags``.
    """
    what = f"{device} ({fstype}, {'read-only' if read_only else 'writable'})"
    make = partial(_make_device_mount, device, fstype, read_only=read_only)
    async with hold_mount(what, lambda held: make(held=held)) as fd:
        yield fd


@asynccontextmanager
async def clone_directory(dir_fd: int, *, recursive: bool = False, read_only: bool | None = None) -> AsyncIterator[int]:
    """Clone the mount that holds a directory, rooted there: the same files, without what is mounted on them.

    Args:
        dir_fd: The directory.
        recursive: Takes along what is mounted below it.
        read_only: Sets or clears that flag of the clone; None keeps it. With False a file system that is read-only
            as a whole (booted with ``ro``) is writable for the length of the block.

    Yields:
        A descriptor of the clone's root, valid inside the block.

    Raises:
        MountError: The kernel refused.

    Source:
        open_tree(2), ``OPEN_TREE_CLONE``; mount_setattr(2).
    """

    def make(held: Held) -> int:
        mount_fd = held.add(_core.clone_mount(dir_fd, recursive=recursive, read_only=read_only))
        fd = _open_root_of(held, mount_fd)
        if read_only is False and os.fstatvfs(fd).f_flag & os.ST_RDONLY:
            _make_writable(held, mount_fd)
        return fd

    async with hold_mount("a clone of the directory", make) as fd:
        yield fd


@asynccontextmanager
async def open_writable(host: Host) -> AsyncIterator[Host]:
    """Give a host whose physical root can be written.

    bootc mounts /sysroot read-only; a detached clone of that mount is writable, and the mount itself stays as it is.
    A lab host is given back as it came.

    Yields:
        The host to use inside the block; its methods reach ``/sysroot`` through the clone.

    Raises:
        MountError: The kernel refused.
        FileSystemError: There is no /sysroot.
    """
    if not host.is_live or host.sysroot_fd is not None:
        yield host
        return
    async with hold_directory(host, host.sysroot) as dir_fd, clone_directory(dir_fd, read_only=False) as fd:
        yield replace(host, sysroot_fd=fd)
