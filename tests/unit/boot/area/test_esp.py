"""boot/esp.py: the boot area of hosts in directories, and the devices of live ones (spec host.md)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hosts import make_host, mount_line

from bootc_fast.boot.area import disks, esp
from bootc_fast.boot.efi import firmware
from bootc_fast.errors import CommandError, EspError
from bootc_fast.machine.host import Host, open_host
from bootc_fast.machine.mountinfo import parse_mountinfo
from bootc_fast.types import Loader

CORPUS = Path(__file__).parents[3] / "corpora/lsblk"


def make_lab(directory: Path, *names: str, info: str | None = None) -> Host:
    host = make_host(directory)
    for name in names:
        (host.root / name).mkdir(parents=True)
    if info is not None:
        host.make_directory(host.efivars)
        firmware.write_loader_variable(host, "LoaderInfo", info)
    return host


def names_in(fd: int) -> list[str]:
    return sorted(os.listdir(fd))


async def test_a_systemd_boot_host_has_its_entries_on_the_esp(tmp_path: Path) -> None:
    host = make_lab(tmp_path, "efi/loader/entries", "efi/EFI", "boot", info="systemd-boot 257")
    async with esp.open_boot_area(host, read_only=True) as area:
        assert (area.loader, area.boot_fd == area.esp_fd, area.warnings) == (Loader.SYSTEMD_BOOT, True, ())
        assert names_in(area.boot_fd) == ["EFI", "loader"]
        assert str(host.efi) in area.description


async def test_a_grub_host_has_them_in_boot_and_an_esp_beside(tmp_path: Path) -> None:
    host = make_lab(tmp_path, "efi/EFI", "boot/grub2", "boot/loader/entries", info="GRUB 2.12")
    async with esp.open_boot_area(host, read_only=False) as area:
        assert area.esp_fd is not None
        assert (area.loader, area.warnings) == (Loader.GRUB, ())
        assert (names_in(area.boot_fd), names_in(area.esp_fd)) == (["grub2", "loader"], ["EFI"])


async def test_a_grub_host_without_boot_of_its_own_uses_that_of_the_physical_root(tmp_path: Path) -> None:
    host = make_lab(tmp_path, "sysroot/boot/grub2", "boot")
    async with esp.open_boot_area(host, read_only=True) as area:
        assert names_in(area.boot_fd) == ["grub2"]
        assert area.esp_fd is None
        assert any("ESP" in warning for warning in area.warnings)


async def test_a_boot_that_is_a_link_into_the_physical_root_is_followed_inside(tmp_path: Path) -> None:
    host = make_lab(tmp_path, "sysroot/boot/grub2", "efi")
    os.symlink("/sysroot/boot", host.boot)
    async with esp.open_boot_area(host, read_only=True) as area:
        assert names_in(area.boot_fd) == ["grub2"]


async def test_no_esp_is_an_error_where_the_entries_would_be_on_it(tmp_path: Path) -> None:
    host = make_lab(tmp_path, "boot", info="systemd-boot 257")
    with pytest.raises(EspError, match="opening the ESP"):
        async with esp.open_boot_area(host, read_only=True):
            pytest.fail("opened nothing")


async def test_no_boot_directory_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EspError, match="neither a /boot") as caught:
        async with esp.open_boot_area(make_lab(tmp_path), read_only=True):
            pytest.fail("opened nothing")
    assert caught.value.hint is not None


async def test_the_loader_can_be_overridden(tmp_path: Path) -> None:
    host = make_lab(tmp_path, "efi/loader/entries", "boot/grub2", info="systemd-boot 257")
    async with esp.open_boot_area(host, loader=Loader.GRUB, read_only=True) as area:
        assert (area.loader, names_in(area.boot_fd)) == (Loader.GRUB, ["grub2"])
        assert area.warnings == ()


async def test_a_disagreement_about_the_loader_is_reported(tmp_path: Path) -> None:
    host = make_lab(tmp_path, "efi/EFI", "boot/grub2", info="systemd-boot 257")
    async with esp.open_boot_area(host, read_only=True) as area:
        assert area.loader is Loader.GRUB
        assert any("--bootloader" in warning for warning in area.warnings)


async def test_an_esp_that_leads_out_of_the_root_is_not_opened(tmp_path: Path) -> None:
    outside = tmp_path / "outside/loader/entries"
    outside.mkdir(parents=True)
    host = make_lab(tmp_path / "root", info="systemd-boot 257")
    os.symlink(tmp_path / "outside", host.efi)
    with pytest.raises(EspError):
        async with esp.open_boot_area(host, read_only=False):
            pytest.fail("left the root")


def boot_device(tmp_path: Path, name: str, root: str, lines: str, fstab: str | None = None) -> str | None:
    host = make_host(tmp_path)
    host.etc.mkdir()
    if fstab is not None:
        (host.etc / "fstab").write_text(fstab)
    devices = disks.parse_lsblk((CORPUS / f"{name}.json").read_bytes())
    device = disks.find_device(devices, number="", source=root)
    assert device is not None
    found = disks.find_esp(devices, device, part_uuid=None)
    boot = esp.find_boot_device(host, parse_mountinfo(lines.encode()), devices, device, found)
    return boot.path if boot else None


AUTOMOUNT = mount_line("/boot", "systemd-1", fstype="autofs")


@pytest.mark.parametrize(
    ("lines", "fstab", "expected"),
    [
        (mount_line("/boot", "/dev/vda3", fstype="ext4"), None, "/dev/vda3"),
        (AUTOMOUNT + mount_line("/boot", "/dev/vda3", fstype="ext4"), None, "/dev/vda3"),
        (AUTOMOUNT, "# x\nLABEL=boot\t/boot ext4 noauto,x-systemd.automount 0 0\n", "/dev/vda3"),
        (AUTOMOUNT, "UUID=0002-7A1F /boot/ vfat defaults\n", "/dev/vda2"),
        (AUTOMOUNT, "short line\n", "/dev/vda3"),
        (AUTOMOUNT, None, "/dev/vda3"),
        ("", "LABEL=boot /boot ext4 noauto 0 0\n", None),
        (mount_line("/boot", "/dev/vda4", fstype="xfs").replace(" / /boot", " /boot /boot"), None, None),
        (mount_line("/boot", "/dev/vda4", fstype="btrfs"), None, None),
        (mount_line("/boot", "/dev/unknown", fstype="xfs"), None, None),
    ],
)
def test_finds_the_device_of_boot_though_its_automount_has_expired(
    tmp_path: Path, lines: str, fstab: str | None, expected: str | None
) -> None:
    assert boot_device(tmp_path, "plain", "/dev/vda4", lines, fstab) == expected


def test_an_automount_without_an_extended_boot_partition_is_the_esp(tmp_path: Path) -> None:
    assert boot_device(tmp_path, "two-esps", "/dev/nvme0n1p3", AUTOMOUNT) == "/dev/nvme0n1p1"


def test_octal_escapes_in_fstab_are_undone() -> None:
    assert esp.parse_fstab(r"LABEL=a\040b /m\011x ext4") == [("LABEL=a b", "/m\tx", "ext4")]


async def test_without_lsblk_a_live_host_is_a_command_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = replace(make_lab(tmp_path, "sysroot/boot/grub2"), is_live=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandError, match="lsblk") as caught:
        async with esp.open_boot_area(host, read_only=True):
            pytest.fail("ran nothing")
    assert caught.value.argv[0] == "lsblk"


@pytest.mark.parametrize(("script", "words"), [("exit 3", "status 3"), ("echo '{'", "lsblk's output")])
async def test_an_lsblk_that_fails_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    host = replace(make_lab(tmp_path, "sysroot/boot/grub2"), is_live=True)
    (tmp_path / "lsblk").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "lsblk").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises((CommandError, EspError), match=words):
        async with esp.open_boot_area(host, read_only=True):
            pytest.fail("got devices")


async def test_this_machines_lsblk_is_understood() -> None:
    for device, _ in disks.walk_devices(await esp._run_lsblk()):
        assert device.path.startswith("/dev/")
    assert open_host().is_live
