"""Filling a directory by cp and tar, which keep every attribute, and telling how far they are."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from bootc_fast.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import IO

    Progress = Callable[[int, int], None]

_TELL_EVERY_S = 0.05


def ignore_progress(_done: int, _total: int) -> None:
    """Tell nobody."""


def copy_content(source: Path, target: Path, progress: Progress = ignore_progress) -> None:
    """Copy a directory's content with all attributes, as bootc does; without privileges, owners become the caller.

    Args:
        source: The directory.
        target: Made where it is missing.
        progress: Gets the files that are copied, and their number.

    Raises:
        CommandError: cp failed.
    """
    target.mkdir(parents=True, exist_ok=True)
    total = sum(len(directories) + len(files) for _, directories, files in os.walk(source))
    argv = ("cp", "-a", "-v", "--remove-destination", f"{source}/.", f"{target}/.")
    with tempfile.TemporaryFile() as said, subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=said) as process:
        told = time.monotonic()
        # A line for each file, more for a name with a line end in it.
        for done, _ in enumerate(process.stdout or ()):
            if time.monotonic() - told >= _TELL_EVERY_S:
                told = time.monotonic()
                progress(min(done, total), total)
        process.wait()
        _refuse_failure(f"copying {source}", argv, process, said)
    progress(total, total)


def unpack_archive(source: Path, target: Path, progress: Progress = ignore_progress) -> None:
    """Unpack a tar archive in any compression that GNU tar knows.

    Not as root, its owners become the caller and device nodes are left out.

    Args:
        source: The archive.
        target: An existing directory.
        progress: Gets the bytes of the archive that were read, and its size.

    Raises:
        CommandError: tar failed.
    """
    argv = ["tar", "--extract", f"--file={source}", f"--directory={target}"]
    argv += ["--numeric-owner", "--preserve-permissions"]
    argv += ["--xattrs", "--xattrs-include=*"] if os.geteuid() == 0 else ["--exclude=./dev/*", "--exclude=dev/*"]
    status = source.stat()
    done = 0
    with tempfile.TemporaryFile() as said, subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=said) as process:
        while True:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_TELL_EVERY_S)
                break
            done = max(done, *_positions(process.pid, status), 0)
            progress(min(done, status.st_size), status.st_size)
        _refuse_failure(f"unpacking {source}", argv, process, said)
    progress(status.st_size, status.st_size)


def _positions(pid: int, status: os.stat_result) -> Iterator[int]:
    """How far a process and those that it started have read a file: what decompresses it is one of these.

    Source:
        proc(5), ``/proc/pid/fdinfo``.
    """
    place = f"/proc/{pid}"
    # A process that has just ended has nothing to say.
    with suppress(OSError, ValueError):
        for number in os.listdir(f"{place}/fd"):
            with suppress(OSError):
                if os.path.samestat(os.stat(f"{place}/fd/{number}"), status):
                    with open(f"{place}/fdinfo/{number}", encoding="ascii") as file:
                        yield int(file.readline().split()[1])
        with open(f"{place}/task/{pid}/children", encoding="ascii") as file:
            children = [int(word) for word in file.read().split()]
        for child in children:
            yield from _positions(child, status)


def _refuse_failure(
    what: str, argv: list[str] | tuple[str, ...], process: subprocess.Popen[bytes], said: IO[bytes]
) -> None:
    if not process.returncode:
        return
    said.seek(0)
    tail = said.read().decode(errors="replace")[-2000:]
    raise CommandError(f"{what}: {tail.strip()}", tuple(argv), process.returncode, tail)
