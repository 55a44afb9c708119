"""What becomes something else again and again while it is merged is never lost, and never more open than it was."""

from __future__ import annotations

import ctypes
import os
import random
import stat
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from etc_trees import Sides, listing, make_sides, merge, write

from bootc_fast.errors import FileSystemError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from bootc_fast._core import EtcApplied

AT_FDCWD, RENAME_EXCHANGE = -100, 2
PUBLIC, SECRET = "public\n", "secret\n"
SECONDS = 1.2
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    return make_sides(tmp_path)


def exchange(one: Path, two: Path) -> None:
    """One system call: there is never nothing under either name."""
    if _libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(two), RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), "renameat2")


@contextmanager
def storm(change: Callable[[], object]) -> Generator[None]:
    """Something that goes on all the time."""
    stop, failures = threading.Event(), []

    def run() -> None:
        try:
            while not stop.is_set():
                change()
        except BaseException as error:  # noqa: BLE001 - raised by who waits
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not failures


def merge_unless_unsettled(sides: Sides, name: str) -> EtcApplied | None:
    """None where the merge says that this path never stood still, which is the only error there may be."""
    try:
        return merge(sides, default="current")
    except FileSystemError as error:
        if name not in str(error) or "keeps becoming something else while it is" not in str(error):
            raise
        return None


def make_file(path: Path) -> None:
    write(path, SECRET, 0o600)


def make_link(path: Path) -> None:
    path.symlink_to("elsewhere")


def make_fifo(path: Path) -> None:
    os.mkfifo(path, 0o640)


def make_directory(path: Path) -> None:
    write(path / "inside/deep", SECRET)
    path.chmod(0o700)


def make_open_directory(path: Path) -> None:
    write(path / "inside/deep", PUBLIC)


KINDS = [
    (make_file, make_link),
    (make_file, make_directory),
    (make_link, make_directory),
    (make_link, make_fifo),
    (make_directory, make_open_directory),
]


@pytest.mark.parametrize("has_image", [False, True])
@pytest.mark.parametrize("kinds", KINDS)
def test_what_is_one_kind_now_and_another_then_is_one_of_them(
    sides: Sides, tmp_path: Path, kinds: tuple[Callable[[Path], None], ...], *, has_image: bool
) -> None:
    """Exchanged as fast as can be: the result has one of the two, whole, and says so where it never stood still."""
    here, away = sides.current / "sub/x", tmp_path / "away"
    for side in (sides.pristine, sides.new) if has_image else ():
        write(side / "sub/x", "the image's\n")
    here.parent.mkdir()
    for make, path in zip(kinds, (here, away), strict=True):
        make(path)
    wanted = []
    for _ in kinds:
        exchange(here, away)
        found = listing(here.parent)
        wanted.append({path: entry for path, entry in found.items() if path != b"."})
    until, runs, errors = time.monotonic() + SECONDS, 0, 0
    with storm(lambda: exchange(here, away)):
        while time.monotonic() < until or not runs:
            applied = merge_unless_unsettled(sides, "sub/x")
            if applied is None:
                errors += 1
                continue
            runs += 1
            assert not [reason for _path, reason in applied.warnings if "vanished" in reason]
            found = listing(sides.result / "sub")
            # A directory that is closed and one that is open may be met one after the other, never mixed.
            assert {path: entry for path, entry in found.items() if path != b"."} in wanted
    assert runs > errors
    merge(sides, default="current")
    found = listing(sides.result / "sub")
    assert {path: entry for path, entry in found.items() if path != b"."} in wanted


def test_what_lies_in_a_closed_directory_is_never_in_an_open_one(sides: Sides) -> None:
    """Closed, filled, emptied, opened: as a program does that keeps its secrets by the directory alone."""
    directory = sides.current / "d"
    directory.mkdir()
    for number in range(40):
        write(directory / f"sub/f{number}", PUBLIC)

    def change() -> None:
        directory.chmod(0o700)
        (directory / "sub/f7").write_text(SECRET)
        (directory / "sub/f7").write_text(PUBLIC)
        directory.chmod(0o755)

    until, runs, closed = time.monotonic() + 2 * SECONDS, 0, 0
    with storm(change):
        while time.monotonic() < until:
            if merge_unless_unsettled(sides, "d") is None:
                continue
            runs += 1
            mode = stat.S_IMODE((sides.result / "d").stat().st_mode)
            closed += mode == 0o700
            if mode != 0o700:
                assert (sides.result / "d/sub/f7").read_text() != SECRET
    assert runs > 5


@pytest.mark.parametrize(
    ("source", "target"), [("d/moved", "d/a"), ("d/moved", "d/z"), ("z/moved", "a/moved"), ("d", "e"), ("f", "d/f")]
)
def test_what_is_moved_once_is_not_lost_between_two_names(tmp_path: Path, source: str, target: str) -> None:
    """At some moment of the merge: whichever name was looked at first, its content is in the result."""
    rng = random.Random(source + target)  # noqa: S311
    for turn in range(60):
        (tmp_path / f"{turn}").mkdir()
        sides = make_sides(tmp_path / f"{turn}")
        for name in ("a", "d", "z"):
            for number in range(30):
                write(sides.current / name / f"f{number}", "text")
        start = sides.current / source
        write(start / "inside" if start.is_dir() else start, SECRET, 0o600)

        def move(start: Path = start, end: Path = sides.current / target, wait: float = rng.random() * 0.004) -> None:
            time.sleep(wait)
            start.rename(end)

        thread = threading.Thread(target=move)
        thread.start()
        merge(sides)
        thread.join()
        contents = [path.read_text() for path in sides.result.rglob("*") if path.is_file()]
        assert SECRET in contents, f"turn {turn}"
