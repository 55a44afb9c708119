"""EFI variables: what the boot loader says about itself, and Secure Boot's keys."""

from __future__ import annotations

import array
import fcntl
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING

from bootc_fast.errors import BootEntryError, FileSystemError, InvalidStateError
from bootc_fast.records import dataclass
from bootc_fast.text import reason_of

if TYPE_CHECKING:
    from pathlib import Path

    from bootc_fast.machine.host import Host

LOADER_GUID = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
GLOBAL_GUID = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
SECURITY_GUID = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
SHIM_GUID = "605dab50-e046-4300-abb6-3dd810dd8b23"

MAX_VARIABLE_BYTES = 1 << 20
"""Largest variable that is read; the largest known dbx has 24 KiB, and firmware stores 64 to 256 KiB in all."""
MAX_SHIM_PARTS = 64
"""shim spreads a long list over ``MokListRT``, ``MokListRT1``, … as the firmware's limit demands."""

# What is unreadable for its length or the disk; what is no text the loader cannot use either, and passes over.
_PICKING = ("LoaderEntryOneShot", "LoaderEntryPreferred", "LoaderEntryDefault", "LoaderEntryLastBooted")

_ATTRIBUTE_BYTES = 4
_FEATURE_BYTES = 8
# Non-volatile, boot service access, runtime access.
_ATTRIBUTES = (7).to_bytes(_ATTRIBUTE_BYTES, "little")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_MOK_POLICY_NX = 1

_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_FS_IMMUTABLE_FL = 0x10


@dataclass(frozen=True, slots=True)
class LoaderVariables:
    """What the boot loader told and was told (spec boot.md, host.md "Boot loader").

    Attributes:
        info: ``LoaderInfo``, e.g. ``systemd-boot 257.9``.
        image_path: ``LoaderImageIdentifier``: the path of the loader itself, with backslashes.
        device_part_uuid: ``LoaderDevicePartUUID``, lower case: the partition it was started from.
        entry_default: ``LoaderEntryDefault``: picks the entry before sorting matters.
        entry_oneshot: ``LoaderEntryOneShot``: picks the next boot's entry, once.
        entry_selected: ``LoaderEntrySelected``: what was booted.
        entry_last_booted: ``LoaderEntryLastBooted``: what ``@saved`` stands for in those that pick an entry.
        entry_preferred: ``LoaderEntryPreferred``: like the default, but for entries that have no tries left.
        features: ``LoaderFeatures``, a bit field; 0 where the loader does not say.
        shown: ``LoaderEntries``: the ids of what the loader showed at the last boot, in its order.
        secure_boot: The firmware checks signatures.
        unread: Names of those that pick an entry, and are there and cannot be read.
        warnings: Variables that cannot be read: each counts as absent, since the update must not wait for the
            firmware to get well.
    """

    info: str | None = None
    image_path: str | None = None
    device_part_uuid: str | None = None
    entry_default: str | None = None
    entry_oneshot: str | None = None
    entry_selected: str | None = None
    entry_last_booted: str | None = None
    entry_preferred: str | None = None
    features: int = 0
    shown: tuple[str, ...] = ()
    secure_boot: bool = False
    unread: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SecureBootState:
    """What decides whether the firmware, or shim, starts a UKI: raw lists of EFI signature lists.

    Attributes:
        enabled: Signatures are checked at all.
        db: Allowed by the firmware.
        dbx: Forbidden by the firmware.
        mok: Allowed by shim (``MokListRT`` and its parts).
        mokx: Forbidden by shim (``MokListXRT`` and its parts).
        sbat_level: Generations below which shim starts nothing (``SbatLevelRT``); None where it is not there.
        is_validation_off: shim checks nothing (``MokSBStateRT``, set with ``mokutil --disable-validation``).
        ignores_db: shim does not look at db (``MokIgnoreDB``, set with ``mokutil --ignore-db``).
        requires_nx: shim wants files that say they do with NX (``MokPolicyRT``).
    """

    enabled: bool
    db: bytes = b""
    dbx: bytes = b""
    mok: bytes = b""
    mokx: bytes = b""
    sbat_level: bytes | None = None
    is_validation_off: bool = False
    ignores_db: bool = False
    requires_nx: bool = False

    @property
    def has_shim(self) -> bool:
        """Whether shim runs and so is who is asked: it leaves its lists, which are never empty."""
        return bool(self.mok or self.mokx)


