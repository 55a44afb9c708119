"""Who holds a ``flock``, as the kernel lists it in /proc/locks.

Source:
    proc_locks(5).
"""

from __future__ import annotations

import os
from typing import NamedTuple

_MAX_BYTES = 1 << 22
_MAX_COMMAND_CHARS = 256
# Fields of a line: number, kind, advisory or mandatory, access, process, device and inode, range.
_KIND, _PROCESS, _FILE = 1, 4, 5


class Holder(NamedTuple):
    """A process that has a lock.

    Attributes:
        pid: Its id.
        command: Its command line; empty where that cannot be told.
    """

    pid: int
    command: str

    def describe(self) -> str:
        """Name it for people."""
        return f"process {self.pid} ({self.command})" if self.command else f"process {self.pid}"


def parse_locks(text: bytes, *, device: int, inode: int) -> list[int]:
    """Find who has a flock on a file, among the lines of /proc/locks.

    Some file systems (btrfs, overlayfs) show files another device number than the kernel's own: where none has that of
    `device`, the inode's number alone tells.

    Args:
        text: What /proc/locks holds.
        device: ``st_dev``.
        inode: ``st_ino``.

    Returns:
        Process ids, in the kernel's order; of this pid namespace only.
    """
    exact: list[int] = []
    similar: list[int] = []
    for line in text.splitlines():
        fields = line.split()
        # Who waits has an arrow before the kind.
        if len(fields) <= _FILE or fields[_KIND] != b"FLOCK":
            continue
        try:
            major, minor, number = fields[_FILE].split(b":")
            pid, is_same = int(fields[_PROCESS]), int(number) == inode
            numbers = (int(major, 16), int(minor, 16))
        except ValueError:
            continue
        if is_same and pid > 0:
            (exact if numbers == (os.major(device), os.minor(device)) else similar).append(pid)
    return exact or similar


def find_holder(fd: int) -> Holder | None:
    """Find a process that has a flock on an open file; None where the kernel does not say. Blocks.

    Raises:
        OSError: `fd` is none.
    """
    status = os.fstat(fd)
    try:
        with open("/proc/locks", "rb") as file:
            text = file.read(_MAX_BYTES)
    except OSError:
        return None
    # Our own, of the time between an attempt and this look, is not who is waited for, unless it is the only one.
    pids = parse_locks(text, device=status.st_dev, inode=status.st_ino)
    others = [pid for pid in pids if pid != os.getpid()] or pids
    return Holder(others[0], _read_command(others[0])) if others else None


def _read_command(pid: int) -> str:
    for name in ("cmdline", "comm"):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                raw = file.read(_MAX_COMMAND_CHARS)
        except OSError:
            continue
        if raw:
            return raw.rstrip(b"\0\n").replace(b"\0", b" ").decode("utf-8", "surrogateescape")
    return ""
