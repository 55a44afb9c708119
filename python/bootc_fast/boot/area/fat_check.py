"""What is wrong on a FAT volume, judged as the firmware judges it; reads only.

Linux shows a directory up to the hole in its chain and two names on one cluster as two files; EDK II takes the first
for empty, and ``fsck.fat -a`` cuts one of the second short.
"""

from __future__ import annotations

import enum
from array import array
from typing import TYPE_CHECKING

from bootc_fast.boot.area.fat import Chain, FatReader, Verdict
from bootc_fast.records import dataclass, field

if TYPE_CHECKING:
    from bootc_fast.boot.area.fat import FatDirectory
    from bootc_fast.boot.area.fat_slots import FatEntry

MAX_ENTRIES = 200_000
"""Names that are looked at; a boot partition has some hundred."""
MAX_DEPTH = 32
_MAX_CHAINS_NAMED = 16


class FatProblem(enum.StrEnum):
    """What can be wrong; the values are for people and JSON."""

    DIRECTORY_UNREACHABLE = "directory-unreachable"
    DIRECTORY_BROKEN = "directory-broken"
    NO_DOTS = "dots-missing"
    CROSS_LINKED = "cross-linked"
    FILE_BROKEN = "file-broken"
    FILE_TRUNCATED = "file-truncated"
    ORPHANS = "orphan-clusters"
    FATS_DIFFER = "fat-copies-differ"
    TORN_NAME = "torn-name"
    DUPLICATE_NAME = "duplicate-name"
    DIRTY = "dirty-mark"
    TOO_MUCH = "too-much-to-check"


_HARMLESS = frozenset({FatProblem.ORPHANS, FatProblem.TORN_NAME, FatProblem.DIRTY})


@dataclass(frozen=True, slots=True)
class FatFinding:
    """One thing that is wrong.

    Attributes:
        problem: Its kind.
        path: Where, from the volume's root; empty for the volume as a whole.
        detail: In words.
        other: The other path of a cross link.
        clusters: How many are concerned.
    """

    problem: FatProblem
    path: str
    detail: str
    other: str | None = None
    clusters: int = 0

    @property
    def is_harmless(self) -> bool:
        """Neither the firmware nor ``fsck.fat -a`` makes a live file unreadable for it."""
        return self.problem in _HARMLESS


@dataclass
class _Walk:
    reader: FatReader
    owner: array[int]
    paths: list[str] = field(default_factory=lambda: [""])
    found: list[FatFinding] = field(default_factory=list)
    names: int = 0

    def tell(self, problem: FatProblem, path: str, detail: str, *, other: str | None = None, clusters: int = 0) -> None:
        self.found.append(FatFinding(problem, path, detail, other, clusters))

    def claim(self, chain: Chain, path: str, *, needed: int | None = None) -> bool:
        """Note whose clusters these are; False where one of them is another name's already."""
        self.paths.append(path)
        mine = len(self.paths) - 1
        others: set[int] = set()
        shared = 0
        # A directory's chain belongs to it whole, a file's too: what exceeds its size is still not free.
        for cluster in chain.clusters[:needed]:
            if self.owner[cluster]:
                others.add(self.owner[cluster])
                shared += 1
            else:
                self.owner[cluster] = mine
        for number in sorted(others):
            other = self.paths[number]
            self.tell(
                FatProblem.CROSS_LINKED, path, f"shares clusters with {other or '/'}", other=other, clusters=shared
            )
        return not others


def _describe_end(chain: Chain) -> str:
    if chain.verdict is Verdict.FREE:
        return f"its chain runs into a free cluster after {len(chain.clusters)}"
    if chain.verdict is Verdict.CROSSED:
        return f"its chain comes back to itself after {len(chain.clusters)} clusters"
    return f"its chain leads out of the volume after {len(chain.clusters)} clusters"


def _check_file(walk: _Walk, path: str, entry: FatEntry) -> None:
    reader = walk.reader
    needed = reader.clusters_of_size(entry.size_bytes)
    if entry.first_cluster == 0:
        if needed:
            walk.tell(FatProblem.FILE_TRUNCATED, path, f"{entry.size_bytes} bytes and no cluster")
        return
    chain = reader.read_chain(entry.first_cluster)
    walk.claim(chain, path)
    if len(chain.clusters) < needed:
        detail = f"{len(chain.clusters)} of {needed} clusters; {_describe_end(chain)}"
        walk.tell(FatProblem.FILE_TRUNCATED, path, "too short" if chain.is_whole else detail)
    elif not chain.is_whole:
        walk.tell(FatProblem.FILE_BROKEN, path, _describe_end(chain))


def _check_dots(walk: _Walk, path: str, directory: FatDirectory, parent: int) -> None:
    here, above = directory.dots
    wrong = [
        name for name, found, wanted in ((".", here, directory.chain.first), ("..", above, parent)) if found != wanted
    ]
    if wrong:
        walk.tell(FatProblem.NO_DOTS, path, f"{' and '.join(wrong)} missing or wrong")


