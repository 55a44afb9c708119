"""The FAT model as the bytes of a FAT32, so that the product's own reader, and fsck.fat, look at it."""

from __future__ import annotations

import struct
from array import array
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from unit.boot.fat_model import END, ROOT

from bootc_fast.boot.area.fat import FatReader, parse_geometry

if TYPE_CHECKING:
    from unit.boot.fat_model import FatModel, Slot

_RESERVED = 32
_DELETED = b"\xe5" + bytes(31)
# A volume label is no file, and its slot is not free.
_FILLER = b"FILLER     \x08" + bytes(20)


def _checksum(short: bytes) -> int:
    total = 0
    for byte in short:
        total = ((total >> 1) | ((total & 1) << 7)) + byte & 0xFF
    return total


def _short(slot: Slot) -> bytes:
    return slot.alias or slot.part.ljust(11)


def _entry(name: bytes, slot: Slot, attributes: int) -> bytes:
    start = struct.pack("<H", slot.start >> 16), struct.pack("<H", slot.start & 0xFFFF)
    return b"%b%c%b%b%b%b%b" % (name, attributes, bytes(8), start[0], bytes(4), start[1], struct.pack("<I", slot.size))


@lru_cache(4096)
def _render_slot(slot: Slot) -> bytes:
    if slot.kind == "dot":
        return _entry((b".", b"..")[slot.index].ljust(11), slot, 0x10)
    if slot.kind == "short":
        return _entry(_short(slot), slot, 0x10 if slot.is_dir else 0x20)
    if slot.kind == "deleted":
        return b"\xe5" + _render_slot(replace(slot, kind=slot.was or "free"))[1:]
    if slot.kind != "long":
        # Not the end mark, which would hide what is behind it.
        return _DELETED
    text = slot.part.decode("utf-8", "surrogateescape").encode("utf-16-le", "surrogatepass")
    text = (text + b"\0\0" if len(text) < 26 else text)[:26].ljust(26, b"\xff")
    order = slot.total - slot.index | (0x40 if slot.index == 0 else 0)
    summed = _checksum(slot.alias)
    return b"%c%b\x0f\0%c%b\0\0%b" % (order, text[:10], summed, text[10:22], text[22:])


class FatImage:
    """The model, as its kernel sees the disk; ``update`` follows what it has written since."""

    def __init__(self, model: FatModel) -> None:
        self.model = model
        self.position = 0
        per_cluster = model.cluster_bytes // 512
        fat_sectors = -(-model.clusters * 4 // 512)
        self.data = _RESERVED + fat_sectors
        total = self.data + (model.clusters - ROOT) * per_cluster
        self.raw = bytearray(total * 512)
        boot = bytearray(512)
        struct.pack_into("<HBHBHHBH", boot, 11, 512, per_cluster, _RESERVED, 1, 0, 0, 0xF8, 0)
        struct.pack_into("<II", boot, 32, total, fat_sectors)
        struct.pack_into("<HHIHH", boot, 40, 0, 0, ROOT, 1, 6)
        boot[0:3], boot[3:11], boot[66], boot[82:90] = b"\xeb\x58\x90", b"mkfs.fat", 0x29, b"FAT32   "
        boot[510:] = b"\x55\xaa"
        self.raw[:512] = boot
        for key, sector in model.cache.items():
            self._put(key, sector)
        self._finish()

    def update(self) -> None:
        """Follow the log."""
        for kind, key, sector in self.model.log[self.position :]:
            if kind == "write":
                self._put(key, sector)
        self._finish()

    def _finish(self) -> None:
        self.position = len(self.model.log)
        struct.pack_into("<II", self.raw, _RESERVED * 512, 0x0FFFFFF8, 0x0FFFFFFF)

    def _put(self, key: tuple[str, int], sector: Any) -> None:
        kind, number = key
        if kind == "fat":
            first = number * self.model.fat_entries
            values = [0x0FFFFFFF if value == END else value for value in sector[: self.model.clusters - first]]
            start = _RESERVED * 512 + first * 4
            self.raw[start : start + 4 * len(values)] = array("I", values).tobytes()
            return
        size = self.model.cluster_bytes
        raw = sector if isinstance(sector, bytes) else self._render_directory(sector)
        start = self.data * 512 + (number - ROOT) * size
        self.raw[start : start + size] = raw.ljust(size, b"\0")

    def _render_directory(self, sector: tuple[Slot, ...]) -> bytes:
        return b"".join(map(_render_slot, sector)) + _FILLER * (self.model.cluster_bytes // 32 - len(sector))


class ImageReader(FatReader):
    """The product's reader on bytes."""

    def __init__(self, raw: bytearray) -> None:
        self._raw = raw
        self.geometry = parse_geometry(bytes(raw[:512]), len(raw))
        self._windows = {}
        self._directories = {}

    def read_bytes(self, offset_bytes: int, count: int) -> bytes:
        """See FatReader."""
        return bytes(self._raw[offset_bytes : offset_bytes + count])
