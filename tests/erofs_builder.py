"""A small EROFS writer for tests: every uncompressed layout, any block size, and where each structure went.

Independent of the package's own code on purpose: the kernel's ``fs/erofs/erofs_fs.h`` is its only source.
"""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass, field
from functools import reduce
from typing import Literal

Layout = Literal["plain", "inline", "chunk map", "chunk index"]
SUPERBLOCK = 1024
HOLE = 0xFFFFFFFF
PREFIXES = (b"user.", b"system.posix_acl_access", b"system.posix_acl_default", b"trusted.", b"lustre.", b"security.")


@dataclass(eq=False)
class File:
    """An inode; the same object under two names is a hard link."""

    mode: int
    uid: int = 0
    gid: int = 0
    mtime: tuple[int, int] = (0, 0)
    rdev: int = 0
    data: bytes = b""
    children: dict[bytes, File] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    padding_before: int = 0
    padding_behind: int = 0
    shared: dict[bytes, bytes] = field(default_factory=dict)
    layout: Layout = "inline"
    compact: bool = False
    holes: frozenset[int] = frozenset()
    chunk_bits: int = 0


@dataclass
class Image:
    """A built image and the offsets of what is in it."""

    data: bytearray
    inodes: dict[bytes, int]
    xattrs: dict[bytes, int]
    tails: dict[bytes, int]
    blocks: dict[bytes, int]
    nids: dict[bytes, int]

    def patched(self, offset: int, value: bytes) -> bytes:
        """A copy with some bytes replaced and the checksum corrected."""
        data = bytearray(self.data)
        data[offset : offset + len(value)] = value
        set_checksum(data)
        return bytes(data)


def directory(children: dict[bytes, File], **attributes: object) -> File:
    return File(stat.S_IFDIR | 0o755, children=children, **attributes)  # type: ignore[arg-type]


def regular(data: bytes, **attributes: object) -> File:
    return File(stat.S_IFREG | 0o644, data=data, **attributes)  # type: ignore[arg-type]


def _crc32c_byte(crc: int, byte: int) -> int:
    return reduce(lambda value, _bit: value >> 1 ^ (0x82F63B78 if value & 1 else 0), range(8), crc ^ byte)


def set_checksum(data: bytearray) -> None:
    """Set the superblock's checksum if it says that it has one."""
    if not data[SUPERBLOCK + 8] & 1:
        return
    block_bytes = 1 << data[SUPERBLOCK + 12]
    length = block_bytes - SUPERBLOCK if block_bytes > SUPERBLOCK else block_bytes
    data[SUPERBLOCK + 4 : SUPERBLOCK + 8] = bytes(4)
    crc = reduce(_crc32c_byte, data[SUPERBLOCK : SUPERBLOCK + length], HOLE)
    struct.pack_into("<I", data, SUPERBLOCK + 4, crc)


