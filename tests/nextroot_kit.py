"""A lab host taken for a live one, in a mount namespace of its own, for what is mounted and loaded at a restart.

This kernel has no fs-verity, so the images stand with ``?``; the systemctl that is called is a script that records its
arguments, the lsblk one that knows the disks it is told.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import flowkit
from hosts import mount_line

from bootc_fast import lab
from bootc_fast.boot.area import disks
from bootc_fast.lab import deploy
from bootc_fast.lab.rootfs import open_rootfs
from bootc_fast.machine.mountinfo import find_mount, parse_mountinfo
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    import pytest

    from bootc_fast.machine.mountinfo import MountInfo

KERNEL = b"one kernel for both\n"

# Runs in the namespace: a prelude makes every flow take the lab host for a live one, then the given statements.
PRELUDE = """
import contextlib, json, os, sys, trio
from dataclasses import replace
from pathlib import Path
import bootc_fast.flows.next_boot as next_boot
import bootc_fast.flows.rollback as rollback_module
import bootc_fast.flows.finalize as finalize_module
import bootc_fast.restart.ways as restart
from bootc_fast.restart.ways import SoftRebootMode
from bootc_fast.errors import BootcFastError
from bootc_fast.machine.host import open_host

ROOT = Path(sys.argv[1])
RECORD = {}

def open_live(root):
    return replace(open_host(root), is_live=True)

for module in (finalize_module, rollback_module, next_boot, restart):
    module.open_host = open_live

def look(name):
    top = ROOT / "run/nextroot"
    def read(path):
        try:
            return (top / path).read_text()
        except OSError as error:
            return type(error).__name__
    RECORD[name] = {
        "mountinfo": Path("/proc/self/mountinfo").read_bytes().decode("latin-1"),
        "top": sorted(os.listdir(top)) if top.exists() else None,
        "motd": read("etc/motd"),
        "release": read("usr/lib/os-release"),
        "large": read("usr/share/large"),
        "state": sorted(os.listdir(top / "sysroot")) if (top / "sysroot").exists() else None,
    }

def write(path):
    try:
        (ROOT / "run/nextroot" / path).write_text("written")
    except OSError as error:
        return error.strerror
    return None

async def attempt(call):
    try:
        return str(getattr(await call, "restart", None))
    except BootcFastError as error:
        return f"{error.exit_code}: {error}"
"""


def make_updated(
    directory: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    config: str | None = None,
    kernel: bytes = KERNEL,
    missing_verity: bool = True,
    loader: Loader = Loader.GRUB,
    boot_type: BootType = BootType.BLS,
    files: dict[str, bytes | None] | None = None,
) -> flowkit.Case:
    """A host that runs its second deployment; the first has `KERNEL`, and asks for `config`.

    `files` are more of the first deployment's, or with None fewer.
    """
    root = directory / "h"
    forms = lab.LabForms(missing_verity=missing_verity)
    host = lab.make_host(root, files={}, loader=loader, boot_type=boot_type, forms=forms, kernel=KERNEL)
    first = stage(host, make_rootfs(directory / "first", "first", KERNEL, config, files))
    update(host, capsys)
    second = stage(host, make_rootfs(directory / "second", "second", kernel, None))
    update(host, capsys)
    return flowkit.Case(host, booted=second, staged=first)


def stage(host: lab.LabHost, source: Path) -> str:
    with open_rootfs(source, scratch=host.root) as tree:
        return deploy.stage(host, tree)


def update(host: lab.LabHost, capsys: pytest.CaptureFixture[str]) -> None:
    assert flowkit.run(capsys, "finalize", "--root", host.root)[0] == 0
    assert flowkit.run(capsys, "lab", "boot", host.root)[0] == 0


def make_rootfs(
    root: Path, motd: str, kernel: bytes, config: str | None, more: dict[str, bytes | None] | None = None
) -> Path:
    files: dict[str, bytes | None] = {
        "etc/motd": motd.encode(),
        "usr/lib/os-release": b"ID=lab\nVERSION_ID=1\nPRETTY_NAME=Lab\n",
        # More than fits into an inode: an object of the repository.
        "usr/share/large": b"0123456789abcdef" * 4096,
        "usr/lib/systemd/systemd": b"an init, an object too\n" * 4096,
        "usr/lib/modules/6.12.0/vmlinuz": kernel,
        "usr/lib/modules/6.12.0/initramfs.img": b"initrd\n",
    }
    if config is not None:
        files["usr/lib/composefs/setup-root-conf.toml"] = config.encode()
    for name, content in {**files, **(more or {})}.items():
        if content is None:
            continue
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    for name in ("boot", "sysroot", "var"):
        (root / name).mkdir()
    return root


def add_tools(root: Path, *, version: int = 257, systemctl_status: int = 0, esp: str | None = None) -> Path:
    """A systemctl that records its arguments, and an lsblk that knows one disk, with an ESP where it is given."""
    tools = root.parent / "tools"
    tools.mkdir(exist_ok=True)
    calls = tools / "calls"
    script = f"""#!/bin/sh
