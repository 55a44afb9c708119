"""Directories of a host, open for the length of a block of a flow: no open waits on the event loop."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from bootc_fast.errors import FileSystemError
from bootc_fast.machine.held import Held
from bootc_fast.machine.native import run_blocking
from bootc_fast.text import reason_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from bootc_fast.machine.host import Host

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


@asynccontextmanager
async def hold_directory(host: Host, path: Path) -> AsyncIterator[int]:
    """Open a directory of a host for the length of a block; yields its descriptor.

    Raises:
        FileSystemError: It cannot be opened.
    """
    async with hold_opened(path, lambda held: held.add(host.open_file(path, _DIRECTORY))) as fd:
        yield fd


@asynccontextmanager
async def hold_opened(path: Path, open_it: Callable[[Held], int]) -> AsyncIterator[int]:
    """Hold what a function opens for the length of a block; yields the descriptor that it returns.

    Args:
        path: What is opened, for the error.
        open_it: Blocks; what it opens on the way it gives to its argument, which closes all of it.

    Raises:
        FileSystemError: It raised an OSError.
    """
    held = Held()
    try:
        try:
            fd = await run_blocking(open_it, held)
        except OSError as error:
            raise FileSystemError(f"opening {path}: {reason_of(error)}") from error
        yield fd
    finally:
        # Nothing was written through it: this waits for nothing.
        held.close()
