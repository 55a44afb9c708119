"""What is wrong with an ostree host, or goes wrong: the exit code, libostree's words, the old order."""

from __future__ import annotations

import builtins
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import flowkit
import pytest
import trio
from ostree_hosts import document, make_host, rollback

from bootc_fast import get_status
from bootc_fast import rollback as roll_back
from bootc_fast.events import StepDone, StepStarted
from bootc_fast.ostree import libostree

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from ostree_hosts import OstreeHost

    from bootc_fast.events import Event

HOLD_LOCK = """
import gi, sys
gi.require_version("OSTree", "1.0")
from gi.repository import Gio, OSTree
sysroot = OSTree.Sysroot.new(Gio.File.new_for_path(sys.argv[1]))
sysroot.load(None)
sysroot.lock()
print("locked", flush=True)
if sys.stdin.readline():
    deployments = sysroot.get_deployments()
    sysroot.write_deployments([deployments[0], *reversed(deployments[1:])], None)
"""

ARGV = [sys.executable, "-m", "bootc_fast", "rollback", "--root"]


@pytest.fixture
def host(tmp_path: Path) -> OstreeHost:
    return make_host(tmp_path, 1, 2, 3)


@pytest.fixture
def locked(host: OstreeHost) -> Generator[int]:
    argv = [sys.executable, "-c", HOLD_LOCK, str(host.sysroot)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        yield holder.pid
        holder.communicate()


def wait_for(path: Path) -> None:
    """Wait until a command has taken our own lock, and has come to libostree's."""
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)


@pytest.mark.parametrize(
    ("cmdline", "words"),
    [
        ("root=LABEL=x", "names one"),
        ("ostree=/ostree/boot.1/../../etc/0", "names one"),
        (f"ostree=/ostree/boot.1/default/{'0' * 64}/0", "there is no deployment"),
    ],
)
def test_a_command_line_that_names_no_deployment_is_an_invalid_state(
    host: OstreeHost, capsys: pytest.CaptureFixture[str], cmdline: str, words: str
) -> None:
    (host.root / "proc/cmdline").write_text(cmdline)
    code, _, err = rollback(capsys, host)
    assert (code, words in err) == (10, True)
    assert host.order() == ["3", "2", "1"]


def test_libostree_s_own_words_reach_the_user(host: OstreeHost, capsys: pytest.CaptureFixture[str]) -> None:
    (host.sysroot / "ostree/repo/config").write_text("no key file\n")
    for verb in ("rollback", "status"):
        code, _, err = flowkit.run(capsys, verb, "--root", host.root)
        assert (code, "libostree: " in err, "key" in err.lower()) == (6, True, True)


def test_a_locked_sysroot_is_waited_for_and_the_holder_named(
    host: OstreeHost, locked: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libostree, "LOCK_TIMEOUT_S", 0.3)
    code, _, err = rollback(capsys, host)
    assert (code, f"process {locked} (" in err) == (8, True)
    assert host.order() == ["3", "2", "1"]
    assert document(capsys, host)["status"]["rollbackQueued"] is False


async def test_a_cancellation_ends_the_wait_for_the_lock_and_changes_nothing(host: OstreeHost, locked: int) -> None:
    started = time.monotonic()
    with trio.move_on_after(0.5) as scope:
        await roll_back(host.root)
    assert scope.cancelled_caught
    assert time.monotonic() - started < 3
    assert host.order() == ["3", "2", "1"]


async def test_a_rollback_that_is_on_disk_is_told_in_spite_of_a_cancellation(host: OstreeHost) -> None:
    """Cancel it at many moments: what it says is what `ostree admin status` says."""
    for moment in range(12):
        before = host.order()
        outcome = None
        with trio.move_on_after(moment * 0.02):
            outcome = await roll_back(host.root)
        assert (host.order() != before) == (outcome is not None)
        if outcome is not None:
            assert (host.root / "run/reboot-required").exists() != outcome.is_revert


