"""Deployments: which one is booted, which one is staged, and what their origin files say."""

from __future__ import annotations

import configparser
import json
import re
import stat
from typing import TYPE_CHECKING

from bootc_fast.errors import FileSystemError, InvalidStateError, NotBootcHostError
from bootc_fast.machine.cmdline import parse_composefs_arguments, parse_digest, split_cmdline
from bootc_fast.machine.mountinfo import MountInfo, find_mount, parse_mountinfo
from bootc_fast.types import Booted, BootType, Deployment, Origin, StagedMarker, VerityDigest

if TYPE_CHECKING:
    from pathlib import Path

    from bootc_fast.machine.cmdline import ComposefsArgument
    from bootc_fast.machine.host import Host

__all__ = [
    "is_etc_transient",
    "is_read_only",
    "list_deployments",
    "parse_booted_mount",
    "parse_composefs_arguments",
    "parse_digest",
    "parse_origin",
    "parse_staged_marker",
    "read_booted",
    "read_origin",
    "read_staged_marker",
    "remove_staged_marker",
    "split_cmdline",
]

_PREFIXES = ((b"composefs:", False), (b"transient:composefs=", True))
_MANIFEST_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_BOOT_DIGEST = re.compile(r"[0-9a-f]{64}")
_VOLATILE_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs"})
_MARKER_HINT = "stage the update again with `bootc upgrade`, which writes it anew"


def _read_text(host: Host, path: Path, *, hint: str | None = None) -> str:
    """Read a state file; FileNotFoundError passes, anything else that fails is an invalid state."""
    try:
        return host.read_bytes(path).decode("utf-8")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InvalidStateError(f"reading {path}: {error.strerror}", hint=hint) from error
    except UnicodeDecodeError as error:
        message = f"reading {path}: the byte at offset {error.start} is not UTF-8"
        raise InvalidStateError(message, hint=hint) from error


def _read_mounts(host: Host) -> tuple[MountInfo, ...]:
    try:
        return parse_mountinfo(host.read_bytes(host.mountinfo))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise InvalidStateError(f"reading {host.mountinfo}: {error.strerror}") from error


def parse_booted_mount(mount: MountInfo) -> Booted | None:
    """Read the booted deployment from the mount at ``/``; None where it is no composefs root.

    Raises:
        InvalidStateError: The source field names composefs, but no digest.
    """
    for prefix, is_transient in _PREFIXES:
        if mount.source.startswith(prefix):
            text = mount.source.removeprefix(prefix).decode("utf-8", "backslashreplace")
            return Booted(parse_digest(text, what="reading the mount at /"), transient_root=is_transient)
    return None


def _read_arguments(host: Host) -> tuple[ComposefsArgument, ...]:
    try:
        # A boot loader may pass any bytes; only the composefs arguments have to be text.
        text = host.read_bytes(host.proc_cmdline).decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise InvalidStateError(f"reading {host.proc_cmdline}: {error.strerror}") from error
    return parse_composefs_arguments(text, what=f"reading {host.proc_cmdline}")


def _has_image(host: Host, digest: VerityDigest) -> bool:
    found = host.find_status(host.image_file(digest))
    return found is not None and stat.S_ISREG(found.st_mode)


def _booted_by_cmdline(host: Host, arguments: tuple[ComposefsArgument, ...]) -> Booted:
    # Only of several composefs.digest= is one chosen by what is there; a lone argument says what runs.
    present = [one for one in arguments if not one.is_versioned or len(arguments) == 1 or _has_image(host, one.digest)]
    if not present:
        names = ", ".join(one.digest[:16] + "…" for one in arguments)
        message = f"finding the booted deployment: the command line names {names}, and none has an image here"
        raise InvalidStateError(message, hint=f"is the physical root mounted at {host.sysroot}?")
    chosen = present[0]
    return Booted(chosen.digest, missing_verity_allowed=chosen.missing_verity_allowed, source="cmdline")


def _may_miss_verity(mount: MountInfo, digest: VerityDigest, arguments: tuple[ComposefsArgument, ...]) -> bool:
    """Say whether the booted image may lack kernel fs-verity.

    After a soft reboot the command line names another image; then its ``?`` still tells that this host's file
    system has no fs-verity, unless the mount itself requires it.
    """
    named = [one.missing_verity_allowed for one in arguments if one.digest == digest]
    if named:
        return any(named)
    return b"verity=require" not in mount.super_options and any(one.missing_verity_allowed for one in arguments)


