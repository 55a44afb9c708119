"""What firmware, boot loader and initramfs do at a boot, on a lab host's files."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from bootc_fast.boot.efi.firmware import read_loader_variables
from bootc_fast.boot.efi.pe import parse_pe
from bootc_fast.boot.entries.menu import BootMenu, read_menu
from bootc_fast.boot.loaders.override import OverrideKind
from bootc_fast.errors import BootEntryError, InvalidStateError
from bootc_fast.lab.counting import count_boot
from bootc_fast.lab.forms import parse_entry
from bootc_fast.lab.grub import count_boot as count_grub_boot
from bootc_fast.machine.host import open_host
from bootc_fast.records import dataclass
from bootc_fast.text import escape_bytes
from bootc_fast.types import Loader, VerityDigest

if TYPE_CHECKING:
    from pathlib import Path

    from bootc_fast.boot.loaders.entry import MenuEntry
    from bootc_fast.errors import BootcFastError
    from bootc_fast.lab.layout import LabHost


@dataclass(frozen=True, slots=True)
class Bootup:
    """One boot.

    Attributes:
        digest: The deployment that runs now.
        previous: The one that ran before.
        entry: File name of the boot entry, or title of the menuentry.
        reason: Why the loader took it, in words.
    """

    digest: VerityDigest
    previous: VerityDigest
    entry: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Area:
    """The boot directories, as ``boot.menu`` wants them."""

    loader: Loader
    boot_fd: int
    esp_fd: int | None
    loader_fd: int | None = None
    other_fd: int | None = None
    esp_error: BootcFastError | None = None


def read_boot_menu(host: LabHost) -> BootMenu:
    """Read the boot entries in the loader's order.

    Raises:
        FileSystemError: They cannot be listed.
    """
    variables = read_loader_variables(open_host(host.root))
    with ExitStack() as stack:
        boot_fd = _open_directory(host.boot_dir, stack)
        esp_fd = boot_fd if host.boot_dir == host.esp else _open_directory(host.esp, stack)
        return read_menu(_Area(host.loader, boot_fd, esp_fd), known=host.deployments, variables=variables)


def _open_directory(path: Path, stack: ExitStack) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    return descriptor


def boot(host: LabHost) -> Bootup:
    """Boot: the loader's first entry (or what overrides it) becomes the running deployment.

    Writes ``proc/cmdline`` and ``proc/self/mountinfo``, points ``etc`` to the deployment's, empties ``run``, sets
    ``LoaderEntrySelected``, removes a one-shot, and counts the boot where the loader does. A boot that fails changes
    nothing.

    Raises:
        BootEntryError: There is no entry, it names a file that is missing, empty or no UKI, or no deployment of ours.
        InvalidStateError: The image or the state directory that the kernel's arguments name is missing.
        FileSystemError: The entries cannot be listed.
    """
    menu = read_boot_menu(host)
    entry = menu.default
    if entry is None:
        raise BootEntryError(f"lab {host.root}: the loader has nothing to boot ({menu.live.choice.reason})")
    arguments = _read_kernel_arguments(host, entry)
    digest = next(
        (
            VerityDigest(word.removeprefix("composefs=").lstrip("?"))
            for word in arguments.split()
            if word.startswith("composefs=")
        ),
        None,
    )
    if digest is None:
        raise BootEntryError(f"lab {host.root}: {entry.label} boots no deployment of this host")
    if not (host.repository / "images" / digest).is_file():
        raise InvalidStateError(f"lab {host.root}: the image of {digest} is missing: the initramfs would stop")
    if not (host.state_dir(digest) / "etc").is_dir():
        raise InvalidStateError(f"lab {host.root}: the state of {digest} is missing: the initramfs would stop")
    previous = host.booted
    host.set_booted(digest, arguments)
    if host.loader is not Loader.GRUB:
        host.write_efi_variable("LoaderEntrySelected", count_boot(host, entry.label))
    else:
        count_grub_boot(host.boot_dir / "grub2")
    if menu.live.choice.override is not None and menu.live.choice.override.kind is OverrideKind.ONE_SHOT:
        host.write_efi_variable("LoaderEntryOneShot", None)
    return Bootup(digest, previous, entry.label, menu.live.choice.reason)


def _read_kernel_arguments(host: LabHost, entry: MenuEntry) -> str:
    for path in entry.paths:
        candidates = _find_files(host, entry, path)
        if not any(candidate.is_file() and candidate.stat().st_size for candidate in candidates):
            name = escape_bytes(path)
            raise BootEntryError(f"lab {host.root}: {entry.label} names {name}, which is missing or empty")
    if entry.uki is None:
        return parse_entry(entry.raw.decode(errors="replace")).kernel_arguments
    (uki,) = _find_files(host, entry, entry.uki)
    try:
        text = parse_pe(uki.read_bytes()).read_section(".cmdline") or b""
    except BootEntryError as error:
        raise BootEntryError(f"lab {host.root}: {entry.label} names {uki.name}, which is no UKI") from error
    return text.rstrip(b"\0").decode(errors="replace").strip()


def _find_files(host: LabHost, entry: MenuEntry, path: bytes) -> list[Path]:
    """Where a path in an entry may lead: /boot may be a directory of GRUB's partition, or its root."""
    name = os.fsdecode(path).lstrip("/")
    if entry.uki is not None or host.loader is not Loader.GRUB:
        return [host.esp / name]
    return [host.boot_dir / name, host.boot_dir / name.removeprefix("boot/")]
