"""_scratch.py with this kernel: a thread with a mount namespace of its own, and nothing of it anywhere else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bootc_fast import _core
from bootc_fast.machine.scratch import open_scratch

pytestmark = pytest.mark.root


def mount_table() -> str:
    return Path("/proc/self/mountinfo").read_text()


def test_a_thread_with_private_mounts_changes_nothing_for_the_process(tmp_path: Path) -> None:
    (tmp_path / "point").mkdir()
    before = (os.getcwd(), os.readlink("/proc/thread-self/ns/mnt"), mount_table())

    def work() -> tuple[str, list[str], str]:
        with open_scratch() as scratch:
            fd = scratch.hold(_core.mount_detached(b"tmpfs", [], read_only=False))
            os.mkdir("inside", dir_fd=scratch.place("place", fd))
            point = scratch.hold(os.open(tmp_path / "point", os.O_RDONLY))
            _core.attach_mount(scratch.hold(_core.clone_mount(fd)), point, b"")
            return os.getcwd(), os.listdir(tmp_path / "point"), os.readlink("/proc/thread-self/ns/mnt")

    directory, seen, namespace = _core.call_with_private_mounts(work)
    assert seen == ["inside"]
    assert directory != before[0]
    assert namespace != before[1]
    assert os.listdir(tmp_path / "point") == []
    assert (os.getcwd(), os.readlink("/proc/thread-self/ns/mnt"), mount_table()) == before


def test_what_a_thread_with_private_mounts_raises_reaches_the_caller() -> None:
    def work() -> None:
        raise KeyError("of Python")

    with pytest.raises(KeyError, match="of Python"):
        _core.call_with_private_mounts(work)
