"""Makes one system call fail with an errno of choice, for the calling thread's own call: the real call site, no model.

A seccomp filter counts for the thread that sets it and for those that it starts, and can never be taken off: so
every call gets a thread of its own.

Source: ``seccomp(2)``; numbers from Linux's ``arch/x86/entry/syscalls/syscall_64.tbl`` and
``include/uapi/asm-generic/unistd.h``.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_X86_64 = {
    "read": 0, "write": 1, "fstat": 5, "mmap": 9, "ioctl": 16, "pread64": 17, "rename": 82, "unlink": 87,
    "listxattr": 194, "getdents64": 217, "fadvise64": 221, "openat": 257, "unlinkat": 263, "renameat": 264,
    "fsync": 74, "fstatfs": 138, "fstatvfs": 138, "mkdirat": 258, "newfstatat": 262, "unshare": 272, "syncfs": 306,
    "renameat2": 316, "kexec_file_load": 320, "statx": 332, "open_tree": 428, "move_mount": 429, "fsopen": 430,
    "fspick": 433, "openat2": 437, "mount_setattr": 442, "umount2": 166,
}  # fmt: skip
_GENERIC = {
    "read": 63, "write": 64, "fstat": 80, "mmap": 222, "ioctl": 29, "pread64": 67, "listxattr": 11, "getdents64": 61,
    "fadvise64": 223, "openat": 56, "unlinkat": 35, "renameat": 38, "rename": 38, "unlink": 35, "fsync": 82,
    "fstatfs": 44, "fstatvfs": 44, "mkdirat": 34, "newfstatat": 79, "unshare": 97, "syncfs": 267, "renameat2": 276,
    "kexec_file_load": 294, "statx": 291, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fspick": 433,
    "openat2": 437, "mount_setattr": 442, "umount2": 39,
}  # fmt: skip
NUMBERS = {"x86_64": _X86_64, "aarch64": _GENERIC}.get(platform.machine(), {})

_LOAD_NUMBER, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ERRNO, _ALLOW = 0x00050000, 0x7FFF0000
_SET_NO_NEW_PRIVS, _SET_SECCOMP, _MODE_FILTER = 38, 22, 2


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("yes", ctypes.c_ubyte), ("no", ctypes.c_ubyte), ("k", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def _forbid(number: int, error: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    steps = (_Instruction * 4)(
        _Instruction(_LOAD_NUMBER, 0, 0, 0),
        _Instruction(_JUMP_IF_EQUAL, 0, 1, number),
        _Instruction(_RETURN, 0, 0, _ERRNO | error),
        _Instruction(_RETURN, 0, 0, _ALLOW),
    )
    program = _Program(len(steps), steps)
    if libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "prctl")


def call_failing(syscall: str, error: int, call: Callable[[], object]) -> BaseException | None:
    """Call something while a system call fails; returns what it raised.

    Args:
        syscall: Its name.
        error: The errno that it fails with, each time.
        call: What runs, in a thread of its own.
    """
    raised: list[BaseException] = []

    def run() -> None:
        _forbid(NUMBERS[syscall], error)
        try:
            call()
        except BaseException as caught:  # noqa: BLE001 the result
            raised.append(caught)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised[0] if raised else None
