"""Files that the user named: opened without waiting for anybody."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from bootc_fast.errors import UsageError
from bootc_fast.text import escape_bytes

if TYPE_CHECKING:
    from pathlib import Path

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NAMES = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def open_regular(path: Path | bytes, *, or_pipe: bool = False) -> int:
    """Open a regular file for reading.

    Opening a FIFO or a device may wait for ever, and so may reading it: they are refused.

    Args:
        path: Where; symlinks are followed.
        or_pipe: Take a pipe as well that this process has inherited, as ``/dev/fd/63`` of the shell's ``<(...)``:
            its other end is another process's, and reading waits for that.

    Returns:
        A descriptor, the caller's.

    Raises:
        UsageError: It is something else.
        OSError: It cannot be opened.
    """
    try:
        fd = os.open(path, _FLAGS)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        # Of a socket, or a device that nobody drives.
        raise _refusal(path, os.stat(path).st_mode) from error
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return fd
    if or_pipe and stat.S_ISFIFO(mode) and os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:"):
        os.set_blocking(fd, True)
        return fd
    os.close(fd)
    raise _refusal(path, mode)


def _refusal(path: Path | bytes, mode: int) -> UsageError:
    found = _NAMES.get(stat.S_IFMT(mode), "something else")
    return UsageError(f"opening {escape_bytes(os.fsencode(path))}: it is {found}, not a regular file")
