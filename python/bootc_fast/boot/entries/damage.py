"""Directories of the boot partition that the firmware takes for empty, which the kernel does not tell."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from bootc_fast.boot.area.room import look_at
from bootc_fast.boot.entries.reader import ENTRIES, GRUB_DIRECTORY, STAGED_ENTRIES, UKI_DIRECTORIES
from bootc_fast.errors import FatFormatError

if TYPE_CHECKING:
    from bootc_fast.boot.area.directory import BootVolume


def find_damage(boot: BootVolume, esp: BootVolume | None, *, has_failed: bool = False) -> list[tuple[str, str]]:
    """Find directories of the boot partition and the ESP that the firmware takes for empty; writes nothing.

    Args:
        boot: The boot partition.
        esp: The ESP.
        has_failed: The kernel has failed to read something there.

    Returns:
        What is broken, and the device that it is on; empty also where the FAT cannot be read.
    """
    found: list[tuple[str, str]] = []
    looked: list[BootVolume] = []
    places = ((boot, (ENTRIES, STAGED_ENTRIES, GRUB_DIRECTORY)), (esp, UKI_DIRECTORIES), (boot, UKI_DIRECTORIES))
    for volume, paths in places:
        if volume is None or not volume.is_fat() or (paths is UKI_DIRECTORIES and volume in looked):
            continue
        looked += [volume] if paths is UKI_DIRECTORIES else []
        with look_at(volume, flush=False) as look, contextlib.suppress(OSError, FatFormatError):
            found += (
                [(text, look.device) for text in look.find_broken(paths, has_failed=has_failed)]
                if look is not None
                else []
            )
    return list(dict.fromkeys(found))


def hint_for_damage(device: str) -> str:
    """Say what mends a broken directory: nothing that is done through the mounted file system."""
    return f"unmount it and run `fsck.fat -a {device}`; `bootc-fast doctor` says what else is damaged"
