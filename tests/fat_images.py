"""FAT images made with mkfs.vfat and mtools, and damaged by hand: nothing of the product's reader is used here."""

from __future__ import annotations

import os
import re
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_TOOLS = {**os.environ, "MTOOLS_SKIP_CHECK": "1", "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}


def _run(*argv: str | Path, ok: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(argv, env=_TOOLS, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode in ok, (argv, done.returncode, done.stdout, done.stderr)
    return done.stdout


@dataclass(frozen=True)
class FatImage:
    """An image file.

    Attributes:
        path: Where it is.
        bits: 12, 16 or 32.
        cluster_bytes: Asked of mkfs.vfat.
    """

    path: Path
    bits: int
    cluster_bytes: int

    def write_tree(self, files: Mapping[str, bytes]) -> None:
        """Make directories (paths that end in ``/``) and files, parents first."""
        for path, data in files.items():
            if path.endswith("/"):
                _run("mmd", "-D", "s", "-i", self.path, f"::{path.rstrip('/')}", ok=(0, 1))
                continue
            source = self.path.with_suffix(".part")
            source.write_bytes(data)
            _run("mcopy", "-o", "-i", self.path, source, f"::{path}")
            source.unlink()

    def remove(self, path: str) -> None:
        """Delete a file."""
        _run("mdel", "-i", self.path, f"::{path}")

    def fsck(self, *options: str) -> str:
        """Run fsck.fat, by default without writing; return what it says."""
        return _run("fsck.fat", *(options or ("-n", "-v")), self.path, ok=(0, 1))

    def patch(self, offset: int, data: bytes) -> None:
        """Write some bytes."""
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def peek(self, offset: int, count: int) -> bytes:
        """Read some bytes."""
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(count)

    @property
    def fat_start(self) -> int:
        """Of the first FAT."""
        (reserved,) = struct.unpack("<H", self.peek(14, 2))
        return int(reserved) * 512

    @property
    def fat_length(self) -> int:
        """Of one FAT in bytes."""
        (short,) = struct.unpack("<H", self.peek(22, 2))
        (wide,) = struct.unpack("<I", self.peek(36, 4))
        return int(short or wide) * 512

    def get_fat(self, cluster: int) -> int:
        """Read a FAT entry."""
        if self.bits == 12:
            pair = int.from_bytes(self.peek(self.fat_start + cluster * 3 // 2, 2), "little")
            return pair >> 4 if cluster & 1 else pair & 0xFFF
        width = self.bits // 8
        return int.from_bytes(self.peek(self.fat_start + cluster * width, width), "little") & 0x0FFFFFFF

    def set_fat(self, cluster: int, value: int, *, copies: tuple[int, ...] = (0, 1)) -> None:
        """Write a FAT entry into both copies."""
        for copy in copies:
            start = self.fat_start + copy * self.fat_length
            if self.bits == 12:
                where = start + cluster * 3 // 2
                pair = int.from_bytes(self.peek(where, 2), "little")
                pair = (pair & 0x000F | value << 4) if cluster & 1 else (pair & 0xF000 | value & 0xFFF)
                self.patch(where, pair.to_bytes(2, "little"))
            else:
                width = self.bits // 8
                self.patch(start + cluster * width, value.to_bytes(width, "little"))

    def slot_offset(self, short_name: bytes, *, nth: int = 0) -> int:
        """Find a short-name slot anywhere in the data by its 11 bytes."""
        content = self.path.read_bytes()
        found = [m.start() for m in re.finditer(re.escape(short_name), content) if m.start() % 32 == 0]
        assert len(found) > nth, short_name
        return found[nth]

    def first_cluster(self, short_name: bytes) -> int:
        """Read the start cluster out of a short-name slot."""
        slot = self.peek(self.slot_offset(short_name), 32)
        low, high = struct.unpack_from("<H", slot, 26)[0], struct.unpack_from("<H", slot, 20)[0]
        return int(low | (high << 16 if self.bits == 32 else 0))

    def set_first_cluster(self, short_name: bytes, cluster: int) -> None:
        """Write the start cluster of a short-name slot."""
        offset = self.slot_offset(short_name)
        self.patch(offset + 26, struct.pack("<H", cluster & 0xFFFF))
        if self.bits == 32:
            self.patch(offset + 20, struct.pack("<H", cluster >> 16))


def make_image(path: Path, *, bits: int, cluster_bytes: int, megabytes: int | None = None) -> FatImage:
    """Make an empty volume that is of the wanted kind by its cluster count."""
    size = megabytes or {12: 1, 16: 5, 32: 40}[bits] * (1 if cluster_bytes == 512 else 8)
    sectors = str(cluster_bytes // 512)
    _run("mkfs.vfat", "-C", "-F", str(bits), "-s", sectors, "-i", "B007FA57", path, str(size * 1024))
    return FatImage(path, bits, cluster_bytes)
