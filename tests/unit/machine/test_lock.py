"""hold_lock: one writer at a time (spec commands.md)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio
from hosts import make_host

from bootc_fast.errors import FileSystemError, LockedError
from bootc_fast.machine.host import hold_lock

if TYPE_CHECKING:
    from pathlib import Path

HOLDER = """
import sys, trio
from bootc_fast.machine.host import hold_lock, open_host
async def main():
    async with hold_lock(open_host(sys.argv[1])):
        print("held", flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


async def test_waits_for_its_time_and_names_the_holder(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    async with hold_lock(host):
        started = trio.current_time()
        # Real time: a clock that jumps does not wait for the threads that try the lock.
        with pytest.raises(LockedError, match=f"process {os.getpid()} ") as caught:
            async with hold_lock(host, timeout_s=0.35):
                pytest.fail("two holders")
        assert trio.current_time() - started >= 0.35
    assert caught.value.exit_code == 8
    assert caught.value.hint is not None


async def test_the_next_one_gets_it_when_the_first_lets_go(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    order: list[str] = []

    async def hold_for(name: str, seconds: float) -> None:
        async with hold_lock(host):
            order.append(f"{name} in")
            await trio.sleep(seconds)
            order.append(f"{name} out")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold_for, "a", 0.15)
        nursery.start_soon(hold_for, "b", 0.15)
    assert [line.split()[1] for line in order] == ["in", "out", "in", "out"]


async def test_no_wait_still_takes_a_free_lock(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    async with hold_lock(host, timeout_s=0):
        assert str(os.getpid()).encode() in host.lock_file.read_bytes()
    assert host.lock_file.read_bytes() == b""


async def test_is_released_when_the_block_fails_or_is_cancelled(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    with pytest.raises(KeyError):
        async with hold_lock(host):
            raise KeyError
    with trio.CancelScope() as scope:
        async with hold_lock(host, timeout_s=0):
            scope.cancel()
            await trio.sleep_forever()
    async with hold_lock(host, timeout_s=0):
        pass


async def test_the_kernel_releases_it_after_kill_9(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    argv = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:  # noqa: ASYNC220 - nothing else runs meanwhile
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(LockedError, match=f"process {process.pid} "):
            async with hold_lock(host, timeout_s=0):
                pytest.fail("two holders")
        process.send_signal(signal.SIGKILL)
        process.wait()
    async with hold_lock(host, timeout_s=0):
        pass


async def test_a_lock_file_that_was_removed_meanwhile_protects_nobody(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    async with hold_lock(host):
        host.lock_file.unlink()
        async with hold_lock(host, timeout_s=0):
            with pytest.raises(LockedError):
                async with hold_lock(host, timeout_s=0):
                    pytest.fail("two holders of one file")


@pytest.mark.parametrize("record", [b"", b"\xff\xfe", b'{"pid": "x"}', b"[1]", b"null", b'{"pid": 1e999}'])
async def test_a_holder_without_a_readable_record_is_another_process(tmp_path: Path, record: bytes) -> None:
    host = make_host(tmp_path)
    async with hold_lock(host):
        host.lock_file.write_bytes(record)
        with pytest.raises(LockedError, match="another process holds it"):
            async with hold_lock(host, timeout_s=0):
                pytest.fail("two holders")


async def test_a_symlink_in_its_place_is_refused(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    os.symlink("elsewhere", host.lock_file)
    with pytest.raises(FileSystemError, match="lock"):
        async with hold_lock(host):
            pytest.fail("locked a symlink")
    assert not (host.run / "elsewhere").exists()


async def test_the_file_is_made_where_run_is_missing(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    (host.run / "composefs").rmdir()
    host.run.rmdir()
    async with hold_lock(host):
        assert host.lock_file.exists()
