"""FAT12, FAT16 and FAT32 read from a block device or an image, the way the firmware judges them; never written.

The kernel hides what a power cut left: it shows a directory up to the hole in its chain, and two names on one cluster
as two files. The firmware takes a directory whose chain is broken for empty. Everything here reads strangers' bytes:
every number is checked, no chain is followed twice, the only error is FatFormatError (and OSError from the device).

While the file system is mounted the FAT and the directories seen here are the kernel's own buffers; start cluster and
size of a file are as of its inode's last writing (``syncfs`` before).

Source:
    Microsoft, "FAT File System Specification" (2005); EDK II FatPkg, ``FatPhysicalDirSize``, ``FatLoadNextDirent``.
"""

from __future__ import annotations

import enum
import os
import struct

from bootc_fast.boot.area.fat_slots import SLOT_BYTES, FatEntry, SlotTable, parse_slots
from bootc_fast.errors import FatFormatError
from bootc_fast.records import dataclass

MAX_CLUSTERS = 1 << 24
"""Clusters of a volume; more is no boot partition (64 MiB of FAT, 8 GiB in 512-byte clusters)."""
MAX_DIRECTORY_BYTES = 65536 * SLOT_BYTES
"""FAT's own limit for a directory."""
_SECTOR_BYTES = frozenset({512, 1024, 2048, 4096})
_WINDOW_BYTES = 1 << 16
_MAX_KEPT = 64
_FAT12_CLUSTERS, _FAT16_CLUSTERS = 4085, 65525
_FIRST_CLUSTER = 2
_MASK = {12: 0xFFF, 16: 0xFFFF, 32: 0x0FFFFFFF}
_BOOT_BYTES = 512


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where things are on the volume, checked against its size.

    Attributes:
        fat_bits: 12, 16 or 32.
        cluster_bytes: Of one cluster.
        cluster_count: Numbered from 2 on.
        fat_offset_bytes: Of the FAT in use.
        fat_bytes: Of one FAT.
        fat_offsets_bytes: Of all copies that are kept alike; only the one in use where mirroring is off.
        root_offset_bytes: Of the root directory of FAT12 and FAT16; 0 on FAT32.
        root_bytes: Of that root directory; 0 on FAT32.
        root_cluster: First cluster of FAT32's root directory; 0 on FAT12 and FAT16.
        data_offset_bytes: Of cluster 2.
        volume_id: The serial number.
        is_dirty: The mark that Linux sets while the volume is mounted for writing.
    """

    fat_bits: int
    cluster_bytes: int
    cluster_count: int
    fat_offset_bytes: int
    fat_bytes: int
    fat_offsets_bytes: tuple[int, ...]
    root_offset_bytes: int
    root_bytes: int
    root_cluster: int
    data_offset_bytes: int
    volume_id: int
    is_dirty: bool

    def is_cluster(self, number: int) -> bool:
        """Tell whether a number is one of the volume's clusters."""
        return _FIRST_CLUSTER <= number < self.cluster_count + _FIRST_CLUSTER

    def offset_of(self, cluster: int) -> int:
        """Return where a cluster is on the volume, in bytes."""
        return self.data_offset_bytes + (cluster - _FIRST_CLUSTER) * self.cluster_bytes


class Verdict(enum.StrEnum):
    """How a chain of clusters ends."""

    WHOLE = "whole"
    FREE = "runs into a free cluster"
    BROKEN = "broken"
    CROSSED = "crossed"


@dataclass(frozen=True, slots=True)
class Chain:
    """The clusters from a first one on.

    Attributes:
        first: Where it begins; 0 for nothing.
        clusters: Those that belong to it, up to where it goes wrong.
        verdict: How it ends; CROSSED where it comes back to itself.
    """

    first: int
    clusters: tuple[int, ...]
    verdict: Verdict

    @property
    def is_whole(self) -> bool:
        """The chain ends with an end mark."""
        return self.verdict is Verdict.WHOLE


@dataclass(frozen=True, slots=True)
class FatDirectory:
    """A directory as it lies on the disk.

    Attributes:
        chain: Its clusters; for the root of FAT12 and FAT16, which has none, an empty whole one.
        table: Its slots: what is free, names whose parts are torn.
        entries: What Linux shows, ``.``, ``..`` and the label left out.
        dots: First clusters of ``.`` and ``..`` where they are the first two slots; None for each that is not there.
    """

    chain: Chain
    table: SlotTable
    entries: tuple[FatEntry, ...]
    dots: tuple[int | None, int | None]

    def find(self, name: str) -> FatEntry | None:
        """Find an entry by its long or short name, whatever the case."""
        wanted = name.upper()
        return next((e for e in self.entries if wanted in (e.name.upper(), e.short_name.upper())), None)


def _fields(boot: bytes) -> dict[str, int]:
    names = ("sector_bytes", "sectors_per_cluster", "reserved", "fats", "root_entries", "total16", "_", "fat16")
    found = dict(zip(names, struct.unpack_from("<HBHBHHBH", boot, 11), strict=True))
    found["total32"], found["fat32"] = struct.unpack_from("<II", boot, 32)
    found["flags"], _, found["root_cluster"] = struct.unpack_from("<HHI", boot, 40)
    return found


