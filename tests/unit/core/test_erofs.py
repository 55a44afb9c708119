"""The EROFS reader: what it refuses, field by field, and that no damage makes it panic or hang."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from erofs_builder import HOLE, SUPERBLOCK, Image, build, directory, regular, sample
from erofs_support import open_bytes, read_everything

from bootc_fast.errors import ImageFormatError, LimitExceededError

if TYPE_CHECKING:
    from collections.abc import Callable

PREFIXES = ((1, b"long.infix."), (6, b"x"))


@pytest.fixture(scope="module")
def image() -> Image:
    return build(sample(), epoch=(1000, 5), long_prefixes=PREFIXES)


def pack(code: str, value: int) -> bytes:
    return struct.pack("<" + code, value)


def _dirent(built: Image, path: bytes, index: int) -> int:
    """Offset of an entry in the only, inline block of a directory."""
    return built.tails[path] + 12 * index


SUPERBLOCK_FIELDS: dict[str, tuple[int, bytes, str]] = {
    "magic": (0, pack("I", 0xE0F5E1E3), "EROFS magic"),
    "block size too small": (12, b"\x08", "block size"),
    "block size too large": (12, b"\x11", "block size"),
    "root inode far outside": (14, pack("H", 0xFFFF), "an inode needs"),
    "root inode is a file": (14, None, "Not a directory"),  # type: ignore[dict-item]
    "epoch": (32, pack("I", 1_000_000_000), "epoch's nanoseconds"),
    "number of blocks": (36, pack("I", HOLE), "the image is cut off at"),
    "metadata area": (40, pack("I", HOLE), "an inode needs"),
    "shared xattrs": (44, pack("I", HOLE), "a shared xattr needs"),
    "zero padding": (80, b"\x05", "compression (LZ4 with zero padding)"),
    "compression configurations": (80, b"\x06", "compression (configurations"),
    "devices": (80, b"\x0c", "several devices or compression heads"),
    "packed tails": (80, b"\x14", "compression (packed tails)"),
    "48 bit": (80, b"\xc4", "48-bit block addresses"),
    "metabox": (81, b"\x01", "metadata in a metabox inode"),
    "unknown feature": (83, b"\x80", "unknown incompatible feature bits (0x80000000)"),
    "xattrs in metabox": (8, b"\x0b", "xattrs in a metabox inode"),
    "number of devices": (86, b"\x01", "several devices"),
    "directory blocks": (90, b"\x01", "directory blocks of another size"),
    "number of prefixes": (91, b"\xff", "long xattr prefix"),
    "start of prefixes": (92, pack("I", HOLE), "the long xattr prefixes needs"),
}


@pytest.mark.parametrize("name", SUPERBLOCK_FIELDS)
def test_a_wrong_superblock_field_is_named(name: str, image: Image) -> None:
    offset, value, message = SUPERBLOCK_FIELDS[name]
    value = pack("H", image.nids[b"empty"]) if value is None else value
    with pytest.raises((ImageFormatError, NotADirectoryError), match=_quote(message)):
        read_everything(image.patched(SUPERBLOCK + offset, value))


def _quote(message: str) -> str:
    import re

    return re.escape(message)


def test_a_wrong_checksum_is_refused_and_a_missing_one_is_not(image: Image) -> None:
    damaged = bytearray(image.data)
    damaged[SUPERBLOCK + 64] ^= 1
    with pytest.raises(ImageFormatError, match="checksum is 0x") as raised:
        open_bytes(damaged)
    assert raised.value.offset == SUPERBLOCK
    damaged[SUPERBLOCK + 8] &= ~1
    read_everything(damaged)


INODE_FIELDS: dict[str, tuple[bytes, int, bytes, str]] = {
    "unknown format bits": (b"inline", 0, pack("H", 0x25), "inode format bits"),
    "compressed": (b"inline", 0, pack("H", 0x3), "compression (an inode)"),
    "compressed, compact indexes": (b"inline", 0, pack("H", 0x7), "compression (an inode)"),
    "unknown layout": (b"inline", 0, pack("H", 0xB), "data layout"),
    "mode without a type": (b"inline", 4, pack("H", 0o644), "the mode of an inode"),
    "xattrs past the end": (b"\xff\xfe", 2, pack("H", 0xFFFF), "the xattrs of an inode needs"),
    "negative size": (b"inline", 8, pack("Q", 1 << 63), "the size of an inode"),
    "size past the end": (b"plain", 8, pack("Q", 1 << 20), "the data of an inode needs"),
    "first block past the end": (b"plain", 16, pack("I", 0x7FFFFFFF), "the data of an inode needs"),
    "nanoseconds": (b"inline", 40, pack("I", 1_000_000_000), "nanoseconds"),
    "links": (b"plain", 44, pack("I", 2), "has 1 links, not 2"),
    "unknown chunk format": (b"chunks", 16, pack("I", 0x80), "chunk format"),
    "48-bit chunks": (b"index", 16, pack("I", 0x60), "chunk format"),
    "chunk table past the end": (b"chunks", 8, pack("Q", 1 << 30), "chunk"),
    "symlink too long": (b"symlink", 8, pack("Q", 4096), "MAX_SYMLINK_BYTES"),
    "directory larger than the image": (b"dir", 8, pack("Q", 1 << 40), "bytes of directories"),
}


@pytest.mark.parametrize("name", INODE_FIELDS)
def test_a_wrong_inode_field_is_named(name: str, image: Image) -> None:
    path, offset, value, message = INODE_FIELDS[name]
    with pytest.raises(ImageFormatError, match=_quote(message)):
        read_everything(image.patched(image.inodes[path] + offset, value))


def test_a_chunk_outside_the_image_is_refused(image: Image) -> None:
    with pytest.raises(ImageFormatError, match="a chunk of an inode needs"):
        read_everything(image.patched(image.tails[b"chunks"], pack("I", HOLE - 1)))


XATTR_FIELDS: dict[str, tuple[int, bytes, str]] = {
    "shared count": (4, b"\xff", "the number of shared xattrs"),
    "shared reference": (12, pack("I", HOLE), "a shared xattr needs"),
    "name length": (20, b"\xff", "xattr"),
    "name index": (21, b"\x07", "the name index of an xattr"),
    "long prefix index": (21, b"\x82", "the name index of an xattr"),
    "value length": (22, pack("H", 0xFFFF), "the value of an xattr needs"),
    "NUL in the name": (24, b"\0", "the name of an xattr"),
}


@pytest.mark.parametrize("name", XATTR_FIELDS)
def test_a_wrong_xattr_field_is_named(name: str, image: Image) -> None:
    offset, value, message = XATTR_FIELDS[name]
    with pytest.raises(ImageFormatError, match=_quote(message)):
        read_everything(image.patched(image.xattrs[b"xattrs"] + offset, value))


def test_a_symlink_with_a_nul_is_refused(image: Image) -> None:
    with pytest.raises(ImageFormatError, match="a symlink target with a NUL"):
        read_everything(image.patched(image.tails[b"symlink"] + 3, b"\0"))


@pytest.fixture(scope="module")
def flat() -> Image:
    """A root of one inline block: ``.``, ``..``, ``a`` (directory), ``b``, ``c``."""
    inner = directory({b"x": regular(b"x")})
    return build(directory({b"a": inner, b"b": regular(b"1"), b"c": regular(b"2")}))


DIRENT_FIELDS: dict[str, tuple[int, int, Callable[[Image], bytes], str]] = {
    "no first name": (0, 8, lambda _: pack("H", 0), "first name's offset"),
    "first name within an entry": (0, 8, lambda _: pack("H", 13), "first name's offset"),
    "first name past the block": (0, 8, lambda _: pack("H", 4092), "first name's offset"),
    "name before the names": (3, 8, lambda _: pack("H", 12), "name offset"),
    "name past the block": (3, 8, lambda _: pack("H", 5000), "name"),
    "names overlap backwards": (3, 8, lambda _: pack("H", 60), "name"),
    "inode outside": (3, 0, lambda _: pack("Q", 1 << 40), "an inode needs"),
    "inode number overflows": (3, 0, lambda _: pack("Q", (1 << 64) - 1), "an inode needs"),
    "wrong dot": (0, 0, lambda flat: pack("Q", flat.nids[b"a"]), "'.' of the directory|\"\\.\" of the directory"),
    "wrong dot dot": (1, 0, lambda flat: pack("Q", flat.nids[b"a"]), "of the directory at offset"),
    "a cycle": (3, 0, lambda flat: pack("Q", flat.nids[b""]), "reached a second time"),
    "a directory with two names": (3, 0, lambda flat: pack("Q", flat.nids[b"a"]), "reached a second time"),
}


@pytest.mark.parametrize("name", DIRENT_FIELDS)
def test_a_wrong_directory_entry_is_named(name: str, flat: Image) -> None:
    index, offset, value, message = DIRENT_FIELDS[name]
    with pytest.raises(ImageFormatError, match=message):
        read_everything(flat.patched(_dirent(flat, b"", index) + offset, value(flat)))


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (b"a", "duplicate or out of order"),
        (b"0", "duplicate or out of order"),
        (b"/", "is no file name"),
        (b"\0", "is no file name"),
    ],
)
def test_a_wrong_name_is_refused(new: bytes, message: str, flat: Image) -> None:
    names = flat.tails[b""] + 12 * 5
    assert bytes(flat.data[names : names + 6]) == b"...abc"
    with pytest.raises(ImageFormatError, match=message):
        read_everything(flat.patched(names + 4, new))


def test_a_directory_that_holds_itself_is_refused(flat: Image) -> None:
    with pytest.raises(ImageFormatError, match='reached a second time, as "a/x"'):
        read_everything(flat.patched(_dirent(flat, b"a", 2), pack("Q", flat.nids[b"a"])))


def test_a_hole_for_a_directory_is_refused() -> None:
    names = {b"n%04d" % number: regular(b"") for number in range(400)}
    plain = build(directory({b"d": directory(names, layout="plain")}))
    with pytest.raises(ImageFormatError, match="a directory with a hole"):
        read_everything(plain.patched(plain.inodes[b"d"] + 16, pack("I", HOLE)))


def test_directories_that_share_their_blocks_do_not_multiply() -> None:
    """Without dot entries nothing ties a directory's blocks to it; then their bytes are what is counted."""
    names = {b"n%03d" % number: regular(b"") for number in range(300)}
    children = {b"d%03d" % number: directory({}) for number in range(200)}
    built = build(directory({b"big": directory(names, layout="plain"), **children}), checksum=False)
    data, inode, block = bytearray(built.data), built.inodes[b"big"], built.blocks[b"big"]
    for index in (0, 1):
        struct.pack_into("<Q", data, block + 12 * index, built.nids[b"big/n000"])
    first_name = struct.unpack_from("<H", data, block + 8)[0]
    assert data[block + first_name :][:3] == b"..."
    data[block + first_name : block + first_name + 3] = b"!!!"
    for name in children:
        at = built.inodes[name]
        data[at : at + 2], data[at + 8 : at + 20] = data[inode : inode + 2], data[inode + 8 : inode + 20]
    for call in (open_bytes(data).tree, open_bytes(data).verify):
        with pytest.raises(LimitExceededError, match="bytes of directories"):
            call()


