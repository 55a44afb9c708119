"""Changing the EFI variables that pick a boot entry."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from typing import TYPE_CHECKING

from bootc_fast.errors import FileSystemError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from bootc_fast.boot.override import OverrideKind
    from bootc_fast.host import Host

LOADER_GUID = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
"""The vendor of systemd's boot loader interface."""

ATTRIBUTES = 7
"""Non-volatile, readable in boot services and at run time: what systemd-boot itself gives these variables."""

_GET_FLAGS = 0x80086601
_SET_FLAGS = 0x40086602
_IMMUTABLE = 0x10


def encode_variable(text: bytes) -> bytes:
    """Return a string variable as efivarfs shows it: four attribute bytes, UTF-16LE, a NUL."""
    return struct.pack("<I", ATTRIBUTES) + text.decode("utf-8", "replace").encode("utf-16-le") + b"\0\0"


def _get_flags(fd: int) -> int:
    # Declared with a long, but the kernel reads and writes an int.
    flags: int = struct.unpack_from("=i", fcntl.ioctl(fd, _GET_FLAGS, bytes(8)))[0]
    return flags


@contextlib.contextmanager
def _mutable(fd: int) -> Generator[None]:
    """Lift the immutable flag, with which efivarfs keeps ``rm -r`` from bricking machines, for a moment."""
    flags = _get_flags(fd)
    if not flags & _IMMUTABLE:
        yield
        return
    fcntl.ioctl(fd, _SET_FLAGS, struct.pack("=ii", flags & ~_IMMUTABLE, 0))
    try:
        yield
    finally:
        fcntl.ioctl(fd, _SET_FLAGS, struct.pack("=ii", flags, 0))


def write_live_variable(host: Host, name: str, data: bytes) -> None:
    """Write over an existing variable on efivarfs, in one ``write``, which is one call of the firmware.

    Raises:
        OSError: As from the firmware; the variable has its old value.

    Source:
        Linux ``Documentation/filesystems/efivarfs.rst``.
    """
    path = host.efivars / name
    with contextlib.ExitStack() as stack:
        look = host.open_file(path, os.O_RDONLY)
        stack.callback(os.close, look)
        stack.enter_context(_mutable(look))
        fd = host.open_file(path, os.O_WRONLY)
        stack.callback(os.close, fd)
        os.write(fd, data)


def make_variable_setter(host: Host) -> Callable[[OverrideKind, bytes], None]:
    """Return what ``publish_menu`` takes as ``set_variable`` on this host.

    Under ``--root`` the variable is a file in a directory like any other.
    """

    def set_variable(kind: OverrideKind, value: bytes) -> None:
        name = f"{kind.value}-{LOADER_GUID}"
        if host.is_live:
            write_live_variable(host, name, encode_variable(value))
            return
        try:
            host.write_file(host.efivars / name, encode_variable(value))
        except FileSystemError as error:
            raise error.__cause__ if isinstance(error.__cause__, OSError) else OSError(str(error)) from error

    return set_variable
