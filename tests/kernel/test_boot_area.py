"""boot/esp.py with this kernel: partitions found through lsblk's output and mounted detached.

The host's files are a directory's, its partitions are loop devices; ext4 stands in for FAT, which this kernel lacks.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hosts import make_host, mount_line

from bootc_fast import _core
from bootc_fast.boot.area import disks, esp
from bootc_fast.boot.efi import firmware
from bootc_fast.machine import mounts
from bootc_fast.types import Loader

if TYPE_CHECKING:
    from collections.abc import Generator

    from bootc_fast.machine.host import Host

pytestmark = pytest.mark.root


@contextmanager
def loop_device(tmp_path: Path, name: str, *directories: str) -> Generator[str]:
    tree = tmp_path / f"{name}.tree"
    for directory in directories:
        (tree / directory).mkdir(parents=True)
    disk = tmp_path / f"{name}.disk"
    disk.touch()
    os.truncate(disk, 8 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-d", tree, disk], check=True, capture_output=True)
    argv = ["losetup", "--find", "--show", disk]
    loop = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield loop
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)


def use_lsblk(host: Host, monkeypatch: pytest.MonkeyPatch, esp_device: str, boot_device: str) -> None:
    def partition(name: str, parttype: str | None, number: str) -> dict[str, str | None]:
        return {"name": name, "type": "part", "fstype": "ext4", "parttype": parttype, "maj:min": number}

    children = [
        partition(esp_device, disks.ESP_TYPE, "240:1"),
        partition(boot_device, disks.XBOOTLDR_TYPE, "240:2"),
        partition("/dev/vda3", None, "240:3"),
    ]
    document = {"blockdevices": [{"name": "/dev/vda", "type": "disk", "maj:min": "240:0", "children": children}]}
    tool = host.root / "lsblk"
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(document)}\nEND\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{host.root}:{os.environ['PATH']}")


SYSROOT = mount_line("/sysroot", "/dev/vda3", fstype="ext4").replace("0:25", "240:3")
AUTOMOUNTS = mount_line("/boot", "systemd-1", fstype="autofs") + mount_line("/efi", "systemd-1", fstype="autofs")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = make_host(tmp_path / "root", mountinfo=SYSROOT + AUTOMOUNTS)
    host.make_directory(host.efivars)
    return host


@pytest.mark.parametrize("read_only", [True, False])
async def test_systemd_boots_esp_is_mounted_though_its_automount_has_expired(
    tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch, *, read_only: bool
) -> None:
    firmware.write_loader_variable(host, "LoaderInfo", "systemd-boot 257")
    with loop_device(tmp_path, "esp", "loader/entries", "EFI") as one, loop_device(tmp_path, "boot", "grub2") as two:
        use_lsblk(host, monkeypatch, one, two)
        async with esp.open_boot_area(replace(host, is_live=True), read_only=read_only) as area:
            assert (area.loader, area.esp_fd) == (Loader.SYSTEMD_BOOT, area.boot_fd)
            assert {"loader", "EFI"} <= set(os.listdir(area.boot_fd))
            assert one in area.description
            if read_only:
                with pytest.raises(OSError, match="Read-only"):
                    os.mkdir("new", dir_fd=area.boot_fd)
            else:
                os.mkdir("new", dir_fd=area.boot_fd)


async def test_grubs_boot_partition_and_the_esp_are_both_open(
    tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    firmware.write_loader_variable(host, "LoaderInfo", "GRUB 2.12")
    with loop_device(tmp_path, "esp", "EFI") as one, loop_device(tmp_path, "boot", "grub2") as two:
        use_lsblk(host, monkeypatch, one, two)
        async with esp.open_boot_area(replace(host, is_live=True), read_only=False) as area:
            assert area.loader is Loader.GRUB
            assert area.esp_fd is not None
            assert "grub2" in os.listdir(area.boot_fd)
            assert "EFI" in os.listdir(area.esp_fd)
            assert two in area.description
            os.mkdir("written", dir_fd=area.boot_fd)


async def test_grub_does_without_an_esp_that_cannot_be_mounted(
    tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loop_device(tmp_path, "boot", "grub2") as two:
        use_lsblk(host, monkeypatch, str(tmp_path / "missing"), two)
        async with esp.open_boot_area(replace(host, is_live=True), read_only=True) as area:
            assert (area.loader, area.esp_fd) == (Loader.GRUB, None)
            assert any("missing" in warning for warning in area.warnings)


IN_NAMESPACE = """
import os, sys, trio
from dataclasses import replace
from pathlib import Path
from bootc_fast.boot.area import esp
from bootc_fast.machine.host import open_host

async def main():
    host = replace(open_host(sys.argv[1]), is_live=True)
    async with esp.open_boot_area(host, read_only=False) as area:
        print(area.loader, area.description.split("/")[-1], sorted(os.listdir(area.boot_fd)), area.esp_fd)
        os.mkdir("written", dir_fd=area.boot_fd)

trio.run(main)
"""


@pytest.mark.parametrize("is_mounted", [True, False])
def test_a_boot_directory_of_another_file_system_is_cloned_writable(
    tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch, *, is_mounted: bool
) -> None:
    where = "boot" if is_mounted else "sysroot/boot"
    (host.root / where / "grub2").mkdir(parents=True)
    bind = mount_line("/boot", "/dev/vda3", fstype="ext4").replace(" / /boot", " /boot /boot")
    host.mountinfo.write_text(SYSROOT + (bind if is_mounted else ""))
    use_lsblk(host, monkeypatch, str(tmp_path / "missing"), str(tmp_path / "missing"))
    at = host.root / where
    script = f'mount --bind {at} {at} && mount -o remount,bind,ro {at} && exec {sys.executable} -c "$0" {host.root}'
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, IN_NAMESPACE]
    out = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    assert out == "grub boot ['grub2'] None\n"
    assert (at / "written").is_dir()


async def test_grubs_directory_on_the_root_is_opened_where_a_detached_mount_cannot_be_cloned(
    tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clone(dir_fd: int, *, recursive: bool = False, read_only: bool | None = None) -> int:
        """Clone as kernels before 6.15 do: only what the mount table shows."""
        info = dict(line.split(":\t") for line in Path(f"/proc/self/fdinfo/{dir_fd}").read_text().splitlines())
        table = Path("/proc/thread-self/mountinfo").read_text().splitlines()
        if info["mnt_id"].strip() not in {line.split()[0] for line in table}:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real_clone(dir_fd, recursive=recursive, read_only=read_only)

    real_clone = _core.clone_mount
    monkeypatch.setattr(_core, "clone_mount", clone)
    host = replace(host, is_live=True)
    host.mountinfo.write_text(SYSROOT)
    host.make_directory(host.sysroot / "boot/grub2")
    with loop_device(tmp_path, "esp", "EFI") as one:
        use_lsblk(host, monkeypatch, one, "/dev/vda2")
        async with mounts.open_writable(host) as writable:
            assert writable.sysroot_fd is not None
            async with esp.open_boot_area(writable, read_only=False) as area:
                assert area.loader is Loader.GRUB
                os.mkdir("new", dir_fd=area.boot_fd)
    assert (host.sysroot / "boot/new").is_dir()
