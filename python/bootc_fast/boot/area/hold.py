"""Keeping automounted boot partitions mounted: at shutdown an expired automount cannot be triggered any more.

Source:
    systemd.automount(5), ``TimeoutIdleSec=``; autofs: what is open is not expired.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from bootc_fast.machine.host import Host


def list_places(host: Host) -> tuple[Path, ...]:
    """Where a host may have its boot partition and its ESP mounted."""
    return (host.boot, host.efi, host.boot / "efi")


def open_boot_directories(host: Host) -> dict[Path, int]:
    """Open whatever may be an automounted boot partition, which mounts it; blocks.

    Returns:
        A descriptor for each that is there, for the caller to close; while it is open, nothing unmounts it.
    """
    found: dict[Path, int] = {}
    for path in list_places(host):
        try:
            fd = host.open_file(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            # A host has one or two of them; what cannot be mounted now is told by the finalize.
            continue
        found[path] = fd
    return found
