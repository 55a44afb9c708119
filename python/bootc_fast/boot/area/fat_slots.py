"""The 32-byte slots of a FAT directory: short names, parts of long names, what is free; any bytes are taken.

Source:
    Microsoft, "FAT File System Specification" (2005), "FAT Directory Structure"; Linux ``fs/fat/dir.c``.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

from bootc_fast.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable

SLOT_BYTES = 32
LONG_NAME_CHARS = 13
"""UTF-16 units that one slot of a long name holds."""
_DELETED, _END, _LAST_PART = 0xE5, 0x00, 0x40
_MAX_PARTS = 20
ATTR_READ_ONLY, _ATTR_LABEL, _ATTR_DIRECTORY, _ATTR_ARCHIVE, _ATTR_LONG = 0x01, 0x08, 0x10, 0x20, 0x0F
_LOWER_BASE, _LOWER_EXTENSION = 0x08, 0x10
_ONE_SLOT = re.compile(r"[A-Z][A-Z0-9]{0,7}")


@dataclass(frozen=True, slots=True)
class FatEntry:
    """A file or directory as its short-name slot has it.

    Attributes:
        name: The long name, or the short one in the case that Linux shows.
        short_name: ``NAME.EXT``.
        attributes: FAT's attribute bits.
        first_cluster: 0 for none.
        size_bytes: 0 for directories.
        slot_index: Of the short-name slot in its directory.
        slot_count: Slots it takes, long-name parts included.
        lost_name: Where it has no long name, the beginning of the one that it had, from parts before it, deleted ones
            too, that carry its checksum; empty where it had none, or its places are others' now.
    """

    name: str
    short_name: str
    attributes: int
    first_cluster: int
    size_bytes: int
    slot_index: int
    slot_count: int = 1
    lost_name: str = ""

    @property
    def is_directory(self) -> bool:
        """It is a directory."""
        return bool(self.attributes & _ATTR_DIRECTORY)

    @property
    def is_label(self) -> bool:
        """It is the volume's label, not a file."""
        return bool(self.attributes & _ATTR_LABEL)

    @property
    def is_read_only(self) -> bool:
        """The read-only attribute is set: Linux shows mode 0555 or 0444 and refuses to write."""
        return bool(self.attributes & ATTR_READ_ONLY)


@dataclass(frozen=True, slots=True)
class SlotTable:
    """How a directory's slots are used.

    Attributes:
        slot_count: All that its clusters have room for.
        free_runs: Lengths of the runs of free slots, in order; a name needs neighbouring ones.
        free_after_end: Slots from the end mark on; 0 where there is no mark.
        torn_names: Long-name parts that no short name follows, as text; a cut inside a rename leaves them.
    """

    slot_count: int
    free_runs: tuple[int, ...]
    free_after_end: int
    torn_names: tuple[str, ...]

    def has_room_for(self, names: list[str]) -> bool:
        """Tell whether Linux would place these new names, in this order, without another cluster."""
        runs = list(self.free_runs)
        for name in names:
            need = slots_for_name(name)
            where = next((i for i, length in enumerate(runs) if length >= need), None)
            if where is None:
                return False
            runs[where] -= need
        return True


