"""cli: what holds for every command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from bootc_fast import __version__
from bootc_fast.cli import main
from bootc_fast.cli.parser import COMMANDS
from bootc_fast.cli.runtime import run_async
from bootc_fast.errors import CancelledByUserError

if TYPE_CHECKING:
    from pathlib import Path


def test_version_and_help_go_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--version", "--help"):
        with pytest.raises(SystemExit) as stopped:
            main([option])
        assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert f"bootc-fast {__version__}" in out
    assert all(command.name in out for command in COMMANDS)


@pytest.mark.parametrize("argv", [["no-such"], ["--no-such"]])
def test_a_wrong_command_line_exits_with_2_and_says_why(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "error: reading the command line: " in captured.err


def test_help_imports_neither_trio_nor_the_native_core() -> None:
    code = (
        "import sys; from bootc_fast.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'trio', 'anyio', 'typing', 'dataclasses', 'shutil'} & set(sys.modules)\n"
        "heavy |= {'threading', 'json', 'bootc_fast._core', 'cryptography'} & set(sys.modules)\n"
        "sys.exit(' '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_finalize_with_nothing_staged_imports_neither_trio_nor_the_flow(tmp_path: Path) -> None:
    for name in ("proc/self", "run", "sysroot"):
        (tmp_path / name).mkdir(parents=True)
    digest = "ab" * 64
    (tmp_path / "proc/cmdline").write_text(f"root=UUID=1 composefs={digest}\n")
    (tmp_path / "proc/self/mountinfo").write_text("")
    code = (
        "import sys\n"
        "from bootc_fast.cli import main\n"
        "code = main(['--root', sys.argv[1], 'finalize'])\n"
        "heavy = {'trio', 'anyio', 'bootc_fast.flows.finalize'} & set(sys.modules)\n"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)\n"
    )
    found = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == "Nothing is staged: nothing to do\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_cancels_the_flow_and_is_reported_after_its_clean_up(number: signal.Signals) -> None:
    import trio

    done = []

    async def flow() -> None:
        try:
            os.kill(os.getpid(), number)
            await trio.sleep_forever()
        finally:
            done.append("cleaned up")

    with pytest.raises(CancelledByUserError, match=f"cancelled by {number.name}"):
        run_async(flow)
    assert done == ["cleaned up"]


def test_a_flow_that_finishes_in_spite_of_a_signal_counts_as_finished() -> None:
    import trio

    async def flow() -> str:
        with trio.CancelScope(shield=True):
            os.kill(os.getpid(), signal.SIGTERM)
            await trio.sleep(0.01)
        return "committed"

    assert run_async(flow) == "committed"


def test_the_errors_of_a_flow_leave_as_they_are() -> None:
    async def flow() -> None:
        raise ExceptionGroup("two", [ValueError("a"), KeyError("b")])

    with pytest.raises(ExceptionGroup):
        run_async(flow)
