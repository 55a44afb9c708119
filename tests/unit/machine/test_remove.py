"""remove.py: a tree goes whole, however deep it is, and nothing outside of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import hosts
import pytest

from bootc_fast.machine.remove import GONE_PREFIX, list_gone, remove_gone, remove_tree

if TYPE_CHECKING:
    from pathlib import Path

    from bootc_fast.machine.host import Host


def _make_odd_tree(directory: Path, outside: Path) -> None:
    (directory / "etc/ssh").mkdir(parents=True)
    (directory / "etc/ssh/key").write_text("secret")
    (directory / "etc/sealed").mkdir()
    (directory / "etc/sealed/file").write_text("x")
    os.symlink(outside, directory / "var")
    os.symlink("nowhere", directory / "etc/dangling")
    os.mkfifo(directory / "etc/fifo")
    os.link(outside / "kept", directory / "etc/linked")
    name = b"name-\xff\n"
    with open(os.path.join(os.fsencode(directory), name), "wb"):
        pass


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return hosts.make_host(tmp_path / "h")


def test_all_of_a_tree_goes_and_nothing_that_it_leads_to(host: Host, tmp_path: Path) -> None:
    outside, path = tmp_path / "outside", host.state_deploy / "gone"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    _make_odd_tree(path, outside)
    assert remove_tree(host, path)
    assert os.listdir(host.state_deploy) == []
    assert (outside / "kept").read_text() == "kept"
    assert not remove_tree(host, path)
    assert not remove_tree(host, host.state_deploy / "no/where")


def test_a_tree_of_twelve_hundred_levels_goes_without_recursion(host: Host) -> None:
    path = host.state_deploy / "deep"
    path.mkdir()
    fd = os.open(path, os.O_RDONLY)
    for _level in range(1200):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    assert remove_tree(host, path)
    assert os.listdir(host.state_deploy) == []


def test_what_was_begun_is_finished_and_nothing_else_goes(host: Host) -> None:
    (host.state_deploy / f"{GONE_PREFIX}x/etc").mkdir(parents=True)
    (host.state_deploy / f"{GONE_PREFIX}file").write_text("")
    (host.state_deploy / "stays").mkdir()
    assert len(list_gone(host, host.state_deploy)) == 2
    assert remove_gone(host, host.state_deploy) == 2
    assert os.listdir(host.state_deploy) == ["stays"]
    assert remove_gone(host, host.state_deploy) == 0


def test_what_is_no_directory_goes_by_its_name(host: Host) -> None:
    path = host.state_deploy / "file"
    path.write_text("x")
    assert remove_tree(host, path)
    assert not path.exists()
