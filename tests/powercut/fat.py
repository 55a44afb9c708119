"""Reads FAT as EDK II does: a directory whose cluster chain is broken is empty. Shares no code with the product.

That is what firmware finds after a power cut (``FatPhysicalDirSize`` gives 0), where Linux says EIO and ``fsck.fat``
"Contains a free cluster. Assuming EOF".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SECTOR = 512
_SLOT = 32
_DIRECTORY, _VOLUME, _LONG = 0x10, 0x08, 0x0F
_MAX_DEPTH = 8


@dataclass(frozen=True)
class Layout:
    """The boot sector's numbers, in sectors; nothing writes to them later."""

    sectors_per_cluster: int
    fat_start: int
    root_start: int
    root_sectors: int
    root_cluster: int
    clusters: int
    is_fat32: bool

    @property
    def data_start(self) -> int:
        """The sector at which cluster 2 begins."""
        return self.root_start + self.root_sectors


def read_layout(boot_sector: bytes) -> Layout:
    """Read the layout of a FAT16 or FAT32 with sectors of 512 bytes."""
    sector_bytes, per_cluster, reserved, fats, root_slots, total16, _media, fat16 = struct.unpack_from(
        "<HBHBHHBH", boot_sector, 11
    )
    total32, fat32 = struct.unpack_from("<II", boot_sector, 32)
    if sector_bytes != _SECTOR:
        raise ValueError(f"sectors of {sector_bytes} bytes")
    root_start = reserved + fats * (fat16 or fat32)
    root_sectors = (root_slots * _SLOT + _SECTOR - 1) // _SECTOR
    clusters = ((total16 or total32) - root_start - root_sectors) // per_cluster
    root_cluster = 0 if fat16 else struct.unpack_from("<I", boot_sector, 44)[0]
    return Layout(per_cluster, reserved, root_start, root_sectors, root_cluster, clusters, is_fat32=not fat16)


@dataclass(frozen=True)
class Entry:
    """A name in a directory."""

    name: str
    is_directory: bool
    cluster: int
    size_bytes: int


@dataclass(frozen=True)
class Found:
    """A path that the walk came to, or what is wrong with it."""

    path: str
    entry: Entry
    problem: str


@dataclass(frozen=True)
class Chain:
    """The clusters that hold content, and how the chain ends: ``end``, ``free``, ``bad`` or ``loop``."""

    clusters: tuple[int, ...]
    ends: str


