"""An ostree host from the inside: ``/`` is a deployment, ``/sysroot`` is read-only, libostree says what is booted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ostree_hosts import make_host, manifest_digest

pytestmark = pytest.mark.root

# A process-id namespace too: libostree compares its mounts with those of process 1.
ENTER = """
set -e
new=$1 sysroot=$2; shift 2
mount --bind "$new" "$new"
mount --rbind /usr "$new/usr"
for link in bin lib lib64 sbin; do rm -rf "$new/$link"; ln -s "usr/$link" "$new/$link"; done
mount -t tmpfs tmpfs "$new/run"; touch "$new/run/ostree-booted"
mount -t proc proc "$new/proc"; mount --rbind /dev "$new/dev"
mount --bind "$sysroot" "$new/sysroot"; mount -o remount,bind,ro "$new/sysroot"
mkdir -p "$new/boot"; mount --bind "$sysroot/boot" "$new/boot"
for needed in $NEEDED; do mkdir -p "$new$needed"; mount --bind "$needed" "$new$needed"; done
exec chroot "$new" /bin/sh -c "cd /; $*"
"""

STORY = """
show() { ostree admin status | grep -o '^[* ] default\\|(.*)\\|Version: .*' | tr '\\n' ' '; echo; }
bf() { $PYTHON -m bootc_fast "$@"; }
show; bf rollback; show; cat /run/reboot-required; echo
ostree admin deploy --stage --os=default os1 >/dev/null; show
bf status --json
bf rollback; show
ls -A /run/ostree; ! test -e /run/reboot-required; ! touch /sysroot/x 2>/dev/null; echo untouched
"""


def test_rollback_staged_and_revert_on_a_booted_host(tmp_path: Path) -> None:
    host = make_host(tmp_path, 1, 2, 3)
    deployment = host.sysroot / f"ostree/deploy/default/deploy/{host.find_commit(3)}.0"
    checkout = Path(__file__).parents[2]
    needed = {str(checkout), sys.prefix, sys.base_prefix} - {"/usr"}
    environment = {
        **os.environ,
        "NEEDED": " ".join(sorted(needed)),
        "PYTHON": sys.executable,
        "OSTREE_SYSROOT_DEBUG": "mutable-deployments",
        "TMPDIR": "/run",
    }
    argv = ["unshare", "--mount", "--pid", "--fork", "--propagation", "private", "sh", "-c", ENTER, "sh"]
    done = subprocess.run(
        [*argv, deployment, host.sysroot, STORY],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    orders = [re.findall(r"([* ]) default (?:(\(\w+\)) )?Version: (\d)", line) for line in done.stdout.splitlines()]
    assert [order for order in orders if order] == [
        [("*", "", "3"), (" ", "(rollback)", "2"), (" ", "", "1")],
        [(" ", "(pending)", "2"), ("*", "", "3"), (" ", "(rollback)", "1")],
        [(" ", "(staged)", "1"), (" ", "", "2"), ("*", "", "3"), (" ", "(rollback)", "1")],
        [("*", "", "3"), (" ", "(rollback)", "2"), (" ", "", "1")],
    ]
    assert f"bootc: Reboot required for image: {manifest_digest(2)}" in done.stdout
    assert f'"checksum": "{host.find_commit(1)}",\n        "deploySerial": 1' in done.stdout
    assert "notice: Reverting queued rollback state" in done.stdout
    assert f"notice: The staged update {host.find_commit(1)[:16]}… was dropped" in done.stdout
    assert done.stdout.endswith("untouched\n")
