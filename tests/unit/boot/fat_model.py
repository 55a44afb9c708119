"""FAT as Linux's vfat writes it, down to the sector, for tests: what is on the disk when the power goes.

Modelled: 512-byte sectors written whole, in any order and any subset between two flushes; long names that take
several directory slots and may cross sectors; ``rename`` that writes start cluster 0 until the inode is written;
``unlink`` that frees clusters in the same epoch unless a descriptor is open; ``syncfs`` that writes all and flushes
nothing; ``fsync`` that flushes; a directory whose chain is broken, which the firmware takes for empty and the kernel
does not open; directories that share a cluster and so their files. A sector is a tuple of directory slots, of FAT
entries, or bytes; ``fat_image`` writes all of it as a real FAT32.
"""

from __future__ import annotations

import errno
import os
import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

FREE, END = 0, -1
ROOT = 2
_LFN_CHARS = 13


@dataclass(frozen=True)
class Slot:
    """A directory slot: ``kind`` is "free", "deleted", "long", "short" or "dot" (``.`` and ``..``).

    ``alias`` is the short name of a long one, all 11 bytes; ``was`` the kind of a deleted one, whose bytes stay.
    """

    kind: str
    tag: int = 0
    part: bytes = b""
    index: int = 0
    total: int = 0
    start: int = 0
    size: int = 0
    is_dir: bool = False
    alias: bytes = b""
    was: str = ""


@dataclass
class Inode:
    """A file or directory as the kernel holds it."""

    start: int = 0
    size: int = 0
    is_dir: bool = False
    slots: list[tuple[int, int]] = field(default_factory=list)
    is_dirty: bool = False
    open_count: int = 0
    is_unlinked: bool = False
    children: dict[bytes, Inode] = field(default_factory=dict)


def seeded(seed: int) -> random.Random:
    """Return numbers that are the same in every run."""
    return random.Random(seed)  # noqa: S311 - a failure has to come again with the same seed


def make_alias(name: bytes, taken: Collection[bytes]) -> bytes:
    """The short name below a long one, as Linux makes it, for names of letters, digits, ``_`` and ``-``.

    Source: ``fs/fat/namei_vfat.c``, ``vfat_create_shortname``.
    """
    base, dot, extension = name.rpartition(b".") if b"." in name[1:] else (name, b"", b"")
    kept = base.replace(b".", b"").replace(b"+", b"_").upper()
    ending = (extension[:3] if dot else b"").ljust(3).upper()
    numbered = (b"%b~%d" % (kept[:6], number) for number in range(1, 10))
    random_ones = (b"%b%04X~%d" % (kept[:2], number, number % 8 + 1) for number in range(1 << 16))
    return next(one for stem in (numbered, random_ones) for s in stem if (one := s.ljust(8) + ending) not in taken)


def show_alias(alias: bytes) -> bytes:
    """What Linux shows of a short name without a long one."""
    base, extension = alias[:8].rstrip(), alias[8:].rstrip()
    return base + b"." + extension if extension else base


def make_error(number: int, what: object = "") -> OSError:
    return OSError(number, os.strerror(number), what)


