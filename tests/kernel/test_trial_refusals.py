"""A good boot whose boot partition takes no write, by this kernel: the trial stays one, and that is said."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import flowkit
import pytest

from bootc_fast import lab
from bootc_fast.machine.host import open_host
from bootc_fast.trial.states import TrialState, read_states
from bootc_fast.types import BootType, Loader, VerityDigest

if TYPE_CHECKING:
    from pathlib import Path

    from flowkit import Case

pytestmark = pytest.mark.root

_COMMAND = f"{sys.executable} -m bootc_fast boot-complete --root $H"
_SAID = "it is tried again at the next boot"
_REFUSES = {
    "full": (
        "cp -a $B $W/copy; mount -t tmpfs -o size=600k none $B; cp -a $W/copy/. $B; "
        "dd if=/dev/zero of=$B/fill bs=1k 2>/dev/null || true; "
    ),
    "read-only": "mount --bind $B $B; mount -o remount,bind,ro $B; ",
}


def _state(case: Case) -> TrialState:
    return read_states(open_host(case.root))[0][VerityDigest(case.staged)].state


@pytest.mark.parametrize("refusal", _REFUSES)
@pytest.mark.parametrize("loader", [Loader.SYSTEMD_BOOT, Loader.GRUB])
def test_a_boot_partition_that_takes_no_write_leaves_the_trial_a_trial_and_the_next_boot_ends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader, refusal: str
) -> None:
    case = flowkit.make_case(tmp_path / "h", loader=loader, boot_type=BootType.BLS)
    assert flowkit.finalize(capsys, case)[0] == 0
    assert lab.boot(case.host).digest == case.staged
    boot_dir = case.host.boot_dir.resolve()
    before = flowkit.snapshot(boot_dir)
    environment = {"H": str(case.root), "B": str(boot_dir), "W": str(tmp_path), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    listing = "find $B -name 'fill' -prune -o -type f -print0 | sort -z | xargs -0 sha512sum"
    script = f"{_REFUSES[refusal]}{listing} >$W/one; {_COMMAND}; {listing} >$W/two; cmp $W/one $W/two"
    argv = ["unshare", "-m", "bash", "-ec", script]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr.count(_SAID)) == (0, 1), done.stderr
    assert flowkit.snapshot(boot_dir) == before
    assert _state(case) is TrialState.TRIAL
    assert lab.boot(case.host).digest == case.staged
    assert flowkit.run(capsys, "boot-complete", "--root", case.root)[0] == 0
    assert _state(case) is TrialState.GOOD
    assert [lab.boot(case.host).digest for _ in range(4)] == [case.staged] * 4
