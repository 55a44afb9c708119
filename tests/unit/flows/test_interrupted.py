"""finalize.py: cancelled, timed out, terminated or killed at any step; and the run after that."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import anyio
import flowkit
import pytest
import trio
from killing import KILLABLE, MOST_CALLS, kill_at, run_injected
from trio.testing import MockClock

from bootc_fast import events, finalize_staged
from bootc_fast.cli.runtime import run_async
from bootc_fast.errors import CancelledByUserError, StepTimeoutError
from bootc_fast.flows import finalize, finalize_run
from bootc_fast.types import BootType, Loader, Result

if TYPE_CHECKING:
    from pathlib import Path

    from flowkit import Case

STEPS = ["lock", "look", "look.images", "look.etc", "look.boot", "decide", "prepare", "commit", "tidy"]
# From the commit on nothing cancels: the finalize ends, and well.
COMMITTING = {"commit", "tidy"}
POINTS = [(kind, step) for step in STEPS for kind in (events.StepStarted, events.StepDone)]
POINT_IDS = [f"{step}-{kind.__name__}" for kind, step in POINTS]


@pytest.fixture
def patient_clock() -> MockClock:
    """Jumps ahead only when nothing has happened for a while: to trio a working thread looks like idleness."""
    return MockClock(autojump_threshold=1.0)


def _bootable(case: Case) -> None:
    """Whatever boots next is whole: its entry is there, and so are its files."""
    digest = flowkit.next_boot(case.host)
    assert digest in (case.booted, case.staged)
    if digest == case.staged:
        assert flowkit.staged_etc(case) == flowkit.MERGED


async def _complete(case: Case) -> None:
    """A rerun ends where an undisturbed run would have, and the run after it finds nothing to do."""
    outcome = await finalize_staged(case.root)
    assert outcome.result in (Result.DONE, Result.ALREADY_DONE)
    assert flowkit.next_boot(case.host) == case.staged
    assert flowkit.staged_etc(case) == flowkit.MERGED
    assert (await finalize_staged(case.root)).result is Result.ALREADY_DONE


@pytest.mark.parametrize(("kind", "step"), POINTS, ids=POINT_IDS)
async def test_a_cancellation_at_any_event_leaves_a_host_that_boots_and_a_rerun_completes(
    tmp_path: Path, kind: type[events.Event], step: str
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    with trio.CancelScope() as scope:

        def cancel(event: events.Event) -> None:
            if isinstance(event, kind) and event.step == step:
                scope.cancel()

        outcome = await finalize_staged(case.root, on_event=cancel)
        assert outcome.result is Result.DONE
    is_committed = step in COMMITTING
    assert scope.cancelled_caught is not is_committed
    assert flowkit.next_boot(case.host) == (case.staged if is_committed else case.booted)
    record = flowkit.read_record(case.root)
    assert record["result"] == ("done" if is_committed else "failed")
    await _complete(case)


@pytest.mark.parametrize("step", ["look.images", "prepare", "commit"])
def test_the_same_on_asyncio(tmp_path: Path, step: str) -> None:
    case = flowkit.make_case(tmp_path / "h")

    async def cancel_at_step() -> bool:
        with anyio.CancelScope() as scope:

            def cancel(event: events.Event) -> None:
                if event.step == step:
                    scope.cancel()

            await finalize_staged(case.root, on_event=cancel)
        return scope.cancelled_caught

    anyio.run(cancel_at_step, backend="asyncio")
    _bootable(case)
    anyio.run(partial(_complete, case), backend="asyncio")


@pytest.mark.parametrize(("kind", "step"), POINTS, ids=POINT_IDS)
def test_sigterm_at_any_event_exits_cleanly_and_a_rerun_completes(
    tmp_path: Path, kind: type[events.Event], step: str
) -> None:
    case = flowkit.make_case(tmp_path / "h")

    def terminate(event: events.Event) -> None:
        if isinstance(event, kind) and event.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    async def flow() -> Result:
        outcome = await finalize_staged(case.root, on_event=terminate)
        return outcome.result

    if step in COMMITTING:
        assert run_async(flow) is Result.DONE
    elif (kind, step) == (events.StepDone, "prepare"):
        # A signal is noticed in the loop's next round; the commit, which nothing cancels, may begin in this one.
        with suppress(CancelledByUserError):
            run_async(flow)
    else:
        with pytest.raises(CancelledByUserError, match="SIGTERM"):
            run_async(flow)
        assert flowkit.next_boot(case.host) == case.booted
    _bootable(case)
    trio.run(_complete, case)


def test_sigterm_to_the_command_exits_with_8_and_names_the_signal(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    lock = case.root / "run/bootc-fast.lock"
    holder = subprocess.Popen(["flock", lock, "sleep", "60"])
    try:
        command = [sys.executable, "-m", "bootc_fast", "finalize", "-v", "--root", str(case.root)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert process.stderr.readline() == "lock: Waiting for the lock\n"
            process.terminate()
            error = process.stderr.read()
        assert (process.returncode, error.splitlines()[0]) == (8, "error: cancelled by SIGTERM")
    finally:
        # flock's child holds the lock as well.
        subprocess.run(["pkill", "-P", str(holder.pid)], check=True)
        holder.wait()
    trio.run(_complete, case)


@pytest.mark.parametrize(("timeout_s", "limit"), [(120.0, 100), (240.0, 100), (480.0, 200), (3000.0, 1250)])
async def test_a_step_that_hangs_is_named_and_the_next_boot_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patient_clock: MockClock, timeout_s: float, limit: int
) -> None:
    """Who gives the whole more time gives a slow step more: a /etc of a million files ended with 200 s of 3,000."""
    case = flowkit.make_case(tmp_path / "h")

    async def hang(*_args: object, **_kwargs: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(finalize_run, "plan_merge", hang)
    with pytest.raises(StepTimeoutError, match=rf"step 'look\.etc' took longer than {limit} s") as caught:
        await finalize_staged(case.root, timeout_s=timeout_s)
    assert (caught.value.step, caught.value.exit_code) == ("look.etc", 8)
    assert caught.value.hint == "give it more time with --timeout"
    assert trio.current_time() == pytest.approx(limit, abs=1)
    assert flowkit.next_boot(case.host) == case.booted
    assert flowkit.read_record(case.root)["exit_code"] == 8


async def test_the_whole_has_a_time_limit_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patient_clock: MockClock
) -> None:
    case = flowkit.make_case(tmp_path / "h")

    async def hang(*_args: object, **_kwargs: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(finalize_run, "open_boot_snapshot", hang)
    with pytest.raises(StepTimeoutError, match=r"not done after 7 s \(while at: .*look.boot"):
        await finalize_staged(case.root, timeout_s=7)
    assert trio.current_time() == pytest.approx(7, abs=0.1)


async def test_a_commit_that_hangs_ends_after_its_own_ten_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patient_clock: MockClock
) -> None:
    case = flowkit.make_case(tmp_path / "h")

    async def hang(*_args: object, **_kwargs: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(finalize, "publish_menu", hang)
    with (
        trio.move_on_after(1) as outer,
        pytest.raises(StepTimeoutError, match="step 'commit' took longer than 10 s") as caught,
    ):
        await finalize_staged(case.root, timeout_s=3000)
    assert not outer.cancelled_caught
    assert (caught.value.hint, trio.current_time()) == (None, pytest.approx(10, abs=0.5))


async def test_a_tidy_that_fails_or_hangs_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = flowkit.make_case(tmp_path / "h")

    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(finalize, "collect_garbage", fail)
    outcome = await finalize_staged(case.root)
    assert outcome.result is Result.DONE
    assert outcome.warnings == ("removing unused boot files: Input/output error",)


BLS = (Loader.SYSTEMD_BOOT, BootType.BLS)
USER_CFG = (Loader.GRUB, BootType.UKI)


@pytest.mark.parametrize(
    ("form", "name"), [*((BLS, name) for name in KILLABLE), (USER_CFG, "rename"), (USER_CFG, "unlink")]
)
def test_kill_9_at_any_change_leaves_a_host_that_boots_and_a_rerun_completes(
    tmp_path: Path, form: tuple[Loader, BootType], name: str
) -> None:
    calls = KILLABLE[name]
    loader, boot_type = form
    kills = 0
    for number in range(1, MOST_CALLS):
        case = flowkit.make_case(tmp_path / str(number), loader, boot_type)
        if not kill_at(case, calls, number):
            break
        kills += 1
        _bootable(case)
        trio.run(_complete, case)
        shutil.rmtree(case.root)
    else:
        pytest.fail("more calls than were reckoned with")
    assert kills > 0


def test_a_record_says_that_a_killed_finalize_was_interrupted(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    # The first rename puts the record in its place; the second is a file of the merge.
    assert kill_at(case, KILLABLE["rename"], 2)
    assert flowkit.read_record(case.root)["result"] == "interrupted"


@pytest.mark.parametrize(("name", "error"), [("flush", "EIO"), ("rename", "ENOSPC"), ("make", "EROFS")])
def test_a_system_call_that_fails_once_is_a_clear_error_or_a_warning_and_a_rerun_completes(
    tmp_path: Path, name: str, error: str
) -> None:
    failures = 0
    for number in range(1, MOST_CALLS):
        case = flowkit.make_case(tmp_path / str(number))
        done = run_injected(case, KILLABLE[name], number, f"error={error}")
        if not done.calls:
            break
        if done.returncode == 0 and not done.said:
            assert flowkit.next_boot(case.host) == case.staged, done.calls
        else:
            failures += 1
            assert (done.returncode, done.said.split(":")[0]) in [(0, "warning"), (6, "error")], done.said
        assert "Traceback" not in done.said
        _bootable(case)
        trio.run(_complete, case)
        shutil.rmtree(case.root)
    else:
        pytest.fail("more calls than were reckoned with")
    assert failures > 0
