"""Each property of spec etc-merge.md, "Writing R", that needs no privilege; the others are in tests/kernel."""

from __future__ import annotations

import os
import socket
import stat
import threading
from pathlib import Path

import pytest
from etc_trees import Sides, assert_has_all_of_current, copy_into, listing, make_sides, merge, write

LONG_AGO_NS = 981_173_106_123_456_789


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    return make_sides(tmp_path)


def assert_is_copy(sides: Sides) -> None:
    assert listing(sides.result) == listing(sides.new)


def test_a_symlink_in_the_destination_is_replaced_and_never_followed(sides: Sides, tmp_path: Path) -> None:
    outside = write(tmp_path / "outside/d/file", "precious").parent.parent
    write(sides.new / "d/file", "text")
    write(sides.new / "e", "text")
    (sides.result / "d").symlink_to(outside / "d")
    (sides.result / "e").symlink_to(outside / "d/file")
    (sides.result / "stale").symlink_to(outside)
    before = listing(outside)
    copy_into(sides)
    assert_is_copy(sides)
    assert listing(outside) == before


def test_a_destination_never_leads_out_through_names_with_dots(sides: Sides) -> None:
    write(sides.new / "..." / "x", "text")
    write(sides.new / "..x", "text")
    copy_into(sides)
    assert_is_copy(sides)


def test_a_file_appears_complete_or_not_at_all(sides: Sides) -> None:
    """A reader that never stops looking sees the old content or the new one, and no other name in between."""
    old, new = b"old" * 100_000, b"new" * 3_000_000
    write(sides.result / "file", old)
    write(sides.new / "file", new)
    seen: set[bytes] = set()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.add((sides.result / "file").read_bytes())

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for _ in range(3):
            write(sides.result / "file.new", old).rename(sides.result / "file")
            copy_into(sides)
    finally:
        stop.set()
        reader.join()
    assert seen <= {old, new}
    assert_is_copy(sides)


def test_contents_are_copied_whole_whatever_their_size(sides: Sides) -> None:
    for size in (0, 1, 511, 512, 513, 4096, (1 << 17) + 1, (4 << 20) + 7):
        write(sides.new / f"file-{size}", os.urandom(size))
    applied = copy_into(sides)
    assert_is_copy(sides)
    assert applied.bytes_copied == sum(path.stat().st_size for path in sides.new.iterdir())


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o1777, 0o6711, 0o400])
def test_setuid_setgid_and_sticky_survive(sides: Sides, mode: int) -> None:
    write(sides.new / "file", "text", mode)
    (sides.new / "d").mkdir()
    (sides.new / "d").chmod(mode | 0o700)
    copy_into(sides)
    assert stat.S_IMODE((sides.result / "file").lstat().st_mode) == mode
    assert stat.S_IMODE((sides.result / "d").lstat().st_mode) == mode | 0o700


def test_a_changed_mode_alone_does_not_rewrite_the_file(sides: Sides) -> None:
    write(sides.new / "file", "text", 0o4755)
    copy_into(sides)
    inode = (sides.result / "file").stat().st_ino
    (sides.result / "file").chmod(0o600)
    applied = copy_into(sides)
    assert [(row[0], row[1], row[5]) for row in applied.operations] == [("set-attributes", b"file", ["mode"])]
    assert applied.bytes_copied == 0
    assert (sides.result / "file").stat().st_ino == inode
    assert_is_copy(sides)


def test_extended_attributes_are_set_and_removed_ones_are_removed(sides: Sides) -> None:
    for name in ("file", "d"):
        path = write(sides.new / "file") if name == "file" else sides.new / "d"
        path.mkdir(exist_ok=True) if name == "d" else None
        os.setxattr(path, "user.kept", b"value")
        os.setxattr(path, "user.binary", bytes(range(200)))
        os.setxattr(path, "user.empty", b"")
    copy_into(sides)
    assert_is_copy(sides)
    for name in ("file", "d"):
        os.setxattr(sides.result / name, "user.stale", b"1")
        os.setxattr(sides.result / name, "user.kept", b"other")
    copy_into(sides)
    assert_is_copy(sides)


def test_an_attribute_that_the_admin_removed_is_removed(sides: Sides) -> None:
    for side in (sides.pristine, sides.current, sides.new, sides.result):
        os.setxattr(write(side / "file", "text"), "user.mark", b"1")
    os.removexattr(sides.current / "file", "user.mark")
    merge(sides)
    assert os.listxattr(sides.result / "file") == []


