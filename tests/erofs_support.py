"""Helpers for tests of EROFS images: trees as plain dictionaries, from the kernel and from the walker."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from crosscheck import find_program

from bootc_fast import _core


class Record(NamedTuple):
    """Everything that the walker and the kernel must agree upon for one path."""

    mode: int
    uid: int
    gid: int
    nlink: int
    rdev: int
    size_bytes: int
    mtime_ns: int
    xattrs: dict[bytes, bytes]
    content: bytes | None
    links: tuple[bytes, ...]


def mkfs(image: Path, tree: Path, *options: str) -> Path:
    subprocess.run(["mkfs.erofs", "--quiet", *options, image, tree], check=True, capture_output=True)
    return image


def composefs_image(dump: str, image: Path, *, version: int, algorithm: str = "sha256") -> Path:
    """Write an image with the composefs crate."""
    program = find_program("composefs-image")
    made = subprocess.run([program, str(version), algorithm], input=dump.encode(), check=True, capture_output=True)
    image.write_bytes(made.stdout)
    return image


def open_image(path: Path) -> _core.Image:
    fd = os.open(path, os.O_RDONLY)
    try:
        return _core.Image.open(fd)
    finally:
        os.close(fd)


def _with_links(found: dict[bytes, tuple[Any, ...]], groups: dict[object, list[bytes]]) -> dict[bytes, Record]:
    links = {path: tuple(sorted(paths)) for paths in groups.values() if len(paths) > 1 for path in paths}
    return {path: Record(*record, links.get(path, ())) for path, record in found.items()}


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def mounted_records(root_fd: int) -> dict[bytes, Record]:
    """What the kernel shows below a directory."""
    base = b"/proc/self/fd/%d" % root_fd
    found: dict[bytes, tuple[Any, ...]] = {}
    groups: dict[object, list[bytes]] = defaultdict(list)
    pending = [b""]
    while pending:
        path = pending.pop()
        full = base + b"/" + path
        try:
            # The descriptor's own link must be followed, no other.
            status = os.stat(full, follow_symlinks=not path)
        except FileNotFoundError:
            # readdir of a directory that is in one layer only lists whiteouts that cannot be looked up.
            assert path, "the root is there"
            continue
        kind = stat.S_IFMT(status.st_mode)
        content = None
        if kind == stat.S_IFDIR:
            pending += [path + b"/" + name if path else name for name in os.listdir(full)]
        elif kind == stat.S_IFREG:
            content = _digest(Path(os.fsdecode(full)).read_bytes())
            if status.st_nlink > 1:
                groups[status.st_ino].append(path)
        elif kind == stat.S_IFLNK:
            content = os.readlink(full)
        names = os.listxattr(full, follow_symlinks=not path)
        found[path] = (
            status.st_mode, status.st_uid, status.st_gid, status.st_nlink,
            status.st_rdev if kind in {stat.S_IFCHR, stat.S_IFBLK} else 0,
            status.st_size if kind in {stat.S_IFREG, stat.S_IFLNK} else 0,
            status.st_mtime_ns,
            {os.fsencode(name): os.getxattr(full, name, follow_symlinks=not path) for name in names},
            content,
        )  # fmt: skip
    return _with_links(found, groups)


def walker_records(tree: _core.Tree, objects: Path | None = None) -> dict[bytes, Record]:
    """What a tree holds; contents of objects are read from the repository's directory."""
    found: dict[bytes, tuple[Any, ...]] = {}
    groups: dict[object, list[bytes]] = defaultdict(list)
    for entry in tree.entries():
        content = entry.target
        if entry.content == "inline":
            assert entry.data is not None
            content = _digest(entry.data)
        elif entry.content == "object":
            assert entry.digest is not None
            assert objects is not None
            content = _digest((objects / entry.digest[:2] / entry.digest[2:]).read_bytes())
        if entry.link_group is not None and stat.S_ISREG(entry.mode):
            groups[entry.link_group].append(entry.path)
        found[entry.path] = (
            entry.mode, entry.uid, entry.gid, entry.nlink, entry.rdev, entry.size_bytes, entry.mtime_ns,
            entry.xattrs, content,
        )  # fmt: skip
    return _with_links(found, groups)


def assert_same(walked: dict[bytes, Record], mounted: dict[bytes, Record]) -> None:
    """Compare path by path, so that a failure names the first difference."""
    assert walked.keys() == mounted.keys(), sorted(walked.keys() ^ mounted.keys())[:20]
    for path, record in sorted(mounted.items()):
        assert walked[path] == record, path


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