def read_booted(host: Host) -> Booted:
    """Find the deployment that runs.

    The mount at ``/`` wins over the command line, which does not change on a soft reboot.

    Raises:
        NotBootcHostError: Neither names an image.
        InvalidStateError: One of them is malformed, or of several images on the command line none exists.

    Source:
        Spec host.md, "Which deployment is booted".
    """
    root = find_mount(_read_mounts(host), b"/")
    booted = None if root is None else parse_booted_mount(root)
    if booted is not None and root is not None:
        try:
            arguments = _read_arguments(host)
        except InvalidStateError:
            # The mount has answered the question; a malformed command line only takes away its `?`.
            arguments = ()
        allowed = _may_miss_verity(root, booted.digest, arguments)
        return Booted(booted.digest, missing_verity_allowed=allowed, transient_root=booted.transient_root)
    arguments = _read_arguments(host)
    if arguments:
        return _booted_by_cmdline(host, arguments)
    if host.find_status(host.ostree_booted) is not None:
        raise NotBootcHostError("finding the booted deployment: this is an ostree host, not a composefs one")
    raise NotBootcHostError(
        "finding the booted deployment: this is not a host that bootc installed with composefs",
        hint="with --root DIR another host is looked at; `bootc-fast lab create DIR` makes one",
    )


def parse_staged_marker(text: str, *, what: str) -> StagedMarker:
    """Parse the staged marker, today's JSON or the bare digest of before 2026.

    Raises:
        InvalidStateError: It is anything else.

    Source:
        Spec host.md, "Staged marker".
    """
    stripped = text.strip()
    if not stripped:
        raise InvalidStateError(f"{what}: it is empty", hint=_MARKER_HINT)
    if not stripped.startswith("{"):
        # Only one newline is dropped: bootc wrote the digest with or without it, and nothing else.
        return StagedMarker(_parse_marker_digest(text.removesuffix("\n"), what=what))
    try:
        fields = json.loads(stripped)
    except (ValueError, RecursionError) as error:
        raise InvalidStateError(f"{what}: it is not JSON: {error}", hint=_MARKER_HINT) from error
    digest, is_locked = fields.get("depl_id"), fields.get("finalization_locked", False)
    if not isinstance(digest, str):
        raise InvalidStateError(f"{what}: depl_id is missing or no string", hint=_MARKER_HINT)
    if not isinstance(is_locked, bool):
        raise InvalidStateError(f"{what}: finalization_locked is neither true nor false", hint=_MARKER_HINT)
    return StagedMarker(_parse_marker_digest(digest, what=what), is_locked)


def _parse_marker_digest(text: str, *, what: str) -> VerityDigest:
    try:
        return parse_digest(text, what=what)
    except InvalidStateError as error:
        error.hint = _MARKER_HINT
        raise


def read_staged_marker(host: Host) -> StagedMarker | None:
    """Read which deployment is staged; None where none is.

    Raises:
        InvalidStateError: The marker is there and unreadable or malformed.
    """
    try:
        text = _read_text(host, host.staged_marker, hint=_MARKER_HINT)
    except FileNotFoundError:
        return None
    return parse_staged_marker(text, what=f"reading {host.staged_marker}")


def read_marker(host: Host, booted: Booted) -> StagedMarker | None:
    """Read what is staged: a marker that names the booted deployment, as a soft reboot leaves it, counts as none.

    Raises:
        InvalidStateError: The marker is malformed.
    """
    marker = read_staged_marker(host)
    return None if marker is not None and marker.digest == booted.digest else marker


def remove_staged_marker(host: Host) -> None:
    """Remove the marker; an absent one is fine.

    Raises:
        FileSystemError: It is there and cannot be removed.
    """
    host.remove_file(host.staged_marker)


def parse_origin(text: str, *, what: str) -> Origin:
    """Parse an origin file.

    Args:
        text: INI, as GLib's key files are: no interpolation, ``#`` comments on their own line.
        what: What is being read, for the error.

    Raises:
        InvalidStateError: It is not INI, or a value is not of its kind.

    Source:
        Spec host.md, "Origin file".
    """
    parser = configparser.RawConfigParser(delimiters=("=",), comment_prefixes=("#",), strict=False)
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise InvalidStateError(f"{what}: {str(error).splitlines()[0]}") from error
    boot_digest = parser.get("boot", "digest", fallback=None)
    if boot_digest is not None and not _BOOT_DIGEST.fullmatch(boot_digest):
        raise InvalidStateError(f"{what}: [boot] digest {boot_digest[:140]!r} is not SHA-256 in hex")
    manifest = parser.get("image", "manifest_digest", fallback=None)
    if manifest is not None and not _MANIFEST_DIGEST.fullmatch(manifest):
        raise InvalidStateError(f"{what}: [image] manifest_digest {manifest[:140]!r} is not sha256:<hex>")
    kind = parser.get("boot", "boot_type", fallback=None)
    try:
        boot_type = None if kind is None else BootType(kind)
    except ValueError as error:
        raise InvalidStateError(f"{what}: [boot] boot_type {kind!r} is neither bls nor uki") from error
    reference = parser.get("origin", "container-image-reference", fallback=None)
    return Origin(reference, boot_type, boot_digest, manifest)


