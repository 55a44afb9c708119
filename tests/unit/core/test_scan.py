"""_core.Tree.scan against the interpreter's own calls."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from bootc_fast import _core


def scan(path: Path) -> _core.Tree:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return _core.Tree.scan(fd)
    finally:
        os.close(fd)


def walk(root: bytes) -> dict[bytes, os.stat_result]:
    found = {b"": os.lstat(root)}
    for base, directories, files in os.walk(root):
        for name in directories + files:
            path = os.path.join(base, name)
            found[os.path.relpath(path, root)] = os.lstat(path)
    return found


def make_everything(root: Path) -> None:
    (root / "plain").write_bytes(b"some bytes")
    (root / "plain").chmod(0o4755)
    (root / "empty").touch()
    (root / "sub" / "deeper").mkdir(parents=True)
    (root / "sub" / "deeper").chmod(0o1777)
    os.link(root / "plain", root / "sub" / "second name")
    (root / "link").symlink_to("/nowhere/at all")
    (root / "to-directory").symlink_to("sub")
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(root / "socket"))
    (Path(os.fsdecode(os.fsencode(root) + b"/\xff\xfe\n-"))).write_bytes(b"")
    os.setxattr(root / "plain", "user.note", bytes(range(200)))
    os.setxattr(root / "sub", "user.empty", b"")


def test_every_attribute_is_what_lstat_says(tmp_path: Path) -> None:
    make_everything(tmp_path)
    expected = walk(os.fsencode(tmp_path))
    entries = {entry.path: entry for entry in scan(tmp_path).entries()}
    assert set(entries) == set(expected)
    for path, entry in entries.items():
        want = expected[path]
        assert (entry.mode, entry.uid, entry.gid, entry.nlink) == (
            want.st_mode,
            want.st_uid,
            want.st_gid,
            want.st_nlink,
        )
        assert entry.mtime_ns == want.st_mtime_ns
        sized = stat.S_ISREG(want.st_mode) or stat.S_ISLNK(want.st_mode)
        assert entry.size_bytes == (want.st_size if sized else 0)
        full = os.path.join(os.fsencode(tmp_path), path)
        names = os.listxattr(full, follow_symlinks=False)
        values = {os.fsencode(name): os.getxattr(full, name, follow_symlinks=False) for name in names}
        assert entry.xattrs == values
    assert entries[b"link"].target == b"/nowhere/at all"
    assert entries[b"plain"].content == "on-disk"
    assert entries[b"plain"].link_group == entries[b"sub/second name"].link_group is not None
    assert entries[b"empty"].link_group is None


def test_reading_a_tree_leaves_access_times_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    os.utime(path, ns=(1, 1))
    scan(tmp_path)
    assert path.stat().st_atime_ns == 1


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    fd = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(NotADirectoryError):
            _core.Tree.scan(fd)
    finally:
        os.close(fd)


def test_a_closed_descriptor_is_an_error() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        _core.Tree.scan(987_654)


def test_the_exception_of_check_ends_the_scan(tmp_path: Path) -> None:
    for index in range(20_000):
        os.mknod(tmp_path / f"f{index}")

    class StopError(Exception):
        pass

    def check() -> None:
        raise StopError

    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(StopError):
            _core.Tree.scan(fd, check=check)
    finally:
        os.close(fd)
