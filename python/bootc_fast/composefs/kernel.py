"""What a deployment's boot entry starts: kernel, initrd and command line, for comparing and for kexec."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from bootc_fast import _core
from bootc_fast.boot.loaders.entry import parse_text
from bootc_fast.composefs.boot_snapshot import hash_files, read_boot_uki
from bootc_fast.errors import BootcFastError, BootEntryError
from bootc_fast.machine.cmdline import split_cmdline
from bootc_fast.machine.native import run_blocking, run_native
from bootc_fast.text import escape, escape_bytes, shorten_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from bootc_fast.boot.efi.uki import Uki
    from bootc_fast.boot.loaders.entry import MenuEntry
    from bootc_fast.composefs.boot_snapshot import BootSnapshot
    from bootc_fast.composefs.survey import Survey
    from bootc_fast.types import VerityDigest

# Which image is booted; and what loaders add: GRUB BOOT_IMAGE=, systemd-boot initrd= (its content is compared).
_NOT_COMPARED = frozenset({"composefs", "composefs.digest", "BOOT_IMAGE", "initrd"})
_ADDON_SUFFIX = b".addon.efi"


def comparable_arguments(command_line: str) -> list[str]:
    """Split a command line and leave out what differs between two boots of equal arguments.

    Source:
        Spec commands.md, "rollback", ``--soft-reboot``.
    """
    return [one for one in split_cmdline(command_line) if one.partition("=")[0] not in _NOT_COMPARED]


def require_entry(look: BootSnapshot, digest: VerityDigest) -> MenuEntry:
    """Find a deployment's boot entry.

    Raises:
        BootEntryError: It has none, or one that names files which are not there.
        FileSystemError: Not all entries could be read.
    """
    entry = look.find_entry(digest)
    if entry is None or not (entry.paths or entry.unknown):
        what = f"looking for the boot entry of {shorten_digest(digest)}"
        look.menu.odd.refuse_unread(what)
        raise BootEntryError(f"{what}: there is none")
    if entry.missing:
        names = ", ".join(map(escape_bytes, entry.missing))
        raise BootEntryError(
            f"looking at the boot entry of {shorten_digest(digest)}: it names {names}, which is not there"
        )
    return entry


async def read_boot_digest(survey: Survey, look: BootSnapshot, digest: VerityDigest) -> str:
    """Return the digest of a deployment's kernel and initrd: its origin's, else computed.

    Cancellation: within 50 ms a mebibyte; nothing is written.

    Returns:
        SHA-256 hex over kernel and initrd, of a UKI over its sections ``.linux`` and ``.initrd``.

    Raises:
        BootEntryError: There is no entry, or no kernel in the UKI.
        FileSystemError: A file cannot be read.

    Source:
        Spec host.md, "Origin file".
    """
    origin = survey.find_origin(digest)
    if origin is not None and origin.boot_digest is not None:
        return origin.boot_digest
    entry = require_entry(look, digest)
    if entry.uki is None or entry.linux is not None:
        if entry.linux is None or entry.unknown:
            what = f"comparing the kernel of {shorten_digest(digest)}"
            raise BootEntryError(f"{what}: GRUB alone knows the files that its boot entry names")
        return await run_native(hash_files, look, (entry.linux, *entry.initrd))
    uki = await _read_closed(look, entry.uki)
    if uki.boot_digest is None:
        raise BootEntryError(f"reading the UKI of {shorten_digest(digest)}: it lacks .linux or .initrd")
    return uki.boot_digest


async def read_entry_uki(look: BootSnapshot, path: bytes) -> Uki:
    """Open a UKI of a boot entry; of some 100 MB kernel and initrd are hashed. The caller closes it.

    Raises:
        BootEntryError: It is none.
        FileSystemError: It cannot be read.
    """
    return await run_native(read_boot_uki, look, path)


async def _read_closed(look: BootSnapshot, path: bytes) -> Uki:
    """Read what is known of a UKI without opening it again."""
    with closing(await read_entry_uki(look, path)) as uki:
        return uki


async def read_command_line(look: BootSnapshot, entry: MenuEntry, *, uki: Uki | None = None) -> str:
    """Return the command line that a kernel gets from its entry, less what the loader itself adds.

    Args:
        look: The boot directories.
        entry: Which.
        uki: The entry's, where it has been read already.

    Returns:
        Bytes that are not UTF-8 are surrogates.

    Raises:
        BootEntryError: The UKI is none, or has no command line.
        FileSystemError: It cannot be read.

    Source:
        Boot Loader Specification, ``options``; systemd-stub(7), "Command line" and "Companion files".
    """
    from bootc_fast.boot.loaders.grub_words import expand_variables

    options = b" ".join(parse_text(entry.raw).find_all(b"options")).decode("utf-8", "surrogateescape")
    if entry.linux is not None or entry.uki is None:
        arguments = b" ".join(entry.linux_arguments).decode("utf-8", "surrogateescape")
        line = " ".join(filter(None, (arguments, options)))
        environment = dict(look.menu.live.environment)
        return expand_variables(line, environment) if environment else line
    if options and not look.variables.secure_boot:
        # The stub prefers what the loader hands over, unless Secure Boot is on.
        return options
    uki = uki or await _read_closed(look, entry.uki)
    if uki.cmdline is None:
        raise BootEntryError("reading the UKI: it has no section .cmdline")
    return " ".join([uki.cmdline, *await run_native(_read_addons, look, entry.uki)])


async def find_lost_arguments(survey: Survey, look: BootSnapshot, staged: VerityDigest) -> tuple[str, ...]:
    """Tell kernel arguments that were changed in the booted entry after the update was staged.

    The new entry was made when the update was staged, from what was there then: what an admin adds to the booted entry
    afterwards, and boots with, is not in it.

    Args:
        survey: The host's deployments.
        look: The boot directories.
        staged: The deployment that is to boot next.

    Returns:
        At most one warning about arguments that get lost, and one about some that come back; none where it cannot be
        told.
    """
    booted, new = look.find_entry(survey.booted.digest), look.find_entry(staged)
    if booted is None or new is None or booted.missing or new.missing:
        return ()
    if booted.linux is None and parse_text(booted.raw).find(b"options") is None:
        # A UKI without options of its own brings all its arguments along.
        return ()
    try:
        raw = await run_blocking(survey.host.read_bytes, survey.host.proc_cmdline)
        running = comparable_arguments(raw.decode("utf-8", "surrogateescape"))
        now = comparable_arguments(await read_command_line(look, booted))
        added, dropped = _subtract(now, running), _subtract(running, now)
        if not added and not dropped:
            return ()
        wanted = comparable_arguments(await read_command_line(look, new))
    except (BootcFastError, OSError):
        return ()
    lost, back = _subtract(added, wanted), [one for one in dropped if one in wanted]
    told = []
    if lost:
        told.append(
            f"kernel arguments that the booted entry got after it was booted are not in the new one: {_join(lost)}; "
            f"add them to {new.label}, or stage the update again"
        )
    if back:
        told.append(f"kernel arguments that were taken out of the booted entry come back in the new one: {_join(back)}")
    return tuple(told)


def _subtract(these: list[str], those: list[str]) -> list[str]:
    """What is in one list of arguments more often than in another one."""
    left = Counter(those)
    found = []
    for one in these:
        if left[one] > 0:
            left[one] -= 1
        else:
            found.append(one)
    return found


def _join(arguments: list[str]) -> str:
    return " ".join(map(escape, arguments))


def _read_addons(look: BootSnapshot, path: bytes, *, check: Callable[[], object]) -> list[str]:
    """Read the command lines of the addons that systemd-stub appends: the loader's own, then the UKI's."""
    found: list[str] = []
    base = look.area.boot_fd if look.area.esp_fd is None else look.area.esp_fd
    for directory in (b"loader/addons", path.replace(b"\\", b"/").strip(b"/") + b".extra.d"):
        names: list[str] = []
        with suppress(FileNotFoundError, NotADirectoryError):
            fd = _core.open_in_root(base, directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                names = os.listdir(fd)
            finally:
                os.close(fd)
        for name in sorted(map(os.fsencode, names)):
            if name.lower().endswith(_ADDON_SUFFIX):
                with closing(read_boot_uki(look, directory + b"/" + name, check=check)) as addon:
                    found += [addon.cmdline] if addon.cmdline else []
    return found
