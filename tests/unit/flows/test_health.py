"""health.py: greenboot's scripts as they are, whatever a script does; required and wanted, green and red."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import flowkit
import hosts
import pytest
import trio
from schemas import validate

from bootc_fast import CheckKind, CheckResult, judge_health
from bootc_fast.trial import checks

if TYPE_CHECKING:
    from collections.abc import Callable

GREENBOOT, OURS = "etc/greenboot/check", "usr/lib/bootc-fast/health.d"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    hosts.make_host(tmp_path / "h")
    return tmp_path / "h"


def _put(root: Path, name: str, body: str, *, mode: int = 0o755) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(body if body.startswith("#!") else f"#!/bin/bash\n{body}\n")
    path.chmod(mode)
    return path


def _policy(root: Path, text: str) -> None:
    _put(root, "etc/bootc-fast/trial.toml", f"#!\n[health]\n{text}\n", mode=0o644)


async def _wait_for(is_so: Callable[[], object]) -> None:
    """Other processes send no events."""
    while not is_so():  # noqa: ASYNC110
        await anyio.sleep(0.02)


async def _wait_until_gone(pid_file: Path) -> None:
    pid = int(await anyio.Path(pid_file).read_text())
    with anyio.fail_after(10):
        await _wait_for(lambda: not _is_there(pid))


def _is_there(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    # Killed, and not yet waited for by whoever is its parent now.
    return state != "Z"


async def test_every_directory_is_looked_through_and_green_follows(root: Path) -> None:
    for name in (
        f"{GREENBOOT}/required.d/01_one.sh",
        "usr/lib/greenboot/check/required.d/01_one.sh",
        f"{OURS}/required.d/two",
        "etc/bootc-fast/health.d/wanted.d/three",
        "etc/greenboot/green.d/four.sh",
        f"{OURS}/green.d/five",
        "etc/greenboot/red.d/never.sh",
    ):
        _put(root, name, f"echo {name} >> ran")
    outcome = await judge_health(root)
    assert outcome.is_healthy
    assert (outcome.warnings, outcome.failures) == ((), ())
    ran = (root / "ran").read_text().splitlines()
    assert len(ran) == 6
    assert {name.split("/")[-2] for name in ran[:4]} == {"required.d", "wanted.d"}
    assert {name.split("/")[-2] for name in ran[4:]} == {"green.d"}
    assert [one.kind for one in outcome.checks] == [CheckKind.REQUIRED] * 3 + [CheckKind.WANTED] + [CheckKind.GREEN] * 2


async def test_a_required_one_that_fails_is_unhealthy_all_others_run_and_red_follows(root: Path) -> None:
    _put(root, f"{GREENBOOT}/required.d/01_bad.sh", "echo why; echo more >&2; exit 3")
    _put(root, f"{GREENBOOT}/required.d/02_good.sh", "touch good")
    _put(root, "etc/greenboot/red.d/alarm", "touch red; exit 1")
    _put(root, "etc/greenboot/green.d/never", "touch green")
    outcome = await judge_health(root)
    assert not outcome.is_healthy
    (failure,) = outcome.failures
    assert (failure.result, failure.reason, failure.output) == (CheckResult.FAILED, "it exited with 3", ("why", "more"))
    assert ((root / "good").exists(), (root / "red").exists(), (root / "green").exists()) == (True, True, False)
    assert any("alarm: it exited with 1" in warning for warning in outcome.warnings)


async def test_a_wanted_one_that_fails_is_a_warning(root: Path) -> None:
    _put(root, f"{GREENBOOT}/wanted.d/nice.sh", "exit 1")
    outcome = await judge_health(root)
    assert outcome.is_healthy
    assert "nice.sh: it exited with 1" in outcome.warnings[0]


async def test_what_is_disabled_does_not_run_and_one_that_is_not_there_is_told(root: Path) -> None:
    _put(root, f"{GREENBOOT}/required.d/off.sh", "exit 1")
    _put(root, "etc/greenboot/greenboot.conf", '#!\nDISABLED_HEALTHCHECKS=("off.sh" "lost.sh")\n', mode=0o644)
    outcome = await judge_health(root)
    assert (outcome.is_healthy, outcome.checks) == (True, ())
    assert outcome.warnings == ("the disabled check lost.sh is not there",)


async def test_what_is_no_script_is_told_and_not_run(root: Path) -> None:
    _put(root, f"{GREENBOOT}/required.d/README", "exit 1", mode=0o644)
    _put(root, f"{GREENBOOT}/required.d/.hidden", "exit 1")
    (root / GREENBOOT / "required.d/directory.sh").mkdir()
    os.symlink("nowhere", root / GREENBOOT / "required.d/dangling.sh")
    os.mkfifo(root / GREENBOOT / "required.d/fifo.sh")
    (root / OURS).mkdir(parents=True)
    (root / OURS / "wanted.d").write_text("")
    outcome = await judge_health(root)
    assert (outcome.is_healthy, outcome.checks) == (True, ())
    assert len(outcome.warnings) == 5
    said = " ".join(outcome.warnings)
    for name in ("README is not run: it is not executable", "directory.sh", "dangling.sh", "fifo.sh", "wanted.d"):
        assert name in said


async def test_a_shell_script_that_is_not_executable_is_given_to_bash_as_greenboot_does(root: Path) -> None:
    _put(root, f"{GREENBOOT}/required.d/plain.sh", "touch ran", mode=0o644)
    assert (await judge_health(root)).is_healthy
    assert (root / "ran").exists()


@pytest.mark.parametrize("body", ["#!/no/such/interpreter\n", "\x7fELFnonsense"])
async def test_what_the_kernel_does_not_run_has_failed(root: Path, body: str) -> None:
    path = _put(root, f"{GREENBOOT}/required.d/odd", body)
    path.write_text(body)
    outcome = await judge_health(root)
    assert outcome.failures[0].reason.startswith("it cannot be run: ")


async def test_one_that_hangs_is_killed_with_its_children_and_the_others_are_not_held_up(root: Path) -> None:
    _policy(root, "script-timeout = 0.5")
    _put(root, f"{GREENBOOT}/required.d/hang.sh", "trap '' TERM INT; sleep 1000 & echo $! > child; wait; sleep 1000")
    _put(root, f"{GREENBOOT}/required.d/good.sh", "touch good")
    started = time.monotonic()
    outcome = await judge_health(root)
    assert time.monotonic() - started < 8
    (failure,) = outcome.failures
    assert (failure.result, failure.reason) == (CheckResult.TIMED_OUT, "it took longer than 0.5 s")
    assert (root / "good").exists()
    await _wait_until_gone(root / "child")


async def test_the_whole_has_a_limit_too(root: Path) -> None:
    _policy(root, "timeout = 0.5")
    for number in range(3):
        _put(root, f"{GREENBOOT}/required.d/{number}.sh", "sleep 1000")
    outcome = await judge_health(root)
    assert [one.result for one in outcome.failures] == [CheckResult.TIMED_OUT] * 3
    assert "all checks together took longer than 0.5 s" in outcome.failures[0].reason


async def test_a_flood_of_output_stops_nothing_and_its_end_is_kept(root: Path) -> None:
    _put(
        root, f"{GREENBOOT}/required.d/flood.sh", "head -c 50000000 /dev/zero | tr '\\0' x; echo; echo the end; exit 1"
    )
    (failure,) = (await judge_health(root)).failures
    assert failure.output[-1] == "the end"
    assert sum(map(len, failure.output)) <= checks.MAX_OUTPUT_BYTES


async def test_a_child_that_keeps_the_pipe_does_not_hold_up_the_verdict(root: Path) -> None:
    _put(root, f"{GREENBOOT}/required.d/fork.sh", "sleep 1000 & echo $! > child; echo started; exit 0")
    started = time.monotonic()
    outcome = await judge_health(root)
    assert outcome.is_healthy
    assert time.monotonic() - started < checks.LINGER_S + 5
    assert outcome.checks[0].output == ("started",)
    await _wait_until_gone(root / "child")


async def test_a_daemon_that_a_script_leaves_behind_is_not_waited_for(root: Path) -> None:
    _put(
        root,
        f"{GREENBOOT}/required.d/daemon.sh",
        "setsid sh -c 'echo $$ > child; exec sleep 1000' < /dev/null > /dev/null 2>&1 & until [ -s child ]; do :; done",
    )
    started = time.monotonic()
    outcome = await judge_health(root)
    assert (outcome.is_healthy, time.monotonic() - started < 5) == (True, True)
    pid = int((root / "child").read_text())
    assert _is_there(pid)
    os.kill(pid, 9)


async def test_hundreds_of_children_at_once_are_killed_with_it(root: Path) -> None:
    _policy(root, "script-timeout = 4")
    _put(
        root,
        f"{GREENBOOT}/required.d/forks.sh",
        "sleep 1000 & echo $! > child; for n in $(seq 200); do sleep 1000 & done; wait",
    )
    (failure,) = (await judge_health(root)).failures
    assert failure.result is CheckResult.TIMED_OUT
    await _wait_until_gone(root / "child")


async def test_one_that_is_killed_says_by_what(root: Path) -> None:
    _put(root, f"{GREENBOOT}/required.d/dies.sh", "kill -SEGV $$")
    assert (await judge_health(root)).failures[0].reason == "it was killed by SIGSEGV"


async def test_scripts_run_side_by_side(root: Path) -> None:
    # Each waits for the other.
    _put(root, f"{GREENBOOT}/required.d/a.sh", "touch a; until [ -e b ]; do sleep 0.05; done")
    _put(root, f"{GREENBOOT}/wanted.d/b.sh", "touch b; until [ -e a ]; do sleep 0.05; done")
    with trio.fail_after(30):
        outcome = await judge_health(root)
    assert (outcome.is_healthy, outcome.warnings) == (True, ())


async def test_a_cancellation_kills_what_runs(root: Path) -> None:
    _put(root, f"{GREENBOOT}/required.d/long.sh", "echo $$ > pid; exec sleep 1000")
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(judge_health, root)
            with trio.fail_after(30):
                await _wait_for(lambda: (root / "pid").exists() and (root / "pid").read_text().strip())
            scope.cancel()
    assert scope.cancelled_caught
    await _wait_until_gone(root / "pid")


def test_the_same_on_asyncio(root: Path) -> None:
    _put(root, f"{GREENBOOT}/required.d/a.sh", "echo said; exit 1")

    async def judge() -> tuple[bool, tuple[str, ...]]:
        outcome = await judge_health(root)
        return outcome.is_healthy, outcome.failures[0].output

    assert anyio.run(judge, backend="asyncio") == (False, ("said",))


async def test_a_dry_run_lists_and_runs_nothing(root: Path) -> None:
    _put(root, f"{GREENBOOT}/required.d/a.sh", "touch ran")
    _policy(root, "no-failed-units = true\ndefault-route = true\ndns-names = ['a']\nurls = ['http://b/']")
    outcome = await judge_health(root, dry_run=True)
    assert {(one.kind, one.result) for one in outcome.checks} == {(CheckKind.REQUIRED, CheckResult.NOT_RUN)}
    names = [one.path for one in outcome.checks]
    assert names[0].endswith("a.sh")
    assert names[1:] == ["no failed unit", "default route", "DNS: a", "URL: http://b/"]
    assert not (root / "ran").exists()


def test_the_command_prints_what_failed_and_exits_with_12(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _put(root, f"{GREENBOOT}/required.d/a.sh", "printf 'bad \\033[31m\\n'; exit 1")
    code, out, err = flowkit.run(capsys, "health", "--root", root)
    assert code == 12
    assert out.splitlines()[-1] == "NOT healthy"
    assert "a.sh: bad \\x1b[31m" in err
    code, out, _err = flowkit.run(capsys, "health", "--json", "--root", root)
    document = json.loads(out)
    validate("health", document)
    assert (code, document["exit_code"], document["is_healthy"]) == (12, 12, False)
    _put(root, f"{GREENBOOT}/required.d/a.sh", "true")
    code, out, err = flowkit.run(capsys, "health", "--root", root)
    assert (code, out.splitlines()[-1], err) == (0, "Healthy", "")
