"""Mounts stacked on one another where nobody else sees them: in a thread with a mount namespace of its own.

Linux 6.15 stacks detached mounts; older kernels want every layer of an overlay, and every mount point, to be attached
in the maker's namespace. One way for all of them: ``_core.call_with_private_mounts`` calls a function in a thread that
has a private copy of the namespace; there :class:`Scratch` gives mounts a place; the result leaves as a detached
clone. The process, its other threads and the machine's mount table see none of it.

Source:
    Linux 6.12 ``fs/namespace.c``, ``do_move_mount``, ``__do_loopback``, ``clone_private_mount``: ``check_mnt``.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from bootc_fast import _core

if TYPE_CHECKING:
    from collections.abc import Generator

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def make_image_mount(image_fd: int) -> int:
    """Mount an EROFS image detached, straight from its file or through a loop device that frees itself; blocks.

    Returns:
        The mount's ``O_PATH`` descriptor, which the caller closes.

    Raises:
        OSError: The kernel refused.
    """
    source = f"/proc/self/fd/{image_fd}".encode()
    try:
        return _core.mount_detached(b"erofs", [(b"source", source), (b"ro", None)], read_only=True)
    except OSError as error:
        # Before Linux 6.12, or without CONFIG_EROFS_FS_BACKED_BY_FILE, EROFS wants a block device.
        if error.errno != errno.ENOTBLK:
            raise
    loop_fd, loop = _core.attach_loop(image_fd)
    try:
        return _core.mount_detached(b"erofs", [(b"source", loop), (b"ro", None)], read_only=True)
    finally:
        # The device frees itself with its last user, which is the mount from here on.
        os.close(loop_fd)


class Scratch:
    """Named places for mounts, for the thread that has made it; see :func:`open_scratch`.

    Args:
        scratch_fd: The tmpfs with the places; the thread's working directory.
        stack: Closes the descriptors that are given out.
    """

    def __init__(self, scratch_fd: int, stack: ExitStack) -> None:
        self._fd = scratch_fd
        self._stack = stack

    def hold(self, fd: int) -> int:
        """Close a descriptor at the end of the block."""
        self._stack.callback(os.close, fd)
        return fd

    def place(self, name: str, mount_fd: int) -> int:
        """Attach a detached mount at a new place; returns its root, open as long as the block."""
        os.mkdir(name, 0o700, dir_fd=self._fd)
        _core.attach_mount(mount_fd, self._fd, os.fsencode(name))
        return self.hold(os.open(name, DIRECTORY, dir_fd=self._fd))

    def make_composefs(
        self, image_fd: int, objects_fd: int, *, require_verity: bool, source: str, is_system_root: bool
    ) -> int:
        """Make an overlay of an EROFS image over the objects it names.

        Args:
            image_fd: The image.
            objects_fd: A detached clone of the repository's ``objects``.
            require_verity: A file whose object has no matching fs-verity digest cannot be opened (``EIO``).
            source: The mount's source field.
            is_system_root: Set-user-id programs and devices have their effect.

        Returns:
            A detached mount, which the caller closes.

        Raises:
            OSError: The kernel refused.

        Source:
            https://docs.kernel.org/filesystems/overlayfs.html, "Data-only lower layers", "fs-verity support".
        """
        self.place("image", self.hold(make_image_mount(image_fd)))
        self.place("objects", objects_fd)
        parameters: list[tuple[bytes, bytes | int | None]] = [
            (b"source", os.fsencode(source)),
            (b"metacopy", b"on"),
            (b"redirect_dir", b"on"),
        ]
        if require_verity:
            parameters.append((b"verity", b"require"))
        # As text, which every kernel since 6.5 takes: descriptors since 6.13 only.
        parameters.append((b"lowerdir", b"image::objects"))
        return _core.mount_detached(b"overlay", parameters, read_only=True, is_system_root=is_system_root)

    def make_overlay(self, lower_fd: int, state: str, state_fd: int, *, source: str) -> int:
        """Make a writable overlay whose changes go to ``upper`` in a place.

        Args:
            lower_fd: The directory that is covered, in this thread's tree.
            state: The place's name.
            state_fd: Its root; ``upper`` and ``work`` are made where they are missing.
            source: The mount's source field.

        Returns:
            A detached mount, which the caller closes.

        Raises:
            OSError: The kernel refused.
        """
        for name, mode in (("upper", 0o755), ("work", 0o700)):
            try:
                os.mkdir(name, mode, dir_fd=state_fd)
            except FileExistsError:
                continue
            os.chmod(name, mode, dir_fd=state_fd)  # whatever the umask is
        parameters: list[tuple[bytes, bytes | int | None]] = [
            (b"source", source.encode()),
            (b"workdir", f"{state}/work".encode()),
            (b"upperdir", f"{state}/upper".encode()),
            (b"lowerdir", f"/proc/self/fd/{lower_fd}".encode()),
        ]
        return _core.mount_detached(b"overlay", parameters, read_only=False, is_system_root=True)


@contextmanager
def open_scratch() -> Generator[Scratch]:
    """Cover the root directory with a tmpfs for mounts, and make it the working directory.

    Only in a function that ``_core.call_with_private_mounts`` calls: both are that thread's own then. Paths from ``/``
    still lead into the host's tree. At the end the descriptors are closed; the mounts go with the thread.

    Raises:
        OSError: The kernel refused.
    """
    with ExitStack() as stack:
        root_fd = os.open("/", DIRECTORY)
        stack.callback(os.close, root_fd)
        scratch_fd = _core.mount_detached(b"tmpfs", [(b"mode", b"0700")], read_only=False)
        stack.callback(os.close, scratch_fd)
        _core.attach_mount(scratch_fd, root_fd, b"")
        os.fchdir(scratch_fd)
        yield Scratch(scratch_fd, stack)
