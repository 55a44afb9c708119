"""The root of a soft reboot: assembled detached, attached at ``/run/nextroot`` at the end, all or nothing.

Source:
    systemd-soft-reboot.service(8); composefs-rs ``composefs-setup-root`` and bootc ``crates/initramfs`` for what the
    initramfs mounts, and for ``setup-root-conf.toml``.
"""

from __future__ import annotations

import enum
import errno
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from bootc_fast import _core
from bootc_fast.errors import InvalidStateError, MountError, VerityMismatchError
from bootc_fast.machine.cmdline import split_cmdline
from bootc_fast.machine.scratch import DIRECTORY, open_scratch
from bootc_fast.records import dataclass, replace
from bootc_fast.text import reason_of

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from bootc_fast.machine.host import Host
    from bootc_fast.machine.scratch import Scratch
    from bootc_fast.types import VerityDigest

CONFIG_PATH = b"usr/lib/composefs/setup-root-conf.toml"
_MAX_CONFIG_BYTES = 1 << 16
_READ_BYTES = 1 << 20
# What systemd looks at before it enters a root, and what it executes there, in its order.
_OS_RELEASE = (b"etc/os-release", b"usr/lib/os-release")
INIT = (b"usr/lib/systemd/systemd", b"sbin/init", b"etc/init", b"bin/init")
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
    import tomllib

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


@dataclass(frozen=True, slots=True)
class NextRoot:
    """A next root to be put together.

    Attributes:
        host: A live one; state and physical root are taken from where they are mounted.
        digest: The deployment.
        image_fd: Its image, verified.
        require_verity: A file whose object lacks the fs-verity that it must have cannot be read.
        command_line: The target's kernel arguments.
        is_trial: It will not be started: nothing is written to the state.
    """

    host: Host
    digest: VerityDigest
    image_fd: int
    require_verity: bool
    command_line: str
    is_trial: bool = False


class _Assembly:
    """The parts of a next root, stacked in the thread's own mount namespace."""

    def __init__(self, wanted: NextRoot, scratch: Scratch) -> None:
        # Not through the writable clone of the physical root: before Linux 6.15 a detached mount cannot be cloned.
        self.host = replace(wanted.host, sysroot_fd=None)
        self.wanted = wanted
        self.scratch = scratch

    def clone(self, path: Path, *, read_only: bool) -> int:
        # The running /sysroot is read-only; at boot the initramfs binds before it makes it so.
        with self.host.open_directory(path) as fd:
            return self.scratch.hold(_core.clone_mount(fd, read_only=read_only))

    def make_root(self) -> int:
        digest = self.wanted.digest
        with _step("mounting the composefs overlay"):
            with self.host.open_directory(self.host.objects) as fd:
                objects_fd = self.scratch.hold(_core.clone_mount(fd))
            overlay = self.scratch.make_composefs(
                self.wanted.image_fd,
                objects_fd,
                require_verity=self.wanted.require_verity,
                source=f"composefs:{digest}",
                is_system_root=True,
            )
            return self.scratch.place("root", self.scratch.hold(overlay))

    def cover(self, lower_fd: int, name: str, kind: MountKind, source: str) -> int:
        """Make an overlay over a directory; its changes go to the state, or to memory."""
        if kind is MountKind.OVERLAY and not self.wanted.is_trial:
            state = self.clone(self.host.state_dir(self.wanted.digest) / name, read_only=False)
        else:
            state = self.scratch.hold(
                _core.mount_detached(b"tmpfs", [(b"mode", b"0755")], read_only=False, is_system_root=True)
            )
        place = f"{name}-state"
        state_fd = self.scratch.place(place, state)
        return self.scratch.hold(self.scratch.make_overlay(lower_fd, place, state_fd, source=source))

    def add_directory(self, top_fd: int, name: str, kind: MountKind) -> None:
        if kind is MountKind.NONE:
            return
        with _step(f"mounting {name} ({kind})"):
            lower_fd = self.scratch.hold(_core.open_in_root(top_fd, name.encode(), DIRECTORY))
            if kind is MountKind.BIND:
                mount = self.clone(self.host.state_dir(self.wanted.digest) / name, read_only=False)
            else:
                source = "transient" if kind is MountKind.TRANSIENT else "overlay"
                mount = self.cover(lower_fd, name, kind, source)
            _core.attach_mount(mount, lower_fd, b"")

    def add_sysroot(self, top_fd: int) -> None:
        with _step("mounting sysroot"):
            try:
                point = self.scratch.hold(_core.open_in_root(top_fd, b"sysroot", DIRECTORY))
            except FileNotFoundError:
                return
            _core.attach_mount(self.clone(self.host.sysroot, read_only=True), point, b"")

    def assemble(self) -> int:
        top_fd = self.make_root()
        with _step(f"reading {CONFIG_PATH.decode()}"):
            layout = read_layout(top_fd, self.wanted.command_line)
        if layout.is_root_transient:
            with _step("mounting the transient root"):
                source = f"transient:composefs={self.wanted.digest}"
                top_fd = self.scratch.place("top", self.cover(top_fd, "root", MountKind.TRANSIENT, source))
        self.add_sysroot(top_fd)
        self.add_directory(top_fd, "etc", layout.etc)
        self.add_directory(top_fd, "var", layout.var)
        check_system(top_fd)
        with _step("taking the tree out"):
            tree_fd = _core.clone_mount(top_fd, recursive=True)
            try:
                _core.isolate_mount(tree_fd)
            except OSError:
                os.close(tree_fd)
                raise
            return tree_fd


