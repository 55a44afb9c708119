"""The boot directory and the ESP: found, opened, and told which loader reads them.

On a live host both are mounted detached, so that a read-only mount, or an automount that has expired and at shutdown
cannot be triggered any more, does not matter. Under ``--root`` they are directories.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from bootc_fast.boot.area.disks import (
    LSBLK,
    BlockDevice,
    FoundPartition,
    find_by_fstab_source,
    find_device,
    find_esp,
    find_extended_boot,
    parse_lsblk,
)
from bootc_fast.boot.area.real import RealVolume
from bootc_fast.boot.efi.firmware import read_loader_variables
from bootc_fast.boot.loaders.entry import MAX_ENTRY_BYTES, parse_entry
from bootc_fast.boot.loaders.table import LoaderEvidence, choose_loader, parse_loader_info, record_of
from bootc_fast.errors import CommandError, EspError, FileSystemError, InvalidStateError, MountError
from bootc_fast.machine import mounts
from bootc_fast.machine.mountinfo import MountInfo, find_mount, parse_mountinfo
from bootc_fast.machine.native import run_blocking
from bootc_fast.records import dataclass, field, replace
from bootc_fast.text import reason_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bootc_fast.boot.efi.firmware import LoaderVariables
    from bootc_fast.machine.host import Host
    from bootc_fast.types import Loader, VerityDigest

_ENTRIES = ("loader/entries", "loader/entries.staged")
_STDERR_TAIL_BYTES = 2000
_OCTAL = re.compile(r"\\([0-3][0-7]{2})")
_FSTAB_FIELDS = 3


@dataclass(frozen=True, slots=True)
class BootArea:
    """Where the boot entries of this host are.

    Attributes:
        loader: What reads them.
        boot_fd: The directory that holds ``loader/`` or ``grub2/``.
        esp_fd: The one that holds ``EFI/``; the same descriptor where the boot directory is the ESP; None where
            there is no ESP, or none that could be opened (`warnings` says why).
        description: For people: which partition or directory.
        warnings: About the loader and about other ESPs.
        loader_fd: The one that holds the loader's own settings; None where that is the boot directory.
        other_fd: A second partition whose entries the loader shows too, and that is not written.
        esp_error: Why there is no ESP where there is none.
    """

    loader: Loader
    boot_fd: int
    esp_fd: int | None
    description: str
    warnings: tuple[str, ...] = ()
    loader_fd: int | None = None
    other_fd: int | None = None
    esp_error: EspError | MountError | None = None


@dataclass(slots=True)
class _Opened:
    """What has been opened so far."""

    esp_fd: int | None = None
    esp_name: str = ""
    esp_error: EspError | MountError | None = None
    boot_fd: int | None = None
    boot_name: str = ""
    boot_error: FileSystemError | None = None
    extended_fd: int | None = None
    extended_name: str = ""
    warnings: list[str] = field(default_factory=list)


def _is_directory(dir_fd: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        # A directory on a free cluster, as a cut of bootc's exchange leaves it: it is there, and whoever reads it
        # finds out what is broken.
        return True


def _has_booted_entry(fd: int, booted: VerityDigest | None) -> bool:
    """Say whether a partition has an entry of the booted deployment, by which bootc chooses where it writes.

    Source:
        bootc 1.17.5: XBOOTLDR is used where it has one.
    """
    volume = RealVolume(fd)
    for path in _ENTRIES:
        directory = volume.open_directory(path.encode())
        if directory is None:
            continue
        with closing(directory):
            for name in directory.list_names():
                if not name.lower().endswith(b".conf"):
                    continue
                with suppress(OSError):
                    entry = parse_entry(name, directory.read(name, MAX_ENTRY_BYTES), known=())
                    if entry.digest is not None and booted in (None, entry.digest):
                        return True
    return False


def _read_evidence(opened: _Opened, booted: VerityDigest | None) -> LoaderEvidence:
    esp_fd, boot_fd = opened.esp_fd, opened.boot_fd
    is_same = esp_fd is not None and boot_fd is not None and os.path.samestat(os.fstat(esp_fd), os.fstat(boot_fd))
    return LoaderEvidence(
        esp_has_entries=esp_fd is not None and any(_is_directory(esp_fd, name) for name in _ENTRIES),
        boot_has_grub=boot_fd is not None and any(_is_directory(boot_fd, name) for name in ("grub2", "grub")),
        extended_has_booted=opened.extended_fd is not None and _has_booted_entry(opened.extended_fd, booted),
        boot_has_entries=boot_fd is not None and not is_same and any(_is_directory(boot_fd, name) for name in _ENTRIES),
    )


async def _run_lsblk() -> tuple[BlockDevice, ...]:
    try:
        done = await anyio.run_process(LSBLK, check=False, env={**os.environ, "LC_ALL": "C"})
    except OSError as error:
        message = f"looking for block devices: running lsblk: {reason_of(error)}"
        raise CommandError(message, LSBLK, 127, "", hint="install util-linux") from error
    if done.returncode != 0:
        tail = done.stderr[-_STDERR_TAIL_BYTES:].decode(errors="replace")
        message = f"looking for block devices: lsblk ended with status {done.returncode}"
        raise CommandError(message, LSBLK, done.returncode, tail)
    return parse_lsblk(done.stdout)


def _root_device(devices: tuple[BlockDevice, ...], mounted: tuple[MountInfo, ...]) -> BlockDevice:
    mount = find_mount(mounted, b"/sysroot") or find_mount(mounted, b"/")
    if mount is None:
        raise EspError("looking for the ESP: the physical root is not mounted")
    source = os.path.realpath(os.fsdecode(mount.source))
    for name in (os.fsdecode(mount.source), source):
        device = find_device(devices, number=mount.device, source=name)
        if device is not None:
            return device
    raise EspError(f"looking for the ESP: lsblk does not show {source}, which holds the physical root")


def parse_fstab(text: str) -> list[tuple[str, str, str]]:
    """Parse fstab into (source, mount point, type); lines with fewer fields are left out, as mount(8) does.

    Source:
        fstab(5).
    """
    found: list[tuple[str, str, str]] = []
    for line in text.splitlines():
        fields = [_OCTAL.sub(lambda match: chr(int(match[1], 8)), part) for part in line.split()]
        if len(fields) >= _FSTAB_FIELDS and not fields[0].startswith("#"):
            found.append((fields[0], fields[1], fields[2]))
    return found


def _fstab_boot_source(host: Host) -> str | None:
    try:
        text = host.read_bytes(host.etc / "fstab").decode("utf-8", "surrogateescape")
    except (OSError, InvalidStateError):
        return None
    return next((source for source, point, _ in parse_fstab(text) if point.rstrip("/") == "/boot"), None)


def find_boot_device(
    host: Host,
    mounted: tuple[MountInfo, ...],
    devices: tuple[BlockDevice, ...],
    root: BlockDevice,
    esp: FoundPartition | None,
) -> BlockDevice | None:
    """Find the device of a /boot of its own; None where /boot is part of another file system, or has no device.

    An automount that has expired shows no device: then fstab tells it, or the partition type by which systemd
    mounts /boot by itself.
    """
    at_boot = [mount for mount in mounted if mount.mount_point == b"/boot"]
    real = [mount for mount in at_boot if mount.fstype != "autofs"]
    if real:
        # A directory of another file system, or a btrfs subvolume: the device alone would show something else.
        if real[-1].root != b"/" or real[-1].fstype == "btrfs":
            return None
        return find_device(devices, number=real[-1].device, source=os.fsdecode(real[-1].source))
    if not at_boot:
        return None
    source = _fstab_boot_source(host)
    if source is not None:
        return find_by_fstab_source(devices, source)
    return find_extended_boot(devices, root) or (esp.device if esp else None)


async def _open_live(
    host: Host, stack: AsyncExitStack, *, part_uuid: str | None, read_only: bool, may_extend: bool
) -> _Opened:
    opened = _Opened()
    devices = await _run_lsblk()
    mounted = parse_mountinfo(await run_blocking(host.read_bytes, host.mountinfo))
    root = await run_blocking(_root_device, devices, mounted)
    esp = find_esp(devices, root, part_uuid=part_uuid)
    if esp is None:
        opened.esp_error = EspError(f"looking for the ESP: the disk of {root.path} has no partition of that type")
    else:
        await _mount_esp(stack, opened, esp, read_only=read_only)
    boot = await run_blocking(find_boot_device, host, mounted, devices, root, esp)
    if boot is not None and esp is not None and boot.path == esp.device.path:
        opened.boot_fd, opened.boot_name, opened.boot_error = opened.esp_fd, opened.esp_name, opened.esp_error
        return opened
    try:
        has_mount = any(mount.mount_point == b"/boot" and mount.fstype != "autofs" for mount in mounted)
        path = host.boot if has_mount else host.sysroot / "boot"
        await _mount_boot(host, stack, opened, boot or path, read_only=read_only)
    except MountError as error:
        opened.boot_error = error
    extended = find_extended_boot(devices, root) if may_extend else None
    # The firmware reads FAT; of an XBOOTLDR with another file system systemd-boot sees nothing.
    if extended is not None and extended.fstype == "vfat" and (esp is None or extended.path != esp.device.path):
        await _mount_extended(stack, opened, extended, boot, read_only=read_only)
    return opened


async def _mount_extended(
    stack: AsyncExitStack, opened: _Opened, extended: BlockDevice, boot: BlockDevice | None, *, read_only: bool
) -> None:
    opened.extended_name = f"XBOOTLDR {extended.path}"
    if boot is not None and boot.path == extended.path:
        opened.extended_fd = opened.boot_fd
        return
    try:
        mount = mounts.mount_device(Path(extended.path), fstype="vfat", read_only=read_only)
        opened.extended_fd = await stack.enter_async_context(mount)
    except MountError as error:
        opened.warnings.append(f"the entries on {opened.extended_name} are not known: {error}")


async def _mount_esp(stack: AsyncExitStack, opened: _Opened, esp: FoundPartition, *, read_only: bool) -> None:
    device = esp.device
    opened.esp_name = f"ESP {device.path}"
    opened.warnings += esp.warnings
    mount = mounts.mount_device(Path(device.path), fstype=device.fstype or "vfat", read_only=read_only)
    try:
        opened.esp_fd = await stack.enter_async_context(mount)
    except MountError as error:
        opened.esp_error = error


async def _mount_boot(
    host: Host, stack: AsyncExitStack, opened: _Opened, boot: BlockDevice | Path, *, read_only: bool
) -> None:
    if isinstance(boot, BlockDevice):
        opened.boot_name = f"boot partition {boot.path}"
        mount = mounts.mount_device(Path(boot.path), fstype=boot.fstype or "ext4", read_only=read_only)
        opened.boot_fd = await stack.enter_async_context(mount)
        return
    opened.boot_name = str(boot)
    try:
        # Not through a writable clone of /sysroot: before Linux 6.15 a detached mount cannot be cloned.
        directory = replace(host, sysroot_fd=None).open_directory(boot)
        dir_fd = await run_blocking(stack.enter_context, directory)
    except OSError as error:
        opened.boot_error = FileSystemError(f"opening the boot directory {boot}: {reason_of(error)}")
        opened.boot_error.__cause__ = error
        return
    # Read-only here as /sysroot always is: only the clone of the mount becomes writable.
    opened.boot_fd = await stack.enter_async_context(mounts.clone_directory(dir_fd, read_only=read_only))


def _open_lab(host: Host, stack: AsyncExitStack) -> _Opened:
    opened = _Opened(esp_name=str(host.efi), boot_name=str(host.boot))
    try:
        opened.esp_fd = stack.enter_context(host.open_directory(host.efi))
    except OSError as error:
        opened.esp_error = EspError(f"opening the ESP {host.efi}: {reason_of(error)}")
        opened.esp_error.__cause__ = error
    for path in (host.boot, host.sysroot / "boot"):
        try:
            fd = stack.enter_context(host.open_directory(path))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                opened.boot_error = FileSystemError(f"opening the boot directory {path}: {reason_of(error)}")
                opened.boot_error.__cause__ = error
            continue
        if opened.boot_fd is None or not os.listdir(opened.boot_fd):
            opened.boot_fd, opened.boot_name = fd, str(path)
    # Without a partition table: a /boot that is no GRUB's, where systemd-boot is the loader.
    is_own = opened.boot_name == str(host.boot) and opened.boot_fd is not None and opened.esp_fd is not None
    if is_own and opened.boot_fd is not None and opened.esp_fd is not None:
        is_same = os.path.samestat(os.fstat(opened.esp_fd), os.fstat(opened.boot_fd))
        is_grub = any(_is_directory(opened.boot_fd, name) for name in ("grub2", "grub"))
        if not is_same and (not is_grub or _is_directory(opened.esp_fd, "EFI/systemd")):
            opened.extended_fd, opened.extended_name = opened.boot_fd, f"XBOOTLDR {host.boot}"
    return opened


def _make_area(opened: _Opened, *, info: str | None, loader: Loader | None, booted: VerityDigest | None) -> BootArea:
    warnings: tuple[str, ...] = ()
    evidence = _read_evidence(opened, booted)
    if loader is None:
        loader, warnings = choose_loader(info, evidence)
    warnings = (*warnings, *opened.warnings)
    if not record_of(loader).is_on_esp:
        if opened.boot_fd is None:
            raise opened.boot_error or EspError(
                "opening the boot directory: there is neither a /boot nor a /sysroot/boot",
                hint="if the entries are on the ESP, give --bootloader systemd-boot",
            )
        if opened.esp_error is not None:
            warnings = (*warnings, str(opened.esp_error))
        where, error = f"{loader}, {opened.boot_name}", opened.esp_error
        return BootArea(loader, opened.boot_fd, opened.esp_fd, where, warnings, esp_error=error)
    if opened.esp_fd is None:
        raise opened.esp_error or EspError("opening the ESP: there is none")
    esp, extended = opened.esp_fd, opened.extended_fd if record_of(loader).reads_extended_boot else None
    if extended is not None and evidence.extended_has_booted:
        where = f"{loader}, {opened.extended_name}"
        return BootArea(loader, extended, extended, where, warnings, loader_fd=esp, other_fd=esp)
    return BootArea(loader, esp, esp, f"{loader}, {opened.esp_name}", warnings, other_fd=extended)


@asynccontextmanager
async def open_boot_area(
    host: Host,
    *,
    loader: Loader | None = None,
    read_only: bool,
    variables: LoaderVariables | None = None,
    booted: VerityDigest | None = None,
) -> AsyncIterator[BootArea]:
    """Find and open the directories that the boot loader reads.

    Cancellation: at any moment; what was mounted is gone with the block. No flag of an existing mount changes.

    Args:
        host: Where.
        loader: Overrides what the EFI variables and the files say.
        read_only: Mounts refuse writes; for commands that only look.
        variables: The EFI variables, where they have been read already.
        booted: What runs: an XBOOTLDR partition is used where it has an entry of that; None takes any of bootc's.

    Yields:
        The area; its descriptors are valid inside the block.

    Raises:
        EspError: The entries are on the ESP, and there is none.
        MountError: The partition that is needed cannot be mounted.
        FileSystemError: A GRUB host's boot directory cannot be opened.
        CommandError: ``lsblk`` failed.
        InvalidStateError: An EFI variable or the mount table is malformed.

    Source:
        Spec host.md, "Boot loader", "ESP"; commands.md, "--root DIR".
    """
    if variables is None:
        variables = await run_blocking(read_loader_variables, host)
    async with AsyncExitStack() as stack:
        if host.is_live:
            opened = await _open_live(
                host,
                stack,
                part_uuid=variables.device_part_uuid,
                read_only=read_only,
                may_extend=record_of(loader or parse_loader_info(variables.info)).reads_extended_boot,
            )
        else:
            opened = await run_blocking(_open_lab, host, stack)
        yield await run_blocking(_make_area, opened, info=variables.info, loader=loader, booted=booted)
