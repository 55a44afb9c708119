"""What the EROFS reader shows: composefs as its overlay, other images as they are; what it leaves to the kernel."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from erofs_builder import File, build, directory, regular, sample
from erofs_support import mkfs, open_bytes, walker_records

from bootc_fast import _core
from bootc_fast.errors import ImageFormatError

if TYPE_CHECKING:
    from collections.abc import Callable

PREFIXES = ((1, b"long.infix."), (6, b"x"))


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


def test_a_subdirectory_is_a_tree_of_its_own() -> None:
    opened = open_bytes(build(sample(), epoch=(1000, 5), long_prefixes=PREFIXES).data)
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
    # The core asks after 8 ms of work at the earliest; every call must take several times that, also on a fast machine.
    names = {b"n%06d" % number: regular(b"") for number in range(100_000)}
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
