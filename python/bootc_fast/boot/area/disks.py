"""Block devices as ``lsblk`` shows them, and which of them is the ESP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bootc_fast.errors import EspError
from bootc_fast.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
XBOOTLDR_TYPE = "bc13c2ff-59e6-4262-a352-b275fd6f7172"
MAX_DEPTH = 64
"""Deepest stack of block devices; the kernel's own limit of stacked queues is lower."""

LSBLK = (
    "lsblk",
    "--json",
    "--paths",
    "--output",
    "NAME,KNAME,MAJ:MIN,TYPE,FSTYPE,UUID,LABEL,PARTTYPE,PARTUUID,PARTLABEL",
)


@dataclass(frozen=True, slots=True)
class BlockDevice:
    """One block device, with what is stacked on it.

    Attributes:
        path: Its node, e.g. ``/dev/mapper/root``.
        kernel_path: The kernel's name of it, e.g. ``/dev/dm-0``.
        number: ``major:minor``.
        kind: lsblk's TYPE: ``disk``, ``part``, ``crypt``, ``lvm``, ``raid1``, ``mpath``, …
        fstype: What it holds, e.g. ``vfat`` or ``crypto_LUKS``.
        uuid: Of the file system.
        label: Of the file system.
        parttype: GPT type, lower case.
        partuuid: GPT id, lower case.
        partlabel: GPT name.
        children: What is stacked on it, in lsblk's order; a device on several others is a child of each.
    """

    path: str
    kernel_path: str
    number: str
    kind: str
    fstype: str | None = None
    uuid: str | None = None
    label: str | None = None
    parttype: str | None = None
    partuuid: str | None = None
    partlabel: str | None = None
    children: tuple[BlockDevice, ...] = ()


@dataclass(frozen=True, slots=True)
class FoundPartition:
    """A partition to mount, and what to tell about the choice."""

    device: BlockDevice
    warnings: tuple[str, ...] = ()


def _text(fields: dict[str, Any], key: str) -> str | None:
    value = fields.get(key)
    return value.strip() if isinstance(value, str) and value.strip() else None


def _parse_device(fields: object, depth: int) -> BlockDevice:
    if not isinstance(fields, dict) or depth > MAX_DEPTH:
        raise EspError("reading lsblk's output: it is not a tree of devices")
    name = _text(fields, "name")
    if name is None:
        raise EspError("reading lsblk's output: a device has no name")
    parttype, partuuid = _text(fields, "parttype"), _text(fields, "partuuid")
    children = fields.get("children") or []
    if not isinstance(children, list):
        raise EspError("reading lsblk's output: it is not a tree of devices")
    return BlockDevice(
        path=name,
        kernel_path=_text(fields, "kname") or name,
        number=_text(fields, "maj:min") or "",
        kind=_text(fields, "type") or "",
        fstype=_text(fields, "fstype"),
        uuid=_text(fields, "uuid"),
        label=_text(fields, "label"),
        parttype=parttype.lower() if parttype else None,
        partuuid=partuuid.lower() if partuuid else None,
        partlabel=_text(fields, "partlabel"),
        children=tuple(_parse_device(child, depth + 1) for child in children),
    )