class Builder:
    """Lays out inodes, then shared xattrs and prefixes, then data blocks."""

    def __init__(
        self,
        root: File,
        *,
        block_bits: int = 12,
        epoch: tuple[int, int] = (0, 0),
        long_prefixes: tuple[tuple[int, bytes], ...] = (),
        composefs_version: int | None = None,
        checksum: bool = True,
    ) -> None:
        self.root, self.block_bits, self.block_bytes = root, block_bits, 1 << block_bits
        self.epoch, self.long_prefixes, self.checksum = epoch, long_prefixes, checksum
        self.composefs_version = composefs_version
        self.meta_block = -(-(SUPERBLOCK + 128) // self.block_bytes)
        self.paths: dict[bytes, File] = {}
        self.parents: dict[int, File] = {id(root): root}
        self.names: dict[int, int] = {}
        self.offsets: dict[int, int] = {}
        self.starts: dict[int, int] = {}
        self.shared: dict[tuple[bytes, bytes], int] = {}
        self._collect()

    def _collect(self) -> None:
        pending = [(b"", self.root)]
        while pending:
            path, file = pending.pop()
            self.paths[path] = file
            self.names[id(file)] = self.names.get(id(file), 0) + 1
            for name, child in reversed(file.children.items()):
                self.parents[id(child)] = file
                pending.append((path + b"/" + name if path else name, child))

    def _nid(self, file: File) -> int:
        start = self.meta_block * self.block_bytes
        return (self.offsets.get(id(file), start) - start) // 32

    def _directory_blocks(self, file: File) -> list[bytes]:
        entries = sorted({b".": file, b"..": self.parents[id(file)], **file.children}.items())
        blocks: list[list[tuple[bytes, File]]] = [[]]
        used = 0
        for name, child in entries:
            if used + 12 + len(name) > self.block_bytes:
                blocks.append([])
                used = 0
            blocks[-1].append((name, child))
            used += 12 + len(name)
        kinds = {stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFCHR: 3, stat.S_IFBLK: 4, stat.S_IFIFO: 5,
                 stat.S_IFSOCK: 6, stat.S_IFLNK: 7}  # fmt: skip
        packed = []
        for block in blocks:
            head, names = b"", b""
            for name, child in block:
                offset = 12 * len(block) + len(names)
                head += struct.pack("<QHBx", self._nid(child), offset, kinds[stat.S_IFMT(child.mode)])
                names += name
            packed.append(head + names)
        return packed

    def _data(self, file: File) -> bytes:
        if stat.S_ISDIR(file.mode):
            *full, last = self._directory_blocks(file)
            return b"".join(block.ljust(self.block_bytes, b"\0") for block in full) + last
        return file.data

    def _has_inline_tail(self, file: File) -> bool:
        """A tail that leaves room for the inode in its block."""
        tail = len(self._data(file)) % self.block_bytes
        return file.layout == "inline" and 0 < tail <= self.block_bytes // 2

    def _chunks(self, file: File) -> int:
        return -(-len(file.data) // (self.block_bytes << file.chunk_bits))

    def _tail(self, file: File) -> bytes:
        if file.layout in {"chunk map", "chunk index"}:
            start = self.starts.get(id(file), 0) // self.block_bytes
            step, table, kept = 1 << file.chunk_bits, b"", 0
            for number in range(self._chunks(file)):
                block = HOLE if number in file.holes else start + kept
                kept += 0 if number in file.holes else step
                table += struct.pack("<I", block) if file.layout == "chunk map" else struct.pack("<HHI", 0, 0, block)
            return table
        data = self._data(file)
        return data[len(data) // self.block_bytes * self.block_bytes :] if self._has_inline_tail(file) else b""

    def _blocks(self, file: File) -> bytes:
        if file.layout.startswith("chunk"):
            size = self.block_bytes << file.chunk_bits
            pieces = [file.data[i * size : (i + 1) * size] for i in range(self._chunks(file)) if i not in file.holes]
            return b"".join(piece.ljust(size, b"\0") for piece in pieces)
        data, tail = self._data(file), self._tail(file)
        data = data[: len(data) - len(tail)]
        return data.ljust(-(-len(data) // self.block_bytes) * self.block_bytes, b"\0")

    def _xattr(self, name: bytes, value: bytes) -> bytes:
        long = [(i, p) for i, p in enumerate(self.long_prefixes) if name.startswith(PREFIXES[p[0] - 1] + p[1])]
        if long:
            number, (base, infix) = long[0]
            index, suffix = 0x80 | number, name[len(PREFIXES[base - 1] + infix) :]
        else:
            found = [i for i, prefix in enumerate(PREFIXES, 1) if name.startswith(prefix)]
            index = found[0] if found else 0
            suffix = name[len(PREFIXES[index - 1]) :] if found else name
        entry = struct.pack("<BBH", len(suffix), index, len(value)) + suffix + value
        return entry.ljust(-(-len(entry) // 4) * 4, b"\0")

    def _xattrs(self, file: File) -> bytes:
        if not (file.xattrs or file.shared or file.padding_before or file.padding_behind):
            return b""
        head = struct.pack("<IB7x", 0, len(file.shared))
        head += b"".join(struct.pack("<I", self.shared.get(item, 0)) for item in file.shared.items())
        entries = b"".join(self._xattr(*item) for item in file.xattrs.items())
        return head + bytes(4 * file.padding_before) + entries + bytes(4 * file.padding_behind)

    def _inode(self, file: File) -> bytes:
        xattrs, tail = self._xattrs(file), self._tail(file)
        number = {"plain": 0, "chunk map": 4, "chunk index": 4}.get(file.layout, 2 if tail else 0)
        union = self.starts.get(id(file), 0) // self.block_bytes
        if number == 4:
            union = file.chunk_bits | (0x20 if file.layout == "chunk index" else 0)
        elif stat.S_ISCHR(file.mode) or stat.S_ISBLK(file.mode):
            union = file.rdev
        count = (len(xattrs) - 12) // 4 + 1 if xattrs else 0
        links = self.names[id(file)]
        if stat.S_ISDIR(file.mode):
            links = 2 + sum(stat.S_ISDIR(child.mode) for child in file.children.values())
        size = len(self._data(file))
        if file.compact:
            assert file.mtime == self.epoch
            head = struct.pack("<HHHHIIIIHHI", number << 1, count, file.mode, links, size, 0, union, 1, file.uid,
                               file.gid, 0)  # fmt: skip
        else:
            head = struct.pack("<HHHHQIIIIqII16x", number << 1 | 1, count, file.mode, 0, size, union, 1, file.uid,
                               file.gid, *file.mtime, links)  # fmt: skip
        # An 8-byte index is aligned to 8; inodes are aligned to 32 and everything else to 4.
        gap = -(len(head) + len(xattrs)) % 8 if file.layout == "chunk index" else 0
        return head + xattrs + bytes(gap) + tail

    def _place(self) -> tuple[int, list[File]]:
        """Inode offsets: no inline tail may cross a block boundary."""
        files = list({id(file): file for file in self.paths.values()}.values())
        position = self.meta_block * self.block_bytes + 32
        for file in files:
            total, tail = len(self._inode(file)), len(self._tail(file))
            while (position + total - tail) % self.block_bytes + tail > self.block_bytes:
                position += 32
            self.offsets[id(file)] = position
            position += -(-total // 32) * 32
        return position, files

    def build(self) -> Image:
        """Lay everything out and write it."""
        position, files = self._place()
        blocks = -(-position // self.block_bytes)
        xattr_block, area = blocks, b""
        for item in dict.fromkeys(item for file in files for item in file.shared.items()):
            self.shared[item] = len(area) // 4
            area += self._xattr(*item)
        prefix_start = (xattr_block * self.block_bytes + len(area)) // 4
        for base, infix in self.long_prefixes:
            entry = struct.pack("<HB", 1 + len(infix), base) + infix
            area += entry.ljust(-(-len(entry) // 4) * 4, b"\0")
        data = bytearray(xattr_block * self.block_bytes) + area
        data += bytes(-len(data) % self.block_bytes)
        for file in files:
            self.starts[id(file)] = len(data)
            data += self._blocks(file)
        for file in files:
            inode = self._inode(file)
            data[self.offsets[id(file)] : self.offsets[id(file)] + len(inode)] = inode
        for file in files:  # directories again: only now every inode has its number
            body = self._blocks(file)
            data[self.starts[id(file)] : self.starts[id(file)] + len(body)] = body
        self._write_superblock(data, xattr_block, prefix_start, len(files))
        return self._image(data)

    def _write_superblock(self, data: bytearray, xattr_block: int, prefix_start: int, inodes: int) -> None:
        incompat = 0x4 | (0x40 if self.long_prefixes else 0)
        struct.pack_into(
            "<IIIBBHQQIIII16s16sIHHHBBIQ", data, SUPERBLOCK, 0xE0F5E1E2, 0, 0x3 if self.checksum else 0x2,
            self.block_bits, 0, self._nid(self.root), inodes, self.epoch[0], self.epoch[1],
            len(data) // self.block_bytes, self.meta_block, xattr_block, b"u" * 16, b"volume", incompat,
            0, 0, 0, 0, len(self.long_prefixes), prefix_start if self.long_prefixes else 0, 0,
        )  # fmt: skip
        if self.composefs_version is not None:
            struct.pack_into("<IIII", data, 0, 0xD078629A, 1, 0, self.composefs_version)
        set_checksum(data)

    def _image(self, data: bytearray) -> Image:
        image = Image(data, {}, {}, {}, {}, {})
        for path, file in self.paths.items():
            image.inodes[path] = self.offsets[id(file)]
            image.nids[path] = self._nid(file)
            image.xattrs[path] = self.offsets[id(file)] + (32 if file.compact else 64)
            image.tails[path] = self.offsets[id(file)] + len(self._inode(file)) - len(self._tail(file))
            image.blocks[path] = self.starts[id(file)]
        return image


def build(root: File, **options: object) -> Image:
    """Build an image; see `Builder` for the options."""
    return Builder(root, **options).build()  # type: ignore[arg-type]


def sample(block_bits: int = 12) -> File:
    """A tree with a file of every kind and layout, and xattrs of every kind."""
    size = 1 << block_bits
    linked = regular(b"linked" * 20, mtime=(7, 7))
    many = {b"name-%03d" % number: regular(b"%d" % number) for number in range(60)}
    return directory(
        {
            b"#first": regular(b"sorts before dot"),
            b"block": File(stat.S_IFBLK | 0o600, rdev=0x00312345),
            b"char": File(stat.S_IFCHR | 0o600, rdev=0x0103),
            b"chunks": regular(bytes(range(256)) * (size * 5 // 256 + 1), layout="chunk map", holes=frozenset({1, 3})),
            b"compact": regular(b"short", compact=True, mtime=(1000, 5), uid=12, gid=13),
            b"dir": directory({b"linked": linked, b"many": directory(many, mtime=(-5, 1))}),
            b"empty": regular(b""),
            b"fifo": File(stat.S_IFIFO | 0o644),
            b"index": regular(b"ab" * size * 3, layout="chunk index", chunk_bits=1, shared={b"user.k": b"v"}),
            b"inline": regular(b"i" * (size + 100), xattrs={b"user.a": b"1" * 50, b"security.selinux": b"x"}),
            b"linked": linked,
            b"padded": regular(b"tail", xattrs={b"user.a": b"1"}, padding_before=2, padding_behind=15),
            b"plain": regular(b"p" * (size * 2 - 3), layout="plain", uid=70000, gid=80000),
            b"socket": File(stat.S_IFSOCK | 0o755),
            b"symlink": File(stat.S_IFLNK | 0o777, data=b"dir/linked"),
            b"xattrs": regular(
                b"",
                xattrs={b"user.long.infix.name": b"long", b"trusted.t": b"", b"lustre.hidden": b"1"},
                shared={b"user.k": b"v", b"security.shared": b"s" * 100},
            ),
            b"\xff\xfe": regular(b"not UTF-8"),
        },
        shared={b"user.k": b"v"},
        # As `mkfs.erofs --root-xattr-isize` leaves it.
        padding_behind=6,
    )