def variable_path(host: Host, name: str, guid: str) -> Path:
    """Return the file of a variable."""
    return host.efivars / f"{name}-{guid}"


def read_variable(host: Host, name: str, guid: str) -> bytes | None:
    """Read a variable's value, without its attributes; None where there is none, or no EFI.

    Raises:
        InvalidStateError: It is there, and unreadable or too short or too long.
    """
    path = variable_path(host, name, guid)
    try:
        data = host.read_bytes(path, max_bytes=MAX_VARIABLE_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise FileSystemError(f"reading the EFI variable {name}: {reason_of(error)}") from error
    if len(data) < _ATTRIBUTE_BYTES:
        raise InvalidStateError(
            f"reading the EFI variable {name}: it has {len(data)} bytes, its attributes alone have {_ATTRIBUTE_BYTES}",
            hint=f"remove {path}: `chattr -i` it, then `rm`",
        )
    return data[_ATTRIBUTE_BYTES:]


def parse_utf16(value: bytes, *, what: str) -> str:
    """Decode a loader variable: UTF-16LE up to the first NUL or the end.

    Raises:
        InvalidStateError: Half a character, a lone surrogate, or nothing.

    Source:
        https://systemd.io/BOOT_LOADER_INTERFACE.
    """
    try:
        text = value.decode("utf-16-le").partition("\0")[0]
    except UnicodeDecodeError as error:
        message = f"{what}: the byte at offset {error.start} is not UTF-16"
        raise InvalidStateError(message, hint="restart, so that the boot loader writes it anew") from error
    if not text:
        raise InvalidStateError(f"{what}: it is empty", hint="restart, so that the boot loader writes it anew")
    return text


def _read_text(host: Host, name: str) -> str | None:
    value = read_variable(host, name, LOADER_GUID)
    return None if value is None else parse_utf16(value, what=f"reading the EFI variable {name}")


class _Choices:
    """Reads the variables by which systemd-boot chooses; what it could not read either is told and counts as absent."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.warnings: list[str] = []
        self.unread: list[str] = []

    def read(self, name: str) -> bytes | None:
        """Read a variable's value."""
        try:
            return read_variable(self.host, name, LOADER_GUID)
        except (InvalidStateError, FileSystemError) as error:
            self.warnings.append(f"{error}: it counts as absent")
            self.unread.append(name)
            return None

    def read_text(self, name: str) -> str | None:
        """Read an entry's id."""
        value = self.read(name)
        try:
            return None if value is None else parse_utf16(value, what=f"reading the EFI variable {name}")
        except (InvalidStateError, FileSystemError) as error:
            self.warnings.append(f"{error}: it counts as absent")
            return None

    def read_list(self, name: str) -> tuple[str, ...]:
        """Read ids, each with a NUL at its end."""
        text = (self.read(name) or b"").decode("utf-16-le", "replace")
        return tuple(filter(None, text.split("\0")))

    def read_number(self, name: str) -> int:
        """Read a bit field of 64 bits."""
        value = self.read(name) or b""
        return int.from_bytes(value, "little") if len(value) == _FEATURE_BYTES else 0


def _read_flag(host: Host, name: str) -> bool:
    value = read_variable(host, name, GLOBAL_GUID)
    if value is None:
        return False
    if value not in (b"\0", b"\1"):
        raise InvalidStateError(f"reading the EFI variable {name}: {value[:16]!r} is neither 0 nor 1")
    return value == b"\1"


def read_loader_variables(host: Host) -> LoaderVariables:
    """Read what the boot loader left; all fields are empty on a host without EFI.

    What the loader chooses by may be malformed: the loader passes it over, and so does this.

    Raises:
        InvalidStateError: ``LoaderInfo``, ``LoaderDevicePartUUID`` or ``SecureBoot`` is unreadable or malformed: it
            would not be known where to write.

    Source:
        https://systemd.io/BOOT_LOADER_INTERFACE; spec host.md, "Paths".
    """
    choices = _Choices(host)
    part = _read_text(host, "LoaderDevicePartUUID")
    if part is not None:
        part = part.lower()
        if not _UUID.fullmatch(part):
            raise InvalidStateError(f"reading the EFI variable LoaderDevicePartUUID: {part[:80]!r} is no UUID")
    return LoaderVariables(
        info=_read_text(host, "LoaderInfo"),
        image_path=choices.read_text("LoaderImageIdentifier"),
        device_part_uuid=part,
        entry_default=choices.read_text("LoaderEntryDefault"),
        entry_oneshot=choices.read_text("LoaderEntryOneShot"),
        entry_selected=choices.read_text("LoaderEntrySelected"),
        entry_last_booted=choices.read_text("LoaderEntryLastBooted"),
        entry_preferred=choices.read_text("LoaderEntryPreferred"),
        features=choices.read_number("LoaderFeatures"),
        shown=choices.read_list("LoaderEntries"),
        unread=tuple(name for name in choices.unread if name in _PICKING),
        secure_boot=_read_flag(host, "SecureBoot"),
        warnings=tuple(choices.warnings),
    )


def _read_shim_list(host: Host, name: str) -> bytes:
    parts = [read_variable(host, name, SHIM_GUID) or b""]
    for number in range(1, MAX_SHIM_PARTS):
        part = read_variable(host, f"{name}{number}", SHIM_GUID)
        if part is None:
            break
        parts.append(part)
    return b"".join(parts)


def _read_shim_byte(host: Host, name: str) -> int:
    # shim takes a value of another length for none.
    value = read_variable(host, name, SHIM_GUID) or b""
    return value[0] if len(value) == 1 else 0


def read_secure_boot_state(host: Host) -> SecureBootState:
    """Read whether signatures are checked, and against what.

    Raises:
        InvalidStateError: A variable is unreadable.

    Source:
        UEFI 2.10, 32.4.1 and 32.6; shim ``mok.c``, ``mok_state_variables``.
    """
    if not _read_flag(host, "SecureBoot"):
        return SecureBootState(enabled=False)
    return SecureBootState(
        enabled=True,
        db=read_variable(host, "db", SECURITY_GUID) or b"",
        dbx=read_variable(host, "dbx", SECURITY_GUID) or b"",
        mok=_read_shim_list(host, "MokListRT"),
        mokx=_read_shim_list(host, "MokListXRT"),
        sbat_level=read_variable(host, "SbatLevelRT", SHIM_GUID),
        is_validation_off=_read_shim_byte(host, "MokSBStateRT") == 1,
        ignores_db=_read_shim_byte(host, "MokIgnoreDB") == 1,
        requires_nx=bool(_read_shim_byte(host, "MokPolicyRT") & _MOK_POLICY_NX),
    )


def _clear_immutable(fd: int) -> None:
    """Drop the flag that efivarfs sets on what a stray ``rm -r`` must not take."""
    flags = array.array("L", [0])
    fcntl.ioctl(fd, _FS_IOC_GETFLAGS, flags, True)  # noqa: FBT003 - positional-only in fcntl
    if flags[0] & _FS_IMMUTABLE_FL:
        flags[0] &= ~_FS_IMMUTABLE_FL
        fcntl.ioctl(fd, _FS_IOC_SETFLAGS, flags, True)  # noqa: FBT003 - positional-only in fcntl


def _make_mutable(host: Host, path: Path) -> None:
    with suppress(FileNotFoundError):
        fd = host.open_file(path)
        try:
            _clear_immutable(fd)
        finally:
            os.close(fd)


def write_loader_variable(host: Host, name: str, value: str | None) -> None:
    """Set one of the loader's variables, or remove it with None.

    The firmware replaces a variable as a whole, so a power cut leaves the old or the new value.

    Args:
        host: Whose.
        name: E.g. ``LoaderEntryDefault``.
        value: Text without NUL.

    Raises:
        BootEntryError: The firmware or the file system refused.

    Source:
        Linux ``Documentation/filesystems/efivarfs.rst``.
    """
    path = variable_path(host, name, LOADER_GUID)
    data = None if value is None else _ATTRIBUTES + (value + "\0").encode("utf-16-le")
    try:
        if host.is_live:
            _write_efivarfs(host, path, data)
        elif data is None:
            host.remove_file(path)
        else:
            host.write_file(path, data)
    except (OSError, FileSystemError) as error:
        raise BootEntryError(f"writing the EFI variable {name}: {error}") from error


def _write_efivarfs(host: Host, path: Path, data: bytes | None) -> None:
    _make_mutable(host, path)
    if data is None:
        with suppress(FileNotFoundError), host.open_directory(path.parent) as dir_fd:
            os.unlink(path.name, dir_fd=dir_fd)
        return
    # One write is one call of SetVariable: a short one, or a temporary name, would be another variable.
    fd = host.open_file(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
