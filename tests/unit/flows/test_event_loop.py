"""Nothing blocks the event loop: in no flow does the loop's thread call what may wait for a disk or a process."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

import flowkit
import ostree_hosts
import pytest
import trio
from loop_guard import guard_loop

import bootc_fast
from bootc_fast import _core, lab
from bootc_fast.cli import main
from bootc_fast.errors import StepTimeoutError
from bootc_fast.flows import finalize, finalize_run
from bootc_fast.machine.host import open_host
from bootc_fast.machine.native import run_blocking
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PLAYED = [(Loader.SYSTEMD_BOOT, BootType.UKI), (Loader.GRUB, BootType.BLS)]


def _play(root: Path, *argv: str) -> None:
    """Run a command of the command line, which runs trio in this thread; how it ends is not asked here."""
    with guard_loop() as guard:
        main(["--root", os.fspath(root), *argv])
    assert guard.found == [], argv
    # Whatever it looked at, it did so elsewhere.
    assert guard.elsewhere > 3, argv


def test_the_guard_finds_what_it_is_to_find(tmp_path: Path) -> None:
    host = open_host(tmp_path)
    (tmp_path / "motd").write_text("x")

    async def look() -> None:
        host.read_bytes(tmp_path / "motd")
        await run_blocking(host.read_bytes, tmp_path / "motd")

    with guard_loop() as guard:
        trio.run(look)
        host.read_bytes(tmp_path / "motd")
    assert {one.split()[1] for one in guard.found} == {
        "os.open",
        "bootc_fast._core.open_in_root",
        "os.fstat",
        "os.read",
    }
    assert guard.elsewhere >= len(guard.found)


@pytest.mark.parametrize(("loader", "boot_type"), PLAYED)
def test_no_flow_of_a_composefs_host_blocks_the_loop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader, boot_type: BootType
) -> None:
    case = flowkit.make_case(tmp_path / "h", loader, boot_type)
    _play(case.root, "status", "-v")
    _play(case.root, "etc", "diff", "--patch")
    _play(case.root, "etc", "merge")
    _play(case.root, "finalize", "--dry-run")
    _play(case.root, "unstage", "--dry-run")
    _play(case.root, "forget-failure", case.staged)
    _play(case.root, "health")
    _play(case.root, "hold")
    _play(case.root, "hold", "--release")
    _play(case.root, "pin", "booted")
    _play(case.root, "unpin", "booted")
    _play(case.root, "soft-reboot", "--mode=auto", "--dry-run")
    (case.root / "etc/fresh").mkdir()
    _play(case.root, "finalize")
    (case.root / "etc/fresh").rmdir()
    _play(case.root, "boot-complete")
    _play(case.root, "finalize")
    _play(case.root, "finalize")
    lab.boot(case.host)
    _play(case.root, "rollback", "--soft-reboot=auto", "--dry-run")
    _play(case.root, "rollback", "--soft-reboot=auto")
    _play(case.root, "rollback")
    _play(case.root, "soft-reboot", "--mode=auto", "--dry-run")
    _play(case.root, "doctor")
    next(path for path in case.host.boot_dir.rglob("*.conf") if path.parent.name == "entries").write_text("")
    _play(case.root, "doctor", "--repair")
    _play(case.root, "status", "--json")
    lab.stage_files(case.host, flowkit.OLD)
    _play(case.root, "unstage")
    said = capsys.readouterr()
    assert "Next boot: rollback deployment" in said.out
    assert "1 conflict" in said.err


def test_no_flow_of_an_ostree_host_blocks_the_loop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = ostree_hosts.make_host(tmp_path, 1, 2, kernel=7)
    host.run_from_mount(2)
    _play(host.root, "status", "-v")
    _play(host.root, "rollback", "--apply", "--soft-reboot=auto", "--dry-run")
    _play(host.root, "rollback")
    _play(host.root, "soft-reboot", "--mode=auto", "--dry-run")
    _play(host.root, "rollback")
    assert "Next boot: rollback deployment" in capsys.readouterr().out


async def test_no_merge_of_a_program_blocks_the_loop(tmp_path: Path) -> None:
    policy = bootc_fast.MergePolicy(default=bootc_fast.Strategy.CURRENT)
    with flowkit.open_sides(tmp_path) as (pristine, current, new, dest), guard_loop() as guard:
        await bootc_fast.merge_etc(pristine, current, new, dest, policy=policy)
        await bootc_fast.diff_etc(pristine, current, new, patch="current")
    assert guard.found == []


def _slow_down(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, seconds: float = 0.3) -> None:
    """Make a call that may block wait, as on a disk that does not answer."""
    real: Callable[..., object] = getattr(owner, name)

    def wait(*args: object, **kwargs: object) -> object:
        time.sleep(seconds)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, wait)


@pytest.mark.parametrize(
    ("step", "limit", "call"),
    [
        ("look.boot", "LOOK_PART_TIMEOUT_S", ("bootc_fast.composefs.boot_snapshot", "read_menu")),
        ("look.images", "LOOK_PART_TIMEOUT_S", ("bootc_fast._core", "measure_fd")),
        ("look.etc", "LOOK_PART_TIMEOUT_S", ("bootc_fast.composefs.etc", "read_merge_policy")),
        ("look", "LOOK_TIMEOUT_S", ("bootc_fast.flows.finalize_run", "check_staged_pieces")),
        ("decide", "DECIDE_TIMEOUT_S", ("bootc_fast.composefs.boot_files", "read_keep_policy")),
        ("prepare", "PREPARE_TIMEOUT_S", ("bootc_fast._core", "apply_etc")),
    ],
)
async def test_the_limit_of_each_step_of_a_finalize_fires_where_its_calls_are_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, limit: str, call: tuple[str, str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    # Plenty for all other parts, also on a busy machine.
    monkeypatch.setattr(finalize_run if limit == "LOOK_PART_TIMEOUT_S" else finalize, limit, 0.5)
    _slow_down(monkeypatch, sys.modules[call[0]], call[1], 0.6)
    with pytest.raises(StepTimeoutError) as caught:
        await bootc_fast.finalize_staged(case.root)
    assert caught.value.step == step
    assert flowkit.next_boot(case.host) == case.booted


async def test_the_limit_of_a_rollbacks_look_fires_where_its_calls_are_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    await bootc_fast.finalize_staged(case.root)
    monkeypatch.setattr("bootc_fast.flows.rollback.LOOK_TIMEOUT_S", 0.1)
    _slow_down(monkeypatch, _core, "open_in_root", 0.2)
    with pytest.raises(StepTimeoutError) as caught:
        await bootc_fast.rollback(case.root, dry_run=True)
    assert caught.value.step == "look"


async def test_other_tasks_run_on_while_the_lock_file_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    real, beats, seen = _core.open_in_root, 0, []

    async def beat() -> None:
        nonlocal beats
        while True:
            beats += 1
            await trio.sleep(0.001)

    def open_slowly(dir_fd: int, path: bytes, *rest: Any) -> int:
        if path.endswith(b"bootc-fast.lock"):
            before = beats
            time.sleep(0.5)
            seen.append(beats - before)
        return real(dir_fd, path, *rest)

    monkeypatch.setattr(_core, "open_in_root", open_slowly)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(beat)
        await bootc_fast.finalize_staged(case.root)
        nursery.cancel_scope.cancel()
    assert seen
    assert min(seen) > 5
