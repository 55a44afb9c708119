"""Writing a merge where room, holes, chattr's attributes and access times matter; all on real file systems."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import etc_trees
import pytest
from etc_trees import Sides, listing, make_sides, merge, write

from bootc_fast import _core
from bootc_fast.errors import FileSystemError

if TYPE_CHECKING:
    from collections.abc import Generator

pytestmark = pytest.mark.root

FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
APPEND, IMMUTABLE = 0x20, 0x10
MIB = 1 << 20


def get_flags(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return int.from_bytes(fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8))[:4], "little") & (APPEND | IMMUTABLE)
    finally:
        os.close(fd)


def set_flags(path: Path, flags: int) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        old = int.from_bytes(fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8))[:4], "little")
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, (old & ~(APPEND | IMMUTABLE) | flags).to_bytes(8, "little"))
    finally:
        os.close(fd)


@pytest.fixture
def sides(tmp_path: Path) -> Generator[Sides]:
    sides = make_sides(tmp_path)
    yield sides
    for where, names, files in os.walk(tmp_path):
        for path in (Path(where), *(Path(where, name) for name in (*names, *files))):
            if not path.is_symlink():
                set_flags(path, 0)


@contextmanager
def small_file_system(size: bytes) -> Generator[Path]:
    """A tmpfs that no place but the descriptor leads to."""
    fd = _core.mount_detached(b"tmpfs", [(b"size", size)], read_only=False)
    try:
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def test_what_is_immutable_in_the_destination_is_replaced_and_removed(sides: Sides) -> None:
    write(sides.new / "d/changed", "new")
    write(sides.new / "d/kept", "same")
    write(sides.new / "mode", "same", 0o600)
    write(sides.result / "d/changed", "old")
    write(sides.result / "d/kept", "same")
    os.utime(sides.result / "d/kept", ns=(1, (sides.new / "d/kept").stat().st_mtime_ns))
    write(sides.result / "mode", "same", 0o644)
    write(sides.result / "gone/below/file", "old")
    for name, flags in (
        ("d/changed", IMMUTABLE),
        ("d/kept", APPEND),
        ("mode", IMMUTABLE | APPEND),
        ("gone/below/file", APPEND),
        ("gone/below", IMMUTABLE),
        ("d", APPEND),
        ("", IMMUTABLE),
    ):
        set_flags(sides.result / name, flags)
    merge(sides._replace(pristine=sides.new, current=sides.new))
    assert listing(sides.result) == listing(sides.new)
    # Nothing had to be done to this one.
    assert get_flags(sides.result / "d/kept") == APPEND
    assert get_flags(sides.result) == get_flags(sides.result / "d") == 0


def test_flags_of_etc_are_listed_and_not_carried_over(sides: Sides) -> None:
    for side in (sides.pristine, sides.current, sides.new):
        write(side / "unchanged", "x")
        write(side / "dropped", "x")
    (sides.new / "dropped").unlink()
    write(sides.current / "d/log\n", "lines")
    write(sides.current / "resolv.conf", "nameserver ::1")
    set_flags(sides.current / "d/log\n", APPEND)
    for name in ("resolv.conf", "unchanged", "d", "dropped"):
        set_flags(sides.current / name, IMMUTABLE)
    with opened_sides(sides) as inputs:
        plan = _core.plan_etc(*inputs)
    immutable, append = "immutable here (chattr +i)", "append-only here (chattr +a)"
    assert plan.warnings == [
        (b"d", f"{immutable}, which is not carried over"),
        (b"d/log\n", f"{append}, which is not carried over"),
        (b"resolv.conf", f"{immutable}, which is not carried over"),
        (b"unchanged", f"{immutable}, which is not carried over"),
    ]
    for _ in range(2):
        merge(sides)
        assert (sides.result / "resolv.conf").read_text() == "nameserver ::1"
        assert get_flags(sides.result / "resolv.conf") == 0


@contextmanager
def opened_sides(sides: Sides) -> Generator[list[_core.Side]]:
    fds = [os.open(side, os.O_RDONLY | os.O_DIRECTORY) for side in sides[:3]]
    try:
        yield [_core.Side(_core.Tree.scan(fd), dir_fd=fd) for fd in fds]
    finally:
        for fd in fds:
            os.close(fd)


def test_without_the_capability_the_error_names_chattr(sides: Sides) -> None:
    write(sides.current / "f", "x")
    write(sides.result / "f", "old")
    set_flags(sides.result / "f", IMMUTABLE)
    argv = ["setpriv", "--bounding-set=-linux_immutable", sys.executable, etc_trees.__file__, *map(str, sides)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 6, done.stderr
    assert "chattr -i -a) from f: Operation not permitted" in done.stderr


def make_sparse(path: Path, size: int, extents: dict[int, bytes]) -> None:
    with path.open("wb") as file:
        file.truncate(size)
        for offset, data in extents.items():
            file.seek(offset)
            file.write(data)


@pytest.mark.parametrize(
    "extents", [{}, {0: b"start"}, {(20 << 30) - 3: b"end"}, {5 * MIB: b"m" * 70_000, 9 << 30: b"n" * 5000}]
)
@pytest.mark.parametrize("is_same_file_system", [True, False])
def test_a_file_of_20_gib_of_holes_takes_no_more_than_what_it_holds(
    sides: Sides, extents: dict[int, bytes], *, is_same_file_system: bool
) -> None:
    make_sparse(sides.current / "lastlog", 20 << 30, extents)
    with small_file_system(b"4m") as small:
        target = sides if is_same_file_system else sides._replace(result=small)
        merge(target)
        found = (target.result / "lastlog").stat()
        assert found.st_size == 20 << 30
        assert found.st_blocks * 512 <= 1 * MIB
        with (target.result / "lastlog").open("rb") as file:
            for offset, data in extents.items():
                assert os.pread(file.fileno(), len(data) + 10, offset).rstrip(b"\0") == data
        # Seconds, where all would be read; and nothing is left to do.
        assert merge(target).operations == []


def test_what_does_not_fit_is_named_before_anything_is_written(sides: Sides) -> None:
    write(sides.current / "small", b"s" * 4096)
    write(sides.current / "home/mail.db", os.urandom(9 * MIB))
    write(sides.current / "home/other", os.urandom(2 * MIB))
    with small_file_system(b"8m") as small:
        write(small / "left", "by an interrupted run")
        before = listing(small)
        with opened_sides(sides) as inputs:
            plan = _core.plan_etc(*inputs)
            fd = os.open(small, os.O_RDONLY)
            try:
                for call in (_core.apply_etc, _core.list_etc_operations):
                    with pytest.raises(FileSystemError) as raised:
                        call(plan, fd)
                    assert "home/mail.db takes 9 MiB: 12 MiB are to be written, and 7 MiB are free" in str(raised.value)
                    cause = raised.value.__cause__
                    assert isinstance(cause, OSError)
                    assert (cause.errno, cause.filename) == (errno.ENOSPC, b"home/mail.db")
            finally:
                os.close(fd)
        assert listing(small) == before


def test_room_that_removing_makes_counts(sides: Sides) -> None:
    write(sides.current / "new", os.urandom(5 * MIB))
    with small_file_system(b"8m") as small:
        write(small / "stale/file", os.urandom(6 * MIB))
        merge(sides._replace(result=small))
        assert sorted(os.listdir(small)) == ["new"]


def test_a_file_that_grows_as_fast_as_it_is_read_ends(sides: Sides) -> None:
    log = sides.current / "growing"
    log.write_bytes(b"x" * (3 * MIB))
    stop = threading.Event()

    def grow() -> None:
        with log.open("ab") as file:
            while not stop.is_set() and file.tell() < 400 * MIB:
                file.write(b"y" * MIB)
                file.flush()

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        with small_file_system(b"1g") as small:
            merge(sides._replace(result=small))
            found = (small / "growing").read_bytes()
    finally:
        stop.set()
        thread.join()
    assert found.startswith(b"x" * (3 * MIB))
    assert not found[3 * MIB :].strip(b"y")
    assert 3 * MIB <= len(found) <= log.stat().st_size


def age(root: Path) -> dict[str, int]:
    """Give everything an access time that any reading would renew on a file system mounted relatime."""
    for where, names, files in os.walk(root, topdown=False):
        for name in (*names, *files):
            os.utime(os.path.join(where, name), ns=(1_000_000_000, 2_000_000_000), follow_symlinks=False)
    os.utime(root, ns=(1_000_000_000, 2_000_000_000))
    return access_times(root)


def access_times(root: Path) -> dict[str, int]:
    # scandir would renew those of the directories; their names are known.
    names = ["", "d", "d/e", "d/e/f", "big", "same", "mine", "link", "d/lost"]
    return {name: os.lstat(root / name).st_atime_ns for name in names}


def test_looking_renews_no_access_time(sides: Sides) -> None:
    for side in sides:
        for name in ("d/e/f", "big", "same", "mine"):
            write(side / name, name * (60_000 if name == "big" else 2))
        (side / "link").symlink_to("same")
        (side / "d/lost").symlink_to("nowhere")
    (sides.current / "mine").write_text("changed")
    before = {side: age(side) for side in sides}
    with opened_sides(sides) as inputs:
        plan = _core.plan_etc(*inputs)
        fd = os.open(sides.result, os.O_RDONLY)
        operations = _core.list_etc_operations(plan, fd)
        for side in sides:
            assert access_times(side) == before[side]
        assert any(row[:2] == ("write-file", b"mine") for row in operations)
        _core.apply_etc(plan, fd)
        os.close(fd)
    for side in sides[:3]:
        assert access_times(side) == before[side]


def test_who_may_not_look_silently_looks_all_the_same(sides: Sides) -> None:
    """O_NOATIME is for a file's owner; ``etc diff`` is for everybody."""
    write(sides.current / "f", "of root")
    (sides.result).chmod(0o777)
    own = Path(tempfile.gettempdir())
    for path in (sides.result, *sides.result.parents):
        if path.is_relative_to(own):
            path.chmod(path.stat().st_mode | 0o055)
    program = "import os, sys; import etc_trees; os.setuid(65534); sys.exit(etc_trees.main())"
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(etc_trees.__file__)}
    argv = [sys.executable, "-c", program, *map(str, sides)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
    # The file's owner cannot be given away; it was read.
    assert "set owner of f: Operation not permitted" in done.stderr, done.stderr
