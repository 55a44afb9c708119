"""Reads ext4 as GRUB does, without its journal, and as a kernel does, the journal replayed. No code of others.

Layout: the kernel's documentation, "ext4 Data Structures and Algorithms", and jbd2's for the journal.
"""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_SECTOR = 512
_ZERO = bytes(_SECTOR)
_ROOT_INODE = 2
_NEEDS_RECOVERY, _64BIT = 0x4, 0x80
_EXTENTS = 0x80000
_EXTENT_MAGIC = 0xF30A
_JOURNAL_MAGIC = 0xC03B3998
_DESCRIPTOR, _COMMIT, _REVOKE = 1, 2, 5
_JOURNAL_64BIT, _JOURNAL_V3 = 0x2, 0x10
_ESCAPED, _SAME_UUID, _LAST_TAG = 1, 2, 8
_MAX_FILE_BYTES = 4 << 20
_MAX_DEPTH = 8


@dataclass(frozen=True)
class Inode:
    """What an inode says."""

    mode: int
    size: int
    flags: int
    block: bytes


class Ext4:
    """A file system: sectors that are not zero, and sectors that replace these."""

    def __init__(self, base: Mapping[int, bytes], changed: Mapping[int, bytes] | None = None) -> None:
        self._now = {**base, **(changed or {})}
        self._blocks: dict[int, bytes] = {}
        raw = b"".join(self._now.get(at, _ZERO) for at in (2, 3))
        self._first, self._log = struct.unpack_from("<II", raw, 0x14)
        self._block_bytes = 1024 << self._log
        self._per_group, self._inode_bytes = (
            struct.unpack_from("<I", raw, 0x28)[0],
            struct.unpack_from("<H", raw, 0x58)[0],
        )
        self._incompat = struct.unpack_from("<I", raw, 0x60)[0]
        self._descriptor_bytes = struct.unpack_from("<H", raw, 0xFE)[0] if self._incompat & _64BIT else 32
        self._journal_inode = struct.unpack_from("<I", raw, 0xE0)[0]

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            count = self._block_bytes // _SECTOR
            sectors = range(number * count, (number + 1) * count)
            self._blocks[number] = b"".join(self._now.get(at, _ZERO) for at in sectors)
        return self._blocks[number]

    def inode(self, number: int) -> Inode:
        """Read an inode."""
        group, index = divmod(number - 1, self._per_group)
        per_block = self._block_bytes // self._descriptor_bytes
        descriptors = self._block(self._first + 1 + group // per_block)
        at = group % per_block * self._descriptor_bytes
        table = struct.unpack_from("<I", descriptors, at + 8)[0]
        if self._descriptor_bytes > 32:
            table |= struct.unpack_from("<I", descriptors, at + 0x28)[0] << 32
        offset = index * self._inode_bytes
        raw = self._block(table + offset // self._block_bytes)[offset % self._block_bytes :][: self._inode_bytes]
        low, high = struct.unpack_from("<I", raw, 4)[0], struct.unpack_from("<I", raw, 0x6C)[0]
        mode, flags = struct.unpack_from("<H", raw, 0)[0], struct.unpack_from("<I", raw, 0x20)[0]
        return Inode(mode, low | high << 32, flags, raw[0x28:0x64])

    def _extents(self, node: bytes, depth: int = 0) -> Iterator[tuple[int, int, int]]:
        magic, count, _max, level = struct.unpack_from("<HHHH", node)
        if magic != _EXTENT_MAGIC or depth > _MAX_DEPTH:
            raise ValueError("no extents here")
        for at in range(12, 12 + count * 12, 12):
            if level:
                _logical, low, high = struct.unpack_from("<IIH", node, at)
                yield from self._extents(self._block(low | high << 32), depth + 1)
            else:
                logical, length, high, low = struct.unpack_from("<IHHI", node, at)
                yield logical, length, low | high << 32

    def blocks_of(self, inode: Inode) -> dict[int, int]:
        """Return where each of a file's blocks lies; an uninitialised extent reads as zeros."""
        if not inode.flags & _EXTENTS:
            raise ValueError("a file without extents")
        initialised = 1 << 15
        return {
            logical + at: start + at
            for logical, length, start in self._extents(inode.block)
            if length <= initialised
            for at in range(length)
        }

    def read(self, inode: Inode) -> bytes | None:
        """Return a file's bytes; None where it cannot be read."""
        if inode.size > _MAX_FILE_BYTES:
            return None
        try:
            where = self.blocks_of(inode)
        except (ValueError, struct.error):
            return None
        zero = bytes(self._block_bytes)
        count = -(-inode.size // self._block_bytes)
        return b"".join(self._block(where[at]) if at in where else zero for at in range(count))[: inode.size]

    def _names(self, inode: Inode) -> Iterator[tuple[str, int]]:
        """Read a directory from its first to its last byte, as GRUB does: the blocks of an index look empty."""
        raw, at = self.read(inode) or b"", 0
        while at + 8 <= len(raw):
            number, length, name_length = struct.unpack_from("<IHB", raw, at)
            if not length:
                return
            name = raw[at + 8 : at + 8 + name_length].decode("utf-8", "surrogateescape")
            if number and name not in {".", ".."}:
                yield name, number
            at += length

    def files(self) -> dict[str, bytes | None]:
        """Return all files by path; None for what cannot be read."""
        found: dict[str, bytes | None] = {}
        todo = [("", _ROOT_INODE, 0)]
        while todo:
            path, number, depth = todo.pop()
            for name, child in self._names(self.inode(number)):
                inode, where = self.inode(child), f"{path}/{name}" if path else name
                if stat.S_ISDIR(inode.mode) and depth < _MAX_DEPTH:
                    todo.append((where, child, depth + 1))
                elif stat.S_ISREG(inode.mode):
                    found.setdefault(where, self.read(inode))
        return found

    def replay(self) -> None:
        """Apply the journal, as the kernel does when it mounts: whole transactions, revoked blocks left out."""
        if not self._incompat & _NEEDS_RECOVERY:
            return
        where = self.blocks_of(self.inode(self._journal_inode))
        head = self._block(where[0])
        length, first, sequence, start = struct.unpack_from(">IIII", head, 0x10)
        features = struct.unpack_from(">I", head, 0x28)[0]
        if not start:
            return
        journal = _Journal(lambda at: self._block(where[at]), length, first, features)
        for number, data in journal.replayed(start, sequence).items():
            self._blocks[number] = data


class _Journal:
    """The blocks of a journal, in its ring."""

    def __init__(self, block: Callable[[int], bytes], length: int, first: int, features: int) -> None:
        self._block, self._length, self._first, self._features = block, length, first, features

    def _next(self, at: int) -> int:
        return at + 1 if at + 1 < self._length else self._first

    def _tags(self, block: bytes) -> Iterator[tuple[int, int]]:
        """Yield block number and flags of each tag."""
        is_v3, is_64 = bool(self._features & _JOURNAL_V3), bool(self._features & _JOURNAL_64BIT)
        at = 12
        while True:
            if is_v3:
                low, flags, high, _checksum = struct.unpack_from(">IIII", block, at)
                at += 16
            else:
                low, _checksum, flags = struct.unpack_from(">IHH", block, at)
                high = struct.unpack_from(">I", block, at + 8)[0] if is_64 else 0
                at += 12 if is_64 else 8
            if not flags & _SAME_UUID:
                at += 16
            yield low | (high << 32 if is_64 else 0), flags
            if flags & _LAST_TAG:
                return

    def _revoked(self, block: bytes) -> Iterator[int]:
        count = struct.unpack_from(">I", block, 12)[0]
        width, code = (8, ">Q") if self._features & _JOURNAL_64BIT else (4, ">I")
        for at in range(16, count, width):
            yield struct.unpack_from(code, block, at)[0]

    def replayed(self, at: int, sequence: int) -> dict[int, bytes]:
        """Return the blocks that the committed transactions from `at` on change."""
        revoked: dict[int, int] = {}
        written: list[tuple[int, int, bytes]] = []
        pending: list[tuple[int, bytes]] = []
        gone: list[int] = []
        while True:
            block = self._block(at)
            magic, kind, number = struct.unpack_from(">III", block)
            if magic != _JOURNAL_MAGIC or number != sequence:
                break
            at = self._next(at)
            if kind == _DESCRIPTOR:
                for target, flags in self._tags(block):
                    data = self._block(at)
                    if flags & _ESCAPED:
                        data = struct.pack(">I", _JOURNAL_MAGIC) + data[4:]
                    pending.append((target, data))
                    at = self._next(at)
            elif kind == _REVOKE:
                gone += self._revoked(block)
            elif kind == _COMMIT:
                written += [(sequence, target, data) for target, data in pending]
                revoked.update(dict.fromkeys(gone, sequence))
                pending, gone, sequence = [], [], sequence + 1
            else:
                break
        return {target: data for when, target, data in written if revoked.get(target, -1) < when}
