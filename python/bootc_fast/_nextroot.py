"""The root of a soft reboot: assembled detached, attached at ``/run/nextroot`` at the end, all or nothing.

Source:
    systemd-soft-reboot.service(8); composefs-rs ``composefs-setup-root`` and bootc ``crates/initramfs`` for what the
    initramfs mounts, and for ``setup-root-conf.toml``.
"""

from __future__ import annotations

import enum
import errno
import os
import tomllib
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bootc_fast import _core
from bootc_fast._cmdline import split_cmdline
from bootc_fast.errors import InvalidStateError, MountError

if TYPE_CHECKING:
    from bootc_fast.host import Host
    from bootc_fast.types import VerityDigest

CONFIG_PATH = b"usr/lib/composefs/setup-root-conf.toml"
_MAX_CONFIG_BYTES = 1 << 16
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# What is stacked at the mount point is taken away one by one; more than this is somebody else's doing.
_MAX_STACKED = 64


class MountKind(enum.StrEnum):
    """How a directory of the state is made part of the root."""

    NONE = "none"
    BIND = "bind"
    OVERLAY = "overlay"
    TRANSIENT = "transient"


@dataclass(frozen=True, slots=True)
class RootLayout:
    """What ``setup-root-conf.toml`` asks for.

    Attributes:
        etc: How /etc is mounted.
        var: How /var is mounted.
        is_root_transient: Writes anywhere go to a tmpfs.
    """

    etc: MountKind = MountKind.BIND
    var: MountKind = MountKind.BIND
    is_root_transient: bool = False


def parse_layout(text: str, command_line: str = "") -> RootLayout:
    """Parse ``setup-root-conf.toml``; unknown keys are ignored, as the initramfs does.

    Args:
        text: The file; empty where there is none.
        command_line: ``systemd.volatile=state`` or ``overlay`` on it leaves /var to systemd.

    Raises:
        InvalidStateError: It is no TOML, or a value is not of its kind.
    """
    what = f"reading {CONFIG_PATH.decode()}"
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidStateError(f"{what}: {error}") from error
    volatile = {one.partition("=")[2] for one in split_cmdline(command_line) if one.startswith("systemd.volatile=")}
    var_default = MountKind.NONE if volatile & {"state", "overlay"} else MountKind.BIND
    return RootLayout(
        etc=_parse_kind(document, "etc", MountKind.BIND, what),
        var=_parse_kind(document, "var", var_default, what),
        is_root_transient=_parse_flag(_table(document, "root", what), "root", what),
    )


def _table(document: dict[str, object], name: str, what: str) -> dict[str, object]:
    table = document.get(name, {})
    if not isinstance(table, dict):
        raise InvalidStateError(f"{what}: [{name}] is no table")
    return table


def _parse_flag(table: dict[str, object], name: str, what: str) -> bool:
    value = table.get("transient", False)
    if not isinstance(value, bool):
        raise InvalidStateError(f"{what}: [{name}] transient is neither true nor false")
    return value


def _parse_kind(document: dict[str, object], name: str, default: MountKind, what: str) -> MountKind:
    table = _table(document, name, what)
    is_transient = _parse_flag(table, name, what)
    value = table.get("mount")
    if value is None:
        return MountKind.TRANSIENT if is_transient else default
    found = next((kind for kind in MountKind if kind.value == value), None)
    if found is None:
        raise InvalidStateError(f"{what}: [{name}] mount is {value!r}, not none, bind, overlay or transient")
    return found


