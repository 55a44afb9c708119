"""kexec: a deployment's kernel, initrd and command line, loaded for ``systemctl kexec``.

Source:
    kexec_file_load(2); spec commands.md, "rollback", ``--soft-reboot``.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bootc_fast import _core
from bootc_fast.boot.loaders.grub_words import has_variable
from bootc_fast.composefs.boot_files import open_boot_file
from bootc_fast.composefs.kernel import read_command_line, read_entry_uki, require_entry
from bootc_fast.errors import BootEntryError, FileSystemError, InvalidStateError, SoftRebootError
from bootc_fast.machine.native import run_blocking
from bootc_fast.text import escape, escape_bytes, reason_of, shorten_digest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bootc_fast.boot.efi.uki import Uki
    from bootc_fast.boot.loaders.entry import MenuEntry
    from bootc_fast.composefs.boot_files import BootLook
    from bootc_fast.machine.host import Host
    from bootc_fast.types import VerityDigest

_CAPABILITIES = re.compile(rb"^CapEff:\s*([0-9a-f]+)$", re.MULTILINE)
_CAP_SYS_BOOT = 22
# The kernel looks for the next archive of several at a multiple of this many bytes.
_CPIO_ALIGNMENT = 4
# The setup header's magic number in a bzImage.
_BZIMAGE_OFFSET, _BZIMAGE_MAGIC = 0x202, b"HdrS"
_HEADER_BYTES = _BZIMAGE_OFFSET + len(_BZIMAGE_MAGIC)
FULL_REBOOT_HINT = "`systemctl reboot` boots it through the firmware"
"""What is left where no faster way is possible."""

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


async def assemble_kexec(look: BootLook, target: VerityDigest, stack: ExitStack) -> KexecPieces:
    """Open or extract what a deployment boots from.

    Args:
        look: The boot directories.
        target: The deployment.
        stack: Closes the descriptors.

    Raises:
        BootEntryError: There is no entry, or what it names is missing or lacks a kernel.
        SoftRebootError: It has variables whose values are not kept on disk.
        FileSystemError: A file cannot be read.
    """
    entry = require_entry(look, target)
    if entry.linux is not None or entry.uki is None:
        # What GRUB would put in for a variable is known where it is kept on disk, and else to GRUB alone.
        entry = look.menu.record.resolve(entry, dict(look.menu.live.environment))
        line = await read_command_line(look, entry)
        unknown = [escape_bytes(word) for word in entry.unknown]
        if unknown or (look.menu.record.expands_variables and has_variable(line)):
            named = ", ".join(unknown) or escape(line)
            raise _refusal(f"its boot entry has what GRUB alone can expand: {named}")
        kernel, initrd = await run_blocking(_open_files, look, entry, stack)
    else:
        uki = await read_entry_uki(look, entry.uki)
        line = await read_command_line(look, entry, uki=uki)
        kernel, initrd = await run_blocking(_extract_sections, uki, stack)
    data = line.encode("utf-8", "surrogateescape")
    if b"\0" in data:
        raise BootEntryError(f"assembling the kexec of {shorten_digest(target)}: its command line has a NUL")
    return KexecPieces(kernel, initrd, data)


def _write_memfd(name: str, parts: Iterable[bytes | memoryview], stack: ExitStack) -> int:
    """Write parts into memory, each at a multiple of four bytes; returns a descriptor for reading only."""
    fd = os.memfd_create(f"bootc-fast-{name}")
    try:
        with os.fdopen(os.dup(fd), "wb") as file:
            for part in parts:
                file.write(bytes(-file.tell() % _CPIO_ALIGNMENT))
                file.write(part)
        read_fd = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)
    stack.callback(os.close, read_fd)
    return read_fd


def _open_files(look: BootLook, entry: MenuEntry, stack: ExitStack) -> tuple[int, int | None]:
    assert entry.linux is not None  # noqa: S101 the caller has looked
    try:
        kernel, *initrds = [open_boot_file(look, path) for path in (entry.linux, *entry.initrd)]
        for fd in (kernel, *initrds):
            stack.callback(os.close, fd)
        return kernel, join_initrds(initrds, stack)
    except OSError as error:
        raise FileSystemError(f"reading kernel and initrd: {reason_of(error)}") from error


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
            parts.append(file.read())
    return _write_memfd("initrd", parts, stack)


def _extract_sections(uki: Uki, stack: ExitStack) -> tuple[int, int | None]:
    linux = uki.pe.find_section(".linux")
    if linux is None:
        raise BootEntryError("reading the UKI: it has no section .linux")
    # systemd-stub hands the microcode over before the rest.
    found = [uki.pe.find_section(name) for name in (".ucode", ".initrd")]
    initrds = [part for part in found if part is not None]
    try:
        kernel = _write_memfd("kernel", [linux], stack)
        return kernel, _write_memfd("initrd", initrds, stack) if initrds else None
    except OSError as error:
        raise FileSystemError(f"extracting the UKI's sections: {reason_of(error)}") from error


async def load_kexec(host: Host, look: BootLook, target: VerityDigest, *, is_trial: bool = False) -> None:
    """Load a deployment's kernel, so that ``systemctl kexec`` starts it; `unload_kexec` undoes it.

    Cancellation: before the load nothing has changed; the load itself waits, and then is undone.

    Args:
        host: Which.
        look: The boot directories.
        target: The deployment.
        is_trial: Find out what can be found out without loading: all is read, the kernel's signature is not judged.

    Raises:
        SoftRebootError: The kernel has no kexec, or refuses; nothing is loaded.
        BootEntryError: What the entry names is missing.
        FileSystemError: A file cannot be read.
    """
    obstacle = await run_blocking(find_kexec_obstacle, host)
    if obstacle is not None:
        raise _refusal(obstacle)
    with ExitStack() as stack:
        pieces = await assemble_kexec(look, target, stack)
        await run_blocking(check_pieces, pieces)
        if not is_trial:
            await run_blocking(load_pieces, pieces)


def check_pieces(pieces: KexecPieces) -> None:
    """Check what the kernel would refuse, or what would not boot: no bzImage (x86), an empty initrd; blocks.

    Raises:
        SoftRebootError: It would.
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
        raise _refusal(_REASONS[errno.ENOEXEC])
    if initrd_bytes == 0:
        raise _refusal("the initrd is empty")


def _refusal(reason: str) -> SoftRebootError:
    return SoftRebootError(f"preparing a kexec: {reason}", hint=FULL_REBOOT_HINT)


def load_pieces(pieces: KexecPieces) -> None:
    """Hand the pieces to the kernel; blocks.

    Raises:
        SoftRebootError: The kernel has no kexec, or refuses.
    """
    try:
        _core.kexec_load(pieces.kernel_fd, pieces.initrd_fd, pieces.command_line)
    except OSError as error:
        raise _refusal(_REASONS.get(error.errno or 0) or reason_of(error)) from error


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
