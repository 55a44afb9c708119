"""The root of a soft reboot, prepared with this kernel in a mount namespace of its own.

A lab host is taken for a live one. This kernel has no fs-verity, so its images stand with ``?``; the systemctl that is
called is a script that records its arguments.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import flowkit
import pytest
from hosts import mount_line

from bootc_fast import lab
from bootc_fast._mountinfo import find_mount, parse_mountinfo
from bootc_fast.lab import deploy
from bootc_fast.lab.rootfs import open_rootfs
from bootc_fast.types import Loader

if TYPE_CHECKING:
    from pathlib import Path

    from bootc_fast._mountinfo import MountInfo

pytestmark = pytest.mark.root

KERNEL = b"one kernel for both\n"

# Runs in the namespace: a prelude makes every flow take the lab host for a live one, then the given statements.
PRELUDE = """
import contextlib, json, os, sys, trio
from dataclasses import replace
from pathlib import Path
import bootc_fast._next_boot as next_boot
import bootc_fast._rollback as rollback_module
import bootc_fast.finalize as finalize_module
import bootc_fast._restart as restart
from bootc_fast._restart import SoftRebootMode
from bootc_fast.errors import BootcFastError
from bootc_fast.host import open_host

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
) -> flowkit.Case:
    """A host that runs its second deployment; the first has `KERNEL`, and asks for `config`."""
    root = directory / "h"
    host = lab.make_host(
        root, files={}, loader=Loader.GRUB, forms=lab.LabForms(missing_verity=missing_verity), kernel=KERNEL
    )
    first = stage(host, make_rootfs(directory / "first", "first", KERNEL, config))
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


def make_rootfs(root: Path, motd: str, kernel: bytes, config: str | None) -> Path:
    files = {
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
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    for name in ("boot", "sysroot", "var"):
        (root / name).mkdir()
    return root


def add_tools(root: Path, *, version: int = 257, systemctl_status: int = 0) -> Path:
    """A systemctl that records its arguments, and an lsblk that knows no disk."""
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
    disk = {"name": "/dev/vda", "type": "disk", "children": [partition]}
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


def test_a_rollback_prepares_the_next_root_and_reset_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = make_updated(tmp_path, capsys)
    calls = add_tools(case.root)
    found = run_in_namespace(
        case.root,
        """
RECORD["restart"] = await attempt(rollback_module.rollback(str(ROOT), soft_reboot=SoftRebootMode.REQUIRED))
look("prepared")
RECORD["writes"] = {path: write(path) for path in ("new", "etc/new", "var/new", "sysroot/new")}
RECORD["reset"] = await restart.reset_restart(str(ROOT))
look("cleared")
RECORD["again"] = await restart.reset_restart(str(ROOT))
""",
    )
    assert found["restart"] == "soft-reboot"
    prepared = found["prepared"]
    assert isinstance(prepared, dict)
    mounts = mounts_below(case.root, prepared)
    assert set(mounts) == {"", "/etc", "/var", "/sysroot"}
    root = mounts[""]
    assert (root.fstype, root.source) == ("overlay", f"composefs:{case.staged}".encode())
    assert {b"metacopy=on", b"redirect_dir=on"} <= set(root.super_options)
    assert "ro" in root.options
    assert not {"nosuid", "nodev"} & set(root.options)
    assert mounts["/etc"].root.endswith(f"/state/deploy/{case.staged}/etc".encode())
    assert mounts["/var"].root.endswith(b"/state/os/default/var")
    assert mounts["/sysroot"].root.endswith(b"/h/sysroot")
    assert "ro" in mounts["/sysroot"].options
    assert prepared["motd"] == "first"
    assert "ID=lab" in prepared["release"]
    assert prepared["top"] == ["boot", "etc", "sysroot", "usr", "var"]
    assert prepared["large"] == "0123456789abcdef" * 4096
    assert "composefs" in prepared["state"]
    assert found["writes"] == {"new": os.strerror(30), "etc/new": None, "var/new": None, "sysroot/new": os.strerror(30)}
    assert (found["reset"], found["again"]) == (True, False)
    cleared = found["cleared"]
    assert isinstance(cleared, dict)
    assert mounts_below(case.root, cleared) == {}
    assert cleared["top"] is None
    assert not calls.exists()
    assert flowkit.next_boot(case.host) == case.staged


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("[etc]\nmount = 'none'\n[var]\nmount = 'none'\n", {"": "overlay", "/sysroot": None}),
        (
            "[etc]\nmount = 'overlay'\n[var]\ntransient = true\n",
            {"": "overlay", "/sysroot": None, "/etc": "overlay", "/var": "overlay"},
        ),
        (
            "[root]\ntransient = true\n",
            {"": "overlay", "/sysroot": None, "/etc": None, "/var": None},
        ),
    ],
)
def test_the_next_root_is_laid_out_as_its_image_asks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: str, expected: dict[str, str | None]
) -> None:
    case = make_updated(tmp_path, capsys, config=config)
    add_tools(case.root)
    found = run_in_namespace(
        case.root,
        """
RECORD["restart"] = await attempt(rollback_module.rollback(str(ROOT), soft_reboot=SoftRebootMode.REQUIRED))
look("prepared")
RECORD["writes"] = {path: write(path) for path in ("new", "etc/motd", "var/new")}
await restart.reset_restart(str(ROOT))
look("cleared")
""",
    )
    assert found["restart"] == "soft-reboot"
    prepared, cleared = found["prepared"], found["cleared"]
    assert isinstance(prepared, dict)
    assert isinstance(cleared, dict)
    mounts = mounts_below(case.root, prepared)
    assert set(mounts) == set(expected)
    assert {point: mounts[point].fstype for point, kind in expected.items() if kind} == {
        point: kind for point, kind in expected.items() if kind
    }
    is_transient = "[root]" in config
    source = f"transient:composefs={case.staged}" if is_transient else f"composefs:{case.staged}"
    assert mounts[""].source == source.encode()
    read_only = os.strerror(30)
    has_none = "none" in config
    assert found["writes"] == {
        "new": None if is_transient else read_only,
        "etc/motd": read_only if has_none else None,
        "var/new": read_only if has_none else None,
    }
    # What was written to an overlay has not reached the state's own file.
    is_bound = "etc" not in config
    assert (case.host.state_dir(case.staged) / "etc/motd").read_text() == ("written" if is_bound else "first")
    assert mounts_below(case.root, cleared) == {}


