"""Flows on a host whose /sysroot is mounted read-only, as bootc mounts it: written through clones only.

A lab host in a mount namespace of its own is taken for a live one; its partitions come from a stand-in for lsblk.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import flowkit
import pytest
from hosts import mount_line

from bootc_fast import lab
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.root

IN_NAMESPACE = """
import sys, trio
from dataclasses import replace
import bootc_fast.flows.rollback as rollback_module
import bootc_fast.flows.boot_complete as boot_complete_module
import bootc_fast.flows.finalize as finalize_module
from bootc_fast.machine.host import open_host

def open_live(root):
    return replace(open_host(root), is_live=True)

for module in (finalize_module, rollback_module, boot_complete_module):
    module.open_host = open_live

async def main():
    print((await finalize_module.finalize_staged(sys.argv[1])).result)
    print((await rollback_module.rollback(sys.argv[1])).is_changed)

trio.run(main)
"""


def run_live(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    partition = {"name": "/dev/vda3", "type": "part", "fstype": "ext4", "maj:min": "240:3"}
    document = {"blockdevices": [{"name": "/dev/vda", "type": "disk", "children": [partition]}]}
    tools = root.parent / "tools"
    tools.mkdir()
    (tools / "lsblk").write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(document)}\nEND\n")
    (tools / "lsblk").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    sysroot = root / "sysroot"
    prepare = f"mount --bind {sysroot} {sysroot} && mount -o remount,bind,ro {sysroot}"
    # Over a file that the admin wrote: what lies below is what counts.
    prepare += f" && mount --bind {root}/proc/cmdline {root}/etc/local.conf"
    script = f'{prepare} && exec {sys.executable} -c "$0" {root}'
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, IN_NAMESPACE]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_finalize_and_rollback_write_though_sysroot_is_mounted_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forms = lab.LabForms(missing_verity=True)
    case = flowkit.make_case(tmp_path / "h", Loader.GRUB, BootType.BLS, forms=forms)
    mountinfo = case.root / "proc/self/mountinfo"
    old = mountinfo.read_text() if mountinfo.exists() else ""
    mountinfo.write_text(old + mount_line("/sysroot", "/dev/vda3", fstype="ext4").replace("0:25", "240:3"))
    assert run_live(case.root, monkeypatch).splitlines() == ["done", "True"]
    assert flowkit.staged_etc(case) == flowkit.MERGED
    assert flowkit.read_record(case.root)["result"] == "done"
