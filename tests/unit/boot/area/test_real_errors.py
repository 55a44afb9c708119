"""What real calls raise where the disk fails: a file's name or none, never a descriptor's number, and a hint."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
from failing_calls import NUMBERS, call_failing

from bootc_fast.boot.area.esp import _is_directory
from bootc_fast.boot.area.real import RealDirectory
from bootc_fast.boot.entries.publish import _sync_all
from bootc_fast.errors import FileSystemError
from bootc_fast.text import describe_error

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not NUMBERS, reason="no table of system calls for this processor")


@pytest.mark.parametrize(
    ("number", "hint"),
    [(errno.EIO, "doctor"), (errno.EROFS, "doctor"), (errno.ENOSPC, "make space"), (errno.EPERM, "")],
)
def test_a_flush_that_fails_says_why_and_what_to_do(number: int, hint: str, tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        raised = call_failing("fsync", number, lambda: _sync_all([fd]))
    finally:
        os.close(fd)
    assert isinstance(raised, FileSystemError)
    assert str(raised) == f"flushing what the new deployment needs: {os.strerror(number)}"
    assert hint in (raised.hint or "")
    assert bool(raised.hint) == bool(hint)
    assert isinstance(raised.__cause__, OSError)
    assert raised.__cause__.errno == number


@pytest.mark.parametrize(("number", "is_there"), [(errno.EIO, True), (errno.ENOENT, False), (errno.ENOTDIR, False)])
def test_a_directory_of_entries_that_the_disk_does_not_give_is_there(
    number: int,
    is_there: bool,  # noqa: FBT001
    tmp_path: Path,
) -> None:
    """What is broken there is found by whoever reads it; here it says which loader's entries these are."""
    found: list[bool] = []
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        raised = call_failing("newfstatat", number, lambda: found.append(_is_directory(fd, "loader/entries")))
    finally:
        os.close(fd)
    assert (raised, found) == (None, [is_there])


def test_a_directory_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    directory = RealDirectory(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY))
    try:
        raised = call_failing("getdents64", errno.EIO, directory.list_names)
    finally:
        directory.close()
    assert isinstance(raised, OSError)
    assert (raised.errno, raised.filename) == (errno.EIO, str(tmp_path))
    assert describe_error(raised) == f"{tmp_path}: {os.strerror(errno.EIO)}"
