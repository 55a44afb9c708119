"""GRUB on an ext4 whose journal was not replayed: what it finds after a power cut, and what it writes there.

This kernel writes the boot partition, and the power goes. GRUB reads no journal; the next kernel replays it. What
is replaced and flushed by ``fsync`` stands in the journal alone, so that GRUB finds the old file; ``syncfs``, which
ends each step of the product, puts everything in its place, too.

What stands in the journal goes to its place block by block. Of a directory that gets a second block the first one, now
the root of a hash tree without a name in it, is often there long before the inode, which changes with each new name and
so stays in the journal: to GRUB it is an empty directory until the journal is replayed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from vm.grub_counting import ESP_MIB, GRUB, GrubHost, Machine, make_images, start

from bootc_fast.boot.area.real import RealVolume
from bootc_fast.boot.area.replace import replace_file
from bootc_fast.boot.loaders.grub_trial import TRIAL, TRIES, VARIABLES
from bootc_fast.boot.loaders.grubenv import change_grubenv

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

pytestmark = [pytest.mark.vm, pytest.mark.machines, pytest.mark.timeout(1200)]

BOTH = [("trixie", "uki"), ("forky", "bls")]
_PLAIN = change_grubenv(b"# GRUB Environment Block\nother=kept\n", {})


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return make_images(tmp_path_factory.mktemp("grubs"))


def _run(*argv: str | os.PathLike[str]) -> str:
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    return subprocess.run(argv, check=True, env=environment, capture_output=True, text=True).stdout


def _put_back(machine: Machine, image: Path) -> None:
    where = f"seek={1 + ESP_MIB}"
    _run("dd", f"if={image}", f"of={machine.disk}", "bs=1M", where, "conv=notrunc", "status=none")


@contextlib.contextmanager
def _cut_after(machine: Machine) -> Iterator[tuple[Path, RealVolume]]:
    """Mount the boot partition; the disk is then as a power cut leaves it after the last flush."""
    with machine.boot_partition() as image:
        home, cut = machine.work / "mounted", machine.work / "cut.raw"
        home.mkdir(exist_ok=True)
        _run("mount", "-t", "ext4", "-o", "loop", image, home)
        try:
            fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
            try:
                yield home, RealVolume(fd)
            finally:
                os.close(fd)
            shutil.copy(image, cut)
        finally:
            _run("umount", home)
        assert "needs_recovery" in _run("dumpe2fs", "-h", cut)
        _put_back(machine, cut)
        cut.unlink()


def _replay(machine: Machine) -> None:
    """What the next kernel does, and a check that nothing is wrong afterwards."""
    with machine.boot_partition() as image:
        _run("e2fsck", "-E", "journal_only", "-p", image)
        _run("e2fsck", "-fn", image)
        _put_back(machine, image)


def _replace_by_fsync(path: Path, data: bytes) -> None:
    """Replace a file as most tools do."""
    new = path.with_name("new")
    new.write_bytes(data)
    for one in (new, path.parent):
        fd = os.open(one, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        if one == new:
            new.rename(path)


def _trial_files(suite: str, kind: str) -> dict[str, bytes]:
    host = GrubHost(suite, kind, "ext4")
    host.put_on_trial()
    return {path: data for path, data in host.files.items() if data is not None}


@pytest.mark.parametrize(("suite", "kind"), BOTH)
def test_grub_finds_what_the_product_has_written_without_the_journal(
    suite: str, kind: str, images: Mapping[str, Path], tmp_path: Path
) -> None:
    machine = start(tmp_path, GrubHost(suite, kind, "ext4", files={f"{GRUB}/grubenv": _PLAIN}), images[suite])
    with _cut_after(machine) as (_home, volume):
        for path, data in _trial_files(suite, kind).items():
            home, _slash, name = path.rpartition("/")
            replace_file(volume, home.encode(), name.encode(), data)
    assert machine.boot() == ["new"]
    assert machine.variables()[TRIES] == b"2"
    _replay(machine)
    assert machine.variables()[TRIES] == b"2", "the journal has brought back what GRUB has counted"
    with _cut_after(machine) as (home, volume):
        raw = (home / GRUB / "grubenv").read_bytes()
        replace_file(volume, GRUB.encode(), b"grubenv", change_grubenv(raw, dict.fromkeys(VARIABLES)))
    assert machine.boot() == ["new"]
    assert TRIAL not in machine.variables()
    _replay(machine)


@pytest.mark.parametrize(("suite", "kind"), BOTH)
def test_grub_finds_the_old_file_where_the_new_one_stands_in_the_journal_alone(
    suite: str, kind: str, images: Mapping[str, Path], tmp_path: Path
) -> None:
    machine = start(tmp_path, GrubHost(suite, kind, "ext4", files={f"{GRUB}/grubenv": _PLAIN}), images[suite])
    with _cut_after(machine) as (home, _volume):
        for path, data in _trial_files(suite, kind).items():
            _replace_by_fsync(home / path, data)
    # GRUB knows of no trial yet: its first entry, and nothing is written.
    assert machine.boot() == ["new"]
    assert TRIAL not in machine.variables()
    _replay(machine)
    assert machine.variables()[TRIES] == b"3"
    assert [machine.boot() for _ in range(4)] == [["new"], ["new"], ["new"], ["old"]]
    machine.check()


@pytest.mark.parametrize(("suite", "kind"), BOTH)
def test_what_grub_writes_over_an_old_place_harms_nothing(
    suite: str, kind: str, images: Mapping[str, Path], tmp_path: Path
) -> None:
    """The end of a trial stands in the journal alone, and the old block's place is free once that is replayed."""
    host = GrubHost(suite, kind, "ext4")
    host.put_on_trial(2)
    machine = start(tmp_path, host, images[suite])
    with _cut_after(machine) as (home, _volume):
        raw = (home / GRUB / "grubenv").read_bytes()
        _replace_by_fsync(home / GRUB / "grubenv", change_grubenv(raw, dict.fromkeys(VARIABLES)))
    assert machine.boot() == ["new"]
    assert machine.variables()[TRIES] == b"1"
    _replay(machine)
    values = machine.variables()
    assert (values.get(TRIAL), values[b"other"]) == (None, b"kept")
    assert [machine.boot() for _ in range(3)] == [["new"]] * 3


