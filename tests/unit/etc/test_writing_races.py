"""Writing R while /etc changes, while nobody waits any longer, and when it fails (spec etc-merge.md, "Writing R")."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from etc_trees import Sides, assert_has_all_of_current, copy_into, listing, make_sides, merge, write

from bootc_fast.errors import FileSystemError


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    return make_sides(tmp_path)


def test_a_file_that_vanishes_before_it_is_read_is_not_there(sides: Sides) -> None:
    for name in ("a", "b", "c"):
        write(sides.current / name, "text")
    write(sides.result / "b", "something else")

    applied = merge(sides, before_apply=(sides.current / "b").unlink)
    assert sorted(os.listdir(sides.result)) == ["a", "c"]
    assert applied.warnings == []
    assert applied.plan is not None


def test_a_first_name_of_a_hard_linked_file_that_vanishes_leaves_the_others(sides: Sides) -> None:
    write(sides.current / "a", "text")
    os.link(sides.current / "a", sides.current / "b")
    os.link(sides.current / "a", sides.current / "c")
    merge(sides, before_apply=(sides.current / "a").unlink)
    assert sorted(os.listdir(sides.result)) == ["b", "c"]
    assert (sides.result / "c").read_text() == "text"


def test_a_file_that_changed_since_it_was_planned_is_written_as_it_is_read(sides: Sides) -> None:
    write(sides.current / "a", "text")
    merge(sides, before_apply=lambda: write(sides.current / "a", "another text"))
    assert (sides.result / "a").read_text() == "another text"


def test_etc_may_change_all_the_time(sides: Sides) -> None:
    """A thread rewrites, removes and replaces files while merges run: none fails, and the last one is exact."""
    for number in range(40):
        write(sides.current / f"d{number % 4}/f{number}", "text" * 1000)
    stop = threading.Event()

    def rewrite() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            path = sides.current / f"d{number % 4}/f{number % 40}"
            if number % 3 == 0:
                path.unlink(missing_ok=True)
            elif number % 3 == 1:
                write(path, os.urandom(number % 5000))
            else:
                write(path.with_suffix(".swap"), "swapped").rename(path)

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        for _ in range(15):
            merge(sides)
    finally:
        stop.set()
        writer.join()
    merge(sides)
    assert_has_all_of_current(sides)


def test_a_cancellation_at_any_question_leaves_a_destination_that_the_next_run_completes(sides: Sides) -> None:
    for number in range(6):
        write(sides.new / f"d{number}/file", b"x" * (9 << 20))
    expected = None
    for allowed in range(4):
        asked = []

        def check(asked: list[int] = asked, allowed: int = allowed) -> None:
            asked.append(0)
            if len(asked) > allowed:
                raise TimeoutError("cancelled")

        with pytest.raises(TimeoutError, match="cancelled"):
            merge(sides._replace(pristine=sides.new, current=sides.new), check=check)
        assert all(path.stat().st_size == 9 << 20 for path in sides.result.glob("*/*"))
    copy_into(sides)
    expected = listing(sides.new)
    assert listing(sides.result) == expected


def test_a_failing_progress_callback_ends_the_merge_with_its_exception(sides: Sides) -> None:
    write(sides.new / "file", "text")

    def progress(_done: int, _total: int) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        merge(sides._replace(pristine=sides.new, current=sides.new), progress=progress)


def test_an_error_names_the_path_and_the_operation_and_has_the_oserror_as_its_cause(sides: Sides) -> None:
    write(sides.new / "d/file", "text")
    fd = os.open(sides.result, os.O_RDONLY)
    sides.result.rmdir()
    try:
        with pytest.raises(FileSystemError, match="make directory d: No such file or directory") as raised:
            merge(sides._replace(pristine=sides.new, current=sides.new, result=Path(f"/proc/self/fd/{fd}")))
    finally:
        os.close(fd)
    assert raised.value.exit_code == 6
    assert isinstance(raised.value.__cause__, FileNotFoundError)
