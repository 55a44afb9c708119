"""The boot directories of a host: opened, their entries read; and the files that the entries name.

Every reading of a file goes a piece at a time, polls, and has a limit.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from bootc_fast import _core
from bootc_fast.boot.area.directory import DAMAGE_HINT, hint_for
from bootc_fast.boot.area.esp import open_boot_area
from bootc_fast.boot.efi.firmware import read_loader_variables
from bootc_fast.boot.entries.choose import choose_entry
from bootc_fast.boot.entries.menu import read_menu
from bootc_fast.errors import BootEntryError, FileSystemError
from bootc_fast.machine.native import run_blocking
from bootc_fast.records import dataclass
from bootc_fast.text import escape_bytes, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from contextlib import AsyncExitStack

    from bootc_fast.boot.area.esp import BootArea
    from bootc_fast.boot.efi.firmware import LoaderVariables
    from bootc_fast.boot.efi.uki import Uki
    from bootc_fast.boot.entries.menu import BootMenu
    from bootc_fast.boot.loaders.entry import MenuEntry
    from bootc_fast.composefs.survey import Survey
    from bootc_fast.types import Loader, VerityDigest

# What is read fits a processor's cache until it is hashed.
_READ_BYTES = 1 << 18
MAX_BOOT_FILE_BYTES = 1 << 30
"""Longest kernel, initrd or UKI that is read: the largest seen have 300 MiB, and firmware cannot load much more."""


@dataclass(frozen=True, slots=True)
class BootSnapshot:
    """A snapshot of the boot directories: open, and all that is in them.

    Attributes:
        area: Open as long as the stack that it was opened on.
        menu: What was read.
        variables: What loader and firmware say.
        warnings: Of both.
        staged: The marker's deployment.
    """

    area: BootArea
    menu: BootMenu
    variables: LoaderVariables
    warnings: tuple[str, ...]
    staged: VerityDigest | None = None

    def find_entry(self, digest: VerityDigest) -> MenuEntry | None:
        """Return the entry from which a deployment boots, or is to boot; None where it has none."""
        return choose_entry(self.menu, digest, prefers_staged=digest == self.staged)


async def open_boot_snapshot(
    survey: Survey, stack: AsyncExitStack, *, loader: Loader | None, read_only: bool
) -> BootSnapshot:
    """Find and open the boot directories, and read the entries; writes nothing.

    Raises:
        EspError, MountError: They cannot be found or opened.
        FileSystemError: They cannot be read.
    """
    variables = await run_blocking(read_loader_variables, survey.host)
    booted = survey.booted.digest
    opening = open_boot_area(survey.host, loader=loader, read_only=read_only, variables=variables, booted=booted)
    area = await stack.enter_async_context(opening)
    menu = await run_blocking(read_menu, area, known=survey.known, variables=variables)
    staged = survey.marker.digest if survey.marker else None
    return BootSnapshot(area, menu, variables, (*variables.warnings, *area.warnings, *menu.odd.warnings), staged)


def open_boot_file(look: BootSnapshot, path: bytes) -> int:
    """Open a file that an entry names; paths are from the root of the partition, which may have /boot in it.

    Raises:
        BootEntryError: It is not there.
        FileSystemError: It is longer than ``MAX_BOOT_FILE_BYTES``.
        OSError: It cannot be opened.
    """
    is_uki = path.lower().endswith(b".efi") and look.area.esp_fd is not None
    base = look.area.esp_fd if is_uki and look.area.esp_fd is not None else look.area.boot_fd
    renamed = {item.directory + b"/" + item.new: item.directory + b"/" + item.old for item in look.menu.staged.renames}
    inside = path.replace(b"\\", b"/").strip(b"/")
    candidates = [inside, renamed.get(inside), inside.removeprefix(b"boot/")]
    for candidate in filter(None, candidates):
        try:
            fd = _core.open_in_root(base, candidate, os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            continue
        try:
            _check_length(path, os.fstat(fd).st_size)
        except FileSystemError:
            os.close(fd)
            raise
        return fd
    raise BootEntryError(f"reading {escape_bytes(path)}: there is no such file in {look.area.description}")


def read_through_disk(
    look: BootSnapshot,
    paths: tuple[bytes, ...],
    *,
    hashes: bool = False,
    progress: Callable[[int, int], None] | None = None,
    check: Callable[[], object],
) -> dict[tuple[bytes, ...], str]:
    """Flush boot files, forget what the kernel has of them in memory, and read them: later readers see the disk.

    Args:
        look: The boot directories.
        paths: The files.
        hashes: Hash them as they are read, in the order given: reading a kernel and an initrd once more for that took a
            tenth of a finalize.
        progress: Told how many bytes of how many are read.
        check: Polled; what it raises ends the call.

    Returns:
        SHA-256 in hex over all, by `paths`; nothing where nothing is hashed.

    Raises:
        BootEntryError: One is not there.
        FileSystemError: One cannot be flushed or read, or ends before its length.
    """
    hasher, before = hashlib.sha256(), 0
    total = sum(_measure(look, path) for path in paths) if progress else 0
    for path in paths:
        try:
            fd = open_boot_file(look, path)
            try:
                os.fsync(fd)
                with suppress(OSError):
                    # A file system without a page cache of its own has nothing to forget.
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                expected = os.fstat(fd).st_size
            finally:
                os.close(fd)
        except OSError as error:
            text = f"reading {escape_bytes(path)} back from the disk: {reason_of(error)}"
            raise FileSystemError(text, hint=hint_for(error)) from error
        found = 0
        for chunk in _read_chunks(look, path, check):
            found += len(chunk)
            if hashes:
                hasher.update(chunk)
            if progress:
                progress(before + found, total)
        before += found
        if found != expected:
            text = f"reading {escape_bytes(path)} back from the disk: it has {found} bytes of {expected}"
            raise FileSystemError(text, hint=DAMAGE_HINT)
    return {paths: hasher.hexdigest()} if hashes else {}


def hash_files(
    look: BootSnapshot,
    paths: tuple[bytes, ...],
    *,
    progress: Callable[[int, int], None] | None = None,
    check: Callable[[], object],
) -> str:
    """Return SHA-256 in hex over boot files, one after the other.

    Args:
        look: The boot directories.
        paths: The files.
        progress: Told how many bytes of how many are read.
        check: Polled; what it raises ends the call.

    Raises:
        BootEntryError: One is not there.
        FileSystemError: One cannot be read, or is longer than ``MAX_BOOT_FILE_BYTES``.
    """
    hasher, done = hashlib.sha256(), 0
    total = sum(_measure(look, path) for path in paths) if progress else 0
    for path in paths:
        for chunk in _read_chunks(look, path, check):
            hasher.update(chunk)
            done += len(chunk)
            if progress:
                progress(done, total)
    return hasher.hexdigest()


def _measure(look: BootSnapshot, path: bytes) -> int:
    """How long a boot file is, in bytes."""
    with reading_boot_file(look, path) as fd:
        return os.fstat(fd).st_size


def read_boot_uki(look: BootSnapshot, path: bytes, *, check: Callable[[], object]) -> Uki:
    """Open a boot file that is a UKI, or an addon of one: its headers are read now, kernel and initrd are hashed.

    The caller closes it.

    Raises:
        BootEntryError: It is not there, or is none.
        FileSystemError: It cannot be read, or is longer than ``MAX_BOOT_FILE_BYTES``.
    """
    from bootc_fast.boot.efi.uki import parse_uki

    with reading_boot_file(look, path) as fd:
        return parse_uki(fd, check=check)


@contextmanager
def reading_boot_file(look: BootSnapshot, path: bytes) -> Generator[int]:
    """Open a boot file; an ``OSError`` in the block is one of reading it.

    Raises:
        BootEntryError: It is not there.
        FileSystemError: It cannot be read, or is longer than ``MAX_BOOT_FILE_BYTES``.
    """
    try:
        fd = open_boot_file(look, path)
        try:
            yield fd
        finally:
            os.close(fd)
    except OSError as error:
        raise FileSystemError(f"reading {escape_bytes(path)}: {reason_of(error)}") from error


def _read_chunks(look: BootSnapshot, path: bytes, check: Callable[[], object]) -> Iterator[memoryview]:
    """Read a boot file a piece at a time; each is gone with the next one.

    All go through the same memory: new pages for every piece were most of what reading cost.
    """
    buffer = memoryview(bytearray(_READ_BYTES))
    try:
        with os.fdopen(open_boot_file(look, path), "rb", buffering=0) as file:
            # It may grow meanwhile, and a device does not say how long it is.
            length = 0
            while count := file.readinto(buffer):
                check()
                length += count
                _check_length(path, length)
                yield buffer[:count]
    except OSError as error:
        raise FileSystemError(f"reading {escape_bytes(path)}: {reason_of(error)}") from error


def _check_length(path: bytes, length: int) -> None:
    if length > MAX_BOOT_FILE_BYTES:
        raise FileSystemError(f"reading {escape_bytes(path)}: it is longer than {MAX_BOOT_FILE_BYTES} bytes")