def parse_geometry(boot: bytes, size_bytes: int) -> Geometry:
    """Read the boot sector.

    Args:
        boot: Its 512 bytes.
        size_bytes: Of the device or image.

    Raises:
        FatFormatError: It is no FAT, or does not fit the device.
    """
    if len(boot) < _BOOT_BYTES or boot[510:512] != b"\x55\xaa":
        raise FatFormatError("reading the boot sector: no FAT file system here")
    f = _fields(boot)
    sector, per_cluster = f["sector_bytes"], f["sectors_per_cluster"]
    if sector not in _SECTOR_BYTES or not per_cluster or per_cluster & (per_cluster - 1):
        raise FatFormatError(f"reading the boot sector: {per_cluster} sectors of {sector} bytes are no cluster")
    is_32 = f["fat16"] == 0
    fat_sectors = f["fat32"] if is_32 else f["fat16"]
    if not f["reserved"] or not f["fats"] or not fat_sectors:
        raise FatFormatError("reading the boot sector: it has no room for a FAT")
    total = f["total16"] or f["total32"]
    if not total or total * sector > size_bytes:
        raise FatFormatError(f"reading the boot sector: {total} sectors of {sector} bytes on {size_bytes} bytes")
    root_sectors = 0 if is_32 else -(-f["root_entries"] * SLOT_BYTES // sector)
    root_start = f["reserved"] + f["fats"] * fat_sectors
    data_start = root_start + root_sectors
    count = (total - data_start) // per_cluster if total > data_start else 0
    bits = 32 if is_32 else (12 if count < _FAT12_CLUSTERS else 16)
    # What the FAT has no room for cannot be used: Linux cuts the count likewise.
    count = min(count, fat_sectors * sector * 8 // bits - _FIRST_CLUSTER)
    if not 0 < count <= MAX_CLUSTERS or (bits == 16 and count >= _FAT16_CLUSTERS):  # noqa: PLR2004 - the FAT's width
        raise FatFormatError(f"reading the boot sector: {count} clusters are not those of a FAT{bits}")
    offsets, used = _fat_offsets(f, sector, fat_sectors, is_32=is_32)
    return Geometry(
        fat_bits=bits,
        cluster_bytes=sector * per_cluster,
        cluster_count=count,
        fat_offset_bytes=used,
        fat_bytes=fat_sectors * sector,
        fat_offsets_bytes=offsets,
        root_offset_bytes=0 if is_32 else root_start * sector,
        root_bytes=0 if is_32 else f["root_entries"] * SLOT_BYTES,
        root_cluster=f["root_cluster"] if is_32 else 0,
        data_offset_bytes=data_start * sector,
        volume_id=int.from_bytes(boot[67:71] if is_32 else boot[39:43], "little"),
        is_dirty=bool(boot[65 if is_32 else 37] & 1),
    )


def _fat_offsets(f: dict[str, int], sector: int, fat_sectors: int, *, is_32: bool) -> tuple[tuple[int, ...], int]:
    offsets = tuple((f["reserved"] + i * fat_sectors) * sector for i in range(f["fats"]))
    if not is_32 or not f["flags"] & 0x80:
        return offsets, offsets[0]
    active = f["flags"] & 0x0F
    if active >= len(offsets):
        raise FatFormatError(f"reading the boot sector: FAT {active} of {len(offsets)} is in use")
    return (offsets[active],), offsets[active]


class FatReader:
    """One look at a volume: what has been read is kept, so make a new one after a change."""

    def __init__(self, fd: int) -> None:
        """Read the boot sector; the descriptor stays the caller's.

        Raises:
            FatFormatError: It is no FAT.
            OSError: The device cannot be read.
        """
        self._fd = fd
        size = os.lseek(fd, 0, os.SEEK_END)
        self.geometry: Geometry = parse_geometry(os.pread(fd, _BOOT_BYTES, 0), size)
        self._windows: dict[int, bytes] = {}
        self._directories: dict[int, FatDirectory] = {}

    def read_bytes(self, offset_bytes: int, count: int) -> bytes:
        """Read some bytes of the volume, all of them.

        Raises:
            FatFormatError: The device ends before.
            OSError: It cannot be read.
        """
        parts: list[bytes] = []
        while count > 0:
            part = os.pread(self._fd, min(count, 1 << 20), offset_bytes)
            if not part:
                raise FatFormatError(f"reading the FAT file system: it ends at byte {offset_bytes}", offset_bytes)
            parts.append(part)
            offset_bytes, count = offset_bytes + len(part), count - len(part)
        return b"".join(parts)

    def _fat_slice(self, offset: int, count: int) -> bytes:
        found = b""
        while count > 0:
            number, inside = divmod(offset, _WINDOW_BYTES)
            window = self._windows.get(number)
            if window is None:
                length = min(_WINDOW_BYTES, self.geometry.fat_bytes - number * _WINDOW_BYTES)
                start = self.geometry.fat_offset_bytes + number * _WINDOW_BYTES
                window = self._windows[number] = self.read_bytes(start, max(length, 0))
            part = window[inside : inside + count]
            if not part:
                raise FatFormatError("reading the FAT: it ends before its last cluster")
            found += part
            offset, count = offset + len(part), count - len(part)
        return found

    def next_cluster(self, cluster: int) -> int:
        """Return what the FAT has for a cluster: 0 for a free one, the next one, or an end or bad mark."""
        bits = self.geometry.fat_bits
        if bits == 12:  # noqa: PLR2004 - FAT12
            pair = int.from_bytes(self._fat_slice(cluster * 3 // 2, 2), "little")
            return pair >> 4 if cluster & 1 else pair & 0xFFF
        width = bits // 8
        return int.from_bytes(self._fat_slice(cluster * width, width), "little") & _MASK[bits]

    def is_end_mark(self, value: int) -> bool:
        """Tell whether a FAT entry ends a chain."""
        return value >= _MASK[self.geometry.fat_bits] - 7

    def read_chain(self, first: int) -> Chain:
        """Follow a chain; its length is bounded by the volume's clusters."""
        clusters: list[int] = []
        seen: set[int] = set()
        cluster = first
        while self.geometry.is_cluster(cluster):
            if cluster in seen:
                return Chain(first, tuple(clusters), Verdict.CROSSED)
            following = self.next_cluster(cluster)
            if following == 0:
                # The kernel gives this cluster to the next file that asks: it does not belong to the chain.
                return Chain(first, tuple(clusters), Verdict.FREE)
            seen.add(cluster)
            clusters.append(cluster)
            if self.is_end_mark(following):
                return Chain(first, tuple(clusters), Verdict.WHOLE)
            cluster = following
        return Chain(first, tuple(clusters), Verdict.BROKEN if cluster else Verdict.FREE)

    def read_cluster(self, cluster: int) -> bytes:
        """Read one cluster's bytes."""
        return self.read_bytes(self.geometry.offset_of(cluster), self.geometry.cluster_bytes)

    def read_root(self) -> FatDirectory:
        """Read the root directory."""
        if self.geometry.fat_bits == 32:  # noqa: PLR2004 - FAT32
            return self.read_directory(self.geometry.root_cluster)
        raw = self.read_bytes(self.geometry.root_offset_bytes, self.geometry.root_bytes)
        return _make_directory(Chain(0, (), Verdict.WHOLE), raw, wide=False)

    def read_directory(self, first: int) -> FatDirectory:
        """Read a directory's slots up to where its chain goes wrong; the verdict stands in its chain."""
        if first not in self._directories:
            if len(self._directories) >= _MAX_KEPT:
                self._directories.clear()
            self._directories[first] = self._read_directory(first)
        return self._directories[first]

    def _read_directory(self, first: int) -> FatDirectory:
        chain = self.read_chain(first)
        allowed = MAX_DIRECTORY_BYTES // self.geometry.cluster_bytes or 1
        if len(chain.clusters) > allowed:
            chain = Chain(first, chain.clusters[:allowed], Verdict.BROKEN)
        raw = b"".join(map(self.read_cluster, chain.clusters))
        return _make_directory(chain, raw, wide=self.geometry.fat_bits == 32)  # noqa: PLR2004 - FAT32

    def find_entry(self, path: str) -> FatEntry | None:
        """Look a path up, whatever the case, long or short names; None where it leads nowhere.

        Broken directories are searched up to the break, as Linux does.
        """
        directory, entry = self.read_root(), None
        for part in (part for part in path.split("/") if part):
            if entry is not None:
                if not entry.is_directory:
                    return None
                directory = self.read_directory(entry.first_cluster)
            entry = directory.find(part)
            if entry is None:
                return None
        return entry

    def find_directory(self, path: str) -> FatDirectory | None:
        """Look a directory up; the root for an empty path, None where the path leads to none."""
        if not path.strip("/"):
            return self.read_root()
        entry = self.find_entry(path)
        return self.read_directory(entry.first_cluster) if entry is not None and entry.is_directory else None

    def clusters_of_size(self, size_bytes: int) -> int:
        """Return how many clusters a file of a size takes."""
        return -(-size_bytes // self.geometry.cluster_bytes)


def _make_directory(chain: Chain, raw: bytes, *, wide: bool) -> FatDirectory:
    table, found = parse_slots(raw, wide_clusters=wide)
    dots: list[int | None] = [None, None]
    for entry in found:
        if entry.short_name in (".", "..") and entry.slot_index == len(entry.short_name) - 1 and entry.is_directory:
            dots[entry.slot_index] = entry.first_cluster
    entries = tuple(e for e in found if not e.is_label and e.short_name not in (".", ".."))
    return FatDirectory(chain, table, entries, (dots[0], dots[1]))
