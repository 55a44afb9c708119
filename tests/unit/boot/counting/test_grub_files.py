"""GRUB's files on this machine's file system: links, modes, holes, sizes; and what a boot loader cannot write to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from unit.boot.counting.test_grub_counter import BLS, Host
from unit.boot.scenarios import A, B, Scenario

from bootc_fast.boot.area import in_place
from bootc_fast.boot.area.real import RealVolume
from bootc_fast.boot.counting.grub_script import add_block
from bootc_fast.boot.counting.records import CountMethod

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass
class RealHost:
    """A host in a directory; `root` is its boot directory."""

    host: Host
    root: Path

    @property
    def grub(self) -> Path:
        return self.root / "grub2"


@pytest.fixture
def real(tmp_path: Path) -> Iterator[RealHost]:
    _install(BLS, tmp_path)
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield RealHost(Host(BLS, RealVolume(fd)), tmp_path)
    os.close(fd)


def _install(scenario: Scenario, root: Path) -> None:
    for path, data in {**scenario.files, **scenario.foreign}.items():
        target = root / path.decode().lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def test_it_counts_and_every_file_keeps_its_mode(real: RealHost) -> None:
    (real.grub / "custom.cfg").write_text("# mine\n")
    for name, mode in (("grubenv", 0o600), ("custom.cfg", 0o640)):
        (real.grub / name).chmod(mode)
    assert real.host.publish().method is CountMethod.GRUBENV
    assert real.host.boots(5) == [B, B, B, A, A]
    assert [(real.grub / name).stat().st_mode & 0o7777 for name in ("grubenv", "custom.cfg")] == [0o600, 0o640]


def test_a_block_that_is_a_hole_becomes_one_that_is_not(real: RealHost) -> None:
    path = real.grub / "grubenv"
    path.unlink()
    path.touch()
    os.truncate(path, 1024)
    assert real.host.publish().method is CountMethod.GRUBENV
    with path.open("rb") as file:
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 1024
    assert path.stat().st_blocks * 512 >= 1024
    assert real.host.boots(4) == [B, B, B, A]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("../real/env", ""),
        ("env2", ""),
        ("/boot/grub2/env2", "is an absolute link"),
        ("../../outside", "is a link that leaves the boot directory"),
        ("../gone/env", "is a link that leads to nothing"),
        ("grubenv", "is a link to links"),
    ],
)
def test_a_link_is_followed_as_grub_does(real: RealHost, target: str, said: str) -> None:
    block = (real.grub / "grubenv").read_bytes()
    (real.grub / "grubenv").unlink()
    (real.grub / "grubenv").symlink_to(target)
    (real.root / "real").mkdir()
    for name in ("real/env", "grub2/env2"):
        (real.root / name).write_bytes(block)
    decision = real.host.publish()
    assert said in decision.reason
    assert (decision.method is None) is bool(said)
    if not said:
        assert (real.grub / "grubenv").is_symlink()
        assert b"bootc_fast_tries=3\n" in (real.grub / target).read_bytes()


def test_custom_cfg_that_is_a_link_is_not_replaced_and_does_where_the_block_is_there(real: RealHost) -> None:
    (real.root / "admins.cfg").write_bytes(b"# mine\n")
    (real.grub / "custom.cfg").symlink_to("../admins.cfg")
    assert real.host.decide().reason == "/grub2/custom.cfg: it is a link"
    (real.root / "admins.cfg").write_bytes(add_block(b"# mine\n"))
    assert real.host.publish().method is CountMethod.GRUBENV
    assert (real.grub / "custom.cfg").is_symlink()


@pytest.mark.parametrize("name", ["custom.cfg", "grubenv", "bootcfast.cfg"])
@pytest.mark.parametrize("kind", ["directory", "pipe", "huge"])
def test_what_is_no_file_of_ours_to_replace_is_told_and_left(real: RealHost, name: str, kind: str) -> None:
    path = real.grub / name
    path.unlink(missing_ok=True)
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(b"#\n" * (1 << 21))
    before = path.lstat()
    decision = real.host.publish()
    assert decision.method is None
    assert ("File too large" if kind == "huge" else "it is no file") in decision.reason
    assert path.lstat().st_ino == before.st_ino


def test_a_read_only_file_is_replaced_all_the_same(real: RealHost) -> None:
    """Its directory is what counts; GRUB writes to it whatever its mode."""
    (real.grub / "custom.cfg").write_text("# mine\n")
    for name in ("custom.cfg", "grubenv"):
        (real.grub / name).chmod(0o400)
    assert real.host.publish().method is CountMethod.GRUBENV
    assert (real.grub / "grubenv").stat().st_mode & 0o7777 == 0o400


def _device(root: Path, number: str, **files: str) -> None:
    for name, text in files.items():
        path = root / number / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / number).mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, None),
        ({"dm__uuid": "LVM-abc\n"}, "GRUB cannot write to a device of the device mapper (LVM)"),
        ({"dm__uuid": "CRYPT-LUKS2-abc\n"}, "GRUB cannot write to a device of the device mapper (CRYPT)"),
        ({"dm__uuid": "\n"}, "GRUB cannot write to a device of the device mapper"),
        ({"dm__uuid": "mpath-abc\n"}, None),
        ({"dm__uuid": "part1-mpath-abc\n"}, None),
        ({"md__level": "raid1\n"}, "GRUB cannot write to an MD RAID"),
    ],
)
def test_devices_that_grub_does_not_write_to(files: dict[str, str], said: str | None, tmp_path: Path) -> None:
    _device(tmp_path, "8:1", **files)
    found = in_place.why_not_on_device(tmp_path / "8:1")
    assert (found or "").startswith(said or "")
    assert (found is None) is (said is None)


@pytest.mark.parametrize("magic", [0x9123683E, 0x2FC12FC1, 0xF2F52010])
def test_file_systems_that_grub_does_not_write_to(magic: int) -> None:
    assert (in_place.why_not_on_file_system(magic) or "").startswith("GRUB cannot write to ")


@pytest.mark.parametrize("magic", [0xEF53, 0x4D44, 0x58465342])
def test_file_systems_that_it_does(magic: int) -> None:
    assert in_place.why_not_on_file_system(magic) is None


def test_this_machines_proc_is_told_apart_from_nothing_and_raises_nothing() -> None:
    fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    assert in_place.read_magic(fd) == 0x9FA0
    assert in_place.why_not_in_place(fd) is None
    os.close(fd)


def test_a_live_host_is_asked_what_it_lies_on(real: RealHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RealVolume, "why_not_in_place", lambda _self: "GRUB cannot write to btrfs")
    assert real.host.decide().method is CountMethod.GRUBENV
    real.host.is_live = True
    assert real.host.decide().reason == "GRUB cannot write to btrfs"
