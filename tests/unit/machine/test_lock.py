"""hold_lock: one writer at a time (spec commands.md)."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio
from hosts import make_host

from bootc_fast.errors import FileSystemError, LockedError
from bootc_fast.machine.host import Host
from bootc_fast.machine.lock import hold_lock
from bootc_fast.machine.lock_holder import parse_locks

if TYPE_CHECKING:
    from pathlib import Path

HOLDER = """
import sys, trio
from bootc_fast.machine.host import open_host
from bootc_fast.machine.lock import hold_lock
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


@pytest.mark.parametrize("record", [b"", b"\xff\xfe", b'{"pid": "x"}', b"[1]", b"null", b'{"pid": 1, "command": "x"}'])
async def test_a_holder_is_found_by_the_kernel_whatever_its_record_says(tmp_path: Path, record: bytes) -> None:
    host = make_host(tmp_path)
    # Not our program, and no record of its own: only the kernel knows who it is.
    argv = ["flock", "--no-fork", host.lock_file, "sleep", "60"]
    host.lock_file.write_bytes(record)
    with subprocess.Popen(argv) as process:  # noqa: ASYNC220 - nothing else runs meanwhile
        try:
            await _wait_until_locked(host)
            with pytest.raises(LockedError, match=rf"process {process.pid} \(.*sleep 60\) holds it"):
                async with hold_lock(host, timeout_s=0):
                    pytest.fail("two holders")
        finally:
            process.kill()


async def _wait_until_locked(host: Host) -> None:
    for _ in range(500):
        with host.lock_file.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
        await trio.sleep(0.01)
    pytest.fail("never locked")


@pytest.mark.parametrize(
    "text", [b"", b"1: FLOCK ADVISORY WRITE", b"1: FLOCK ADVISORY WRITE x 00:1:1 0 EOF", b"\xff\n\n"]
)
def test_lines_that_are_none_of_the_kernels_name_nobody(text: bytes) -> None:
    assert parse_locks(text, device=os.makedev(0, 1), inode=1) == []


def test_only_who_has_the_lock_of_this_very_file_is_found() -> None:
    text = (
        b"1: POSIX  ADVISORY  WRITE 10 00:1a:7 0 EOF\n"  # another kind
        b"2: FLOCK  ADVISORY  WRITE 11 00:1b:7 0 EOF\n"  # another device
        b"3: FLOCK  ADVISORY  WRITE 12 00:1a:8 0 EOF\n"  # another file
        b"4: FLOCK  ADVISORY  READ  13 00:1a:7 0 EOF\n"
        b"4: -> FLOCK  ADVISORY  WRITE 14 00:1a:7 0 EOF\n"  # waits
        b"5: FLOCK  ADVISORY  WRITE 0 00:1a:7 0 EOF\n"  # another pid namespace
    )
    assert parse_locks(text, device=os.makedev(0, 0x1A), inode=7) == [13]
    # btrfs shows a file another device than the kernel's own.
    assert parse_locks(text, device=os.makedev(0, 0x2F), inode=8) == [12]


def _fail_in_run(monkeypatch: pytest.MonkeyPatch, host: Host, number: int) -> None:
    real = Host.open_file

    def refuse(self: Host, path: Path, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
        if path == host.lock_file:
            raise OSError(number, os.strerror(number), str(path))
        return real(self, path, flags, mode)

    monkeypatch.setattr(Host, "open_file", refuse)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT], ids=errno.errorcode.get)
async def test_where_run_cannot_take_it_the_physical_root_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    host = make_host(tmp_path)
    async with hold_lock(host):
        _fail_in_run(monkeypatch, host, number)
        # Also against those who could have the file in /run.
        with pytest.raises(LockedError, match=f"process {os.getpid()} "):
            async with hold_lock(host, timeout_s=0):
                pytest.fail("two holders")
        monkeypatch.undo()
    _fail_in_run(monkeypatch, host, number)
    async with hold_lock(host, timeout_s=0):
        for undo in (False, True):
            if undo:
                monkeypatch.undo()
            with pytest.raises(LockedError, match=f"process {os.getpid()} "):
                async with hold_lock(host, timeout_s=0):
                    pytest.fail("two holders")
    async with hold_lock(host, timeout_s=0):
        pass


async def test_where_neither_can_be_locked_the_reason_of_run_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_host(tmp_path)
    os.rename(host.sysroot, tmp_path / "elsewhere")
    _fail_in_run(monkeypatch, host, errno.ENOSPC)
    with pytest.raises(FileSystemError, match=r"taking the lock .*: No space left on device"):
        async with hold_lock(host, timeout_s=0):
            pytest.fail("locked nothing")


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