def test_an_attribute_of_a_file_that_nobody_may_write_is_set(sides: Sides) -> None:
    os.setxattr(write(sides.new / "file", "text"), "user.mark", b"1")
    (sides.new / "file").chmod(0o444)
    copy_into(sides)
    assert_is_copy(sides)


def test_a_default_acl_of_the_destination_does_not_rub_off(sides: Sides) -> None:
    """A default ACL makes the kernel give every new file an ACL of its own, which the result does not have."""
    # version 2; user::rwx, user:12345:rwx, group::r-x, mask::rwx, other::---
    entries = [
        (0x01, 7, 0xFFFFFFFF),
        (0x02, 7, 12345),
        (0x04, 5, 0xFFFFFFFF),
        (0x10, 7, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    ]
    acl = (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little") + perm.to_bytes(2, "little") + who.to_bytes(4, "little") for tag, perm, who in entries
    )
    os.setxattr(sides.result, "system.posix_acl_default", acl)
    write(sides.new / "d/file", "text", 0o640)
    copy_into(sides)
    assert_is_copy(sides)


def test_an_access_acl_is_carried_over_with_the_mode_that_it_implies(sides: Sides) -> None:
    entries = [
        (0x01, 6, 0xFFFFFFFF),
        (0x02, 4, 12345),
        (0x04, 4, 0xFFFFFFFF),
        (0x10, 6, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    ]
    acl = (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little") + perm.to_bytes(2, "little") + who.to_bytes(4, "little") for tag, perm, who in entries
    )
    os.setxattr(write(sides.new / "file", "text"), "system.posix_acl_access", acl)
    copy_into(sides)
    assert_is_copy(sides)
    (sides.result / "file").chmod(0o600)
    copy_into(sides)
    assert_is_copy(sides)


def test_mtimes_are_kept_those_of_directories_last(sides: Sides) -> None:
    write(sides.new / "d/e/file", "text")
    (sides.new / "d/link").symlink_to("nowhere")
    for path in (sides.new / "d/e/file", sides.new / "d/link", sides.new / "d/e", sides.new / "d", sides.new):
        os.utime(path, ns=(1, LONG_AGO_NS), follow_symlinks=False)
    copy_into(sides)
    assert {entry.mtime_ns for entry in listing(sides.result).values()} == {LONG_AGO_NS}


def test_hard_links_among_carried_files_stay_hard_links(sides: Sides) -> None:
    write(sides.current / "a/one", "text")
    os.link(sides.current / "a/one", sides.current / "two")
    os.link(sides.current / "a/one", sides.current / "a/three")
    merge(sides)
    assert_has_all_of_current(sides)
    assert listing(sides.result)[b"two"].links == (b"a/one", b"a/three", b"two")
    assert merge(sides).operations == []


def test_hard_links_of_the_destination_that_the_result_does_not_have_are_broken(sides: Sides, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(sides.new / name, "text")
    write(sides.result / "one", "text")
    os.link(sides.result / "one", sides.result / "two")
    os.link(sides.result / "one", tmp_path / "outside")
    copy_into(sides)
    assert listing(sides.result)[b"one"].links == (b"one",)
    assert (tmp_path / "outside").stat().st_nlink == 1


def test_symlinks_are_kept_as_they_are(sides: Sides) -> None:
    for name, target in (("a", "/etc/shadow"), ("b", "../../x"), ("c", "loop"), ("loop", "c"), ("d", "x" * 4095)):
        (sides.new / name).symlink_to(target)
    copy_into(sides)
    assert_is_copy(sides)


def test_fifos_are_made_and_never_opened(sides: Sides) -> None:
    os.mkfifo(sides.current / "fifo", 0o622)
    merge(sides)
    assert stat.S_ISFIFO((sides.result / "fifo").lstat().st_mode)
    assert merge(sides).operations == []


@pytest.mark.parametrize(
    "name", [b"\xff\xfe", b"new\nline", b"-rf", b"--", b" ", b"\x1b[2J", b"caf\xc3\xa9", b"x" * 255]
)
def test_names_are_bytes(sides: Sides, name: bytes) -> None:
    for kind in ("file", "directory"):
        top = os.fsencode(sides.current / kind)
        os.makedirs(os.path.join(top, name) if kind == "directory" else top)
        with open(os.path.join(top, name, b"inner") if kind == "directory" else os.path.join(top, name), "wb") as file:
            file.write(b"text")
    merge(sides)
    assert_has_all_of_current(sides)


def test_paths_longer_than_the_kernel_takes_at_once_work(sides: Sides) -> None:
    """30 levels of 200 characters are 6,000 bytes; PATH_MAX is 4096."""
    name = "d" * 200
    fd = os.open(sides.current, os.O_RDONLY)
    for _ in range(30):
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    try:
        first = merge(sides)
        assert sum(row[0] == "make-directory" for row in first.operations) == 30
        assert merge(sides).operations == []
        # And away again.
        emptied = merge(sides._replace(current=sides.pristine))
        assert [row[3] for row in emptied.operations if row[0] == "remove"] == [31]
        assert list(sides.result.iterdir()) == []
    finally:
        _remove_deep(sides.current)


def _remove_deep(top: Path) -> None:
    """pytest's own clean-up cannot remove such paths."""
    while (top / ("d" * 200)).exists():
        depth, fd = [], os.open(top, os.O_RDONLY)
        while True:
            names = os.listdir(fd)
            depth.append((fd, names))
            directories = [name for name in names if name.startswith("d")]
            if not directories:
                break
            fd = os.open(directories[0], os.O_RDONLY, dir_fd=fd)
        for fd, names in reversed(depth):
            for name in names:
                (os.rmdir if name.startswith("d") else os.unlink)(name, dir_fd=fd)
        for fd, _ in depth:
            os.close(fd)


def test_a_directory_and_a_leaf_replace_each_other(sides: Sides) -> None:
    write(sides.result / "was-a-directory/with/things", "old")
    write(sides.result / "was-a-file", "old")
    (sides.result / "was-a-link").symlink_to("x")
    write(sides.new / "was-a-directory", "new")
    write(sides.new / "was-a-file/inside", "new")
    write(sides.new / "was-a-link/inside", "new")
    copy_into(sides)
    assert_is_copy(sides)


def test_what_does_not_belong_to_the_result_goes(sides: Sides) -> None:
    write(sides.new / "file", "text")
    write(sides.result / ".bootc-fast-0", "half of a")
    write(sides.result / "ssh/conf.bootc-new", "of an earlier run")
    write(sides.result / ".bootc-fast-1/left/over", "x")
    os.mkfifo(sides.result / "fifo")
    with socket.socket(socket.AF_UNIX) as unix:
        # A socket's address holds 107 bytes; pytest's paths are longer.
        fd = os.open(sides.result, os.O_PATH)
        unix.bind(f"/proc/self/fd/{fd}/socket")
        os.close(fd)
        copy_into(sides)
    assert_is_copy(sides)


def test_an_admins_file_with_a_temporary_name_is_kept(sides: Sides) -> None:
    write(sides.current / ".bootc-fast-0", "mine")
    write(sides.current / ".bootc-fast-1", "mine too")
    write(sides.current / "file", "text")
    merge(sides)
    assert_has_all_of_current(sides)


def test_a_destination_that_is_the_result_already_is_left_alone(sides: Sides) -> None:
    write(sides.new / "d/file", "text")
    copy_into(sides)
    applied = copy_into(sides)
    assert (applied.operations, applied.bytes_copied) == ([], 0)


def test_a_destination_with_other_bytes_of_the_same_size_and_time_is_found_out(sides: Sides) -> None:
    write(sides.new / "file", "text")
    copy_into(sides)
    times = (sides.result / "file").stat()
    write(sides.result / "file", "tixt")
    os.utime(sides.result / "file", ns=(times.st_atime_ns, times.st_mtime_ns))
    copy_into(sides)
    assert_is_copy(sides)


def test_a_closed_directory_of_an_interrupted_run_is_opened_and_closed_again(sides: Sides) -> None:
    write(sides.new / "d/e/file", "text")
    copy_into(sides)
    for name in ("d/e", "d"):
        (sides.new / name).chmod(0o500)
        (sides.result / name).chmod(0o000)
    copy_into(sides)
    expected = listing(sides.new)
    assert listing(sides.result) == expected
    for side in (sides.new, sides.result):
        (side / "d").chmod(0o700)
        (side / "d/e").chmod(0o700)
