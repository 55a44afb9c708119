"""Injected faults have the shape of real ones: whoever handles or tells them cannot tell them apart."""

from __future__ import annotations

import os
import resource
import signal
from typing import TYPE_CHECKING, Any

import pytest
from unit.boot.faults import make_failure

from bootc_fast.boot.area.real import RealDirectory, RealVolume

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LONG = b"x" * 300


def _shape(error: OSError) -> tuple[Any, ...]:
    names = tuple(type(name) for name in (error.filename, error.filename2))
    return type(error), error.errno, error.strerror, names


def _failure_of(call: Callable[..., object], *args: object) -> OSError:
    with pytest.raises(OSError) as caught:  # noqa: PT011 which one is compared
        call(*args)
    return caught.value


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("read", (b"none", 1)),
        ("write_new", (b"file", b"")),
        ("overwrite", (b"none", b"")),
        ("rename", (b"none", b"other")),
        ("hold", (b"none",)),
        ("unlink", (b"none",)),
        ("exchange", (b"none", b"file")),
        ("is_immutable", (b"none",)),
        ("first_block", (b"none",)),
        ("find_kind", (b"file/in",)),
        ("release", (1 << 20,)),
    ],
)
def test_operations_of_a_directory(tmp_path: Path, name: str, args: tuple[object, ...]) -> None:
    (tmp_path / "file").touch()
    directory = RealDirectory(os.open(tmp_path, os.O_RDONLY))
    try:
        real = _failure_of(getattr(directory, name), *args)
    finally:
        directory.close()
    assert _shape(make_failure(real.errno or 0, name, args)) == _shape(real)


@pytest.mark.parametrize("name", ["barrier", "list_names"])
def test_operations_that_have_a_descriptor_only(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    # A path descriptor: every call on it fails, and it has a name all the same.
    directory = RealDirectory(os.open(tmp_path / "file", os.O_PATH))
    try:
        real = _failure_of(getattr(directory, name))
    finally:
        directory.close()
    assert _shape(make_failure(real.errno or 0, name)) == _shape(real)


def test_an_operation_that_fails_on_no_descriptor_that_is_open() -> None:
    real = _failure_of(RealDirectory(1 << 20).capacity_slots)
    assert _shape(make_failure(real.errno or 0, "capacity_slots")) == _shape(real)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("open_directory", (LONG,)),
        ("open_plain_directory", (LONG,)),
        ("read_file", (LONG, 1)),
        ("read_part", (LONG, 0, 1)),
        ("read_link", (LONG,)),
        ("make_directory", (b"file/in",)),
        ("remove_directory", (b"file",)),
    ],
)
def test_operations_of_a_volume(tmp_path: Path, name: str, args: tuple[object, ...]) -> None:
    (tmp_path / "file").touch()
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        real = _failure_of(getattr(RealVolume(fd), name), *args)
    finally:
        os.close(fd)
    assert _shape(make_failure(real.errno or 0, name, args)) == _shape(real)


def test_a_full_disk_is_told_by_a_call_without_a_name(tmp_path: Path) -> None:
    """A limit of the process stands for the disk's: both are told by write(2)."""
    directory = RealDirectory(os.open(tmp_path, os.O_RDONLY))
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, old[1]))
        real = _failure_of(directory.write_new, b"new", b"twenty bytes of text")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
        directory.close()
    injected = make_failure(28, "write_new", (b"new", b"text"))
    assert (injected.filename, injected.filename2) == (real.filename, real.filename2) == (None, None)
