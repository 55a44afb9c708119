"""No damage to an image makes the reader panic or hang."""

from __future__ import annotations

import random
import stat
import struct
import time
from typing import TYPE_CHECKING

import pytest
from erofs_builder import HOLE, SUPERBLOCK, File, build, regular, sample
from erofs_support import open_bytes, read_everything

from bootc_fast.errors import ImageFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIXES = ((1, b"long.infix."), (6, b"x"))


def pack(code: str, value: int) -> bytes:
    return struct.pack("<" + code, value)


@pytest.fixture(scope="module")
def small() -> bytes:
    """The smallest image with one of everything: 512-byte blocks."""
    return bytes(build(sample(9), block_bits=9, epoch=(1000, 5), long_prefixes=PREFIXES).data)


@pytest.fixture(scope="module")
def composefs() -> bytes:
    """One with an object, a whiteout and the stubs."""
    stubs = {b"%02x" % number: File(stat.S_IFCHR | 0o644) for number in range(256)}
    escaped = regular(b"", xattrs={b"trusted.overlay.overlay.whiteout": b"", b"user.overlay.whiteout": b""})
    large = regular(
        bytes(5000), layout="chunk map", chunk_bits=1, holes=frozenset({0}),
        xattrs={b"trusted.overlay.metacopy": bytes((0, 36, 0, 1)) + bytes(32)},
        shared={b"trusted.overlay.redirect": b"/00/" + b"0" * 62},
    )  # fmt: skip
    root = sample()
    root.children |= {**stubs, b"object": large, b"gone": escaped}
    return bytes(build(root, epoch=(1000, 5), long_prefixes=PREFIXES, composefs_version=1).data)


def test_truncation_at_every_length_is_an_error(small: bytes) -> None:
    read_everything(small)
    for length in [*range(4096), *range(4096, len(small), 97), len(small) - 1]:
        with pytest.raises((ImageFormatError, OSError)):
            open_bytes(small[:length])


def _mutations(data: bytes, seed: int) -> Iterator[bytes]:
    """Random bytes, small and extreme integers, swapped and repeated pieces; the first 16 KiB hold the metadata."""
    source = random.Random(seed)  # noqa: S311 reproducible, not secret
    while True:
        mutated = bytearray(data)
        mutated[SUPERBLOCK + 8] &= ~1
        for _ in range(source.choice((1, 1, 2, 8))):
            at = source.randrange(SUPERBLOCK + 12, len(data) - 16)
            kind = source.randrange(4)
            if kind == 0:
                mutated[at] = source.randrange(256)
            elif kind == 1:
                value = source.choice((0, 1, 2, 31, 255, 256, 0x7FFFFFFF, HOLE, (1 << 63) - 1, (1 << 64) - 1))
                mutated[at & ~3 : (at & ~3) + 8] = pack("Q", value)
            elif kind == 2:
                mutated[at] ^= 1 << source.randrange(8)
            else:
                other = source.randrange(SUPERBLOCK, len(data) - 16)
                mutated[at : at + 12] = data[other : other + 12]
        yield bytes(mutated)


def _survives(data: bytes) -> bool:
    started = time.monotonic()
    try:
        read_everything(data)
    except (ImageFormatError, NotADirectoryError):
        return False
    finally:
        # A hang, not slowness: a whole image of this size takes a millisecond.
        assert time.monotonic() - started < 5
    return True


def test_random_damage_never_panics_nor_hangs(small: bytes) -> None:
    mutations = _mutations(small, seed=1)
    survived = sum(_survives(next(mutations)) for _ in range(12_000))
    assert 0 < survived < 12_000


def test_random_damage_to_composefs_images_never_panics_nor_hangs(composefs: bytes) -> None:
    mutations = _mutations(composefs, seed=2)
    survived = sum(_survives(next(mutations)) for _ in range(6000))
    assert 0 < survived < 6000
