"""Reads FAT as EDK II does: a directory whose cluster chain is broken is empty. Shares no code with the product.

That is what firmware finds after a power cut (``FatPhysicalDirSize`` gives 0), where Linux says EIO and ``fsck.fat``
"Contains a free cluster. Assuming EOF".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_SECTOR = 512
_ZERO = bytes(_SECTOR)
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


@dataclass
class Memo:
    """What was read of one file system in many states; shared by readers whose layout is the same.

    Sectors are compared by identity: whoever shares a memo takes them from one place.
    """

    links: dict[bytes, tuple[int, ...]] = field(default_factory=dict)
    chains: dict[int, list[tuple[tuple[tuple[int, bytes], ...], Chain]]] = field(default_factory=dict)
    known_chains: dict[Chain, Chain] = field(default_factory=dict)
    contents: dict[tuple[bytes, ...], bytes] = field(default_factory=dict)
    directories: dict[bytes, tuple[Entry, ...]] = field(default_factory=dict)
    crossed: dict[tuple[tuple[str, Chain], ...], tuple[tuple[str, str], ...]] = field(default_factory=dict)


_MAX_WAYS = 32  # a chain's ways through the FAT that are remembered


class Fat:
    """A file system: sectors that are not zero, or a whole image; and sectors that replace these."""

    def __init__(
        self,
        base: bytes | Mapping[int, bytes],
        changed: Mapping[int, bytes] | None = None,
        memo: Memo | None = None,
    ) -> None:
        if isinstance(base, bytes):
            base = {at // _SECTOR: base[at : at + _SECTOR] for at in range(0, len(base), _SECTOR)}
        self._now = {**base, **(changed or {})}
        self._memo = memo or Memo()
        self.layout = read_layout(self._now[0])

    def _sectors(self, first: int, count: int) -> bytes:
        now = self._now
        parts = tuple([now.get(number, _ZERO) for number in range(first, first + count)])
        return self._join(parts)

    def _join(self, parts: tuple[bytes, ...]) -> bytes:
        content = self._memo.contents.get(parts)
        if content is None:
            content = self._memo.contents[parts] = b"".join(parts)
        return content

    def fat_sector(self, cluster: int) -> int:
        """The sector of the first FAT that has the link of `cluster`."""
        return self.layout.fat_start + cluster * self._link_bytes // _SECTOR

    @property
    def _link_bytes(self) -> int:
        return 4 if self.layout.is_fat32 else 2

    def _links_of(self, sector: bytes) -> tuple[int, ...]:
        links = self._memo.links.get(sector)
        if links is None:
            if self.layout.is_fat32:
                links = tuple(link & 0x0FFFFFFF for link in struct.unpack("<128I", sector))
            else:
                links = struct.unpack("<256H", sector)
            self._memo.links[sector] = links
        return links

    def link(self, cluster: int) -> int:
        """Return what the FAT has for a cluster; 0 is free."""
        sector = self._now.get(self.fat_sector(cluster), _ZERO)
        return self._links_of(sector)[cluster % (_SECTOR // self._link_bytes)]

    def chain(self, first: int) -> Chain:
        """Follow the links from `first`; a cluster that the FAT has as free holds no content."""
        now, ways = self._now, self._memo.chains.setdefault(first, [])
        for at, (passed, chain) in enumerate(ways):
            if all(now.get(number, _ZERO) is sector for number, sector in passed):
                if at:
                    ways.insert(0, ways.pop(at))
                return chain
        passed_now: dict[int, bytes] = {}
        chain = self._follow(first, passed_now)
        chain = self._memo.known_chains.setdefault(chain, chain)
        ways.insert(0, (tuple(passed_now.items()), chain))
        del ways[_MAX_WAYS:]
        return chain

    def _follow(self, first: int, passed: dict[int, bytes]) -> Chain:
        end_mark = 0x0FFFFFF8 if self.layout.is_fat32 else 0xFFF8
        per_sector, start, last = _SECTOR // self._link_bytes, self.layout.fat_start, self.layout.clusters + 2
        found: dict[int, None] = {}
        cluster = first
        while cluster < end_mark:
            if cluster == 0:
                return Chain(tuple(found)[:-1], "free")
            if not 2 <= cluster < last:
                return Chain(tuple(found), "bad")
            if cluster in found:
                return Chain(tuple(found), "loop")
            found[cluster] = None
            number = start + cluster // per_sector
            sector = passed.get(number)
            if sector is None:
                sector = passed[number] = self._now.get(number, _ZERO)
            cluster = self._links_of(sector)[cluster % per_sector]
        return Chain(tuple(found), "end")

    def _content(self, clusters: tuple[int, ...]) -> bytes:
        now, per_cluster = self._now, self.layout.sectors_per_cluster
        first = self.layout.data_start - 2 * per_cluster
        parts = [
            now.get(number, _ZERO)
            for cluster in clusters
            for number in range(first + cluster * per_cluster, first + (cluster + 1) * per_cluster)
        ]
        return self._join(tuple(parts))

    def read(self, entry: Entry) -> bytes | None:
        """Return a file's bytes; None where its chain is shorter than its size or does not end."""
        if entry.cluster == 0:
            return b"" if entry.size_bytes == 0 else None
        chain = self.chain(entry.cluster)
        if chain.ends != "end":
            return None
        return self._cut(chain.clusters, entry.size_bytes)

    def _cut(self, clusters: tuple[int, ...], size: int) -> bytes | None:
        cluster_bytes = self.layout.sectors_per_cluster * _SECTOR
        needed = -(-size // cluster_bytes)
        if len(clusters) < needed:
            return None
        content = self._content(clusters[:needed])
        key = (content, size.to_bytes(4, "little"))
        found = self._memo.contents.get(key)
        if found is None:
            found = self._memo.contents[key] = content[:size]
        return found

    def _list(self, raw: bytes) -> tuple[Entry, ...]:
        entries = self._memo.directories.get(raw)
        if entries is None:
            entries = self._memo.directories[raw] = tuple(_entries(raw))
        return entries

    def list_directory(self, entry: Entry | None) -> tuple[tuple[Entry, ...], str]:
        """List a directory (None: the root): its entries and ``""``, or none and what is wrong with its chain."""
        layout = self.layout
        if entry is None and not layout.is_fat32:
            return self._list(self._sectors(layout.root_start, layout.root_sectors)), ""
        chain = self.chain(layout.root_cluster if entry is None else entry.cluster)
        if chain.ends != "end":
            return (), f"chain ends {chain.ends}"
        return self._list(self._content(chain.clusters)), ""

    def count_slots(self, directory: Entry) -> int:
        """Say how many slots a directory has before its end mark, deleted ones included."""
        raw = self._content(self.chain(directory.cluster).clusters)
        return next((at // _SLOT for at in range(0, len(raw), _SLOT) if raw[at] == 0), len(raw) // _SLOT)

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

    def crossed(self) -> tuple[tuple[str, str], ...]:
        """Return pairs of paths that own one cluster."""
        return self.find_crossed(list(self.walk()))

    def find_crossed(self, items: Sequence[Found]) -> tuple[tuple[str, str], ...]:
        """Return the pairs of what `walk` found that own one cluster."""
        chains = tuple(
            (item.path, self.chain(item.entry.cluster)) for item in items if not item.problem and item.entry.cluster
        )
        pairs = self._memo.crossed.get(chains)
        if pairs is None:
            pairs = self._memo.crossed[chains] = tuple(_cross(chains))
        return pairs


class GrubFat(Fat):
    """As GRUB reads (``grub_fat_read_data``): a link is looked at when what lies behind it is asked for, no sooner.

    A directory shows the names before a break in its chain, the cluster that the FAT has as free included; a file is
    there if its size needs nothing behind the break.
    """

    def _reached(self, first: int) -> tuple[int, ...]:
        chain = self.chain(first)
        if chain.ends != "free" or first == 0:
            return chain.clusters
        return (*chain.clusters, self.link(chain.clusters[-1]) if chain.clusters else first)

    def read(self, entry: Entry) -> bytes | None:
        """Return a file's bytes; None where its chain is shorter than its size."""
        if entry.size_bytes == 0:
            return b""
        return self._cut(self._reached(entry.cluster), entry.size_bytes)

    def list_directory(self, entry: Entry | None) -> tuple[tuple[Entry, ...], str]:
        """List what of a directory can be read."""
        if entry is None and not self.layout.is_fat32:
            return super().list_directory(entry)
        return self._list(
            self._content(self._reached(self.layout.root_cluster if entry is None else entry.cluster))
        ), ""


def _cross(chains: tuple[tuple[str, Chain], ...]) -> Iterator[tuple[str, str]]:
    clusters = [set(chain.clusters) for _, chain in chains]
    if sum(map(len, clusters)) == len(set().union(*clusters)):
        return
    owner: dict[int, str] = {}
    for path, chain in chains:
        for other in sorted({owner[cluster] for cluster in chain.clusters if cluster in owner}):
            yield other, path
        owner.update(dict.fromkeys(chain.clusters, path))


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