def read_origin(host: Host, digest: VerityDigest) -> Origin:
    """Read a deployment's origin file.

    Raises:
        InvalidStateError: It is missing, unreadable or malformed.
    """
    path = host.origin_file(digest)
    try:
        text = _read_text(host, path)
    except FileNotFoundError as error:
        raise InvalidStateError(f"reading {path}: there is no such file") from error
    return parse_origin(text, what=f"reading {path}")


def _read_deployment(host: Host, digest: VerityDigest) -> Deployment:
    problems: list[str] = []
    origin: Origin | None = None
    try:
        origin = read_origin(host, digest)
    except InvalidStateError as error:
        problems.append(str(error))
    has_image, has_etc, mtime_s = False, False, 0.0
    try:
        has_image = _has_image(host, digest)
        state = host.find_status(host.state_dir(digest), follow=False)
        mtime_s = 0.0 if state is None else state.st_mtime
        etc = host.find_status(host.state_dir(digest) / "etc", follow=False)
        has_etc = etc is not None and stat.S_ISDIR(etc.st_mode)
        if not has_etc:
            problems.append(f"{host.state_dir(digest)} has no directory etc")
    except OSError as error:
        problems.append(f"reading {host.state_dir(digest)}: {error.strerror}")
    if not has_image:
        problems.append(f"there is no image {host.image_file(digest)}")
    return Deployment(digest, origin, has_image, tuple(problems), mtime_s, has_etc=has_etc)


def list_deployments(host: Host) -> list[Deployment]:
    """List every state directory, in the order of their digests.

    A broken one is listed with its problems; a name that is no digest is no deployment.

    Raises:
        FileSystemError: The directory that holds them cannot be read; an absent one holds none.
    """
    try:
        names = host.list_directory(host.state_deploy)
    except OSError as error:
        raise FileSystemError(f"listing {host.state_deploy}: {error.strerror}") from error
    found: list[Deployment] = []
    for name in names:
        try:
            digest = parse_digest(name.decode("utf-8", "backslashreplace"), what=f"listing {host.state_deploy}")
        except InvalidStateError:
            continue
        found.append(_read_deployment(host, digest))
    return found


def _is_on_volatile(mounts: tuple[MountInfo, ...], path: bytes) -> bool:
    """Say whether the file system that holds `path` is a volatile one."""
    above = [mount for mount in mounts if (path + b"/").startswith(mount.mount_point.rstrip(b"/") + b"/")]
    if not above:
        return False
    # The longest mount point holds it; of equal ones the later is on top, which max() of reversed gives.
    return max(reversed(above), key=lambda mount: len(mount.mount_point)).fstype in _VOLATILE_FILE_SYSTEMS


def is_etc_transient(host: Host) -> bool:
    """Say whether what is written to /etc is gone after a reboot, so that there is nothing to merge.

    That is: /etc is a tmpfs; or an overlay that bootc made transient, is mounted ``volatile``, or has its upper
    layer on a tmpfs; or /etc is no mount and the root is transient.

    Raises:
        InvalidStateError: The mount table cannot be read.

    Source:
        Spec etc-merge.md, first section; bootc ``crates/initramfs/src/lib.rs``, ``overlay_transient``.
    """
    mounts = _read_mounts(host)
    mount = find_mount(mounts, b"/etc")
    if mount is None:
        root = find_mount(mounts, b"/")
        return root is not None and root.source.startswith(b"transient:")
    if mount.fstype in _VOLATILE_FILE_SYSTEMS:
        return True
    if mount.fstype != "overlay":
        return False
    if mount.source.startswith(b"transient") or b"volatile" in mount.super_options:
        return True
    upper = next((option[9:] for option in mount.super_options if option.startswith(b"upperdir=")), None)
    return upper is not None and _is_on_volatile(mounts, upper)


def is_read_only(host: Host) -> bool:
    """Whether the physical root is on a read-only medium; a read-only mount of a writable one is not meant."""
    try:
        mount = find_mount(_read_mounts(host), b"/sysroot")
    except InvalidStateError:
        return False
    return mount is not None and b"ro" in mount.super_options
