"""One writer at a time: a ``flock`` in the host's ``/run``, which the kernel drops with its holder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from bootc_fast.errors import FileSystemError, LockedError
from bootc_fast.machine.held import Held
from bootc_fast.machine.lock_holder import Holder, find_holder
from bootc_fast.text import escape, reason_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bootc_fast.machine.host import Host

_RETRY_S = 0.1
_MAX_RECORD_BYTES = 4096
_MAX_COMMAND_CHARS = 256

# Of a /run that is full, read-only or broken: an update must not wait for somebody to mend it.
_CANNOT_TAKE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOMEM})
# Root is refused by an immutable directory only; anybody else is to be told who may.
_REFUSED = frozenset({errno.EACCES, errno.EPERM})


def _own_record() -> bytes:
    command = " ".join(sys.orig_argv)[:_MAX_COMMAND_CHARS]
    return json.dumps({"pid": os.getpid(), "command": command}).encode()


def _read_record(fd: int) -> Holder | None:
    """What the holder wrote about itself; missing for the first moments of a hold, and where /run is full."""
    try:
        record = json.loads(os.pread(fd, _MAX_RECORD_BYTES, 0))
        return Holder(int(record["pid"]), str(record["command"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None


def _open_lock(host: Host) -> int:
    """Open the file in /run, or make it; for reading where it is there and cannot be written."""
    # Without waiting, so that a FIFO of that name stops nothing.
    flags = os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        host.make_directory(host.run)
        return host.open_file(host.lock_file, os.O_RDWR | os.O_CREAT | flags, 0o600)
    except OSError as error:
        if error.errno == errno.EROFS:
            with suppress(FileNotFoundError):
                return host.open_file(host.lock_file, os.O_RDONLY | flags)
        raise


def _is_current(host: Host, fd: int) -> bool:
    """Say whether `fd` is still the file of that name: somebody may have cleaned /run meanwhile."""
    named, mine = host.find_status(host.lock_file, follow=False), os.fstat(fd)
    return named is not None and (named.st_dev, named.st_ino) == (mine.st_dev, mine.st_ino)


def _try_lock(host: Host, held: Held) -> bool:
    """Take the lock if it is free, and say who has it; `held` has the descriptors then.

    Whoever has the file in /run also has the physical root's directory, shared; whoever cannot have the file takes
    that one alone. So the two ways exclude each other.
    """
    try:
        fd = _lock_file(host)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _CANNOT_TAKE and not (error.errno in _REFUSED and os.geteuid() == 0):
            raise
        return _lock_sysroot(host, held, fcntl.LOCK_EX, otherwise=error)
    if not _lock_sysroot(host, held, fcntl.LOCK_SH):
        os.close(fd)
        return False
    held.add(fd)
    _write_record(fd, _own_record())
    held.before_close(lambda: _write_record(fd, b""))
    return True


def _lock_file(host: Host) -> int:
    """Lock the file in /run; returns its descriptor.

    Raises:
        BlockingIOError: Somebody has it.
    """
    while True:
        # The descriptor is O_CLOEXEC: a command that is started meanwhile must not hold the lock beyond us.
        fd = _open_lock(host)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_current(host, fd):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _lock_sysroot(host: Host, held: Held, how: int, *, otherwise: OSError | None = None) -> bool:
    """Lock the physical root's directory, which needs no writable file system; False where somebody has it.

    Args:
        host: Whose.
        held: Gets the descriptor.
        how: Exclusive or shared.
        otherwise: Raised where it cannot be locked; with None that is left to who needs the physical root.
    """
    try:
        fd = host.open_file(host.sysroot, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if otherwise is not None:
            raise otherwise from error
        return True
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return False
    except OSError as error:
        os.close(fd)
        if otherwise is not None:
            raise otherwise from error
        return True
    held.add(fd)
    return True


def _write_record(fd: int, record: bytes) -> None:
    # The record is a courtesy to those who wait: a full or read-only /run must not stop an update.
    with suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, record, 0)


def _find_holder(host: Host) -> Holder | None:
    """The kernel knows who has a lock; what the holder wrote is asked where the kernel does not say, as in containers.

    Blocks.
    """
    record = None
    with suppress(OSError):
        fd = _open_lock(host)
        try:
            record = _read_record(fd)
            found = find_holder(fd)
        finally:
            os.close(fd)
        if found is not None:
            return record if record is not None and record.pid == found.pid else found
    with suppress(OSError), host.open_directory(host.sysroot) as fd:
        found = find_holder(fd)
        if found is not None and record is None:
            return found
    return record


def _locked_error(host: Host, timeout_s: float) -> LockedError:
    holder = _find_holder(host)
    who = "another process" if holder is None else escape(holder.describe())
    message = f"waiting {timeout_s:g} s for the lock {host.lock_file}: {who} holds it"
    return LockedError(message, hint="wait for it to end, then run this again")


@asynccontextmanager
async def hold_lock(host: Host, *, timeout_s: float = 30.0) -> AsyncIterator[None]:
    """Hold the host's lock for the length of a block.

    The holder's process id and command stand in the lock file while it is held. The file itself stays: removing a
    lock file races with those who wait for it. Where /run cannot take the file (full, read-only, failing), the
    physical root's directory is locked instead. Cancellation: at any moment; the lock is released, also by the
    kernel after ``kill -9``.

    Args:
        host: Whose lock.
        timeout_s: How long to wait for another holder, in seconds; one attempt is always made.

    Raises:
        LockedError: Another process held it all the time; the message names it.
        FileSystemError: Neither can be locked.

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
