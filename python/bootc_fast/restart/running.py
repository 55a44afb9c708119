"""What of the running system decides on a soft reboot: systemd's version and the SELinux policy."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import anyio

from bootc_fast import _core
from bootc_fast.composefs.survey import open_image
from bootc_fast.errors import InvalidStateError
from bootc_fast.machine.directories import hold_directory
from bootc_fast.machine.native import run_blocking

if TYPE_CHECKING:
    from bootc_fast.composefs.survey import Survey
    from bootc_fast.machine.host import Host
    from bootc_fast.types import VerityDigest

_ASK_TIMEOUT_S = 5.0
_VERSION = re.compile(rb"systemd (\d+)")
_LIBRARY = re.compile(rb"libsystemd-shared-(\d+)[-.~\w]*\.so")
_POLICY = re.compile(rb"policy\.(\d{1,9})")
_READ_BYTES = 1 << 20
_MAX_CONFIG_BYTES = 1 << 16


async def read_systemd_version(host: Host) -> int | None:
    """Return the running systemd's version; None where it cannot be told.

    Under ``--root`` the library that carries it in its name is looked for, since nothing runs there.
    """
    if not host.is_live:
        return await run_blocking(_find_library_version, host)
    try:
        with anyio.fail_after(_ASK_TIMEOUT_S):
            done = await anyio.run_process(["systemctl", "--version"], check=False, stderr=subprocess.DEVNULL)
    except (OSError, TimeoutError):
        return None
    match = _VERSION.match(done.stdout)
    return int(match[1]) if match else None


def _find_library_version(host: Host) -> int | None:
    names: list[bytes] = []
    for directory in ("usr/lib/systemd", "usr/lib64/systemd", "usr/lib/x86_64-linux-gnu/systemd"):
        with suppress(OSError):
            names += host.list_directory(host.root / directory)
    return max((int(match[1]) for name in names if (match := _LIBRARY.fullmatch(name))), default=None)


def is_unseen_by_init(host: Host) -> bool:
    """Say whether this process is known to have another mount namespace than systemd; blocks."""
    names: list[str] = []
    for process in ("self", "1"):
        # Some sandboxes hide other processes.
        with suppress(OSError):
            names.append(os.readlink(host.root / "proc" / process / "ns/mnt"))
    return len(set(names)) > 1


def is_selinux_enabled(host: Host) -> bool:
    """Say whether the running kernel enforces, or at least knows, an SELinux policy."""
    try:
        return host.find_status(host.root / "sys/fs/selinux/enforce") is not None
    except OSError:
        return False


async def compare_policies(survey: Survey, target: VerityDigest) -> str | None:
    """Compare the SELinux policy of the running /etc with the target's; None where they are equal.

    The target's is what its /etc has, which may be another than its image's.

    Returns:
        How they differ, in words.

    Raises:
        InvalidStateError: A policy cannot be told.
        FileSystemError: A file cannot be read.

    Source:
        bootc ``bootc_composefs/selinux.rs``; spec commands.md, "rollback".
    """
    host = survey.host
    if not await run_blocking(is_selinux_enabled, host):
        return None
    running = await run_blocking(_read_directory_policy, host, "etc")
    state = str((host.state_dir(target) / "etc").relative_to(host.root))
    wanted = await run_blocking(_read_directory_policy, host, state)
    if wanted is None:
        # An overlay keeps what was changed in `upper` only.
        wanted = await run_blocking(_read_directory_policy, host, f"{state}/upper")
    if wanted is None:
        async with AsyncExitStack() as stack:
            image = await open_image(host, target, stack)
            objects_fd = await stack.enter_async_context(hold_directory(host, host.objects))
            wanted = await run_blocking(_read_image_policy, image.fd, objects_fd)
    if running == wanted:
        return None
    if running is None or wanted is None:
        return f"only {'the target' if running is None else 'the running system'} has one"
    return f"{running[0]} here, {wanted[0]} there" if running[0] != wanted[0] else f"the content of {wanted[0]}"


def _parse_policy_type(config: bytes) -> str:
    for line in config.splitlines():
        key, separator, value = line.partition(b"=")
        if separator and key.strip() == b"SELINUXTYPE":
            name = value.strip().decode("ascii", "replace")
            if re.fullmatch(r"[\w-]+", name):
                return name
    raise InvalidStateError("comparing SELinux policies: etc/selinux/config has no SELINUXTYPE")


def _choose_policy(names: list[bytes], directory: str) -> str:
    found = [(int(match[1]), name) for name in names if (match := _POLICY.fullmatch(name))]
    if not found:
        raise InvalidStateError(f"comparing SELinux policies: {directory} has no policy file")
    return f"{directory}/{max(found)[1].decode('ascii')}"


def _read_directory_policy(host: Host, etc: str) -> tuple[str, str] | None:
    """Return the newest policy's path below etc and its SHA-256; None without an SELinux configuration."""
    base = host.root / etc
    try:
        config = host.read_bytes(base / "selinux/config", max_bytes=_MAX_CONFIG_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    directory = f"selinux/{_parse_policy_type(config)}/policy"
    path = _choose_policy(host.list_directory(base / directory), directory)
    fd = host.open_file(base / path)
    try:
        return path, _hash_fd(fd)
    finally:
        os.close(fd)


def _hash_fd(fd: int) -> str:
    hasher = hashlib.sha256()
    while chunk := os.read(fd, _READ_BYTES):
        hasher.update(chunk)
    return hasher.hexdigest()


def _read_image_policy(image_fd: int, objects_fd: int) -> tuple[str, str] | None:
    with _core.Image.open(image_fd) as image:
        return _read_policy_of(image, objects_fd)


def _read_policy_of(image: _core.Image, objects_fd: int) -> tuple[str, str] | None:
    if image.lookup(b"etc/selinux/config") is None:
        return None
    config_fd = _open_in_image(image, b"etc/selinux/config", objects_fd)
    try:
        directory = f"selinux/{_parse_policy_type(os.read(config_fd, _MAX_CONFIG_BYTES))}/policy"
    finally:
        os.close(config_fd)
    where = b"etc/" + directory.encode()
    names = [entry.path.rsplit(b"/", 1)[-1] for entry in image.walk(where, recursive=False)]
    path = _choose_policy(names, directory)
    fd = _open_in_image(image, b"etc/" + path.encode(), objects_fd)
    try:
        return path, _hash_fd(fd)
    finally:
        os.close(fd)


def _open_in_image(image: _core.Image, path: bytes, objects_fd: int) -> int:
    from bootc_fast.composefs.images import open_object

    entry = image.lookup(path)
    if entry is not None and entry.digest is not None:
        with open_object(objects_fd, entry.digest) as fd:
            return os.dup(fd)
    fd = os.memfd_create("bootc-fast-file")
    image.copy_file(path, fd)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
