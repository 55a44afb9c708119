"""Whether a directory that is in use has room for new names: a live FAT directory must never grow.

Linux writes the link to a new cluster and that cluster's end mark unordered, and firmware takes a directory whose
chain runs into a free cluster for empty, with everything that it listed.
"""

from __future__ import annotations

import contextlib
import errno
import re
from typing import TYPE_CHECKING

from bootc_fast.boot.area.fat_slots import SLOT_BYTES, slots_for_name
from bootc_fast.errors import FatFormatError
from bootc_fast.text import escape_bytes

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from bootc_fast.boot.area.directory import BootDirectory, BootVolume
    from bootc_fast.boot.area.fat_look import FatLook

FILL_NAMES = tuple(b"BFPAD%02d" % number for number in range(100))
"""Of empty files that only take places, one each, while a directory that nobody reads is being built."""

_DOT_SLOTS = 2
_SECTOR_SLOTS = 512 // SLOT_BYTES
_MAY_BE_SHORT = re.compile(rb"[^.]{1,8}(\.[^.]{0,3})?")

TEMPORARY_NAMES = tuple(b"BFNEW%d" % number for number in range(10))
"""Of files that replace others: one slot each (``slots_for_name``), so that any free slot is room enough."""


@contextlib.contextmanager
def look_at(volume: BootVolume, *, flush: bool = True) -> Generator[FatLook | None]:
    """Look at the FAT below a volume; None where it is none, or its device cannot be read."""
    with contextlib.ExitStack() as stack:
        try:
            look = stack.enter_context(volume.look_at_fat(flush=flush))
        except (OSError, FatFormatError):
            look = None
        yield look


def has_room_for(volume: BootVolume, path: bytes, names: Sequence[bytes]) -> bool:
    """Tell whether new names fit into a directory without another cluster; always true where nothing grows badly.

    Where the FAT cannot be read the names there are counted, and the free slots taken to lie scattered between them.
    """
    if not names or not volume.is_fat():
        return True
    with look_at(volume) as look:
        try:
            answer = look.has_room_for(path, names) if look is not None else None
        except (OSError, FatFormatError):
            answer = None
    return _count_room(volume, path, names) if answer is None else answer


def _count_room(volume: BootVolume, path: bytes, names: Sequence[bytes]) -> bool:
    directory: BootDirectory | None = volume.open_directory(path)
    if directory is None:
        return True
    with contextlib.closing(directory):
        capacity, there = directory.capacity_slots(), directory.list_names()
    if capacity is None:
        return True
    free = capacity - 2 - sum(map(count_slots, there))
    needed = [count_slots(name) for name in names]
    return free - sum(needed) >= (len(there) + 1) * (max(needed) - 1)


def count_slots(name: bytes) -> int:
    """Return how many slots a name takes in a FAT directory, at most."""
    return slots_for_name(name.decode("utf-8", "surrogateescape"))


def require_room(volume: BootVolume, path: bytes, names: Sequence[bytes]) -> None:
    """Refuse new names that would make a directory in use grow.

    Raises:
        OSError: ``ENOSPC``; nothing was written.
    """
    if not has_room_for(volume, path, names):
        where = escape_bytes(path)
        raise OSError(errno.ENOSPC, f"/{where} has no room for {len(names)} more names: it would grow")


def choose_fill(volume: BootVolume, names: Sequence[bytes], last: bytes, renames: int) -> int | None:
    """Say how many places have to be taken first in a new directory, so that the firmware can rename its last file.

    EDK II gives a new name the places behind a directory's end mark only, deletes the old one, and takes another
    cluster where the places do not reach; what is deleted before the end mark stays taken. All of it in one sector
    cannot be cut: where it fits into one, it is made to lie there.

    Args:
        volume: On which it is built.
        names: What comes before the last file.
        last: Its name; those that it gets are no longer.
        renames: How often it is renamed.

    Returns:
        n >= 0; None where no number is enough.
    """
    if not renames or not volume.is_fat():
        return 0
    cluster_slots, own = volume.free_bytes()[1] // SLOT_BYTES, count_slots(last)
    # A short name in capitals takes one place, by the mount options too.
    high = _DOT_SLOTS + sum(map(count_slots, names))
    low = high - sum(count_slots(name) - 1 for name in names if _MAY_BE_SHORT.fullmatch(name))
    starts = range(low, high + 1)

    def fits(fill: int, slots: int) -> bool:
        """Whether the file with all its later names stays within one piece of the directory."""
        return all((start + fill) % slots + own * (1 + renames) <= slots for start in starts)

    def has_end(fill: int) -> bool:
        """Whether the later names stay within the cluster in which the file's own name ends."""
        return all(-(start + fill + own) % cluster_slots >= own * renames for start in starts)

    fills = range(min(cluster_slots, len(FILL_NAMES)))
    found = (fill for fill in fills if has_end(fill) and fits(fill, _SECTOR_SLOTS))
    return next(found, next((fill for fill in fills if has_end(fill)), None))
