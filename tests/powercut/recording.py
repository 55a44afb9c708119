"""Recordings as compressed files: each configuration's first image and what was written to it, sectors named once."""

from __future__ import annotations

import json
import lzma
import os
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

SECTOR = 512
_LOG_MAGIC = 0x6A736677736872
_FLUSH, _FUA, _DISCARD = 1, 2, 4
ZERO = bytes(SECTOR)


@dataclass(frozen=True, slots=True)
class Write:
    """A sector that reached the disk, or may have."""

    sector: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Flush:
    """What was written before is on the disk."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A step has ended."""

    name: str


Event = Write | Flush | Mark


@dataclass
class Recording:
    """What happened to one boot partition.

    Attributes:
        facts: What the judge must know (`record.describe`), and what the product said.
        base: The image when the recording starts: sectors that are not zero.
        events: What followed.
    """

    facts: dict[str, Any]
    base: dict[int, bytes]
    events: list[Event] = field(default_factory=list)


def read_image(path: Path) -> dict[int, bytes]:
    """Return the sectors of an image that are not zero; its holes are not read."""
    found: dict[int, bytes] = {}
    chunk = 1 << 20
    with path.open("rb") as file:
        at, end = 0, file.seek(0, os.SEEK_END)
        while at < end:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA) // SECTOR * SECTOR
            except OSError:  # ENXIO: nothing but a hole
                break
            raw = os.pread(file.fileno(), chunk, at)
            if raw.count(0) != len(raw):
                for offset in range(0, len(raw), SECTOR):
                    sector = raw[offset : offset + SECTOR]
                    if sector != ZERO:
                        found[(at + offset) // SECTOR] = sector
            at += len(raw)
    return found


def write_image(path: Path, size: int, *layers: Mapping[int, bytes]) -> None:
    """Write an image: later layers replace what earlier ones have."""
    with path.open("wb") as file:
        file.truncate(size)
        for layer in layers:
            for sector, data in layer.items():
                file.seek(sector * SECTOR)
                file.write(data)


def read_log(path: Path) -> Iterator[Write | Flush]:
    """Read a log of QEMU's ``blklogwrites``, which has dm-log-writes' format; it is zeros where nothing was written."""
    with path.open("rb") as file:
        head = file.read(SECTOR)
        if head == ZERO:
            return
        magic, _version, count, sector_bytes = struct.unpack_from("<QQQI", head)
        if magic != _LOG_MAGIC or sector_bytes != SECTOR:
            raise ValueError(f"{path} is no log of writes to sectors of 512 bytes")
        file.seek(SECTOR)
        for _ in range(count):
            first, sectors, flags, _length = struct.unpack("<QQQQ", file.read(SECTOR)[:32])
            if flags & _FLUSH:
                yield Flush()
            if flags & _DISCARD:
                raise ValueError("a discard was recorded: what is then read is not defined")
            for number in range(sectors):
                yield Write(first + number, file.read(SECTOR))
            if flags & _FUA:
                yield Flush()


def save(path: Path, recordings: Mapping[str, Recording], *, preset: int = 9 | lzma.PRESET_EXTREME) -> None:
    """Save recordings; a sector's content that comes more than once is kept once."""
    pool: dict[bytes, int] = {}

    def name(data: bytes) -> int:
        return pool.setdefault(data, len(pool))

    index = {}
    for key, one in recordings.items():
        numbers: list[list[int | str]] = []
        for event in one.events:
            match event:
                case Write(sector, data):
                    numbers.append([sector, name(data)])
                case Flush():
                    numbers.append([])
                case Mark(text):
                    numbers.append([text])
        base = [[sector, name(data)] for sector, data in one.base.items()]
        index[key] = {"facts": one.facts, "base": base, "events": numbers}
    head = json.dumps(index, separators=(",", ":")).encode()
    raw = struct.pack("<Q", len(head)) + head + b"".join(pool)
    path.write_bytes(lzma.compress(raw, preset=preset))


def load(path: Path) -> dict[str, Recording]:
    """Load what `save` wrote."""
    raw = lzma.decompress(path.read_bytes())
    start = 8 + struct.unpack_from("<Q", raw)[0]
    pool = [raw[at : at + SECTOR] for at in range(start, len(raw), SECTOR)]
    found = {}
    for key, one in json.loads(raw[8:start]).items():
        events: list[Event] = []
        for numbers in one["events"]:
            if not numbers:
                events.append(Flush())
            elif len(numbers) == 1:
                events.append(Mark(numbers[0]))
            else:
                events.append(Write(numbers[0], pool[numbers[1]]))
        found[key] = Recording(one["facts"], {sector: pool[at] for sector, at in one["base"]}, events)
    return found