@contextmanager
def _step(what: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        hint = "soft reboots need Linux 6.6 or newer" if error.errno == errno.EINVAL and "overlay" in what else None
        raise MountError(f"putting the next root together: {what}: {reason_of(error)}", hint=hint) from error


def check_system(root_fd: int) -> None:
    """Check that systemd will take a tree for a system, and that its init can be read to the end.

    With ``verity=require`` a file whose object was never sealed, or is not the one that was meant, reads as ``EIO``:
    a system without init halts, and only a reset leads out.

    Args:
        root_fd: The tree's root.

    Raises:
        InvalidStateError: There is no os-release or no init.
        VerityMismatchError: It cannot be read.

    Source:
        systemd ``src/basic/os-util.c``, ``path_is_os_tree``; ``src/core/main.c``, ``do_reexecute``.
    """
    for what, paths in (("os-release", _OS_RELEASE), ("init", INIT)):
        if not any(_read_whole(root_fd, path) for path in paths):
            names = " nor ".join(path.decode() for path in paths)
            raise InvalidStateError(f"checking the next root: it has no {what}: neither {names}")


def _read_whole(root_fd: int, path: bytes) -> bool:
    """Read a file to its end; False where there is none, or an empty one."""
    try:
        os.close(_core.open_in_root(root_fd, path, os.O_PATH))
    except (FileNotFoundError, NotADirectoryError):
        return False
    length, name = 0, path.decode()
    try:
        # A name whose object is missing can be found, and not be opened.
        fd = _core.open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(fd, "rb", buffering=0) as file:
            while chunk := file.read(_READ_BYTES):
                length += len(chunk)
    except OSError as error:
        raise VerityMismatchError(
            f"checking the next root: reading {name}: {reason_of(error)}",
            path=name,
            expected="",
            found="",
            hint="its object is missing or damaged, or lacks fs-verity, which is required; pull the image again",
        ) from error
    return length > 0


def assemble(wanted: NextRoot) -> int:
    """Put the whole next root together: nothing is to be seen of it, and no mount of the machine changes; blocks.

    Returns:
        The detached tree, which the caller closes, attached or not.

    Raises:
        InvalidStateError: The image's ``setup-root-conf.toml`` is malformed, or the image holds no system.
        VerityMismatchError: Its init cannot be read.
        MountError: The kernel refused.
    """

    def work() -> int:
        with open_scratch() as scratch:
            return _Assembly(wanted, scratch).assemble()

    with _step("a mount namespace for a while"):
        return _core.call_with_private_mounts(work)


def attach(host: Host, tree_fd: int) -> None:
    """Attach an assembled root at ``/run/nextroot``, in the place of one that is there.

    Raises:
        MountError: The kernel refused; nothing is attached then.
    """
    try:
        host.make_directory(host.nextroot)
        clear(host)
        host.make_directory(host.nextroot)
        with host.open_directory(host.nextroot) as fd:
            _core.attach_mount(tree_fd, fd, b"")
    except OSError as error:
        raise MountError(f"attaching the next root at {host.nextroot}: {reason_of(error)}") from error


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
            raise MountError(f"clearing {host.nextroot}: {reason_of(error)}") from error
    # One that holds files is an admin's own next root.
    with suppress(OSError), host.open_directory(host.run) as fd:
        os.rmdir(host.nextroot.name, dir_fd=fd)
    return is_found