def parse_lsblk(text: bytes | str) -> tuple[BlockDevice, ...]:
    """Parse ``lsblk --json --paths`` with the columns of `LSBLK`.

    Returns:
        The devices that are stacked on no other, in lsblk's order.

    Raises:
        EspError: It is not that.
    """
    try:
        document = json.loads(text)
        devices = document["blockdevices"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EspError(f"reading lsblk's output: {type(error).__name__}: {error}") from error
    if not isinstance(devices, list):
        raise EspError("reading lsblk's output: it is not a list of devices")
    return tuple(_parse_device(device, 0) for device in devices)


def walk_devices(devices: tuple[BlockDevice, ...]) -> Iterator[tuple[BlockDevice, tuple[BlockDevice, ...]]]:
    """Yield every device with the ones it is stacked on, the whole disk first; once for each way down."""
    stack: list[tuple[BlockDevice, tuple[BlockDevice, ...]]] = [(device, ()) for device in reversed(devices)]
    while stack:
        device, below = stack.pop()
        yield device, below
        stack += [(child, (*below, device)) for child in reversed(device.children)]


def find_device(devices: tuple[BlockDevice, ...], *, number: str, source: str) -> BlockDevice | None:
    """Find the device of a mount, by number, else by name (btrfs shows a number of no device)."""
    everything = [device for device, _ in walk_devices(devices)]
    by_number = next((device for device in everything if device.number == number), None)
    if by_number is not None:
        return by_number
    return next((device for device in everything if source in (device.path, device.kernel_path)), None)


def _find_root_disks(devices: tuple[BlockDevice, ...], root: BlockDevice) -> list[BlockDevice]:
    """Return the whole disks under a file system, in lsblk's order.

    A btrfs of several devices has the same file system id on each of them.
    """

    def holds_root(device: BlockDevice) -> bool:
        if device.number == root.number and device.path == root.path:
            return True
        return (
            root.fstype == "btrfs" and device.fstype == "btrfs" and root.uuid is not None and device.uuid == root.uuid
        )

    found: dict[str, BlockDevice] = {}
    for device, below in walk_devices(devices):
        if holds_root(device):
            bottom = below[0] if below else device
            found.setdefault(bottom.path, bottom)
    return [device for device in devices if device.path in found]


def _mountable(device: BlockDevice) -> BlockDevice:
    """Return what holds the partition's file system: it may be a RAID 1 member, with the file system on the array."""
    for above, _ in walk_devices(device.children):
        if not above.children and above.fstype is not None:
            return above
    return device


def _find_partitions(devices: tuple[BlockDevice, ...], parttype: str) -> list[BlockDevice]:
    """List partitions of a type, one for each GPT id, in lsblk's order.

    Under multipath the same partition shows on every path and on the map; only the one on the map, which is the
    deepest, can be opened.
    """
    found: dict[str, tuple[int, BlockDevice]] = {}
    for device, below in walk_devices(devices):
        if device.parttype != parttype:
            continue
        key = device.partuuid or device.path
        if key not in found or found[key][0] < len(below):
            found[key] = (len(below), device)
    return [device for _, device in found.values()]


def find_esp(devices: tuple[BlockDevice, ...], root: BlockDevice, *, part_uuid: str | None) -> FoundPartition | None:
    """Choose the ESP: the one that the loader was started from, else the first on the root's own disks.

    Args:
        devices: All of this machine.
        root: The one that holds the physical root.
        part_uuid: ``LoaderDevicePartUUID``, lower case.

    Returns:
        The device with the FAT file system, and warnings; None where the root's disks have no ESP.

    Source:
        Spec host.md, "ESP".
    """
    warnings: list[str] = []
    everywhere = _find_partitions(devices, ESP_TYPE)
    own = _find_partitions(tuple(_find_root_disks(devices, root)), ESP_TYPE)
    chosen = next((device for device in everywhere if part_uuid is not None and device.partuuid == part_uuid), None)
    if chosen is None and part_uuid is not None:
        warnings.append(f"ESP: LoaderDevicePartUUID names {part_uuid}, which is no ESP of this machine")
    if chosen is not None and chosen not in own:
        warnings.append(f"ESP: the loader was started from {chosen.path}, which is not on the root's disk")
    chosen = chosen or next(iter(own), None)
    if chosen is None:
        return None
    target = _mountable(chosen)
    # Several members of one array are one file system.
    others = list(dict.fromkeys(path for path in (_mountable(device).path for device in own) if path != target.path))
    if others:
        warnings.append(f"ESP: using {target.path}; not updated: {', '.join(others)}")
    return FoundPartition(target, tuple(warnings))


def find_extended_boot(devices: tuple[BlockDevice, ...], root: BlockDevice) -> BlockDevice | None:
    """Find the XBOOTLDR partition on the root's disks, which systemd mounts at /boot by itself.

    Source:
        https://uapi-group.org/specifications/specs/discoverable_partitions_specification.
    """
    found = _find_partitions(tuple(_find_root_disks(devices, root)), XBOOTLDR_TYPE)
    return _mountable(found[0]) if found else None


def find_by_fstab_source(devices: tuple[BlockDevice, ...], source: str) -> BlockDevice | None:
    """Find the device that the first field of an fstab line names."""
    key, separator, value = source.partition("=")
    value = value.strip('"')
    attribute = {"UUID": "uuid", "LABEL": "label", "PARTUUID": "partuuid", "PARTLABEL": "partlabel"}.get(key)
    everything = [device for device, _ in walk_devices(devices)]
    if separator and attribute:
        # GPT ids are hex in either case; a FAT's id is upper case in both places.
        return next((one for one in everything if (getattr(one, attribute) or "").lower() == value.lower()), None)
    return next((one for one in everything if source in (one.path, one.kernel_path)), None)
