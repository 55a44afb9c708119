"""The lock on a real /run that is full, and on one that is read-only; other tests: unit/machine/test_lock.py."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

import pytest
from hosts import make_host

from bootc_fast.errors import LockedError
from bootc_fast.machine.lock import hold_lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.root


@contextlib.contextmanager
def _tmpfs(point: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=8", "tmpfs", point], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", point], check=True)


def _remount_read_only(point: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", point], check=True)


@pytest.mark.parametrize("state", ["no inodes", "no blocks", "read-only", "read-only with the file"])
async def test_a_run_that_is_full_or_read_only_stops_no_update(tmp_path: Path, state: str) -> None:
    host = make_host(tmp_path)
    with _tmpfs(host.run):
        if state.endswith("with the file"):
            host.lock_file.touch()
        if state == "no inodes":
            with contextlib.suppress(OSError):
                for number in range(20):
                    (host.run / f"file{number}").touch()
            with pytest.raises(OSError, match="No space left"):
                host.lock_file.touch()
        elif state == "no blocks":
            with contextlib.suppress(OSError):
                (host.run / "big").write_bytes(b"x" * 65536)
        else:
            _remount_read_only(host.run)
        async with hold_lock(host, timeout_s=0):
            with pytest.raises(LockedError, match="process "):
                async with hold_lock(host, timeout_s=0):
                    pytest.fail("two holders")