class FatModel:
    """A mounted FAT file system, and the log of what it writes."""

    def __init__(
        self, *, clusters: int = 600, cluster_bytes: int = 512, slots_per_sector: int = 16, fat_entries: int = 128
    ) -> None:
        self.clusters = clusters
        self.fat_entries = fat_entries
        self.cluster_bytes = cluster_bytes
        self.slots_per_sector = slots_per_sector
        self.cache: dict[tuple[str, int], Any] = {}
        self.disk: dict[tuple[str, int], Any] = {}
        self.log: list[tuple[str, tuple[str, int], Any]] = []
        self.next_tag = 1
        self.is_read_only = False
        self.can_exchange = True
        self.remembers = False
        self.held: dict[int, Inode] = {}
        self.next_handle = 1
        for i in range(0, clusters, self.fat_entries):
            self.cache["fat", i // self.fat_entries] = (FREE,) * self.fat_entries
        self.root = Inode(start=ROOT, is_dir=True)
        self._set_fat(ROOT, END)
        self._put(("data", ROOT), self._empty_directory())
        self.flush()
        self.log = []

    # -- sectors ------------------------------------------------------------------------------------------------

    def _empty_directory(self) -> tuple[Slot, ...]:
        return (Slot("free"),) * self.slots_per_sector

    def _put(self, key: tuple[str, int], value: Any) -> None:
        if self.is_read_only:
            raise make_error(errno.EROFS)
        self.cache[key] = value
        self.log.append(("write", key, value))

    def flush(self) -> None:
        """What a cache flush does: everything written so far is on the disk."""
        self.disk = dict(self.cache)
        self.log.append(("flush", ("", 0), None))

    def _fat(self, cluster: int) -> int:
        if not ROOT <= cluster < self.clusters:
            return END
        return self.cache["fat", cluster // self.fat_entries][cluster % self.fat_entries]

    def _set_fat(self, cluster: int, value: int) -> None:
        key = ("fat", cluster // self.fat_entries)
        entries = list(self.cache[key])
        entries[cluster % self.fat_entries] = value
        self._put(key, tuple(entries))

    def _allocate(self, count: int) -> list[int]:
        free = [c for c in range(ROOT + 1, self.clusters) if self._fat(c) == FREE][:count]
        if len(free) < count:
            raise make_error(errno.ENOSPC)
        for cluster, following in zip(free, [*free[1:], END], strict=True):
            self._set_fat(cluster, following)
        return free

    def _free_chain(self, start: int) -> None:
        cluster = start
        while cluster not in (FREE, END):
            following = self._fat(cluster)
            if following == FREE:
                # The kernel calls this "deleting FAT entry beyond EOF" and goes read-only.
                self.is_read_only = True
                raise make_error(errno.EIO, "deleting FAT entry beyond EOF")
            self._set_fat(cluster, FREE)
            cluster = following

    def _new_directory(self, start: int, parent: int) -> tuple[Slot, ...]:
        # Of a directory in the root `..` has no cluster.
        dots = (Slot("dot", start=start), Slot("dot", start=parent if parent != ROOT else FREE, index=1))
        return (*dots, *self._empty_directory())[: self.slots_per_sector]

    def chain(self, start: int) -> list[int]:
        """Clusters of a chain; stops before a free one."""
        found: list[int] = []
        cluster = start
        while cluster not in (FREE, END) and cluster not in found and self._fat(cluster) != FREE:
            found.append(cluster)
            cluster = self._fat(cluster)
        return found

    def is_broken(self, start: int) -> bool:
        """Say whether firmware takes what starts here for empty: its chain runs into a free cluster, or in a circle.

        Source: EDK II, FatPhysicalDirSize.
        """
        seen: set[int] = set()
        cluster = start
        while cluster != END:
            if cluster == FREE or cluster in seen or self._fat(cluster) == FREE:
                return True
            seen.add(cluster)
            cluster = self._fat(cluster)
        return False

    # -- directories --------------------------------------------------------------------------------------------

    def _directory_slots(self, directory: Inode) -> list[tuple[int, int]]:
        return [(c, i) for c in self.chain(directory.start) for i in range(self.slots_per_sector)]

    def _make_alias(self, directory: Inode, name: bytes) -> bytes:
        slots = [self.cache["data", cluster][index] for cluster, index in self._directory_slots(directory)]
        return make_alias(name, {slot.alias for slot in slots if slot.kind == "short"})

    def _write_slots(self, positions: list[tuple[int, int]], slots: list[Slot]) -> None:
        by_sector: dict[int, list[tuple[int, Slot]]] = {}
        for (cluster, index), slot in zip(positions, slots, strict=True):
            by_sector.setdefault(cluster, []).append((index, slot))
        for cluster, changes in by_sector.items():
            sector = list(self.cache["data", cluster])
            for index, slot in changes:
                sector[index] = slot
            self._put(("data", cluster), tuple(sector))

    def _add_slots(self, directory: Inode, name: bytes, inode: Inode) -> None:
        # A name that is short and upper case needs no long one.
        is_short = len(name) <= 8 and name.isalnum() and name.isupper()
        parts = [] if is_short else [name[i : i + _LFN_CHARS] for i in range(0, len(name), _LFN_CHARS)]
        count = len(parts) + 1
        positions = self._directory_slots(directory)
        usable = [self.cache["data", c][i].kind in ("free", "deleted") for c, i in positions]
        for start in range(len(positions) + 1):
            if start + count > len(positions):
                if not directory.start:
                    # What a cut inside its making left: Linux gives it a first cluster with its first name.
                    directory.start, directory.is_dirty = self._allocate(1)[0], True
                    self._put(("data", directory.start), self._empty_directory())
                    self._add_slots(directory, name, inode)
                    return
                last = self.chain(directory.start)[-1]
                cluster = next((c for c in range(ROOT + 1, self.clusters) if self._fat(c) == FREE), None)
                if cluster is None:
                    raise make_error(errno.ENOSPC)
                # Link and end mark go in one epoch; the link first is the order that a plain prefix shows.
                self._put(("data", cluster), self._empty_directory())
                self._set_fat(last, cluster)
                self._set_fat(cluster, END)
                self._add_slots(directory, name, inode)
                return
            if all(usable[start : start + count]):
                break
        tag, self.next_tag = self.next_tag, self.next_tag + 1
        # The last part comes first.
        alias = b"" if is_short else self._make_alias(directory, name)
        slots = [Slot("long", tag, part, i, len(parts), alias=alias) for i, part in enumerate(reversed(parts))]
        # Start cluster and size come when the inode is written.
        own = name if is_short else b""
        slots.append(Slot("short", tag, own, total=len(parts), is_dir=inode.is_dir, alias=alias))
        inode.slots = positions[start : start + count]
        self._write_slots(inode.slots, slots)

    def _remove_slots(self, positions: list[tuple[int, int]]) -> None:
        self._write_slots(positions, [self._deleted(c, i) for c, i in positions])

    def _deleted(self, cluster: int, index: int) -> Slot:
        old = self.cache["data", cluster][index]
        return replace(old, kind="deleted", was=old.kind)

    def _write_inode(self, inode: Inode) -> None:
        inode.is_dirty = False
        if inode.is_unlinked or not inode.slots:
            return
        cluster, index = inode.slots[-1]
        old = self.cache["data", cluster][index]
        new = replace(old, start=inode.start, size=inode.size, is_dir=inode.is_dir)
        self._write_slots([inode.slots[-1]], [new])

    # -- operations ---------------------------------------------------------------------------------------------

    def find(self, path: bytes) -> Inode:
        """Look a path up."""
        inode = self.root
        for name in path.strip(b"/").split(b"/") if path.strip(b"/") else ():
            if not inode.is_dir:
                raise make_error(errno.ENOTDIR, path)
            if name not in inode.children:
                raise make_error(errno.ENOENT, path)
            inode = inode.children[name]
            if inode.is_dir and inode.start != FREE and self.is_broken(inode.start):
                # The kernel asks for a directory's length when it looks its name up.
                raise make_error(errno.EIO, path)
        return inode

    def create(self, directory: Inode, name: bytes, data: bytes) -> Inode:
        """Make a file; nothing is flushed."""
        if name in directory.children:
            raise make_error(errno.EEXIST, name)
        inode = Inode()
        self._add_slots(directory, name, inode)
        directory.children[name] = inode
        if data:
            clusters = self._allocate(-(-len(data) // self.cluster_bytes))
            for i, cluster in enumerate(clusters):
                self._put(("data", cluster), data[i * self.cluster_bytes : (i + 1) * self.cluster_bytes])
            inode.start, inode.size = clusters[0], len(data)
        inode.is_dirty = True
        return inode

    def mkdir(self, directory: Inode, name: bytes) -> Inode:
        """Make a directory."""
        inode = Inode(is_dir=True, start=self._allocate(1)[0])
        self._put(("data", inode.start), self._new_directory(inode.start, directory.start))
        self._add_slots(directory, name, inode)
        self._write_inode(inode)
        directory.children[name] = inode
        return inode

    def fsync(self, inode: Inode) -> None:
        """Write a file's inode and flush; of a directory: only the flush, its children's inodes stay dirty."""
        if inode.is_dirty:
            self._write_inode(inode)
        self.flush()

    def syncfs(self) -> None:
        """Write every dirty inode; no flush."""
        pending = [self.root]
        seen: set[int] = set()
        while pending:
            inode = pending.pop()
            if id(inode) in seen:
                continue
            seen.add(id(inode))
            if inode.is_dirty:
                self._write_inode(inode)
            pending.extend(inode.children.values())

    def rename(self, directory: Inode, old: bytes, new: bytes) -> None:
        """Rename within a directory, also onto an existing file."""
        if old not in directory.children:
            raise make_error(errno.ENOENT, old)
        inode = directory.children.pop(old)
        old_slots = inode.slots
        target = directory.children.get(new)
        if target is not None:
            inode.slots = target.slots
            self._remove_slots(old_slots)
            self._drop(target)
        else:
            self._add_slots(directory, new, inode)
            self._remove_slots(old_slots)
        directory.children[new] = inode
        inode.is_dirty = True

    def firmware_rename(self, directory: Inode, old: bytes, new: bytes) -> None:
        """Rename as EDK II does: the old slots are deleted, the new name goes behind the last one; then one flush.

        Where another file has the name, nothing happens.
        """
        if old not in directory.children or new in directory.children:
            return
        inode = directory.children.pop(old)
        gone = inode.slots
        positions = self._directory_slots(directory)
        used = [i for i, (c, at) in enumerate(positions) if self.cache["data", c][at].kind != "free"]
        parts = [new[i : i + _LFN_CHARS] for i in range(0, len(new), _LFN_CHARS)]
        start = max(used, default=-1) + 1
        if start + len(parts) + 1 > len(positions):
            cluster = self._allocate(1)[0]
            self._set_fat(positions[-1][0], cluster)
            self._put(("data", cluster), self._empty_directory())
            positions = self._directory_slots(directory)
        tag, self.next_tag = self.next_tag, self.next_tag + 1
        alias = self._make_alias(directory, new)
        slots = [Slot("long", tag, part, i, len(parts), alias=alias) for i, part in enumerate(reversed(parts))]
        slots.append(Slot("short", tag, total=len(parts), start=inode.start, size=inode.size, alias=alias))
        inode.slots = positions[start : start + len(slots)]
        # From its cache: each sector once.
        self._write_slots([*gone, *inode.slots], [*[self._deleted(c, i) for c, i in gone], *slots])
        directory.children[new] = inode
        self.flush()

    def exchange(self, directory: Inode, one: bytes, two: bytes) -> None:
        """``RENAME_EXCHANGE``: both names keep their old start cluster until the inodes are written."""
        first, second = directory.children[one], directory.children[two]
        first.slots, second.slots = second.slots, first.slots
        directory.children[one], directory.children[two] = second, first
        first.is_dirty = second.is_dirty = True

    def detach(self, path: bytes) -> None:
        """Write over a name's slot on the device: an empty file. What the kernel has looked up it remembers."""
        head, _, name = path.strip(b"/").rpartition(b"/")
        directory = self.find(head)
        inode = directory.children[name]
        cluster, index = inode.slots[-1]
        old = self.cache["data", cluster][index]
        self._write_slots([inode.slots[-1]], [replace(old, start=FREE, size=0, is_dir=False)])
        self.flush()
        if not self.remembers:
            directory.children[name] = Inode(slots=inode.slots)

    def _drop(self, inode: Inode) -> None:
        inode.is_unlinked = True
        if not inode.open_count:
            self._free_chain(inode.start)

    def unlink(self, directory: Inode, name: bytes) -> None:
        """Remove a name; frees the clusters in the same epoch unless the file is open."""
        if name not in directory.children:
            raise make_error(errno.ENOENT, name)
        inode = directory.children.pop(name)
        self._remove_slots(inode.slots)
        self._drop(inode)

    def hold(self, inode: Inode) -> int:
        """Open a file."""
        inode.open_count += 1
        handle, self.next_handle = self.next_handle, self.next_handle + 1
        self.held[handle] = inode
        return handle

    def release(self, handle: int) -> None:
        """Close it; clusters without a name are freed now."""
        inode = self.held.pop(handle)
        inode.open_count -= 1
        if inode.is_unlinked and not inode.open_count:
            self._free_chain(inode.start)

    def close_all(self) -> None:
        """What the kernel does when a process dies."""
        for handle in list(self.held):
            self.release(handle)

    def read(self, inode: Inode) -> bytes:
        """Read a file as Linux does: the first cluster unseen, an error where the chain ends early."""
        out = b""
        cluster = inode.start
        while len(out) < inode.size:
            if cluster in (FREE, END):
                raise make_error(errno.EIO, "the chain ends before the file")
            sector = self.cache.get(("data", cluster))
            out += (sector if isinstance(sector, bytes) else b"\xde" * self.cluster_bytes).ljust(
                self.cluster_bytes, b"\0"
            )
            cluster = self._fat(cluster)
        return out[: inode.size]

    # -- crashes ------------------------------------------------------------------------------------------------

    def mount(self, disk: dict[tuple[str, int], Any]) -> FatModel:
        """Mount what a crash left."""
        model = FatModel(
            clusters=self.clusters,
            cluster_bytes=self.cluster_bytes,
            slots_per_sector=self.slots_per_sector,
            fat_entries=self.fat_entries,
        )
        model.can_exchange, model.remembers = self.can_exchange, self.remembers
        model.cache, model.disk = dict(disk), dict(disk)
        model.log = []
        model.next_tag = self.next_tag + 1000
        model._load(model.root, {})
        return model

    def cut_removal(self, path: bytes, *, left: int) -> FatModel:
        """Mount what a cut inside the removal of a long name leaves: its first `left` parts and the short name."""
        slots = self.find(path).slots
        self._remove_slots(slots[: len(slots) - 1 - left])
        return self.mount(self.cache)

    def _load(self, directory: Inode, seen: dict[int, Inode]) -> None:
        seen[directory.start] = directory
        for cluster in self.chain(directory.start):
            # A directory may have grown by a cluster whose zeros did not make it; a never used one has zeros anyway.
            if not isinstance(self.cache.get(("data", cluster)), tuple):
                self.cache["data", cluster] = self._empty_directory()
        longs: dict[int, dict[int, tuple[bytes, tuple[int, int]]]] = {}
        for position in self._directory_slots(directory):
            sector = self.cache.get(("data", position[0]))
            slot = sector[position[1]] if isinstance(sector, tuple) else Slot("free")
            if slot.kind == "long":
                longs.setdefault(slot.tag, {})[slot.index] = (slot.part, position)
            if slot.kind != "short":
                continue
            parts = longs.pop(slot.tag, {})
            is_named = len(parts) == slot.total
            name = b"".join(parts[i][0] for i in reversed(range(slot.total))) if is_named else show_alias(slot.alias)
            name = slot.part or name
            inode = Inode(slot.start, slot.size, slot.is_dir)
            # Parts of a name that is not whole are nobody's.
            inode.slots = [*(parts[i][1] for i in sorted(parts) if is_named), position]
            directory.children[name] = inode
            if inode.is_dir and inode.start in seen:
                # Two names on one cluster show the same files, which are the same inodes to the kernel.
                inode.children = seen[inode.start].children
            elif inode.is_dir and inode.start != FREE:
                self._load(inode, seen)

    def crash_states(self, rng: random.Random, *, subsets: int) -> Iterator[dict[tuple[str, int], Any]]:
        """Yield what may be on the disk: after every write, and random subsets of each epoch's writes."""
        base = self._base()
        epoch: list[tuple[tuple[str, int], Any]] = []
        yield dict(base)
        for kind, key, value in [*self.log, ("flush", ("", 0), None)]:
            if kind == "write":
                epoch.append((key, value))
                yield {**base, **dict(epoch)}
                continue
            versions: dict[tuple[str, int], list[Any]] = {}
            for written, content in epoch:
                versions.setdefault(written, []).append(content)
            for _ in range(subsets if len(epoch) > 1 else 0):
                yield {**base, **{k: rng.choice(v) for k, v in versions.items() if rng.random() < 0.5}}
            base.update(dict(epoch))
            epoch = []

    def _base(self) -> dict[tuple[str, int], Any]:
        return dict(self.start_disk)

    start_disk: dict[tuple[str, int], Any] = {}  # noqa: RUF012 - replaced by `start`, never changed

    def start(self) -> None:
        """Take what is there now as the disk before the first crash."""
        self.syncfs()
        self.flush()
        self.start_disk = dict(self.disk)
        self.log = []
