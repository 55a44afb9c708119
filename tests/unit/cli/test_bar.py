"""The progress bar, on real terminals: it fits, it counts, it goes away, and what is printed goes past it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from terminals import play

from bootc_fast.cli.bar import View, compose

# A flow of two seconds with a step that tells nothing, one that counts, and lines printed on both streams meanwhile.
FLOW = """
import argparse, sys, time
from bootc_fast.cli.progress import show_progress
from bootc_fast.cli.render import print_errors, print_lines
from bootc_fast.events import StepDone, StepProgress, StepStarted
arguments = argparse.Namespace(progress_json=None, verbose={verbose}, root="/nowhere")
with show_progress(arguments) as send:
    send(StepStarted("look", "Looking"))
    time.sleep({quiet_s})
    send(StepDone("look", {quiet_s}))
    send(StepStarted("write", "Writing /etc"))
    for number in range(1, 11):
        send(StepProgress("write", number * 10000, 100000))
        time.sleep({each_s})
        if number == 5:
            print_lines(["a line of the result"])
            print_errors(["a line about an error"])
    send(StepDone("write", 1.0))
    time.sleep({each_s})
print_lines(["the end"])
"""


def _flow(*, quiet_s: float = 0.9, each_s: float = 0.12, verbose: int = 0) -> list[str]:
    return [sys.executable, "-c", FLOW.format(quiet_s=quiet_s, each_s=each_s, verbose=verbose)]


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_the_bar_counts_on_one_line_and_goes_away(columns: int) -> None:
    played = play(_flow(), columns=columns)
    assert played.code == 0
    screen = played.screen
    # Nothing is left of the bar, and nothing that was printed is lost or cut by it.
    printed = ["a line of the result", "a line about an error", "the end"]
    assert " ".join(screen.lines).split() == " ".join(printed).split()
    assert columns < max(map(len, printed)) or screen.lines == [*printed, ""]
    bars = [line for line in screen.drawn if line]
    assert all(len(line) < columns for line in bars)
    assert any(re.search(r"^Looking( +0:0[01])?$", line) for line in bars), bars
    percents = [int(found[1]) for line in bars if (found := re.search(r" (\d+)%", line))]
    assert percents == sorted(percents)
    # A busy machine draws less often.
    assert len(set(percents)) >= 3
    if columns >= 40:
        assert any(re.search(r" \d+%  \d+0,000/100,000", line) for line in bars), bars
    if columns >= 80:
        _check_that_nothing_flickers(played.raw.decode())
        assert any(re.search(r"\[#+-+\]", line) for line in bars), bars


def _check_that_nothing_flickers(raw: str) -> None:
    """Each draw writes over the last one and clears what is longer of it, in that order."""
    draws = re.findall(r"\r([^\r\n]*)", raw)
    assert len([draw for draw in draws if draw.endswith("\x1b[K") and len(draw) > 3]) > 5
    erased = [draw for draw in draws if draw == "\x1b[K"]
    # Before the result's line, before the error's, at the end.
    assert len(erased) <= 3


def test_what_is_quick_draws_nothing() -> None:
    played = play(_flow(quiet_s=0.0, each_s=0.01))
    assert "\x1b" not in played.raw.decode()
    assert "%" not in played.raw.decode()


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_terminal_that_takes_plain_text_only_gets_that(term: str) -> None:
    assert b"\x1b" not in play(_flow(), term=term).raw


def test_without_a_terminal_there_is_silence() -> None:
    done = subprocess.run(_flow(), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"a line about an error\n")


def test_with_verbose_the_steps_are_lines_instead() -> None:
    played = play(_flow(quiet_s=0.6, each_s=0.05, verbose=1))
    assert "%" not in played.raw.decode()
    assert "write: Writing /etc" in played.screen.lines


def test_the_result_goes_into_a_file_while_the_bar_is_on_the_terminal() -> None:
    played = play(_flow(), stdout="pipe")
    assert played.stdout == b"a line of the result\nthe end\n"
    assert "%" in played.raw.decode()
    assert played.screen.lines == ["a line about an error", ""]


def test_a_job_in_the_background_leaves_the_terminal_alone() -> None:
    # Job control makes it a process group of its own, which is not the terminal's.
    code = "import shlex, sys; print('set -m;', shlex.join(sys.argv[1:]), '& wait')"
    script = subprocess.run([sys.executable, "-c", code, *_flow()], capture_output=True, text=True, check=True).stdout
    raw = play(["bash", "-c", script]).raw.decode()
    assert "the end" in raw
    assert "%" not in raw


@given(
    message=st.text(max_size=60),
    done=st.integers(0, 10**12),
    total=st.integers(0, 10**12),
    seconds=st.floats(0, 10**6),
    columns=st.integers(0, 300),
)
def test_every_line_fits_its_terminal(message: str, done: int, total: int, seconds: float, columns: int) -> None:
    line = compose(View(message, done, total, seconds), columns)
    assert len(line) <= max(columns - 1, 0)
    assert line.isprintable()
    if total and columns > 8:
        assert f"{min(done, total) * 100 // total}%" in line
