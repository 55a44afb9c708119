"""finalize while another process rewrites /etc, and several runs at once.

Here a few rounds; with `make faults` a hundred.
"""

from __future__ import annotations

import collections
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from faults.runner import Runner
from faults.scene import AGAIN, ARGV, DOCUMENTED, Scene

if TYPE_CHECKING:
    from pathlib import Path

    from faults.conftest import Scratch

FORM = "systemd-boot BLS"
# Every file that it puts in place has one letter only: a mixture of two would be a torn copy.
WRITER = """
import itertools, os, sys
os.chdir(sys.argv[1])
for n in itertools.count():
    letter = b"abcdefghij"[n % 10 : n % 10 + 1]
    with open("busy.tmp", "wb") as file:
        file.write(letter * 70_000)
    os.rename("busy.tmp", f"busy-{n % 3}.conf")
    os.makedirs("busy.d/deep", exist_ok=True)
    with open("busy.d/deep/one", "wb") as file:
        file.write(letter)
    os.chmod("busy.d/deep/one", 0o600 + n % 8)
    if n % 2:
        os.unlink("busy.d/deep/one")
        os.rmdir("busy.d/deep")
        os.rmdir("busy.d")
    if n == 3:
        print("ready", flush=True)
"""


def _is_whole(path: Path) -> bool:
    data = path.read_bytes()
    return len(data) == 70_000 and len(set(data)) == 1


@pytest.mark.timeout(0)
def test_finalizes_while_another_process_rewrites_etc(scratch: Scratch) -> None:
    table: collections.Counter[str] = collections.Counter()
    with Runner(scratch.path) as runner:
        scene = Scene.build(runner, scratch.path, FORM, "finalize")
        for _round in range(100 if scratch.plays_all else 3):
            scene.fresh()
            command = [sys.executable, "-c", WRITER, scene.root / "etc"]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
                assert writer.stdout is not None
                assert writer.stdout.readline() == b"ready\n"
                ran = runner.run(scene.root, ARGV["finalize"])
                writer.kill()
            assert ran.exit_code in (0, 6), ran.err
            seen = scene.look()
            assert seen.boots == (scene.new if ran.exit_code == 0 else scene.old), (ran, seen.why)
            assert seen.lost == []
            if ran.exit_code == 0:
                merged = scene.root / "sysroot/state/deploy" / scene.new / "etc"
                # What nobody rewrote is merged as ever.
                have, want = seen.etc[scene.new], scene.after.etc[scene.new]
                assert isinstance(have, dict)
                assert isinstance(want, dict)
                assert {name: have.get(name) for name in want if name} == {n: f for n, f in want.items() if n}
                assert all(_is_whole(path) for path in merged.glob("busy-*.conf")), list(merged.iterdir())
            table[f"exit {ran.exit_code}"] += 1
            # With /etc at rest again the next run finishes.
            again = runner.run(scene.root, AGAIN["finalize"])
            assert (again.exit_code, scene.look().boots) == (0, scene.new), again.err
    for outcome, count in sorted(table.items()):
        print(f"{scene.name} | /etc rewritten meanwhile | {outcome} | {count}")  # noqa: T201 `make faults` shows it
    assert table["exit 0"] > 0


@pytest.mark.timeout(0)
@pytest.mark.parametrize("pair", [("finalize", "finalize"), ("finalize", "rollback"), ("rollback", "rollback")])
def test_two_runs_at_once_take_turns_and_a_status_meanwhile_tells_one_or_the_other(
    scratch: Scratch, pair: tuple[str, str]
) -> None:
    table: collections.Counter[str] = collections.Counter()
    flow = "rollback" if "rollback" in pair else "finalize"
    with Runner(scratch.path) as runner:
        scene = Scene.build(runner, scratch.path, FORM, flow)
        program = [sys.executable, "-m", "bootc_fast", "--root", scene.root]
        for _round in range(20 if scratch.plays_all else 1):
            scene.fresh()
            runs = [
                subprocess.Popen([*program, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                for argv in (ARGV[pair[0]], AGAIN[pair[1]])
            ]
            while any(run.poll() is None for run in runs):
                told = runner.run(scene.root, ["status", "--json"])
                assert told.exit_code == 0, told.err
                assert "Traceback" not in told.err
            said = [run.communicate()[1] for run in runs]
            codes = [run.returncode for run in runs]
            assert all(code in DOCUMENTED for code in codes), said
            assert 0 in codes, said
            assert not any("Traceback" in text or "None" in text for text in said), said
            seen = scene.look()
            assert seen.boots is not None, seen.why
            assert seen.lost == []
            # Once more, alone: it comes to its own end, whoever was last. A finalize that came first has taken what
            # there was to go back to out of the menu of two.
            is_mixed = len(set(pair)) > 1
            alone = runner.run(scene.root, ["rollback", "--to", "booted"] if is_mixed else AGAIN[flow])
            after = scene.look()
            end = scene.old if is_mixed else scene.new
            assert (alone.exit_code, after.boots, after.lost) == (0, end, []), alone.err
            table[f"{' and '.join(pair)} | exits {sorted(codes)}"] += 1
    for outcome, count in sorted(table.items()):
        print(f"{scene.name} | {outcome} | {count}")  # noqa: T201 `make faults` shows it
