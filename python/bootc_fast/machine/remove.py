"""Removing a directory tree of a host, so that a cut leaves it whole under its name, or gone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bootc_fast.errors import FileSystemError
from bootc_fast.text import reason_of

if TYPE_CHECKING:
    from pathlib import Path

    from bootc_fast.machine.host import Host

GONE_PREFIX = ".bootc-fast-gone-"
"""Of what is being removed, beside its old place."""


def remove_tree(host: Host, path: Path) -> bool:
    """Remove a directory with all that is in it; says whether it was there. Blocks.

    It gets another name first, flushed: what is cut or fails after that is finished by :func:`remove_gone`. Nothing is
    followed, and nothing that is mounted inside is touched: it stops there.

    Args:
        host: Whose.
        path: The directory.

    Raises:
        FileSystemError: It is still there, or what is left of it has the name `GONE_PREFIX` and its own.
    """
    try:
        with host.open_directory(path.parent) as parent_fd:
            gone = f"{GONE_PREFIX}{path.name}-{os.urandom(4).hex()}"
            try:
                os.rename(path.name, gone, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)
            except FileNotFoundError:
                return False
            os.fsync(parent_fd)
            _remove(parent_fd, gone)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise FileSystemError(f"removing {path}: {reason_of(error)}") from error
    return True


def list_gone(host: Host, directory: Path) -> list[str]:
    """List what an earlier run has begun to remove in a directory, and not finished; blocks.

    Raises:
        OSError: The directory cannot be listed.
    """
    names = map(os.fsdecode, host.list_directory(directory))
    return [name for name in names if name.startswith(GONE_PREFIX)]


def remove_gone(host: Host, directory: Path) -> int:
    """Finish what earlier runs began to remove in a directory; returns how many there were. Blocks.

    Raises:
        FileSystemError: Some of it stays.
    """
    try:
        names = list_gone(host, directory)
        if names:
            with host.open_directory(directory) as parent_fd:
                for name in names:
                    _remove(parent_fd, name)
    except OSError as error:
        raise FileSystemError(f"removing what is left in {directory}: {reason_of(error)}") from error
    return len(names)


def _remove(parent_fd: int, name: str) -> None:
    if not _unlink(parent_fd, name):
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
        try:
            _empty(fd)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=parent_fd)
    os.fsync(parent_fd)


def _empty(top_fd: int) -> None:
    """Empty a directory, however deep it is: a directory in a directory moves up to the top before it is emptied.

    A mount point cannot be renamed (``EBUSY``), so that what is mounted is never entered.
    """
    number, prefix = 0, os.urandom(4).hex()
    while names := os.listdir(top_fd):
        for name in names:
            if _unlink(top_fd, name):
                continue
            # Renamed as well, although it is at the top: one that is mounted refuses.
            moved = f".{prefix}-{number}"
            os.rename(name, moved, src_dir_fd=top_fd, dst_dir_fd=top_fd)
            number = _lift(top_fd, moved, prefix, number + 1)
            os.rmdir(moved, dir_fd=top_fd)


def _lift(top_fd: int, name: str, prefix: str, number: int) -> int:
    """Unlink the files of a directory and move its directories up; returns the next free number."""
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top_fd)
    try:
        for child in os.listdir(fd):
            if not _unlink(fd, child):
                os.rename(child, f".{prefix}-{number}", src_dir_fd=fd, dst_dir_fd=top_fd)
                number += 1
    finally:
        os.close(fd)
    return number


def _unlink(dir_fd: int, name: str) -> bool:
    """Remove a name that is no directory's; says whether it was none."""
    try:
        os.unlink(name, dir_fd=dir_fd)
    except IsADirectoryError:
        return False
    except FileNotFoundError:
        return True
    return True
