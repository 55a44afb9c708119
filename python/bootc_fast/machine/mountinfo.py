"""The kernel's mount table."""

from __future__ import annotations

import re

from bootc_fast.errors import InvalidStateError
from bootc_fast.records import dataclass

_OCTAL = re.compile(rb"\\([0-3][0-7]{2})")
_MIN_FIELDS_BEFORE = 6
_FIELDS_AFTER = 3


@dataclass(frozen=True, slots=True)
class MountInfo:
    """One line of ``/proc/self/mountinfo``, octal escapes undone.

    Attributes:
        device: ``major:minor`` of the file system.
        root: The part of the file system that is mounted.
        mount_point: Where, as this process sees it.
        options: Of the mount: ``ro``, ``relatime``, …
        fstype: E.g. ``overlay``.
        source: The source field, e.g. ``composefs:<digest>``.
        super_options: Of the file system.
    """

    device: str
    root: bytes
    mount_point: bytes
    options: tuple[str, ...]
    fstype: str
    source: bytes
    super_options: tuple[bytes, ...]


def _unescape(field: bytes) -> bytes:
    return _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field)


def _parse_line(line: bytes) -> MountInfo:
    before, separator, after = line.partition(b" - ")
    head, tail = before.split(b" "), after.split(b" ")
    if not separator or len(head) < _MIN_FIELDS_BEFORE or len(tail) < _FIELDS_AFTER:
        raise InvalidStateError(f"reading the mount table: the line {line[:120]!r} lacks fields")
    return MountInfo(
        device=head[2].decode("ascii", "replace"),
        root=_unescape(head[3]),
        mount_point=_unescape(head[4]),
        options=tuple(head[5].decode("utf-8", "replace").split(",")),
        fstype=_unescape(tail[0]).decode("utf-8", "replace"),
        source=_unescape(tail[1]),
        super_options=tuple(_unescape(option) for option in tail[2].split(b",")),
    )


def parse_mountinfo(data: bytes) -> tuple[MountInfo, ...]:
    r"""Parse a mount table.

    Args:
        data: Lines; space, tab, newline and backslash inside a field are written ``\ooo``.

    Returns:
        The mounts in the kernel's order: of two on one mount point the later one is on top.

    Raises:
        InvalidStateError: A line lacks fields.

    Source:
        proc_pid_mountinfo(5); Linux ``fs/proc_namespace.c``, ``show_mountinfo``.
    """
    return tuple(_parse_line(line) for line in data.split(b"\n") if line.strip())


def find_writable(mounts: tuple[MountInfo, ...], device: str) -> bool | None:
    """Say whether a file system, by its ``major:minor``, is mounted for writing; None where it is not mounted here.

    What counts is the file system's own flag, which the kernel takes away from a damaged one; a mount of it may be
    read-only by choice.
    """
    flags = [b"rw" in mount.super_options for mount in mounts if mount.device == device]
    return any(flags) if flags else None


def find_mount(mounts: tuple[MountInfo, ...], mount_point: bytes) -> MountInfo | None:
    """Return the topmost mount at `mount_point`, or None."""
    return next((mount for mount in reversed(mounts) if mount.mount_point == mount_point), None)
