"""--progress-json FD: each event a line of JSON; a reader that sleeps or leaves slows and stops nothing."""

from __future__ import annotations

import fcntl
import json
import os
import time
from typing import TYPE_CHECKING

import flowkit
import pytest
from schemas import validate

from bootc_fast.cli.progress_json import write_events
from bootc_fast.errors import UsageError
from bootc_fast.events import StepDone, StepProgress, StepStarted

if TYPE_CHECKING:
    from pathlib import Path

EVENTS = [
    StepStarted("look", "Looking\n☃"),
    StepProgress("look", 1, 0),
    StepProgress("look", 2, 9),
    StepDone("look", 0.5),
]


@pytest.mark.parametrize("words", [["finalize"], ["finalize", "--dry-run"], ["rollback", "--to=booted"], ["doctor"]])
def test_every_step_begins_and_ends_in_lines_of_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    with (tmp_path / "events").open("w+b") as file:
        code, _, err = flowkit.run(capsys, *words, "--root", case.root, f"--progress-json={file.fileno()}")
        assert (code, err) == (0, "")
        file.seek(0)
        events = [json.loads(line) for line in file]
    for event in events:
        validate("progress", event)
    started = [event["step"] for event in events if event["event"] == "step_started"]
    assert started
    assert sorted(started) == sorted(event["step"] for event in events if event["event"] == "step_done")


def test_every_kind_of_event_is_valid(tmp_path: Path) -> None:
    with (tmp_path / "events").open("w+b") as file:
        with write_events(file.fileno()) as send:
            for event in EVENTS:
                send(event)
        file.seek(0)
        lines = file.read().splitlines()
    documents = [json.loads(line) for line in lines]
    for document in documents:
        validate("progress", document)
    assert [one["event"] for one in documents] == ["step_started", "step_progress", "step_progress", "step_done"]
    assert documents[0]["message"] == "Looking\n☃"
    assert documents[1]["total"] is None


@pytest.mark.parametrize("which", ["closed", "read-only", "negative"])
def test_a_descriptor_that_cannot_be_written_is_refused_before_anything_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], which: str
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    before = flowkit.snapshot(case.root)
    fd = os.open(os.devnull, os.O_RDONLY)
    number = {"closed": 977, "read-only": fd, "negative": -1}[which]
    code, _, err = flowkit.run(capsys, "finalize", "--root", case.root, f"--progress-json={number}")
    os.close(fd)
    assert (code, "--progress-json" in err) == (2, True)
    assert flowkit.snapshot(case.root) == before


def test_a_reader_that_has_gone_away_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    reader, writer = os.pipe()
    os.close(reader)
    code, _, err = flowkit.run(capsys, "finalize", "--root", case.root, f"--progress-json={writer}")
    os.close(writer)
    assert (code, err) == (0, "")
    assert flowkit.next_boot(case.host) == case.staged


def test_a_reader_that_sleeps_is_waited_for_a_second_in_all() -> None:
    reader, writer = os.pipe()
    started = time.monotonic()
    with write_events(writer) as send:
        for number in range(5000):
            send(StepStarted("step", f"number {number} " + "x" * 100))
        assert time.monotonic() - started < 5
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        lines = file.read().splitlines()
    # Whole lines, the first ones.
    assert 10 < len(lines) < 5000
    assert [json.loads(line)["message"].split()[1] for line in lines] == [str(number) for number in range(len(lines))]


def test_a_line_that_is_longer_than_a_pipe_takes_at_once_arrives() -> None:
    reader, writer = os.pipe()
    with write_events(writer) as send:
        send(StepStarted("step", "☃" * 9000))
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert json.loads(file.read())["message"] == "☃" * 9000


def test_the_descriptor_stays_the_callers_and_no_child_gets_ours() -> None:
    reader, writer = os.pipe()
    with write_events(writer):
        copies = [int(name) for name in os.listdir("/proc/self/fd")]
        same = [fd for fd in copies if _is_same(fd, writer) and fd not in (reader, writer)]
        assert len(same) == 1
        assert fcntl.fcntl(same[0], fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    os.write(writer, b"x")
    os.close(writer)
    os.close(reader)
    with pytest.raises(UsageError), write_events(writer):
        pytest.fail("closed")


def _is_same(one: int, two: int) -> bool:
    try:
        return os.path.samestat(os.fstat(one), os.fstat(two))
    except OSError:
        return False
