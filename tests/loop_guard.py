"""What blocks the event loop: calls that may wait for a disk or another process, recorded where the loop's thread makes
them for the package.

The system calls of `os`, `fcntl`, `open`, sockets and processes are replaced by wrappers, and so is all of `_core`. A
call counts where the first frame above the standard library is the package's; what trio does itself is its own affair.
Closing is left out, and so are imports.
"""

from __future__ import annotations

import builtins
import fcntl
import functools
import io
import os
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

import bootc_fast
from bootc_fast import _core

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

PACKAGE = str(Path(bootc_fast.__file__).parent)
STANDARD = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), "<frozen"})
OTHERS = sysconfig.get_path("purelib")

OS_CALLS = tuple(
    name
    for group in (
        "access chmod chown fchmod fchown fdatasync fstat fstatvfs fsync ftruncate getxattr link listdir listxattr",
        "lstat makedirs mkdir open pread pwrite read readlink readv remove rename replace rmdir scandir sendfile",
        "setxattr stat statvfs symlink sync truncate unlink utime write writev",
    )
    for name in group.split()
)
# They look at what is in memory already.
PURE = {"Tree", "EtcPlan", "RepositoryWriter", "build_tree", "available_backends", "version"}


class Guard:
    """Records calls in the thread that made it.

    Attributes:
        found: ``module.py:line call``, as often as it was made.
        elsewhere: How many calls other threads made.
    """

    def __init__(self) -> None:
        self.found: list[str] = []
        self.elsewhere = 0
        self._thread = threading.get_ident()
        self._undo: list[Callable[[], None]] = []

    def wrap(self, owner: Any, name: str) -> None:
        real = getattr(owner, name)
        said = f"{getattr(owner, '__name__', owner)}.{name}"

        @functools.wraps(real)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != self._thread:
                self.elsewhere += 1
            elif trio.lowlevel.in_trio_run():
                self._note(said)
            return real(*args, **kwargs)

        setattr(owner, name, wrapper)
        self._undo.append(lambda: setattr(owner, name, real))

    def _note(self, said: str) -> None:
        frame = sys._getframe(2)
        while frame is not None:
            name = frame.f_code.co_filename
            if name.startswith(PACKAGE):
                self.found.append(f"{name[len(PACKAGE) + 1 :]}:{frame.f_lineno} {said}")
                return
            if name.startswith(OTHERS) or not name.startswith(STANDARD):
                return
            frame = frame.f_back  # type: ignore[assignment]

    def stop(self) -> None:
        for undo in reversed(self._undo):
            undo()


class _Opener:
    """Stands for a class of `_core` whose ``open`` reads."""

    def __init__(self, real: Any, guard: Guard) -> None:
        self._real = real
        self.open = real.open
        self.__name__ = f"_core.{real.__name__}"
        guard.wrap(self, "open")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@contextmanager
def guard_loop() -> Generator[Guard]:
    """Record what this thread calls that may block while trio runs in it."""
    guard = Guard()
    try:
        for name in OS_CALLS:
            if hasattr(os, name):
                guard.wrap(os, name)
        for name in ("flock", "ioctl", "lockf"):
            guard.wrap(fcntl, name)
        guard.wrap(builtins, "open")
        guard.wrap(io, "open")
        guard.wrap(time, "sleep")
        guard.wrap(subprocess, "run")
        guard.wrap(subprocess, "Popen")
        for name in ("connect", "send", "sendto", "sendmsg"):
            guard.wrap(socket.socket, name)
        for name, value in list(vars(_core).items()):
            if callable(value) and not isinstance(value, type) and not name.startswith("_") and name not in PURE:
                guard.wrap(_core, name)
        real = _core.Image
        _core.Image = _Opener(real, guard)  # type: ignore[misc, assignment]
        guard._undo.append(lambda: setattr(_core, "Image", real))
        yield guard
    finally:
        guard.stop()
