"""What an entry starts, judged as the loader will judge it with Secure Boot on."""

from __future__ import annotations

from contextlib import closing, nullcontext, suppress
from typing import TYPE_CHECKING

from bootc_fast.boot.efi.firmware import read_secure_boot_state
from bootc_fast.boot.efi.pe import PeFile, parse_pe
from bootc_fast.boot.efi.secureboot import HINT, verify_uki
from bootc_fast.composefs.boot_snapshot import reading_boot_file
from bootc_fast.errors import BootEntryError, FileSystemError, SignatureError
from bootc_fast.machine.native import run_blocking, run_native
from bootc_fast.text import escape_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from bootc_fast.boot.loaders.entry import MenuEntry
    from bootc_fast.composefs.boot_snapshot import BootSnapshot
    from bootc_fast.composefs.survey import Survey


def _read_program(look: BootSnapshot, path: bytes, *, check: Callable[[], object]) -> PeFile:
    """Open it; the caller closes it."""
    with reading_boot_file(look, path) as fd:
        return parse_pe(fd, check=check)


async def verify_kernel(survey: Survey, look: BootSnapshot, entry: MenuEntry) -> list[str]:
    """Check the signature of the kernel that a BLS entry or menuentry names; Secure Boot is on.

    Returns:
        Warnings.

    Raises:
        SignatureError: The loader would not start it.
        FileSystemError: It cannot be read.
    """
    # Of a kernel that GRUB alone can name nothing is known.
    if entry.linux is None or entry.linux in entry.unknown:
        return []
    what = f"the kernel {escape_bytes(entry.linux)}"
    try:
        pe = await run_native(_read_program, look, entry.linux)
    except BootEntryError as error:
        raise SignatureError(f"checking {what}: it is nothing that Secure Boot starts ({error})", hint=HINT) from error
    with closing(pe):
        return await verify_program(survey, look, pe, what)


async def verify_program(survey: Survey, look: BootSnapshot, pe: PeFile, what: str) -> list[str]:
    """Check the signature of a UKI or kernel, beside what runs; Secure Boot is on.

    Cancellation: waits for the hashing, some 100 ms for 100 MB; nothing is written.

    Args:
        survey: Whose host, and what runs there.
        look: The boot directories.
        pe: The file.
        what: What it is, for messages.

    Returns:
        Warnings.

    Raises:
        SignatureError: The loader would not start it.
        InvalidStateError: A list of keys is malformed.
        FileSystemError: It cannot be read.
    """
    state = await run_blocking(read_secure_boot_state, survey.host)
    entry = look.find_entry(survey.booted.digest)
    booted: PeFile | None = None
    path = None if entry is None or entry.missing else entry.uki or entry.linux
    if path is not None:
        # What runs is asked for comparison only: what cannot be read of it proves nothing.
        with suppress(BootEntryError, FileSystemError):
            booted = await run_native(_read_program, look, path)
    with nullcontext() if booted is None else closing(booted):
        return await run_blocking(verify_uki, pe, state, booted=booted, what=what)