class Fat:
    """A file system: a base image, and sectors that replace its own."""

    def __init__(self, base: bytes, changed: Mapping[int, bytes] | None = None) -> None:
        self._base = base
        self._changed = changed or {}
        self.layout = read_layout(self._sectors(0, 1))

    def _sectors(self, first: int, count: int) -> bytes:
        base, changed = self._base, self._changed
        return b"".join(
            changed.get(number) or base[number * _SECTOR : (number + 1) * _SECTOR]
            for number in range(first, first + count)
        )

    def fat_sector(self, cluster: int) -> int:
        """The sector of the first FAT that has the link of `cluster`."""
        return self.layout.fat_start + cluster * self._link_bytes // _SECTOR

    @property
    def _link_bytes(self) -> int:
        return 4 if self.layout.is_fat32 else 2

    def link(self, cluster: int) -> int:
        """Return what the FAT has for a cluster; 0 is free."""
        sector = self._sectors(self.fat_sector(cluster), 1)
        at = cluster * self._link_bytes % _SECTOR
        if self.layout.is_fat32:
            return int(struct.unpack_from("<I", sector, at)[0]) & 0x0FFFFFFF
        return int(struct.unpack_from("<H", sector, at)[0])

    def chain(self, first: int) -> Chain:
        """Follow the links from `first`; a cluster that the FAT has as free holds no content."""
        end_mark = 0x0FFFFFF8 if self.layout.is_fat32 else 0xFFF8
        found: list[int] = []
        seen: set[int] = set()
        cluster = first
        while cluster < end_mark:
            if cluster == 0:
                return Chain(tuple(found[:-1]), "free")
            if not 2 <= cluster < self.layout.clusters + 2:
                return Chain(tuple(found), "bad")
            if cluster in seen:
                return Chain(tuple(found), "loop")
            seen.add(cluster)
            found.append(cluster)
            cluster = self.link(cluster)
        return Chain(tuple(found), "end")

    def _content(self, clusters: tuple[int, ...]) -> bytes:
        per_cluster = self.layout.sectors_per_cluster
        return b"".join(self._sectors(self.layout.data_start + (c - 2) * per_cluster, per_cluster) for c in clusters)

    def read(self, entry: Entry) -> bytes | None:
        """Return a file's bytes; None where its chain is shorter than its size or does not end."""
        if entry.cluster == 0:
            return b"" if entry.size_bytes == 0 else None
        chain = self.chain(entry.cluster)
        content = self._content(chain.clusters)
        if chain.ends != "end" or len(content) < entry.size_bytes:
            return None
        return content[: entry.size_bytes]

    def list_directory(self, entry: Entry | None) -> tuple[list[Entry], str]:
        """List a directory (None: the root): its entries and ``""``, or none and what is wrong with its chain."""
        layout = self.layout
        if entry is None and not layout.is_fat32:
            return list(_entries(self._sectors(layout.root_start, layout.root_sectors))), ""
        first = layout.root_cluster if entry is None else entry.cluster
        chain = self.chain(first)
        if chain.ends != "end":
            return [], f"chain ends {chain.ends}"
        return list(_entries(self._content(chain.clusters))), ""

    def walk(self) -> Iterator[Found]:
        """Yield all that can be reached from the root, and every directory that is taken for empty with its problem."""
        todo: list[tuple[str, Entry | None, int]] = [("", None, 0)]
        while todo:
            path, directory, depth = todo.pop()
            entries, problem = self.list_directory(directory)
            if problem:
                yield Found(path, directory or Entry("", is_directory=True, cluster=0, size_bytes=0), problem)
            for entry in entries:
                if entry.name in {".", ".."}:
                    continue
                child = f"{path}/{entry.name}" if path else entry.name
                yield Found(child, entry, "")
                if entry.is_directory and depth < _MAX_DEPTH:
                    todo.append((child, entry, depth + 1))

    def files(self) -> dict[str, Entry]:
        """Return all files that firmware can name, by path; of two of one name the first."""
        found: dict[str, Entry] = {}
        for item in self.walk():
            if not item.problem and not item.entry.is_directory:
                found.setdefault(item.path, item.entry)
        return found

    def crossed(self) -> list[tuple[str, str]]:
        """Return pairs of paths that own one cluster."""
        owner: dict[int, str] = {}
        pairs = []
        for item in self.walk():
            if item.problem or item.entry.cluster == 0:
                continue
            shared = {owner[c] for c in self.chain(item.entry.cluster).clusters if c in owner}
            pairs += [(other, item.path) for other in sorted(shared)]
            owner.update(dict.fromkeys(self.chain(item.entry.cluster).clusters, item.path))
        return pairs


def _short_name(slot: bytes) -> str:
    base, extension = slot[:8].rstrip().decode("latin1"), slot[8:11].rstrip().decode("latin1")
    if slot[12] & 0x08:
        base = base.lower()
    if slot[12] & 0x10:
        extension = extension.lower()
    return f"{base}.{extension}" if extension else base


def _checksum(short: bytes) -> int:
    total = 0
    for byte in short:
        total = (((total & 1) << 7) + (total >> 1) + byte) & 0xFF
    return total


def _long_name(parts: dict[int, bytes], last: int, checksum: int, short: bytes) -> str | None:
    if not parts or checksum != _checksum(short) or sorted(parts) != list(range(1, last + 1)):
        return None
    return b"".join(parts[number] for number in sorted(parts)).decode("utf-16le", "replace").split("\0")[0]


def _entries(raw: bytes) -> Iterator[Entry]:
    parts: dict[int, bytes] = {}
    last = checksum = 0
    for at in range(0, len(raw), _SLOT):
        slot = raw[at : at + _SLOT]
        if slot[0] == 0:
            return
        if slot[0] != 0xE5 and slot[11] == _LONG:
            if slot[0] & 0x40:
                parts, last, checksum = {}, slot[0] & 0x3F, slot[13]
            elif slot[13] != checksum:
                parts = {}
            parts[slot[0] & 0x3F] = slot[1:11] + slot[14:26] + slot[28:32]
            continue
        if slot[0] != 0xE5 and not slot[11] & _VOLUME:
            name = _long_name(parts, last, checksum, slot[:11]) or _short_name(slot)
            low, high = struct.unpack_from("<H", slot, 26)[0], struct.unpack_from("<H", slot, 20)[0]
            size = struct.unpack_from("<I", slot, 28)[0]
            yield Entry(name, bool(slot[11] & _DIRECTORY), low | high << 16, size)
        parts = {}
