"""kexec: a kernel, an initrd and a command line, loaded for ``systemctl kexec``; whose they are is not asked here.

Source:
    kexec_file_load(2); spec commands.md, "rollback", ``--soft-reboot``.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from bootc_fast import _core
from bootc_fast.errors import FileSystemError, InvalidStateError, SoftRebootError
from bootc_fast.records import dataclass
from bootc_fast.text import reason_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bootc_fast.machine.host import Host

_CAPABILITIES = re.compile(rb"^CapEff:\s*([0-9a-f]+)$", re.MULTILINE)
_CAP_SYS_BOOT = 22
# The kernel looks for the next archive of several at a multiple of this many bytes.
_CPIO_ALIGNMENT = 4
# The setup header's magic number in a bzImage.
_BZIMAGE_OFFSET, _BZIMAGE_MAGIC = 0x202, b"HdrS"
_HEADER_BYTES = _BZIMAGE_OFFSET + len(_BZIMAGE_MAGIC)
_REASONS = {
    errno.ENOSYS: "this kernel has no kexec_file_load",
    errno.EPERM: "the kernel refuses (no CAP_SYS_BOOT, lockdown, or kexec disabled)",
    errno.EACCES: "the kernel refuses (lockdown)",
    errno.EKEYREJECTED: "the kernel refuses the image's signature",
    errno.ENOKEY: "the kernel knows no key for the image's signature",
    errno.EBADMSG: "the kernel refuses the image's signature",
    errno.ENODATA: "the image has no signature, which this kernel wants",
    errno.ENOEXEC: "the image is no kernel that can be loaded",
    errno.EBUSY: "another kernel is being loaded",
}


@dataclass(frozen=True, slots=True)
class KexecPieces:
    """What is handed to the kernel.

    Attributes:
        kernel_fd: Open for reading only: a file that somebody may write to is refused (``ETXTBSY``).
        initrd_fd: All initrds one after the other; None without one.
        command_line: As bytes, without a NUL.
    """

    kernel_fd: int
    initrd_fd: int | None
    command_line: bytes


def find_kexec_obstacle(host: Host) -> str | None:
    """Name what is known to stand against a kexec without trying one.

    Source:
        Linux ``kernel/kexec_core.c``, ``kexec_load_permitted``, and its files ``/proc/sys/kernel/kexec_load_disabled``
        and ``/sys/kernel/kexec_loaded``.
    """
    if not host.is_live:
        return "with --root no kernel is loaded"
    with suppress(OSError):
        if host.find_status(host.root / "sys/kernel/kexec_loaded") is None:
            return _REASONS[errno.ENOSYS]
    with suppress(OSError):
        if host.read_bytes(host.root / "proc/sys/kernel/kexec_load_disabled").strip() == b"1":
            return "loading kernels is disabled (kernel.kexec_load_disabled)"
    with suppress(OSError):
        capabilities = _CAPABILITIES.search(host.read_bytes(host.root / "proc/self/status"))
        if capabilities is not None and not int(capabilities[1], 16) >> _CAP_SYS_BOOT & 1:
            return "loading a kernel needs root (CAP_SYS_BOOT)"
    return None


def write_memfd(name: str, parts: Iterable[Iterable[bytes]], stack: ExitStack) -> int:
    """Write parts, each in pieces, into memory at multiples of four bytes; blocks.

    Returns:
        A descriptor for reading only, which `stack` closes.
    """
    fd = os.memfd_create(f"bootc-fast-{name}")
    try:
        with os.fdopen(os.dup(fd), "wb") as file:
            for part in parts:
                file.write(bytes(-file.tell() % _CPIO_ALIGNMENT))
                for piece in part:
                    file.write(piece)
        read_fd = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)
    stack.callback(os.close, read_fd)
    return read_fd


def join_initrds(fds: list[int], stack: ExitStack) -> int | None:
    """Make one initrd of several; blocks.

    Returns:
        A descriptor for reading, which `stack` closes; None where there is none.

    Raises:
        OSError: As from ``read`` and ``memfd_create``.
    """
    if len(fds) <= 1:
        return fds[0] if fds else None
    parts = []
    for fd in fds:
        with os.fdopen(os.dup(fd), "rb") as file:
            parts.append([file.read()])
    return write_memfd("initrd", parts, stack)


def check_pieces(pieces: KexecPieces) -> None:
    """Check what the kernel would refuse, or what would not boot: no bzImage (x86), an empty initrd; blocks.

    Raises:
        SoftRebootError: It would; the text is the bare reason.
        FileSystemError: A file cannot be read.

    Source:
        Linux ``Documentation/arch/x86/boot.rst``, ``header``; ``arch/x86/kernel/kexec-bzimage64.c``.
    """
    try:
        start = os.pread(pieces.kernel_fd, _HEADER_BYTES, 0)
        initrd_bytes = None if pieces.initrd_fd is None else os.fstat(pieces.initrd_fd).st_size
    except OSError as error:
        raise FileSystemError(f"reading kernel and initrd: {reason_of(error)}") from error
    if os.uname().machine == "x86_64" and start[_BZIMAGE_OFFSET:] != _BZIMAGE_MAGIC:
        raise SoftRebootError(_REASONS[errno.ENOEXEC])
    if initrd_bytes == 0:
        raise SoftRebootError("the initrd is empty")


def load_pieces(pieces: KexecPieces) -> None:
    """Hand the pieces to the kernel; blocks.

    Raises:
        SoftRebootError: The kernel has no kexec, or refuses; the text is the bare reason.
    """
    try:
        _core.kexec_load(pieces.kernel_fd, pieces.initrd_fd, pieces.command_line)
    except OSError as error:
        raise SoftRebootError(_REASONS.get(error.errno or 0) or reason_of(error)) from error


def unload_kexec(host: Host) -> bool:
    """Drop the loaded kernel, whoever loaded it; blocks.

    A later `systemctl reboot` would start it, whatever the boot loader's order says. One for crashes stays.

    Returns:
        Whether there was one. Where it cannot be dropped it stays.

    Source:
        systemctl(1), ``reboot``: "kexec"; systemd ``src/systemctl/systemctl-start-special.c``.
    """
    try:
        if host.read_bytes(host.root / "sys/kernel/kexec_loaded").strip() != b"1":
            return False
        _core.kexec_unload()
    except (OSError, InvalidStateError):
        return False
    return True
