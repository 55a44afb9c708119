"""The EROFS reader: what it refuses, field by field, and that no damage makes it panic or hang."""

from __future__ import annotations

import os
import random
import stat
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from erofs_builder import HOLE, SUPERBLOCK, File, Image, build, directory, regular, sample
from erofs_support import mkfs, walker_records

from bootc_fast import _core
from bootc_fast.errors import ImageFormatError, LimitExceededError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PREFIXES = ((1, b"long.infix."), (6, b"x"))


def open_bytes(data: bytes) -> _core.Image:
    fd = os.memfd_create("image")
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        return _core.Image.open(fd)
    finally:
        os.close(fd)


def read_everything(data: bytes) -> None:
    """Everything that a caller may ask of an image; the two readers must not differ in what they accept."""
    image = open_bytes(data)
    image.verify()
    tree = image.tree()
    for entry in tree.entries():
        assert image.lookup(entry.path) is not None
    if image.composefs_version is not None:
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            image.dump(null)
        finally:
            os.close(null)


@pytest.fixture(scope="module")
def image() -> Image:
    return build(sample(), epoch=(1000, 5), long_prefixes=PREFIXES)


@pytest.fixture(scope="module")
def small() -> bytes:
    """The smallest image with one of everything: 512-byte blocks."""
    return bytes(build(sample(9), block_bits=9, epoch=(1000, 5), long_prefixes=PREFIXES).data)


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
    "root inode is a file": (14, None, "not a directory"),  # type: ignore[dict-item]
    "epoch": (32, pack("I", 1_000_000_000), "epoch's nanoseconds"),
    "number of blocks": (36, pack("I", HOLE), "the image needs"),
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


def _metacopy(algorithm: int, digest: bytes) -> bytes:
    return bytes((0, 4 + len(digest), 0, algorithm)) + digest


DIGEST = bytes(range(32))
REDIRECT = b"/00/" + DIGEST.hex().encode()[2:]


def _object(metacopy: bytes | None, redirect: bytes | None) -> File:
    shared = {b"trusted.overlay.redirect": redirect} if redirect is not None else {}
    xattrs = {b"trusted.overlay.metacopy": metacopy} if metacopy is not None else {}
    data = b"\0" * 5000
    return regular(data, layout="chunk map", chunk_bits=1, holes=frozenset({0}), xattrs=xattrs, shared=shared)


@pytest.fixture(scope="module")
def composefs() -> bytes:
    stubs = {b"%02x" % number: File(stat.S_IFCHR | 0o644) for number in range(256)}
    escaped = regular(b"", xattrs={b"trusted.overlay.overlay.whiteout": b"", b"user.overlay.whiteout": b""})
    root = sample()
    root.children |= {**stubs, b"object": _object(_metacopy(1, DIGEST), REDIRECT), b"gone": escaped}
    return bytes(build(root, epoch=(1000, 5), long_prefixes=PREFIXES, composefs_version=1).data)


def test_a_composefs_image_shows_its_objects_and_hides_the_stubs(composefs: bytes) -> None:
    image = open_bytes(composefs)
    entry = image.tree().find(b"object")
    assert entry is not None
    assert (entry.content, entry.digest, entry.size_bytes, entry.xattrs) == ("object", DIGEST.hex(), 5000, {})
    gone = image.lookup(b"gone")
    assert gone is not None
    assert gone.xattrs == {b"trusted.overlay.whiteout": b"", b"user.overlay.whiteout": b""}
    assert image.lookup(b"7f") is None
    names = {entry.path for entry in image.walk(recursive=False)}
    assert len(names) == len(sample().children) + 3
    assert image.verify()[1] == [(DIGEST.hex(), 5000)]


def test_an_object_without_a_digest_is_named_by_its_path() -> None:
    built = build(directory({b"f": _object(b"", REDIRECT)}), composefs_version=0)
    entry = open_bytes(built.data).lookup(b"f")
    assert entry is not None
    assert entry.digest == DIGEST.hex()


@pytest.mark.parametrize(
    ("metacopy", "redirect", "message"),
    [
        (_metacopy(1, DIGEST), b"/00/" + b"11" * 31, "different objects"),
        (_metacopy(1, DIGEST), None, "metacopy without redirect"),
        (b"", None, "metacopy without redirect"),
        (_metacopy(1, DIGEST), b"/000102", "names no object"),
        (_metacopy(1, DIGEST), b"/../../etc/shadow", "names no object"),
        (_metacopy(1, DIGEST), b"/00/" + b"AA" * 31, "names no object"),
        (_metacopy(3, DIGEST), REDIRECT, "unknown hash function"),
        (_metacopy(2, DIGEST), REDIRECT, "digest of the wrong length"),
        (b"\1" + _metacopy(1, DIGEST)[1:], REDIRECT, "unknown version or flags"),
        (b"\0\x24\1\1" + DIGEST, REDIRECT, "unknown version or flags"),
        (_metacopy(1, DIGEST)[:-1], REDIRECT, "wrong length"),
        (b"\0\2", REDIRECT, "too short"),
    ],
)
def test_contradicting_overlay_attributes_are_refused(metacopy: bytes, redirect: bytes | None, message: str) -> None:
    built = build(directory({b"f": _object(metacopy, redirect)}), composefs_version=1)
    with pytest.raises(ImageFormatError, match=message):
        open_bytes(built.data).tree()


