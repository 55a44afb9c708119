"""What a host says about itself: state files, tables of the kernel, the configuration that an admin wrote."""

from __future__ import annotations

import io
import json
import re
import shlex
from configparser import RawConfigParser
from dataclasses import asdict

from fuzz.target import KNOWN, Target, split, text_of

from bootc_fast.boot.area import disks
from bootc_fast.boot.area.esp import parse_fstab
from bootc_fast.boot.efi.uki import parse_os_release
from bootc_fast.composefs import deployments
from bootc_fast.composefs.container import parse_image_reference
from bootc_fast.errors import EspError, InvalidStateError
from bootc_fast.etc.policy import parse_policy
from bootc_fast.machine import cmdline, mountinfo
from bootc_fast.restart.nextroot import parse_layout

_SPACE = re.compile(rb"[ \t\n\\,]")


def _check_marker(data: bytes) -> None:
    try:
        found = deployments.parse_staged_marker(text_of(data), what="x")
    except InvalidStateError as error:
        assert error.hint  # noqa: PT017 - what the reader can do is part of the promise
        return
    assert re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{128}", found.digest)
    text = json.dumps({"depl_id": found.digest, "finalization_locked": found.finalization_locked})
    assert deployments.parse_staged_marker(text, what="x") == found


def _check_origin(data: bytes) -> None:
    text = text_of(data)
    try:
        found = deployments.parse_origin(text, what="x")
    except InvalidStateError as error:
        assert "\n" not in str(error)  # noqa: PT017 - one line
        return
    parse_image_reference(found.image_reference or "")
    assert "\n" not in (found.image_reference or "")
    written = RawConfigParser()
    written.read_dict({
        "origin": {"container-image-reference": found.image_reference},
        "boot": {"boot_type": found.boot_type and found.boot_type.value, "digest": found.boot_digest},
        "image": {"manifest_digest": found.manifest_digest},
    })  # fmt: skip
    for section in written.sections():
        for key, value in written.items(section):
            if value is None or value == "None":
                written.remove_option(section, key)
    out = io.StringIO()
    written.write(out)
    if found.image_reference != "None":
        assert deployments.parse_origin(out.getvalue(), what="x") == found


def _to_json(device: disks.BlockDevice) -> dict[str, object]:
    names = {"path": "name", "kernel_path": "kname", "number": "maj:min", "kind": "type"}
    return {
        names.get(key, key): [_to_json(child) for child in device.children] if key == "children" else value
        for key, value in {**asdict(device), "children": ()}.items()
    }


def _check_lsblk(data: bytes) -> None:
    try:
        devices = disks.parse_lsblk(data)
    except EspError:
        return
    text = json.dumps({"blockdevices": [_to_json(device) for device in devices]})
    assert disks.parse_lsblk(text) == devices
    assert len(list(disks.walk_devices(devices))) >= len(devices)


def _escape(field: bytes) -> bytes:
    return _SPACE.sub(lambda match: rb"\%03o" % match[0][0], field)


def _check_mountinfo(data: bytes) -> None:
    try:
        mounts = mountinfo.parse_mountinfo(data)
    except InvalidStateError:
        return
    if any("\ufffd" in mount.device or "-" in (mount.device, *mount.options) for mount in mounts):
        # No device number, and no word that the kernel writes there.
        return
    lines = [
        b" ".join((
            b"1 2", mount.device.encode(), _escape(mount.root), _escape(mount.mount_point),
            ",".join(mount.options).encode(), b"-", _escape(mount.fstype.encode()), _escape(mount.source),
            b",".join(map(_escape, mount.super_options)),
        ))
        for mount in mounts
    ]  # fmt: skip
    assert mountinfo.parse_mountinfo(b"\n".join(lines)) == mounts
    for mount in mounts:
        assert mountinfo.find_mount(mounts, mount.mount_point) is not None