if [ "$1" = --version ]; then echo "systemd {version} ({version}.5-1)"; exit 0; fi
printf '%s\\n' "$*" >> {shlex.quote(str(calls))}
[ "$1" = show ] && exit 0
[ {systemctl_status} = 0 ] || echo "Refused: it is busy" >&2
exit {systemctl_status}
"""
    (tools / "systemctl").write_text(script)
    (tools / "systemctl").chmod(0o755)
    partition = {"name": "/dev/vda3", "type": "part", "fstype": "ext4", "maj:min": "240:3"}
    children: list[dict[str, str]] = [partition]
    if esp is not None:
        kind = {"parttype": disks.ESP_TYPE, "maj:min": "240:1"}
        children.insert(0, {"name": esp, "type": "part", "fstype": "ext4", **kind})
    disk = {"name": "/dev/vda", "type": "disk", "children": children}
    (tools / "lsblk").write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps({'blockdevices': [disk]})}\nEND\n")
    (tools / "lsblk").chmod(0o755)
    mountinfo = root / "proc/self/mountinfo"
    old = mountinfo.read_text() if mountinfo.exists() else ""
    mountinfo.write_text(old + mount_line("/sysroot", "/dev/vda3", fstype="ext4").replace("0:25", "240:3"))
    return calls


def run_in_namespace(root: Path, statements: str) -> dict[str, object]:
    sysroot = shlex.quote(str(root / "sysroot"))
    body = "\n".join(f"    {line}" for line in statements.strip().splitlines())
    program = f"{PRELUDE}\nasync def main():\n{body}\n\ntrio.run(main)\nprint(json.dumps(RECORD))\n"
    prepare = f"mount --bind {sysroot} {sysroot} && mount -o remount,bind,ro {sysroot}"
    script = f'{prepare} && exec {sys.executable} -c "$0" {root}'
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, program]
    environment = {**os.environ, "PATH": f"{root.parent / 'tools'}:{os.environ['PATH']}"}
    done = subprocess.run(argv, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def mounts_below(root: Path, record: dict[str, object]) -> dict[str, MountInfo]:
    text = record["mountinfo"]
    assert isinstance(text, str)
    top = os.fsencode(root / "run/nextroot")
    every = parse_mountinfo(text.encode("latin-1"))
    points = {mount.mount_point for mount in every if mount.mount_point.startswith(top)}
    return {
        os.fsdecode(point.removeprefix(top)): mount
        for point in points
        if (mount := find_mount(every, point)) is not None
    }


@contextmanager
def esp_device(root: Path) -> Generator[str]:
    """A block device with what the lab has in ``efi``; ext4, since this kernel has no vfat."""
    image = root.parent / "esp.raw"
    image.touch()
    os.truncate(image, 32 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-d", root / "efi", image], check=True, capture_output=True)
    argv = ["losetup", "--find", "--show", image]
    loop = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield loop
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)
