"""What is ready to be entered without the firmware: a root for a soft reboot, a kernel for kexec."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bootc_fast.errors import InvalidStateError
from bootc_fast.machine.booted import parse_booted_mount
from bootc_fast.machine.mountinfo import find_mount, parse_mountinfo
from bootc_fast.records import dataclass

if TYPE_CHECKING:
    from bootc_fast.machine.host import Host
    from bootc_fast.types import VerityDigest


@dataclass(frozen=True, slots=True)
class PreparedRestart:
    """What a plain ``systemctl reboot`` enters instead of the boot loader's choice.

    Attributes:
        has_next_root: Something is mounted at ``/run/nextroot``.
        digest: The deployment there; None where nothing is, or what is there cannot be told.
        is_kexec_loaded: The kernel has another one loaded, which comes before a next root.
    """

    has_next_root: bool
    digest: VerityDigest | None
    is_kexec_loaded: bool


def read_prepared(host: Host) -> PreparedRestart | None:
    """Look at ``/run/nextroot`` and at the kernel's kexec flag; writes nothing. Blocks.

    Returns:
        None where nothing is prepared.

    Raises:
        InvalidStateError: The mount table is malformed.
        OSError: Something cannot be read.

    Source:
        systemctl(1), ``reboot``: a loaded kernel is entered, or else a mounted next root; Linux
        ``Documentation/ABI/testing/sysfs-kernel-kexec-kdump``.
    """
    try:
        mounts = parse_mountinfo(host.read_bytes(host.mountinfo))
    except FileNotFoundError:
        mounts = ()
    at = b"/" + os.fsencode(host.nextroot.relative_to(host.root))
    next_root = find_mount(mounts, at)
    digest = None
    if next_root is not None:
        try:
            found = parse_booted_mount(next_root)
        except InvalidStateError:
            found = None
        digest = found.digest if found else None
    is_kexec_loaded = _is_kexec_loaded(host)
    if next_root is None and not is_kexec_loaded:
        return None
    return PreparedRestart(has_next_root=next_root is not None, digest=digest, is_kexec_loaded=is_kexec_loaded)


def _is_kexec_loaded(host: Host) -> bool:
    try:
        return host.read_bytes(host.root / "sys/kernel/kexec_loaded").strip() == b"1"
    except FileNotFoundError:
        return False
