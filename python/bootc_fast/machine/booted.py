"""What runs: the booted composefs image, and whether what is written to /etc and the physical root stays.

Both back ends ask: an ostree host is one whose root is no image that bootc made.
"""

from __future__ import annotations

import stat

from bootc_fast.errors import FileSystemError, InvalidStateError, NotBootcHostError
from bootc_fast.machine.cmdline import parse_composefs_arguments, parse_digest
from bootc_fast.machine.mountinfo import MountInfo, find_mount, parse_mountinfo
from bootc_fast.text import escape, escape_bytes, reason_of, shorten_digest
from bootc_fast.types import Booted, VerityDigest

# Not from typing: importing that takes a tenth of the whole start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from bootc_fast.machine.cmdline import ComposefsArgument
    from bootc_fast.machine.host import Host

_PREFIXES = ((b"composefs:", False), (b"transient:composefs=", True))
_VOLATILE_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs"})


def _read_mounts(host: Host) -> tuple[MountInfo, ...]:
    try:
        return parse_mountinfo(host.read_bytes(host.mountinfo))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise FileSystemError(f"reading {host.mountinfo}: {reason_of(error)}") from error


def parse_booted_mount(mount: MountInfo) -> Booted | None:
    """Read the booted deployment from the mount at ``/``; None where it is no composefs root.

    Raises:
        InvalidStateError: The source field names composefs, but no digest.
    """
    for prefix, is_transient in _PREFIXES:
        if mount.source.startswith(prefix):
            text = escape_bytes(mount.source.removeprefix(prefix))
            return Booted(parse_digest(text, what="reading the mount at /"), transient_root=is_transient)
    return None


def _read_arguments(host: Host) -> tuple[ComposefsArgument, ...]:
    try:
        # A boot loader may pass any bytes; only the composefs arguments have to be text.
        text = host.read_bytes(host.proc_cmdline).decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise FileSystemError(f"reading {host.proc_cmdline}: {reason_of(error)}") from error
    return parse_composefs_arguments(text, what=f"reading {host.proc_cmdline}")


def has_image_file(host: Host, digest: VerityDigest) -> bool:
    """Say whether the repository's name for an image leads to a regular file; blocks."""
    found = host.find_status(host.image_file(digest))
    return found is not None and stat.S_ISREG(found.st_mode)


def _has_state(host: Host, digest: VerityDigest) -> bool:
    found = host.look_at(host.state_dir(digest))
    return found is not None and stat.S_ISDIR(found.st_mode)


def _booted_by_cmdline(host: Host, arguments: tuple[ComposefsArgument, ...]) -> Booted:
    # Only of several composefs.digest= is one chosen by what is there; a lone argument says what runs.
    try:
        present = [
            one for one in arguments if not one.is_versioned or len(arguments) == 1 or has_image_file(host, one.digest)
        ]
    except OSError as error:
        what = f"looking at {escape(error.filename or str(host.images))}"
        raise FileSystemError(f"finding the booted deployment: {what}: {reason_of(error)}") from error
    if not present:
        names = ", ".join(shorten_digest(one.digest) for one in arguments)
        message = f"finding the booted deployment: the command line names {names}, and none has an image here"
        raise InvalidStateError(message, hint=f"is the physical root mounted at {host.sysroot}?")
    # What runs has state; of an image of the same tree in another format or hash there may be no more than the image.
    chosen = next((one for one in present if _has_state(host, one.digest)), present[0])
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
        FileSystemError: One of them cannot be read.

    Source:
        Spec host.md, "Which deployment is booted".
    """
    root = find_mount(_read_mounts(host), b"/")
    booted = None if root is None else parse_booted_mount(root)
    if booted is not None and root is not None:
        try:
            arguments = _read_arguments(host)
        except (InvalidStateError, FileSystemError):
            # The mount has answered the question; a malformed command line only takes away its `?`.
            arguments = ()
        allowed = _may_miss_verity(root, booted.digest, arguments)
        return Booted(booted.digest, missing_verity_allowed=allowed, transient_root=booted.transient_root)
    arguments = _read_arguments(host)
    if arguments:
        return _booted_by_cmdline(host, arguments)
    if host.look_at(host.ostree_booted) is not None:
        raise NotBootcHostError("finding the booted deployment: this is an ostree host, not a composefs one")
    raise NotBootcHostError(
        "finding the booted deployment: this is not a host that bootc installed with composefs",
        hint="with --root DIR another host is looked at; `bootc-fast lab create DIR` makes one",
    )


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
        FileSystemError: The mount table cannot be read.

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
    except (InvalidStateError, FileSystemError):
        return False
    return mount is not None and b"ro" in mount.super_options


def is_ostree_host(host: Host) -> bool:
    """Say whether the host booted with ostree, and not from a composefs image that bootc made.

    Raises:
        InvalidStateError: The mount at / or the command line name composefs, but no digest.
        FileSystemError: It cannot be told.

    Source:
        Spec host.md, "Which deployment is booted"; ostree-prepare-root, ``/run/ostree-booted``.
    """
    if host.look_at(host.ostree_booted) is None or host.look_at(host.sysroot / "ostree/repo") is None:
        return False
    try:
        read_booted(host)
    except NotBootcHostError:
        return True
    return False