_SHELL = "grub>"


def _fill_by_fsync(home: Path) -> None:
    """So many new names that the journal, a few MiB, is written over and its oldest blocks go to their places."""
    for number in range(500):
        path = home / f"file-{number:04d}-with-a-long-name"
        path.write_bytes(b"words\n")
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def _list_without_the_journal(machine: Machine) -> set[str]:
    with machine.boot_partition() as image:
        listed = _run("debugfs", "-R", "ls -p /", image)
    return {line.split("/")[5] for line in listed.splitlines() if line}


@pytest.mark.parametrize(("suite", "kind"), BOTH)
def test_a_directory_that_grows_in_the_journal_is_empty_to_grub_until_that_is_replayed(
    suite: str, kind: str, images: Mapping[str, Path], tmp_path: Path
) -> None:
    machine = start(tmp_path, GrubHost(suite, kind, "ext4"), images[suite])
    assert "boot" in _list_without_the_journal(machine)
    with _cut_after(machine) as (home, _volume):
        _fill_by_fsync(home)
    assert _list_without_the_journal(machine) == {".", ".."}
    # No grub.cfg: its own shell.
    assert machine.boot(until=_SHELL) == []
    assert _SHELL in machine.console
    _replay(machine)
    assert machine.boot() == ["new"]


@pytest.mark.parametrize(("suite", "kind"), BOTH)
def test_a_step_of_the_product_puts_what_others_left_in_the_journal_in_its_place(
    suite: str, kind: str, images: Mapping[str, Path], tmp_path: Path
) -> None:
    machine = start(tmp_path, GrubHost(suite, kind, "ext4", files={f"{GRUB}/grubenv": _PLAIN}), images[suite])
    with _cut_after(machine) as (home, volume):
        _fill_by_fsync(home)
        for path, data in _trial_files(suite, kind).items():
            directory, _slash, name = path.rpartition("/")
            replace_file(volume, directory.encode(), name.encode(), data)
    assert machine.boot() == ["new"]
    assert machine.variables()[TRIES] == b"2"
