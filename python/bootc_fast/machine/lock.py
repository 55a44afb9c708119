"""One writer at a time: a ``flock`` in the host's ``/run``, which the kernel drops with its holder."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from bootc_fast.errors import FileSystemError, LockedError
from bootc_fast.machine.held import Held
from bootc_fast.text import reason_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bootc_fast.machine.host import Host

_RETRY_S = 0.1
_MAX_RECORD_BYTES = 4096
_MAX_COMMAND_CHARS = 256


def _own_record() -> bytes:
    command = " ".join(sys.orig_argv)[:_MAX_COMMAND_CHARS]
    return json.dumps({"pid": os.getpid(), "command": command}).encode()


def _describe_holder(fd: int) -> str:
    """Name the holder by the record it wrote; the record may be missing for the first moments of a hold."""
    try:
        record = json.loads(os.pread(fd, _MAX_RECORD_BYTES, 0))
        pid, command = int(record["pid"]), str(record["command"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return "another process"
    return f"process {pid} ({command})" if command else f"process {pid}"


def _open_lock(host: Host) -> int:
    host.make_directory(host.run)
    # Without waiting, so that a FIFO of that name stops nothing.
    return host.open_file(host.lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)


def _is_current(host: Host, fd: int) -> bool:
    """Say whether `fd` is still the file of that name: somebody may have cleaned /run meanwhile."""
    named, mine = host.find_status(host.lock_file, follow=False), os.fstat(fd)
    return named is not None and (named.st_dev, named.st_ino) == (mine.st_dev, mine.st_ino)


def _try_lock(host: Host, held: Held) -> bool:
    """Take the lock if it is free, and say who has it; `held` has the descriptor then."""
    while True:
        # The descriptor is O_CLOEXEC: a command that is started meanwhile must not hold the lock beyond us.
        fd = _open_lock(host)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_current(host, fd):
                break
        except BlockingIOError:
            os.close(fd)
            return False
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    held.add(fd)
    _write_record(fd, _own_record())
    held.before_close(lambda: _write_record(fd, b""))
    return True


def _write_record(fd: int, record: bytes) -> None:
    # The record is a courtesy to those who wait: a full /run must not stop an update.
    with suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, record, 0)


def _locked_error(host: Host, timeout_s: float) -> LockedError:
    fd = _open_lock(host)
    try:
        holder = _describe_holder(fd)
    finally:
        os.close(fd)
    message = f"waiting {timeout_s:g} s for the lock {host.lock_file}: {holder} holds it"
    return LockedError(message, hint="wait for it to end, then run this again")


@asynccontextmanager
async def hold_lock(host: Host, *, timeout_s: float = 30.0) -> AsyncIterator[None]:
    """Hold the host's lock for the length of a block.

    The holder's process id and command stand in the lock file while it is held. The file itself stays: removing a
    lock file races with those who wait for it. Cancellation: at any moment; the lock is released, also by the
    kernel after ``kill -9``.

    Args:
        host: Whose lock.
        timeout_s: How long to wait for another holder, in seconds; one attempt is always made.

    Raises:
        LockedError: Another process held it all the time; the message names it.
        FileSystemError: The lock file cannot be made.

    Source:
        Spec commands.md, "One writer at a time"; flock(2).
    """
    # Here, because commands that never lock need no event loop: 20 ms of processor time at every start.
    import anyio

    from bootc_fast.machine.native import run_blocking

    held = Held()
    try:
        try:
            is_taken = await run_blocking(_try_lock, host, held)
            with anyio.move_on_after(timeout_s):
                while not is_taken:
                    # No event comes from another process.
                    await anyio.sleep(_RETRY_S)
                    is_taken = await run_blocking(_try_lock, host, held)
            if not is_taken:
                raise await run_blocking(_locked_error, host, timeout_s)
        except OSError as error:
            hint = "run it as root" if isinstance(error, PermissionError) else None
            raise FileSystemError(f"taking the lock {host.lock_file}: {reason_of(error)}", hint=hint) from error
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await run_blocking(held.close)