def _check_names(walk: _Walk, path: str, directory: FatDirectory) -> None:
    for name in directory.table.torn_names:
        walk.tell(FatProblem.TORN_NAME, path, f"parts of a long name without a file: {name}")
    seen: dict[str, str] = {}
    for entry in directory.entries:
        # Linux's own short names are unique; what two of one name lead to, each reader decides for itself.
        for name in {entry.name.upper(), entry.short_name.upper()}:
            if name in seen:
                walk.tell(FatProblem.DUPLICATE_NAME, _join(path, entry.name), f"{seen[name]} has this name too")
                break
        seen[entry.name.upper()] = seen[entry.short_name.upper()] = entry.name


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _check_directory_entry(walk: _Walk, path: str, entry: FatEntry) -> FatDirectory | None:
    """Judge a directory's own chain; None where its content cannot be told."""
    directory = walk.reader.read_directory(entry.first_cluster)
    chain = directory.chain
    if not chain.clusters:
        if walk.reader.geometry.is_cluster(entry.first_cluster):
            detail = f"its first cluster {entry.first_cluster} is free"
        else:
            detail = "it has no first cluster" if not entry.first_cluster else f"no such cluster: {entry.first_cluster}"
        walk.tell(FatProblem.DIRECTORY_UNREACHABLE, path, detail)
        return None
    is_own = walk.claim(chain, path)
    if not chain.is_whole:
        walk.tell(FatProblem.DIRECTORY_BROKEN, path, _describe_end(chain) + ": the firmware takes it for empty")
    return directory if is_own else None


def _walk_tree(walk: _Walk) -> None:
    root = walk.reader.read_root()
    walk.claim(root.chain, "")
    if not root.chain.is_whole:
        walk.tell(FatProblem.DIRECTORY_BROKEN, "", _describe_end(root.chain))
    todo: list[tuple[str, FatDirectory, int]] = [("", root, 0)]
    while todo:
        path, directory, depth = todo.pop()
        _check_names(walk, path, directory)
        for entry in directory.entries:
            walk.names += 1
            if walk.names > MAX_ENTRIES or depth > MAX_DEPTH:
                walk.tell(FatProblem.TOO_MUCH, path, f"more than {MAX_ENTRIES} names or {MAX_DEPTH} levels")
                return
            below = _join(path, entry.name)
            if not entry.is_directory:
                _check_file(walk, below, entry)
                continue
            child = _check_directory_entry(walk, below, entry)
            if child is not None:
                _check_dots(walk, below, child, directory.chain.first if path else 0)
                todo.append((below, child, depth + 1))


def _check_orphans(walk: _Walk) -> None:
    reader = walk.reader
    bits, count = reader.geometry.fat_bits, reader.geometry.cluster_count
    bad_mark = (1 << min(bits, 28)) - 9
    used: dict[int, int] = {}
    for cluster in range(2, count + 2):
        if not walk.owner[cluster] and (value := reader.next_cluster(cluster)) and value != bad_mark:
            used[cluster] = value
    if not used:
        return
    heads = sorted(used.keys() - set(used.values()))
    named = ", ".join(map(str, heads[:_MAX_CHAINS_NAMED])) or "a ring"
    detail = f"{len(used)} clusters in {max(len(heads), 1)} chains belong to no name (first ones: {named})"
    walk.tell(FatProblem.ORPHANS, "", detail, clusters=len(used))


def _check_copies(walk: _Walk) -> None:
    geometry = walk.reader.geometry
    bits = (geometry.cluster_count + 2) * geometry.fat_bits
    length = min(geometry.fat_bytes, -(-bits // 8))
    first, *others = geometry.fat_offsets_bytes
    for number, offset in enumerate(others, 2):
        differing = 0
        for start in range(0, length, 1 << 16):
            size = min(1 << 16, length - start)
            one = walk.reader.read_bytes(first + start, size)
            two = walk.reader.read_bytes(offset + start, size)
            if one != two:
                differing += sum(one[i : i + 512] != two[i : i + 512] for i in range(0, size, 512))
        if differing:
            detail = f"FAT 1 and FAT {number} differ in {differing} sectors; firmware reads the first"
            walk.tell(FatProblem.FATS_DIFFER, "", detail)


def check_names(reader: FatReader) -> tuple[FatFinding, ...]:
    """Check what names lead to: everything but orphan clusters, the copies of the FAT and the dirty mark.

    Raises:
        FatFormatError: The device ends inside the volume.
        OSError: The device cannot be read.
    """
    walk = _Walk(reader, array("I", bytes(4 * (reader.geometry.cluster_count + 2))))
    _walk_tree(walk)
    return tuple(walk.found)


def check_volume(reader: FatReader) -> tuple[FatFinding, ...]:
    """Check a whole volume.

    Returns:
        Everything that is wrong; empty for a clean volume.

    Raises:
        FatFormatError: The device ends inside the volume.
        OSError: The device cannot be read.
    """
    walk = _Walk(reader, array("I", bytes(4 * (reader.geometry.cluster_count + 2))))
    if reader.geometry.is_dirty:
        walk.tell(FatProblem.DIRTY, "", "not unmounted the last time it was written")
    _walk_tree(walk)
    _check_copies(walk)
    if not any(finding.problem is FatProblem.TOO_MUCH for finding in walk.found):
        _check_orphans(walk)
    return tuple(walk.found)