def read_layout(root_fd: int, command_line: str) -> RootLayout:
    """Read the layout that an image asks for.

    Raises:
        InvalidStateError: The file is malformed.
        OSError: It is there and cannot be read.
    """
    try:
        fd = _core.open_in_root(root_fd, CONFIG_PATH, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return parse_layout("", command_line)
    with os.fdopen(fd, "rb") as file:
        data = file.read(_MAX_CONFIG_BYTES)
    try:
        return parse_layout(data.decode(), command_line)
    except UnicodeDecodeError as error:
        raise InvalidStateError(f"reading {CONFIG_PATH.decode()}: it is not UTF-8") from error


class _Assembly:
    """Mounts put together below a detached root; descriptors belong to the stack."""

    def __init__(self, host: Host, digest: VerityDigest, stack: ExitStack) -> None:
        self.host = host
        self.digest = digest
        self.stack = stack

    def hold(self, fd: int) -> int:
        self.stack.callback(os.close, fd)
        return fd

    def open_root(self, mount_fd: int) -> int:
        return self.hold(os.open(".", _DIRECTORY, dir_fd=mount_fd))

    def clone(self, dir_fd: int, *, read_only: bool) -> int:
        # The running /sysroot is read-only; at boot the initramfs binds before it makes it so.
        return self.hold(_core.clone_mount(dir_fd, read_only=read_only))

    def overlay(self, lower_fd: int, state_fd: int, source: str) -> int:
        for name, mode in (("upper", 0o755), ("work", 0o700)):
            with suppress(FileExistsError):
                os.mkdir(name, mode, dir_fd=state_fd)
        upper, work = (self.hold(os.open(name, _DIRECTORY, dir_fd=state_fd)) for name in ("upper", "work"))
        parameters: list[tuple[bytes, bytes | int | None]] = [
            (b"source", source.encode()),
            (b"workdir", work),
            (b"upperdir", upper),
            (b"lowerdir+", lower_fd),
        ]
        return self.hold(_core.mount_detached(b"overlay", parameters, read_only=False, is_system_root=True))

    def transient(self, lower_fd: int, source: str) -> int:
        tmpfs = _core.mount_detached(b"tmpfs", [(b"mode", b"0755")], read_only=False, is_system_root=True)
        return self.overlay(lower_fd, self.open_root(self.hold(tmpfs)), source)

    def add_directory(self, top_fd: int, name: str, kind: MountKind) -> None:
        if kind is MountKind.NONE:
            return
        lower = self.hold(_core.open_in_root(top_fd, name.encode(), _DIRECTORY))
        if kind is MountKind.TRANSIENT:
            mount = self.transient(lower, "transient")
        else:
            with self.host.open_directory(self.host.state_dir(self.digest) / name) as state_fd:
                clone = self.clone(state_fd, read_only=False)
            mount = clone if kind is MountKind.BIND else self.overlay(lower, self.open_root(clone), "overlay")
        _core.attach_mount(mount, lower, b"")

    def add_sysroot(self, top_fd: int) -> None:
        try:
            point = self.hold(_core.open_in_root(top_fd, b"sysroot", _DIRECTORY))
        except FileNotFoundError:
            return
        with self.host.open_directory(self.host.sysroot) as fd:
            _core.attach_mount(self.clone(fd, read_only=True), point, b"")


def assemble(host: Host, digest: VerityDigest, root_fd: int, stack: ExitStack, *, command_line: str) -> int:
    """Put the whole next root together, detached: nothing is to be seen of it yet.

    Args:
        host: Whose state and physical root; a live one.
        digest: The deployment.
        root_fd: Its composefs mount, detached.
        stack: Holds the descriptors; the mounts live as long, or until they are attached.
        command_line: The target's kernel arguments.

    Returns:
        The descriptor to attach.

    Raises:
        InvalidStateError: The image's ``setup-root-conf.toml`` is malformed.
        MountError: The kernel refused (before Linux 6.15 nothing can be mounted on a detached mount).
    """
    parts = _Assembly(host, digest, stack)
    layout = read_layout(root_fd, command_line)
    try:
        top_fd = root_fd
        if layout.is_root_transient:
            top_fd = parts.open_root(parts.transient(root_fd, f"transient:composefs={digest}"))
        parts.add_sysroot(top_fd)
        parts.add_directory(top_fd, "etc", layout.etc)
        parts.add_directory(top_fd, "var", layout.var)
    except OSError as error:
        hint = "mounting on a detached mount needs Linux 6.15" if error.errno == errno.EINVAL else None
        raise MountError(f"putting the next root together: {error.strerror}", hint=hint) from error
    return top_fd


def attach(host: Host, top_fd: int) -> None:
    """Attach an assembled root at ``/run/nextroot``, in the place of one that is there.

    Raises:
        MountError: The kernel refused; nothing is attached then.
    """
    try:
        host.make_directory(host.nextroot)
        clear(host)
        host.make_directory(host.nextroot)
        with host.open_directory(host.nextroot) as fd:
            _core.attach_mount(top_fd, fd, b"")
    except OSError as error:
        raise MountError(f"attaching the next root at {host.nextroot}: {error.strerror}") from error


def clear(host: Host) -> bool:
    """Take away what is mounted at ``/run/nextroot``, and the empty directory.

    Returns:
        Whether anything was mounted there.

    Raises:
        MountError: The kernel refused.
    """
    is_found = False
    try:
        for _ in range(_MAX_STACKED):
            with host.open_directory(host.nextroot) as fd:
                _core.detach_mount(fd)
            is_found = True
    except FileNotFoundError:
        return is_found
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise MountError(f"clearing {host.nextroot}: {error.strerror}") from error
    # One that holds files is an admin's own next root.
    with suppress(OSError), host.open_directory(host.run) as fd:
        os.rmdir(host.nextroot.name, dir_fd=fd)
    return is_found
