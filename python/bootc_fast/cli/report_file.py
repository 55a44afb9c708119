"""The file of ``--report``: replaced as a whole, readable by its owner only, never another's through a link."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress

from bootc_fast.errors import FileSystemError
from bootc_fast.text import dump_json, escape_bytes, reason_of

_MODE = 0o600


def write_report(path: str, document: dict[str, object]) -> None:
    """Write a report as JSON.

    After a failure or a power cut the name holds what it held before or all of the new report; a temporary name beside
    it is removed on failure.

    Args:
        path: Where; a regular file, or nothing yet. It names what was changed in /etc: not everybody's to know.
        document: Plain values.

    Raises:
        FileSystemError: It cannot be written, or is something else: a symbolic link that somebody left in a shared
            directory would have root write over another file.
    """
    shown = escape_bytes(os.fsencode(path))
    directory, name = os.path.split(os.path.abspath(path))
    temporary = f".bootc-fast-{secrets.token_hex(8)}"
    try:
        dir_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _refuse_others(name, dir_fd, shown)
            fd = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE, dir_fd=dir_fd
            )
            try:
                with os.fdopen(fd, "w", encoding="utf-8") as file:
                    os.fchmod(fd, _MODE)
                    file.write(dump_json(document) + "\n")
                    file.flush()
                    os.fsync(fd)
                os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=dir_fd)
                raise
            os.fsync(dir_fd)
        finally:
            os.close(dir_fd)
    except OSError as error:
        raise FileSystemError(f"writing the report {shown}: {reason_of(error)}") from error


def _refuse_others(name: str, dir_fd: int, shown: str) -> None:
    try:
        mode = os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        found = "a symbolic link" if stat.S_ISLNK(mode) else "no regular file"
        raise FileSystemError(f"writing the report {shown}: it is {found}", hint="name a file, or nothing yet")
