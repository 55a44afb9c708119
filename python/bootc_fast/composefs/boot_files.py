"""Boot entries as the flows look at them, and whether what a deployment boots from is there and whole."""

from __future__ import annotations

import hashlib
import os
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from bootc_fast import _core
from bootc_fast.boot.area.directory import DAMAGE_HINT, hint_for
from bootc_fast.boot.area.esp import open_boot_area
from bootc_fast.boot.efi.firmware import read_loader_variables
from bootc_fast.boot.entries.choose import choose_entry, find_boots_instead, find_rollback_target
from bootc_fast.boot.entries.keep import read_keep_policy
from bootc_fast.boot.entries.menu import read_menu
from bootc_fast.errors import BootcFastError, BootEntryError, EspError, FileSystemError, VerityMismatchError
from bootc_fast.machine.native import run_blocking, run_native
from bootc_fast.records import dataclass
from bootc_fast.text import describe_error, escape_bytes, reason_of, shorten_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from contextlib import AsyncExitStack

    from bootc_fast.boot.area.esp import BootArea
    from bootc_fast.boot.efi.firmware import LoaderVariables
    from bootc_fast.boot.efi.uki import Uki
    from bootc_fast.boot.entries.menu import BootMenu
    from bootc_fast.boot.loaders.entry import MenuEntry
    from bootc_fast.composefs.survey import Survey
    from bootc_fast.types import BootsInstead, Loader, VerityDigest

_STAGE_HINT = "stage the update again with `bootc upgrade`"
_READ_BYTES = 1 << 20
_MAX_TRIED = 4
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


def confirm_next_boot(survey: Survey, look: BootSnapshot, target: VerityDigest) -> BootsInstead | None:
    """Look again, after writing, at what the loader boots; blocks.

    Returns:
        What it boots that is not of this host; None where it boots ours.

    Raises:
        BootEntryError: An override picks another deployment of ours.
        FileSystemError: The entries cannot be read; the new ones are in force all the same, and it says so.
    """
    from bootc_fast.boot.entries.plan import check_next_boot

    try:
        variables = read_loader_variables(survey.host)
        menu = read_menu(look.area, known=survey.known, variables=variables)
        check_next_boot(menu, target)
    except BootEntryError:
        raise
    except (BootcFastError, OSError) as error:
        raise FileSystemError(
            f"looking again at what boots next, with the new boot entries in force: {describe_error(error)}",
            hint="the disk had them when they were written; once it can be read, `bootc-fast status` says what boots",
        ) from error
    wanted = choose_entry(menu, target, prefers_staged=False)
    return find_boots_instead(menu, menu.live.choice, wanted)


def choose_finalized_order(
    survey: Survey, menu: BootMenu, staged: VerityDigest
) -> tuple[tuple[VerityDigest, ...], tuple[str, ...]]:
    """Choose which deployments have boot entries after a finalize, by the host's policy files; blocks.

    Returns:
        The order that is wanted, and what is to be said of it.
    """
    from bootc_fast.boot.entries.deployment_order import describe_dropped, find_dropped, order_after_finalize

    policy, warnings = read_keep_policy(survey.host)
    order = order_after_finalize(menu, staged=staged, booted=survey.booted.digest, kept=survey.kept, policy=policy)
    return order, (*warnings, *describe_dropped(find_dropped(menu, order), policy))


def list_protected(survey: Survey, menu: BootMenu) -> frozenset[VerityDigest]:
    """Deployments whose boot files stay even where the boot partition is full: booted, staged, and the rollback one.

    Source:
        Spec boot.md, "A full boot partition".
    """
    staged = survey.marker.digest if survey.marker else None
    target = find_rollback_target(menu, booted=survey.booted.digest, staged=staged)
    return frozenset(filter(None, (survey.booted.digest, staged, target)))


async def check_boot_files(
    survey: Survey,
    digest: VerityDigest,
    look: BootSnapshot,
    *,
    verify_signatures: bool = True,
    entry: MenuEntry | None = None,
    role: str = "the staged deployment",
    hint: str = _STAGE_HINT,
    through_disk: bool = False,
) -> list[str]:
    """Check that a deployment has a boot entry, and that what the entry names is there and whole.

    Cancellation: within 50 ms; nothing is written, but what others wrote is flushed with `through_disk`.

    Args:
        survey: The host's deployments.
        digest: The one that is to boot next.
        look: The boot directories.
        verify_signatures: With Secure Boot on, refuse a UKI or kernel that the loader would refuse.
        entry: Its entry; None takes the staged one, as a finalize does.
        role: What the deployment is here, for the error.
        hint: What to do about a damaged one.
        through_disk: Read what the disk has, as the firmware will, and not what the kernel has in memory: who staged
            it need not have waited for the disk. Every file is read whole then, also where nothing is known to
            compare it with.

    Returns:
        Warnings.

    Raises:
        BootEntryError: There is no entry, or a file that it names is missing.
        VerityMismatchError: Kernel and initrd are not those of the origin; or the UKI boots another image.
        SignatureError: Secure Boot would refuse the UKI.
        FileSystemError: A file cannot be read, or the ESP that it is on cannot be opened.

    Source:
        Spec boot.md, "Replacing the set" 1 and "UKIs"; host.md, "Origin file".
    """
    whose = f"{role} {shorten_digest(digest)}"
    what = f"looking at the boot entry of {whose}"
    entry = look.find_entry(digest) if entry is None else entry
    if entry is None:
        look.menu.odd.refuse_unread(what)
        raise BootEntryError(f"{what}: there is none in {look.area.description}", hint=hint)
    if entry.missing:
        names = ", ".join(map(escape_bytes, entry.missing))
        if entry.uki is not None and (error := look.area.esp_error) is not None:
            # Nothing is known of a file on a partition that could not be opened.
            raise EspError(f"{what}: it names {names}: {error}", hint=error.hint) from error.__cause__
        recover = "" if entry.uki is not None else "; `bootc-fast doctor --repair` takes a kernel out of its image"
        raise BootEntryError(f"{what}: it names {names}, which is missing or empty", hint=f"{hint}{recover}")
    if through_disk:
        await run_native(read_through_disk, look, entry.paths)
    if entry.uki is not None:
        damaged = partial(_damaged_error, entry.uki, whose=whose, hint=hint)
        return await _check_uki(survey, digest, look, entry.uki, verify_signatures=verify_signatures, damaged=damaged)
    origin = survey.find_origin(digest)
    if origin is not None and origin.boot_digest is not None and entry.linux is not None:
        found = await hash_kernel(look, entry, expected=origin.boot_digest)
        if found is not None and found != origin.boot_digest:
            raise _damaged_error(entry.linux, origin.boot_digest, found, whose=whose, hint=hint)
    if verify_signatures and look.variables.secure_boot and entry.linux is not None:
        from bootc_fast.composefs.signatures import verify_kernel

        return await verify_kernel(survey, look, entry)
    return []


