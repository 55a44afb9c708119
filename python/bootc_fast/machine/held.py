"""Descriptors between a worker thread and the task that waits for it."""

from __future__ import annotations

import errno
import os
from _thread import allocate_lock
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Held:
    """Descriptors that a worker thread opens and the context manager closes, whichever of them ends first."""

    def __init__(self) -> None:
        # Not from threading: commands that take no lock start without it.
        self._lock = allocate_lock()
        self._descriptors: list[int] = []
        self._on_close: Callable[[], None] | None = None
        self._is_closed = False

    def add(self, fd: int) -> int:
        """Take a descriptor over, and return it; ``ECANCELED`` where nobody waits any more."""
        with self._lock:
            if not self._is_closed:
                self._descriptors.append(fd)
                return fd
        # The awaiting task was torn away (asyncio's Task.cancel goes through shields): nobody else will close it.
        os.close(fd)
        raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))

    def before_close(self, callback: Callable[[], None]) -> None:
        """Have something called while all are open still."""
        self._on_close = callback

    def close(self) -> None:
        """Close all, and whatever comes later."""
        with self._lock:
            self._is_closed = True
            descriptors, self._descriptors = self._descriptors, []
        if self._on_close is not None:
            self._on_close()
        for fd in reversed(descriptors):
            with suppress(OSError):
                os.close(fd)
