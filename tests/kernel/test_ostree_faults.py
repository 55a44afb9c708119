"""Ostree hosts whose /boot takes no more: full, or read-only, in a private mount namespace."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from ostree_hosts import make_host

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.root

READ_ONLY = 'mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"'
# As many inodes as it has files: nothing can be made, what is there can be written.
FULL = """
cp -a "$1" "$1.copy"; mount -t tmpfs -o size=4m,nr_inodes=$(($(find "$1" | wc -l) + 1)) tmpfs "$1"
cp -a "$1.copy/." "$1/"
"""


@pytest.mark.parametrize(("fault", "words"), [(READ_ONLY, "Read-only file system"), (FULL, "No space left on device")])
def test_a_boot_that_takes_no_more_leaves_the_old_order_and_libostree_s_words(
    tmp_path: Path, fault: str, words: str
) -> None:
    host = make_host(tmp_path, 1, 2, 3)
    script = f'set -e; {fault}\nset +e\n"$2" -m bootc_fast rollback --root "$3"; echo "exit $?"; ls "$1/loader/entries"'
    boot = host.sysroot / "boot"
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", boot, sys.executable, host.root]
    before = sorted(os.listdir(boot / "loader/entries"))
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    code, *entries = done.stdout.splitlines()
    assert (code, sorted(entries)) == ("exit 6", before), done.stderr
    assert "error: writing the order of the deployments: libostree: " in done.stderr
    assert words in done.stderr
    assert host.order() == ["3", "2", "1"]
    assert not (host.root / "run/reboot-required").exists()
