"""Hosts in directories, as small as a test needs them."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from bootc_fast.machine.host import Host, open_host

if TYPE_CHECKING:
    from pathlib import Path

A = "a1" * 64
B = "b2" * 64
SHORT = "c3" * 32


def make_host(directory: Path, *, cmdline: str | None = None, mountinfo: str | None = None) -> Host:
    """Lay out an empty host; ``proc`` files are made where their text is given."""
    for name in ("sysroot/state/deploy", "sysroot/composefs/images", "sysroot/composefs/objects", "run/composefs"):
        (directory / name).mkdir(parents=True)
    (directory / "proc/self").mkdir(parents=True)
    if cmdline is not None:
        (directory / "proc/cmdline").write_text(cmdline)
    if mountinfo is not None:
        (directory / "proc/self/mountinfo").write_text(mountinfo)
    return open_host(directory)


def mount_line(point: str, source: str, *, fstype: str = "overlay", options: str = "ro") -> str:
    return f"30 1 0:25 / {point} ro,relatime shared:1 - {fstype} {source} {options}\n"


def add_image(host: Host, digest: str, content: bytes = b"image") -> None:
    target = host.objects / digest[:2] / digest[2:]
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(content)
    os.symlink(f"../objects/{digest[:2]}/{digest[2:]}", host.images / digest)


def add_deployment(host: Host, digest: str, origin: str = "[boot]\nboot_type = bls\n") -> None:
    state = host.state_deploy / digest
    (state / "etc").mkdir(parents=True)
    (state / f"{digest}.origin").write_text(origin)
    add_image(host, digest)


def add_marker(host: Host, digest: str, *, is_locked: bool = False) -> None:
    host.staged_marker.write_text(json.dumps({"depl_id": digest, "finalization_locked": is_locked}))