def test_an_image_without_the_verity_that_it_must_have_is_refused_and_nothing_has_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = make_updated(tmp_path, capsys, missing_verity=False)
    add_tools(case.root)
    found = run_in_namespace(
        case.root,
        """
RECORD["restart"] = await attempt(rollback_module.rollback(str(ROOT), soft_reboot=SoftRebootMode.REQUIRED))
look("after")
""",
    )
    assert str(found["restart"]).startswith("9: ")
    assert "has no fs-verity" in str(found["restart"])
    assert isinstance(found["after"], dict)
    assert mounts_below(case.root, found["after"]) == {}
    assert flowkit.next_boot(case.host) == case.booted


@pytest.mark.parametrize(
    ("mode", "kernel", "expected"),
    [
        ("None", KERNEL, "reboot --message=Rolling back to "),
        ("SoftRebootMode.AUTO", KERNEL, "soft-reboot"),
        ("SoftRebootMode.REQUIRED", KERNEL, "soft-reboot"),
        # Neither way: another kernel, and this machine's kernel has no kexec.
        ("SoftRebootMode.AUTO", b"another kernel\n", "reboot --message=Rolling back to "),
    ],
)
def test_apply_asks_systemctl_for_the_way_that_was_prepared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str, kernel: bytes, expected: str
) -> None:
    case = make_updated(tmp_path, capsys, kernel=kernel)
    calls = add_tools(case.root)
    found = run_in_namespace(
        case.root,
        f"""
RECORD["restart"] = await attempt(rollback_module.rollback(str(ROOT), apply=True, soft_reboot={mode}))
look("after")
""",
    )
    assert found["restart"] == expected.partition(" ")[0]
    assert [line[: len(expected)] for line in calls.read_text().splitlines()] == [expected]
    assert isinstance(found["after"], dict)
    assert bool(mounts_below(case.root, found["after"])) == (expected == "soft-reboot")
    assert flowkit.next_boot(case.host) == case.staged


@pytest.mark.parametrize(
    ("mode", "reason"), [("REQUIRED", "no: kernel differs: "), ("KEXEC", "this kernel has no kexec_file_load")]
)
def test_a_way_that_is_not_possible_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str, reason: str
) -> None:
    case = make_updated(tmp_path, capsys, kernel=b"another kernel\n")
    calls = add_tools(case.root)
    found = run_in_namespace(
        case.root,
        f"""
RECORD["restart"] = await attempt(rollback_module.rollback(str(ROOT), apply=True, soft_reboot=SoftRebootMode.{mode}))
""",
    )
    assert str(found["restart"]).startswith("9: ")
    assert reason in str(found["restart"])
    assert not calls.exists()
    assert flowkit.next_boot(case.host) == case.booted


def test_a_revert_restarts_nothing_and_clears_what_was_prepared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = make_updated(tmp_path, capsys)
    calls = add_tools(case.root)
    found = run_in_namespace(
        case.root,
        """
RECORD["first"] = await attempt(rollback_module.rollback(str(ROOT), soft_reboot=SoftRebootMode.REQUIRED))
look("prepared")
RECORD["second"] = await attempt(rollback_module.rollback(str(ROOT), apply=True))
look("reverted")
""",
    )
    assert (found["first"], found["second"]) == ("soft-reboot", "None")
    prepared, reverted = found["prepared"], found["reverted"]
    assert isinstance(prepared, dict)
    assert isinstance(reverted, dict)
    assert mounts_below(case.root, prepared)
    assert mounts_below(case.root, reverted) == {}
    assert not calls.exists()
    assert flowkit.next_boot(case.host) == case.booted


def test_a_systemctl_that_fails_is_an_error_that_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = make_updated(tmp_path, capsys)
    add_tools(case.root, systemctl_status=1)
    found = run_in_namespace(
        case.root, 'RECORD["restart"] = await attempt(rollback_module.rollback(str(ROOT), apply=True))'
    )
    assert str(found["restart"]).startswith("6: restarting: ")
    assert "Refused: it is busy" in str(found["restart"])
    assert flowkit.next_boot(case.host) == case.staged


def test_a_staged_update_is_finalized_before_the_soft_reboot_into_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = make_updated(tmp_path, capsys)
    staged = stage(case.host, make_rootfs(tmp_path / "third", "third", KERNEL, None))
    (case.root / "etc/local.conf").write_text("mine")
    calls = add_tools(case.root)
    found = run_in_namespace(
        case.root,
        """
outcome = await next_boot.enter_next_boot(str(ROOT), apply=True)
RECORD["target"], RECORD["finalized"] = outcome.target, outcome.is_finalized
look("prepared")
RECORD["local"] = (ROOT / "run/nextroot/etc/local.conf").read_text()
""",
    )
    assert (found["target"], found["finalized"], found["local"]) == (staged, True, "mine")
    assert isinstance(found["prepared"], dict)
    assert mounts_below(case.root, found["prepared"])[""].source == f"composefs:{staged}".encode()
    assert "soft-reboot" in calls.read_text().splitlines()
    assert flowkit.next_boot(case.host) == staged