def test_nesting_deeper_than_the_limit_is_refused() -> None:
    root = inner = directory({})
    for _ in range(4095):
        inner.children[b"d"] = inner = directory({})
    opened = open_bytes(build(root).data)
    assert opened.verify() == (4096, [])
    inner.children[b"d"] = directory({})
    with pytest.raises(LimitExceededError, match="MAX_DEPTH"):
        open_bytes(build(root).data).tree()


def test_a_file_of_holes_does_not_become_memory() -> None:
    built = build(directory({b"f": regular(b"x" * 4096, layout="chunk map", holes=frozenset({0}))}))
    inode = built.inodes[b"f"]
    data = bytearray(built.patched(inode + 8, pack("Q", 1 << 43)))
    data[inode + 16] = 0x1F  # one chunk of 2^43 bytes
    opened = open_bytes(data)
    with pytest.raises(LimitExceededError) as raised:
        opened.tree()
    assert (raised.value.limit_name, raised.value.limit) == ("MAX_TREE_CONTENT_BYTES", 1 << 28)
    assert opened.verify() == (2, [])
    assert [entry.size_bytes for entry in opened.walk()] == [0, 1 << 43]


def test_shared_xattrs_do_not_multiply() -> None:
    """255 references to one large attribute take a kilobyte."""
    value = b"v" * 60_000
    built = build(directory({b"f": regular(b"", xattrs={b"user.a": b"1" * 1011}, shared={b"user.big": value})}))
    area = built.xattrs[b"f"]
    reference = bytes(built.data[area + 12 : area + 16])
    data = built.patched(area + 4, b"\xff")
    data = data[: area + 12] + reference * 255 + data[area + 12 + 4 * 255 :]
    with pytest.raises(LimitExceededError, match="MAX_INODE_XATTR_BYTES"):
        open_bytes(data).tree()