async def hash_kernel(look: BootSnapshot, entry: MenuEntry, *, expected: str) -> str | None:
    """Hash the kernel and initrd of an entry, as they were staged.

    An entry may name more initrds than the one that bootc put beside the kernel: microcode, a TuneD overlay. Those are
    somebody else's, and in no digest.

    Cancellation: within 50 ms; nothing is written.

    Args:
        look: The boot directories.
        entry: With a kernel.
        expected: The digest in the origin.

    Returns:
        `expected` where it fits, else the SHA-256 in hex over all; None where GRUB alone knows which kernel it is.

    Raises:
        BootEntryError: A file is not there.
        FileSystemError: One cannot be read.
    """
    if entry.linux is None or entry.linux in entry.unknown:
        return None
    home = entry.linux.rpartition(b"/")[0]
    beside = tuple(path for path in entry.initrd if path.rpartition(b"/")[0] == home)
    sets = dict.fromkeys((entry.initrd, beside, *((path,) for path in (*beside, *entry.initrd)[:_MAX_TRIED])))
    found: str | None = None
    for initrds in sets:
        digest = await run_native(hash_files, look, (entry.linux, *initrds))
        if digest == expected:
            return digest
        found = found or digest
    return found


def _damaged_error(path: bytes, expected: str, found: str, *, whose: str, hint: str) -> VerityMismatchError:
    return VerityMismatchError(
        f"verifying {escape_bytes(path)} of {whose}: kernel and initrd are not those that were staged",
        path=escape_bytes(path),
        expected=expected,
        found=found,
        hint=hint,
    )


async def _check_uki(
    survey: Survey,
    digest: VerityDigest,
    look: BootSnapshot,
    path: bytes,
    *,
    verify_signatures: bool,
    damaged: Callable[[str, str], VerityMismatchError],
) -> list[str]:
    # Here, since parsing signatures takes as long to import as everything else a status needs.
    from bootc_fast.boot.efi.uki import check_uki

    with closing(await run_native(read_boot_uki, look, path)) as uki:
        await run_blocking(check_uki, uki, digest=digest)
        origin = survey.find_origin(digest)
        expected = None if origin is None else origin.boot_digest
        if expected is not None and uki.boot_digest is not None and uki.boot_digest != expected:
            raise damaged(expected, uki.boot_digest)
        if not (verify_signatures and look.variables.secure_boot):
            return []
        from bootc_fast.composefs.signatures import verify_program

        return await verify_program(survey, look, uki.pe, "the UKI")


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


def read_through_disk(look: BootSnapshot, paths: tuple[bytes, ...], *, check: Callable[[], object]) -> None:
    """Flush boot files, forget what the kernel has of them in memory, and read them: later readers see the disk.

    Raises:
        BootEntryError: One is not there.
        FileSystemError: One cannot be flushed or read, or ends before its length.
    """
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
        found = sum(len(chunk) for chunk in _read_chunks(look, path, check))
        if found != expected:
            text = f"reading {escape_bytes(path)} back from the disk: it has {found} bytes of {expected}"
            raise FileSystemError(text, hint=DAMAGE_HINT)


def hash_files(look: BootSnapshot, paths: tuple[bytes, ...], *, check: Callable[[], object]) -> str:
    """Return SHA-256 in hex over boot files, one after the other.

    Raises:
        BootEntryError: One is not there.
        FileSystemError: One cannot be read, or is longer than ``MAX_BOOT_FILE_BYTES``.
    """
    hasher = hashlib.sha256()
    for path in paths:
        for chunk in _read_chunks(look, path, check):
            hasher.update(chunk)
    return hasher.hexdigest()


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


def _read_chunks(look: BootSnapshot, path: bytes, check: Callable[[], object]) -> Iterator[bytes]:
    try:
        with os.fdopen(open_boot_file(look, path), "rb", buffering=0) as file:
            # It may grow meanwhile, and a device does not say how long it is.
            length = 0
            while chunk := file.read(_READ_BYTES):
                check()
                length += len(chunk)
                _check_length(path, length)
                yield chunk
    except OSError as error:
        raise FileSystemError(f"reading {escape_bytes(path)}: {reason_of(error)}") from error


def _check_length(path: bytes, length: int) -> None:
    if length > MAX_BOOT_FILE_BYTES:
        raise FileSystemError(f"reading {escape_bytes(path)}: it is longer than {MAX_BOOT_FILE_BYTES} bytes")