async def test_without_introspection_the_packages_are_named(host: OstreeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == "gi":
            raise ImportError("No module named 'gi'")
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(libostree.BootcFastError, match="No module named 'gi'") as caught:
        await get_status(host.root)
    assert caught.value.exit_code == 1
    assert caught.value.hint is not None
    for package in ("python3-gi", "gir1.2-ostree-1.0", "python3-gobject-base", "ostree-libs", "bootc-fast[ostree]"):
        assert package in caught.value.hint


def test_without_another_deployment_there_is_nothing_to_go_back_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = make_host(tmp_path, 1)
    assert rollback(capsys, host)[0] == 4
    assert not (host.root / "run/bootc-fast.lock").exists()
    assert document(capsys, host)["status"]["rollback"] is None


def test_a_lock_that_is_let_go_in_time_is_no_error(host: OstreeHost, capsys: pytest.CaptureFixture[str]) -> None:
    program = HOLD_LOCK.replace("if sys.stdin.readline():", "__import__('time').sleep(0.5)\nif False:")
    argv = [sys.executable, "-c", program, str(host.sysroot)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        assert rollback(capsys, host)[0] == 0
    assert host.order() == ["2", "3", "1"]


@pytest.mark.parametrize("missing", ["vmlinuz", "initramfs", "usr"])
def test_a_target_that_would_not_boot_is_refused_and_shown_as_broken(
    host: OstreeHost, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    if missing == "usr":
        shutil.rmtree(host.deployment(2) / "usr")
    else:
        entry = next(one for one in (host.sysroot / "boot/loader/entries").iterdir() if "6.2" in one.read_text())
        (name,) = [line.split()[1] for line in entry.read_text().splitlines() if f"/{missing}" in line]
        (host.sysroot / "boot" / name.lstrip("/")).unlink()
    before = flowkit.snapshot(host.root)
    for options in ((), ("--dry-run",), ("--to", host.find_commit(2))):
        code, _, err = rollback(capsys, host, *options)
        assert (code, "would not boot" in err, missing in err) == (7, True, True)
    assert flowkit.snapshot(host.root) == before
    (problem,) = document(capsys, host)["status"]["rollback"]["bootcFast"]["problems"]
    assert missing in problem
    assert document(capsys, host)["status"]["booted"]["bootcFast"]["problems"] == []
    assert host.order() == ["3", "2", "1"]


@pytest.mark.parametrize("step", ["look", "compare", "commit"])
@pytest.mark.parametrize("moment", [StepStarted, StepDone])
async def test_cancelled_at_every_step_what_is_told_is_what_is_on_disk(
    host: OstreeHost, step: str, moment: type[Event]
) -> None:
    outcome = None
    with trio.CancelScope() as scope:

        def cancel(event: Event) -> None:
            if isinstance(event, moment) and event.step == step:
                scope.cancel()

        outcome = await roll_back(host.root, on_event=cancel)
    assert scope.cancel_called
    assert (host.order() == ["2", "3", "1"]) == (outcome is not None)
    assert (host.root / "run/reboot-required").exists() == (outcome is not None)
    assert (outcome is not None) == ((step, moment) == ("commit", StepDone))
    # Nothing is held or left half done: the next one does what it should.
    assert (await roll_back(host.root, to="previous")).next_boot == f"{host.find_commit(2)}.0"
    assert host.order() == ["2", "3", "1"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_lock_is_waited_for_ends_the_command_with_8(
    host: OstreeHost, locked: int, number: signal.Signals
) -> None:
    assert locked
    with subprocess.Popen([*ARGV, host.root], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as command:
        wait_for(host.root / "run/bootc-fast.lock")
        os.kill(command.pid, number)
        _, err = command.communicate(timeout=60)
    assert (command.returncode, "Traceback" in err) == (8, False)
    assert host.order() == ["3", "2", "1"]


def test_an_order_that_changes_between_looking_and_locking_is_not_written_over(host: OstreeHost) -> None:
    argv = [sys.executable, "-c", HOLD_LOCK, str(host.sysroot)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with subprocess.Popen([*ARGV, host.root], stderr=subprocess.PIPE, text=True) as command:
            wait_for(host.root / "run/bootc-fast.lock")
            # Under the holder's lock another deployment becomes the rollback target.
            holder.communicate("swap\n")
            _, err = command.communicate(timeout=60)
    assert (command.returncode, "another process has changed it meanwhile" in err) == (10, True)
    assert host.order() == ["3", "1", "2"]
