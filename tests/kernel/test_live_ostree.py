"""An ostree host from the inside: ``/`` is a deployment, ``/sysroot`` is read-only, libostree says what is booted."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ostree_hosts import make_host, manifest_digest

if TYPE_CHECKING:
    from ostree_hosts import OstreeHost

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
exec chroot "$new" /bin/sh -c "cd /; PATH=/run/bin:$PATH; $*"
"""

STORY = """
show; bf rollback; show; cat /run/reboot-required; echo
ostree admin deploy --stage --os=default os1 >/dev/null; show
bf status --json
bf rollback; show
ls -A /run/ostree; ! test -e /run/reboot-required; ! touch /sysroot/x 2>/dev/null; echo untouched
"""


# What of the service manager is asked and told; it answers as the files in /run/units say.
MANAGER = """#!/bin/sh
case $1 in
  --version) echo "systemd ${SYSTEMD:-255} (255)";;
  show) for last; do :; done; cat "/run/units/$last" 2>/dev/null || echo "LoadState=not-found
ActiveState=inactive";;
  *) echo "systemctl $*" >> /run/told;;
esac
"""

SETUP = """
mkdir -p /run/bin /run/units; printf '%s' "$MANAGER" > /run/bin/systemctl; chmod 755 /run/bin/systemctl
show() { ostree admin status | grep -o '^[* ] default\\|(.*)\\|Version: .*' | tr '\\n' ' '; echo; }
bf() { $PYTHON -m bootc_fast "$@"; }
"""

VERDICTS = """
unit() { printf 'LoadState=%s\\nActiveState=%s\\n' $2 $3 > /run/units/ostree-finalize-staged.$1; }
verdict() { bf status --json | tr -d '\\n'; echo; }
ostree admin deploy --stage --os=default os1 >/dev/null
verdict
unit service loaded inactive; verdict
unit path loaded active; verdict
unit service loaded failed; unit path loaded inactive; verdict
unit service loaded active; verdict
touch /run/ostree/staged-deployment-locked; verdict
"""

RESTARTS = """
for mode in required kexec; do
  bf rollback --apply --soft-reboot=$mode; echo "exit $?"
done 2>&1
show; ! test -e /run/told
bf rollback --apply --soft-reboot=auto --dry-run; bf rollback --apply --soft-reboot=auto
show; cat /run/told; ls -A /run
bf soft-reboot --mode=auto --apply; tail -n1 /run/told
mkdir -p /run/ostree; touch /run/ostree/nextroot-booted; bf soft-reboot --reset; ls -A /run/ostree
"""


def enter(host: OstreeHost, number: int, story: str) -> list[str]:
    """Play a story inside a deployment; returns its lines."""
    checkout = Path(__file__).parents[2]
    needed = {str(checkout), sys.prefix, sys.base_prefix} - {"/usr"}
    environment = {
        **os.environ,
        "NEEDED": " ".join(sorted(needed)),
        "PYTHON": sys.executable,
        "OSTREE_SYSROOT_DEBUG": "mutable-deployments",
        "TMPDIR": "/run",
        "MANAGER": MANAGER,
    }
    argv = ["unshare", "--mount", "--pid", "--fork", "--propagation", "private", "sh", "-c", ENTER, "sh"]
    done = subprocess.run(
        [*argv, host.deployment(number), host.sysroot, SETUP + story],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_rollback_staged_and_revert_on_a_booted_host(tmp_path: Path) -> None:
    host = make_host(tmp_path, 1, 2, 3)
    lines = enter(host, 3, STORY)
    orders = [re.findall(r"([* ]) default (?:(\(\w+\)) )?Version: (\d)", line) for line in lines]
    assert [order for order in orders if order] == [
        [("*", "", "3"), (" ", "(rollback)", "2"), (" ", "", "1")],
        [(" ", "(pending)", "2"), ("*", "", "3"), (" ", "(rollback)", "1")],
        [(" ", "(staged)", "1"), (" ", "", "2"), ("*", "", "3"), (" ", "(rollback)", "1")],
        [("*", "", "3"), (" ", "(rollback)", "2"), (" ", "", "1")],
    ]
    text = "\n".join(lines)
    assert f"bootc: Reboot required for image: {manifest_digest(2)}" in text
    assert f'"checksum": "{host.find_commit(1)}",\n        "deploySerial": 1' in text
    assert "notice: Reverting queued rollback state" in text
    assert f"notice: The staged update {host.find_commit(1)[:16]}… was dropped" in text
    assert lines[-1] == "untouched"


def test_the_staged_verdict_asks_for_libostree_s_unit_and_both_locks(tmp_path: Path) -> None:
    host = make_host(tmp_path, 1, 2, 3)
    unit = "ostree-finalize-staged.service"
    found = [json.loads(line)["bootcFast"]["stagedUpdate"] for line in enter(host, 3, VERDICTS)]
    assert [(one["willBeApplied"], *one["reasons"]) for one in found] == [
        (False, f"{unit} is not installed"),
        (False, f"{unit} is not active; `systemctl start {unit}` starts it"),
        (None, f"ostree-finalize-staged.path has yet to start {unit}"),
        (False, f"{unit} is not active; `systemctl start {unit}` starts it"),
        (True, f"{unit} runs it at shutdown"),
        (False, "finalization is locked (download-only); `bootc upgrade --from-downloaded` unlocks it"),
    ]


def test_ways_that_this_machine_has_not_are_refused_before_a_write_and_auto_falls_back(tmp_path: Path) -> None:
    host = make_host(tmp_path, 1, 2)
    lines = enter(host, 2, RESTARTS)
    text = "\n".join(lines)
    soft, kexec = (f"preparing {what} to {host.find_commit(1)[:16]}…: " for what in ("a soft reboot", "a kexec"))
    assert text.count("exit 9") == 2
    assert f"error: {soft}no: libostree 2022.7 cannot prepare one, 2025.3 can; kernel differs: " in text
    assert f"error: {kexec}this kernel has no kexec_file_load" in text
    assert text.count("hint: `systemctl reboot` boots it through the firmware") == 2
    orders = [re.findall(r"([* ]) default (?:(\(\w+\)) )?Version: (\d)", line) for line in lines]
    assert [order for order in orders if order] == [
        [("*", "", "2"), (" ", "(rollback)", "1")],
        [(" ", "(pending)", "1"), ("*", "", "2")],
    ]
    assert "Would restart by: systemctl reboot" in text
    assert "Restart by: systemctl reboot" in text
    assert lines[lines.index("Restart by: systemctl reboot") :][2].startswith("systemctl reboot --message=Rolling back")
    assert "nextroot" not in lines
    assert lines[-2].startswith("systemctl reboot --message=Booting")
    # libostree's own note of a next root goes with it.
    assert lines[-1] == "Nothing was prepared"
