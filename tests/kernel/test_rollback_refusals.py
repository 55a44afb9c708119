"""rollback on mounts that refuse: a full, a read-only and an unreadable boot partition, by this kernel."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import flowkit
import pytest
from unit.flows.test_rollback_oddities import Updated

from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.root

COMMAND = f"{sys.executable} -m bootc_fast rollback --root $H"


@pytest.fixture
def make(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[Loader], Updated]:
    return lambda loader: Updated(tmp_path / "h", loader, BootType.BLS, capsys)


def _run(updated: Updated, script: str, *, options: str = "-m") -> tuple[int, list[str], list[str]]:
    """Run a script in namespaces of its own: exit code, stdout and stderr by lines."""
    environment = {
        "H": str(updated.host.root),
        "B": str(updated.host.boot_dir.resolve()),
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    }
    argv = ["unshare", *options.split(), "bash", "-ec", script]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


@pytest.mark.parametrize("loader", [Loader.SYSTEMD_BOOT, Loader.GRUB])
def test_a_read_only_boot_partition_is_an_error_with_a_hint_and_keeps_its_order(
    make: Callable[[Loader], Updated], loader: Loader
) -> None:
    updated = make(loader)
    before = flowkit.snapshot(updated.host.root)
    mount = "mount --bind $B $B; mount -o remount,bind,ro $B; "
    code, out, err = _run(updated, mount + COMMAND)
    assert (code, out, err[0]) == (
        6,
        [],
        "error: building the new set of boot entries beside the old one: Read-only file system",
    )
    assert err[-1].startswith("hint: the kernel makes a damaged file system read-only")
    assert flowkit.snapshot(updated.host.root) == before
    # Looking needs no write.
    code, out, err = _run(updated, mount + COMMAND + " --dry-run")
    assert (code, out[0], err) == (0, "Would be next boot: rollback deployment", [])


@pytest.mark.parametrize("loader", [Loader.SYSTEMD_BOOT, Loader.GRUB])
def test_a_full_boot_partition_is_an_error_before_the_first_write(
    make: Callable[[Loader], Updated], tmp_path: Path, loader: Loader
) -> None:
    updated = make(loader)
    fill = (
        f"cp -a $B {tmp_path}/copy; mount -t tmpfs -o size=600k none $B; cp -a {tmp_path}/copy/. $B; "
        "dd if=/dev/zero of=$B/fill bs=1k 2>/dev/null || true; ls -lR --time-style=full-iso $B/loader >&2; "
        f"code=0; {COMMAND} || code=$?; ls -lR --time-style=full-iso $B/loader >&2; exit $code"
    )
    code, out, err = _run(updated, fill)
    assert (code, out) == (6, []), err
    middle = next(i for i, line in enumerate(err) if line.startswith("error: "))
    needed = rf"error: looking at the boot partition mounted at {re.escape(str(updated.host.root))}/\S+: (\d+) bytes "
    found = re.match(rf"{needed}are needed and 0 are free: /\S+ takes \d+", err[middle])
    assert found is not None, err[middle]
    # A set with two entries, of a block each at least.
    assert int(found[1]) >= 8192
    assert err[middle + 1].startswith("hint: make space on the boot partition")
    assert err[:middle] == err[middle + 2 :]


@pytest.mark.parametrize(("what", "mode"), [("", 0o000), ("", 0o555), ("bootc_fedora-43-1.conf", 0o000)])
def test_what_the_caller_may_not_read_or_write_is_said_with_who_may(
    make: Callable[[Loader], Updated], what: str, mode: int
) -> None:
    """Without capabilities, as in a user namespace that maps nobody, root is an owner like any other."""
    updated = make(Loader.SYSTEMD_BOOT)
    before = flowkit.snapshot(updated.host.boot_dir)
    path = updated.entries / what
    old = path.stat().st_mode
    path.chmod(mode)
    found, out, err = _run(updated, COMMAND, options="-U")
    path.chmod(old)
    assert (found, out, "Permission denied" in err[0]) == (6, [], True), err
    assert "there is no other deployment" not in err[0]
    assert err[-1] == "hint: run it as root"
    assert flowkit.snapshot(updated.host.boot_dir) == before