def slots_for_name(name: str) -> int:
    """Return how many slots a new name takes at most: one for the short name, one for each 13 characters.

    Linux's vfat gives no long name to one of at most 8 capitals and digits, whatever its mount options.
    """
    if _ONE_SLOT.fullmatch(name):
        return 1
    units = len(name.encode("utf-16-le", "surrogatepass")) // 2
    return 1 + -(-units // LONG_NAME_CHARS)


def detached_slot(slot: bytes) -> bytes:
    """The short-name slot of an empty file of the same name, long name and times: it has no cluster."""
    return slot[:11] + bytes([_ATTR_ARCHIVE]) + slot[12:20] + b"\0\0" + slot[22:26] + bytes(6)


def checksum(short: bytes) -> int:
    """Return the sum over the 11 bytes of a short name that its long-name parts carry."""
    total = 0
    for byte in short:
        total = (((total & 1) << 7) + (total >> 1) + byte) & 0xFF
    return total


def _text(parts: Iterable[bytes]) -> str:
    units = b"".join(parts)
    end = next((i for i in range(0, len(units), 2) if units[i : i + 2] == b"\0\0"), len(units))
    return units[:end].decode("utf-16-le", "surrogatepass")


def _part(slot: bytes) -> bytes:
    return slot[1:11] + slot[14:26] + slot[28:32]


def _find_lost_name(raw: bytes, index: int) -> str:
    """The first part stands next to the short name: what a cut inside its removal leaves is the name's beginning."""
    wanted = checksum(raw[index * SLOT_BYTES :][:11])
    parts: list[bytes] = []
    for order in range(1, min(index, _MAX_PARTS) + 1):
        slot = raw[(index - order) * SLOT_BYTES :][:SLOT_BYTES]
        is_next = slot[0] == _DELETED or slot[0] & 0x3F == order
        if not is_next or slot[11] & 0x3F != _ATTR_LONG or slot[13] != wanted:
            break
        parts.append(_part(slot))
    return _text(parts)


@dataclass
class _LongName:
    """The parts collected so far; they come last part first."""

    total: int = 0
    sum: int = 0
    parts: tuple[bytes, ...] = ()

    def add(self, slot: bytes) -> bool:
        """Take a part; False where what was collected before it is torn."""
        order, is_last = slot[0] & 0x3F, bool(slot[0] & _LAST_PART)
        text = _part(slot)
        if is_last or not self.parts or order != self.total - len(self.parts) or slot[13] != self.sum:
            was_clean = not self.parts and is_last
            is_possible = is_last and 0 < order <= _MAX_PARTS
            self.total, self.sum, self.parts = (order, slot[13], (text,)) if is_possible else (0, 0, ())
            return was_clean and is_possible
        self.parts = (text, *self.parts)
        return True

    @property
    def text(self) -> str:
        """What the parts say."""
        return _text(self.parts)

    def fits(self, slot: bytes) -> bool:
        """All parts are there and belong to this short name."""
        return bool(self.parts) and len(self.parts) == self.total and self.sum == checksum(slot[:11])


def _short_name(slot: bytes) -> tuple[str, str]:
    raw = bytes([_DELETED]) + slot[1:11] if slot[0] == 0x05 else slot[:11]  # noqa: PLR2004 - stands for 0xE5
    base = raw[:8].rstrip(b" ").decode("latin-1")
    extension = raw[8:].rstrip(b" ").decode("latin-1")
    shown_base = base.lower() if slot[12] & _LOWER_BASE else base
    shown_extension = extension.lower() if slot[12] & _LOWER_EXTENSION else extension
    short = f"{base}.{extension}" if extension else base
    return short, f"{shown_base}.{shown_extension}" if extension else shown_base


def _entry(raw: bytes, index: int, long_name: _LongName, *, wide_clusters: bool) -> FatEntry:
    slot = raw[index * SLOT_BYTES : (index + 1) * SLOT_BYTES]
    short, shown = _short_name(slot)
    has_long = long_name.fits(slot)
    (low,) = struct.unpack_from("<H", slot, 26)
    (high,) = struct.unpack_from("<H", slot, 20)
    (size,) = struct.unpack_from("<I", slot, 28)
    return FatEntry(
        name=long_name.text if has_long else shown,
        short_name=short,
        attributes=slot[11],
        first_cluster=low | (high << 16 if wide_clusters else 0),
        size_bytes=size,
        slot_index=index,
        slot_count=1 + (len(long_name.parts) if has_long else 0),
        lost_name="" if has_long else _find_lost_name(raw, index),
    )


def parse_slots(raw: bytes, *, wide_clusters: bool) -> tuple[SlotTable, tuple[FatEntry, ...]]:
    """Read a directory's bytes.

    Args:
        raw: All of its clusters.
        wide_clusters: The upper half of cluster numbers counts (FAT32).

    Returns:
        How the slots are used, and the short-name slots up to the end mark, ``.``, ``..`` and the label included.
    """
    count = len(raw) // SLOT_BYTES
    entries: list[FatEntry] = []
    torn: list[str] = []
    free: list[bool] = []
    long_name = _LongName()
    end = count
    for index in range(count):
        slot = raw[index * SLOT_BYTES : (index + 1) * SLOT_BYTES]
        if slot[0] == _END:
            end = index
            break
        free.append(slot[0] == _DELETED)
        if slot[0] != _DELETED and slot[11] & 0x3F == _ATTR_LONG:
            before = long_name.parts
            if not long_name.add(slot):
                torn.append(_LongName(parts=before).text or "?")
            continue
        is_torn = bool(long_name.parts)
        if slot[0] != _DELETED:
            entries.append(_entry(raw, index, long_name, wide_clusters=wide_clusters))
            is_torn = is_torn and not long_name.fits(slot)
        if is_torn and long_name.text:
            torn.append(long_name.text)
        if long_name.parts:
            long_name = _LongName()
    if long_name.parts:
        torn.append(long_name.text or "?")
    runs = _free_runs(free + [_is_free(raw, i) for i in range(end, count)])
    return SlotTable(count, runs, count - end, tuple(torn)), tuple(entries)


def _is_free(raw: bytes, index: int) -> bool:
    """Linux takes slots behind the end mark one by one, too: an old name there is not free to it."""
    return raw[index * SLOT_BYTES] in (_END, _DELETED)


def _free_runs(free: list[bool]) -> tuple[int, ...]:
    runs: list[int] = []
    length = 0
    for is_free in [*free, False]:
        if is_free:
            length += 1
        elif length:
            runs.append(length)
            length = 0
    return tuple(runs)
