"""boot/disks.py: the ESP under every stack of devices that host.md names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootc_fast.boot.area import disks
from bootc_fast.errors import EspError

CORPUS = Path(__file__).parents[3] / "corpora/lsblk"


def read(name: str) -> tuple[disks.BlockDevice, ...]:
    return disks.parse_lsblk((CORPUS / f"{name}.json").read_bytes())


def root_of(devices: tuple[disks.BlockDevice, ...], source: str, number: str = "0:44") -> disks.BlockDevice:
    found = disks.find_device(devices, number=number, source=source)
    assert found is not None
    return found


def part_uuid(number: int) -> str:
    return f"{number:08x}-51c8-4e5f-9a3e-6f1d2a7b8c9d"


@pytest.mark.parametrize(
    ("name", "root", "esp"),
    [
        ("plain", "/dev/vda4", "/dev/vda2"),
        ("luks", "/dev/mapper/luks-root", "/dev/nvme0n1p1"),
        ("luks", "/dev/dm-0", "/dev/nvme0n1p1"),
        ("lvm", "/dev/mapper/rhel-root", "/dev/sda1"),
        ("md-raid", "/dev/md125", "/dev/md127"),
        ("multipath", "/dev/mapper/mpatha3", "/dev/mapper/mpatha1"),
        ("btrfs-two-devices", "/dev/vda1", "/dev/vdb1"),
        ("two-esps", "/dev/nvme0n1p3", "/dev/nvme0n1p1"),
        ("no-esp", "/dev/vda2", None),
    ],
)
def test_without_a_variable_the_first_esp_under_the_root_is_taken(name: str, root: str, esp: str | None) -> None:
    devices = read(name)
    found = disks.find_esp(devices, root_of(devices, root), part_uuid=None)
    assert (found.device.path if found else None) == esp
    assert found is None or found.device.fstype == "vfat"


def test_the_esp_that_the_loader_was_started_from_comes_first_and_the_other_is_reported() -> None:
    devices = read("two-esps")
    found = disks.find_esp(devices, root_of(devices, "/dev/nvme0n1p3"), part_uuid=part_uuid(2))
    assert found is not None
    assert found.device.path == "/dev/nvme0n1p2"
    assert found.warnings == ("ESP: using /dev/nvme0n1p2; not updated: /dev/nvme0n1p1",)


def test_an_esp_on_another_disk_is_used_if_the_loader_came_from_it_and_that_is_said() -> None:
    devices = read("two-esps")
    found = disks.find_esp(devices, root_of(devices, "/dev/nvme0n1p3"), part_uuid=part_uuid(5))
    assert found is not None
    assert found.device.path == "/dev/nvme1n1p1"
    assert any("not on the root's disk" in warning for warning in found.warnings)


def test_a_variable_that_names_no_esp_is_reported_and_the_first_esp_taken() -> None:
    devices = read("plain")
    found = disks.find_esp(devices, root_of(devices, "/dev/vda4"), part_uuid=part_uuid(4))
    assert found is not None
    assert found.device.path == "/dev/vda2"
    assert any("names" in warning for warning in found.warnings)


@pytest.mark.parametrize("member", [1, 17])
def test_an_esp_on_raid_is_the_array_whichever_member_the_loader_came_from(member: int) -> None:
    devices = read("md-raid")
    found = disks.find_esp(devices, root_of(devices, "/dev/md125"), part_uuid=part_uuid(member))
    assert found is not None
    assert found.device.path == "/dev/md127"
    assert found.warnings == ()


def test_under_multipath_the_map_is_taken_for_the_variable_too() -> None:
    devices = read("multipath")
    found = disks.find_esp(devices, root_of(devices, "/dev/mapper/mpatha3"), part_uuid=part_uuid(1))
    assert found is not None
    assert found.device.path == "/dev/mapper/mpatha1"
    assert found.warnings == ()


def test_a_data_disk_with_another_btrfs_is_not_the_roots() -> None:
    devices = read("btrfs-two-devices")
    found = disks.find_esp(devices, root_of(devices, "/dev/vda1"), part_uuid=None)
    assert found is not None
    assert found.warnings == ()


def test_a_device_is_found_by_number_before_name() -> None:
    devices = read("plain")
    assert root_of(devices, "/dev/root", number="253:4").path == "/dev/vda4"
    assert disks.find_device(devices, number="0:1", source="overlay") is None


@pytest.mark.parametrize(
    ("name", "root", "boot"),
    [
        ("plain", "/dev/vda4", "/dev/vda3"),
        ("multipath", "/dev/mapper/mpatha3", "/dev/mapper/mpatha2"),
        ("no-esp", "/dev/vda2", None),
    ],
)
def test_finds_the_extended_boot_partition(name: str, root: str, boot: str | None) -> None:
    devices = read(name)
    found = disks.find_extended_boot(devices, root_of(devices, root))
    assert (found.path if found else None) == boot


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("UUID=00000003-77aa-4c3d-8b1e-0a9f8e7d6c5b", "/dev/vda3"),
        ('UUID="0002-7A1F"', "/dev/vda2"),
        ("LABEL=root", "/dev/vda4"),
        ("PARTUUID=00000003-51C8-4E5F-9A3E-6F1D2A7B8C9D", "/dev/vda3"),
        ("PARTLABEL=EFI-SYSTEM", "/dev/vda2"),
        ("/dev/vda3", "/dev/vda3"),
        ("UUID=missing", None),
        ("tmpfs", None),
    ],
)
def test_finds_what_an_fstab_line_names(source: str, path: str | None) -> None:
    found = disks.find_by_fstab_source(read("plain"), source)
    assert (found.path if found else None) == path


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"blockdevices": {}}',
        b'{"blockdevices": [1]}',
        b'{"blockdevices": [{"name": null}]}',
        b'{"blockdevices": [{"name": "/dev/vda", "children": 1}]}',
        b"[" * 100_000,
    ],
)
def test_output_that_is_not_lsblks_is_an_error(text: bytes) -> None:
    with pytest.raises(EspError, match="lsblk"):
        disks.parse_lsblk(text)


def test_a_stack_of_devices_deeper_than_the_kernel_makes_is_an_error() -> None:
    device: dict[str, object] = {"name": "/dev/x"}
    for _ in range(disks.MAX_DEPTH + 1):
        device = {"name": "/dev/x", "children": [device]}
    with pytest.raises(EspError):
        disks.parse_lsblk(json.dumps({"blockdevices": [device]}))


def json_values() -> st.SearchStrategy[object]:
    leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
    keys = st.sampled_from(["name", "children", "parttype", "fstype", "maj:min"])
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner), max_leaves=8)


@given(json_values())
def test_no_document_does_anything_but_parse_or_be_refused(document: object) -> None:
    try:
        devices = disks.parse_lsblk(json.dumps({"blockdevices": document}))
    except EspError:
        return
    for device, _ in disks.walk_devices(devices):
        disks.find_esp(devices, device, part_uuid="x")