def _check_cmdline(data: bytes) -> None:
    text = text_of(data)
    arguments = cmdline.split_cmdline(text)
    assert cmdline.split_cmdline(" ".join(f'"{one}"' for one in arguments)) == arguments
    assert cmdline.describe_argument_change(arguments, arguments) is None
    try:
        found = cmdline.parse_composefs_arguments(text, what="x")
    except InvalidStateError:
        return
    assert all(re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{128}", one.digest) for one in found)
    assert sum(not one.is_versioned for one in found) <= 1


def _check_os_release(data: bytes) -> None:
    found = parse_os_release(text_of(data))
    written = "\n".join(f"{key}={shlex.quote(value)}" for key, value in found.items())
    assert parse_os_release(written) == found


def _check_admin_files(data: bytes) -> None:
    text = text_of(data)
    for source, point, kind in parse_fstab(text):
        assert source
        assert point
        assert kind
    for parse in (parse_layout, lambda given: parse_policy(given, what="x")):
        try:
            first = parse(text)
        except InvalidStateError:
            continue
        assert parse(text) == first
    image, _ = split(data, 2)
    reference = parse_image_reference(text_of(image))
    assert reference is None or (reference.transport and reference.image)


_MARKER = json.dumps({"depl_id": KNOWN, "finalization_locked": True}).encode()
_ORIGIN = f"""[origin]
container-image-reference=ostree-unverified-registry:quay.io/x/y:1

[boot]
boot_type=bls
digest={KNOWN[:64]}

[image]
manifest_digest=sha256:{KNOWN[:64]}
""".encode()
_LSBLK = json.dumps({
    "blockdevices": [
        {
            "name": "/dev/vda", "kname": "/dev/vda", "maj:min": "252:0", "type": "disk", "fstype": None,
            "children": [
                {
                    "name": "/dev/vda1", "kname": "/dev/vda1", "maj:min": "252:1", "type": "part", "fstype": "vfat",
                    "uuid": "7B77-95E7", "label": "EFI", "partuuid": "AB", "partlabel": None,
                    "parttype": "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
                }
            ],
        }
    ]
}).encode()  # fmt: skip
_MOUNTINFO = rb"""22 1 0:20 / / rw,relatime shared:1 - overlay composefs:ab rw,lowerdir+=/a\040b,redirect_dir=on
36 22 253:1 /boot /boot\011x ro - vfat /dev/vda1 rw
"""
_LAYOUT = b'[etc]\nmount = "transient"\n[var]\nmount = "bind"\n[root]\ntransient = true\n'
_POLICY = b'default = "new"\n[[path]]\npattern = "ssh/**"\non-conflict = "current"\n'

TARGETS = (
    Target("a_marker_names_a_digest_or_is_refused", _check_marker, lambda: (_MARKER, KNOWN.encode() + b"\n", b"{}")),
    Target("an_origin_reads_back_as_it_was_read", _check_origin, lambda: (_ORIGIN, b"[boot]\nx", b"[a]\nb=c\n d")),
    Target("lsblk_is_a_tree_of_devices_or_refused", _check_lsblk, lambda: (_LSBLK, b'{"blockdevices": []}')),
    Target("a_mount_table_reads_back_as_it_was_read", _check_mountinfo, lambda: (_MOUNTINFO,)),
    Target(
        "a_command_line_splits_once",
        _check_cmdline,
        lambda: (f'rw composefs=?{KNOWN} a="b c" composefs.digest=v1-sha512-12:{KNOWN}'.encode(), b'"'),
    ),
    Target("os_release_reads_back_as_it_was_read", _check_os_release, lambda: (b'ID=fedora\nNAME="F \\" L"\n#x=y\n',)),
    Target(
        "what_admins_write_is_read_or_refused",
        _check_admin_files,
        lambda: (_LAYOUT, _POLICY, rb"UUID=1 /boot\040x vfat ro 0 0", b"ostree-remote-image:fedora:docker://q/x:1"),
    ),
)