@pytest.mark.parametrize(("offset", "message"), [(4, "composefs format version"), (12, "composefs version")])
def test_an_unknown_composefs_version_is_refused(offset: int, message: str) -> None:
    built = build(directory({}), composefs_version=2)
    with pytest.raises(ImageFormatError, match=message):
        open_bytes(built.patched(offset, b"\x09"))


def test_overlay_attributes_of_other_images_are_shown_as_they_are() -> None:
    built = build(directory({b"f": _object(_metacopy(1, DIGEST), REDIRECT), b"00": File(stat.S_IFCHR | 0o600)}))
    tree = open_bytes(built.data).tree()
    entry = tree.find(b"f")
    assert entry is not None
    assert (entry.content, entry.data) == ("inline", bytes(5000))
    assert entry.xattrs.keys() == {b"trusted.overlay.metacopy", b"trusted.overlay.redirect"}
    assert tree.find(b"00") is not None


@pytest.mark.parametrize("block_bits", range(9, 17))
def test_every_block_size_shows_the_same_tree(block_bits: int) -> None:
    """Those that a kernel with pages of 4 KiB cannot mount, too."""
    root = sample(9)
    root.children[b"chunks"].holes = frozenset()  # they are counted in blocks
    records = [
        walker_records(open_bytes(build(root, block_bits=bits, epoch=(1000, 5), long_prefixes=PREFIXES).data).tree())
        for bits in (12, block_bits)
    ]
    assert records[0] == records[1]
    assert len(records[0]) > 70


def test_a_subdirectory_is_a_tree_of_its_own(image: Image) -> None:
    opened = open_bytes(image.data)
    tree = opened.tree(b"/dir/")
    assert {entry.path.split(b"/")[0] for entry in tree.entries()} == {b"", b"linked", b"many"}
    linked = tree.find(b"linked")
    assert linked is not None
    # Its other name is outside of this tree.
    assert (linked.link_group, linked.nlink) == (None, 2)
    assert {entry.path for entry in opened.walk(b"dir", recursive=False)} == {b"", b"linked", b"many"}
    with pytest.raises(FileNotFoundError):
        opened.tree(b"nowhere")
    with pytest.raises(NotADirectoryError):
        opened.tree(b"inline")
    for path in (b"inline/x", b"symlink/x", b"..", b"dir/.", b"dir/../dir", b"#"):
        assert opened.lookup(path) is None, path


def test_a_compressed_image_is_unsupported_by_name(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(b"compress me " * 10_000)
    compressed = mkfs(tmp_path / "image", tmp_path / "tree", "-zlz4").read_bytes()
    with pytest.raises(ImageFormatError, match=r"unsupported EROFS feature: compression \(LZ4"):
        open_bytes(compressed)


def test_several_devices_are_unsupported_by_name(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(b"elsewhere " * 10_000)
    blob = f"--blobdev={tmp_path / 'blob'}"
    image = mkfs(tmp_path / "image", tmp_path / "tree", blob, "--chunksize=4096").read_bytes()
    with pytest.raises(ImageFormatError, match="unsupported EROFS feature: several devices"):
        open_bytes(image)


class _StopError(Exception):
    pass


@pytest.fixture(scope="module")
def crowded() -> _core.Image:
    names = {b"n%06d" % number: regular(b"") for number in range(20_000)}
    return open_bytes(build(directory(names), composefs_version=1).data)


@pytest.mark.parametrize("call", ["tree", "verify", "dump"])
def test_what_check_raises_ends_the_call(call: str, crowded: _core.Image) -> None:
    def stop() -> None:
        raise _StopError

    with pytest.raises(_StopError):
        _call_often(crowded, call, stop)


def _call_often(opened: _core.Image, call: str, check: Callable[[], None]) -> None:
    for _ in range(1000):
        _call(opened, call, check)


def _call(opened: _core.Image, call: str, check: Callable[[], None]) -> None:
    if call == "dump":
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            opened.dump(null, check=check)
        finally:
            os.close(null)
        return
    getattr(opened, call)(check=check)


def test_an_empty_or_special_file_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for path in (tmp_path / "empty", tmp_path, Path(os.devnull)):
        fd = os.open(path, os.O_RDONLY)
        try:
            with pytest.raises((ImageFormatError, OSError)):
                _core.Image.open(fd)
        finally:
            os.close(fd)
