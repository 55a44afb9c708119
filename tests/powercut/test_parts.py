"""What is kept of a day's work: of one recording, in parts, and nothing of another recording."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from powercut.counts import make_tables
from powercut.parts import BOOTS, CUTS, PARTS, REPAIRS, RUNS, Results, digest_of
from powercut.recording import Flush, Mark, Recording, Write, read_log
from powercut.replay import STAGING, Result
from powercut.rerun import Again

if TYPE_CHECKING:
    from pathlib import Path

    from powercut.recording import Event


def recording(*events: Event) -> Recording:
    return Recording({"name": "one", "group": "a group"}, {0: b"boot"}, list(events))


@pytest.fixture
def first() -> Recording:
    return recording(Mark("start"), Write(1, b"x"), Flush())


def results_of(one: Recording, directory: Path) -> Results:
    return Results({"one": one}, directory)


def test_a_recording_is_known_by_every_write_flush_and_mark(first: Recording) -> None:
    others = [
        recording(*first.events[:2]),
        recording(Mark("start"), Flush(), Write(1, b"x")),
        recording(Mark("end"), *first.events[1:]),
        recording(Mark("start"), Write(2, b"x"), Flush()),
        recording(Mark("start"), Write(1, b"y"), Flush()),
        replace(first, base={0: b"other"}),
    ]
    assert len({digest_of(one) for one in (first, *others)}) == 7
    assert digest_of(recording(*first.events)) == digest_of(first)


def test_parts_add_up_and_those_of_another_recording_count_for_nothing(first: Recording, tmp_path: Path) -> None:
    results = results_of(first, tmp_path)
    assert all(results.lacking(part, 1, ["one"]) == ["one"] for part in PARTS)
    result = Result("one", "a group", states=9, bad=2, noted=1)
    result.reasons["no entry of ours"] = 2
    results.put_cuts(result, Result("one", STAGING, states=3, bad=1), randoms=200, seed=7, kernel="6.12")
    results.put_again("one", Again(repairs=4), states=0, repairs=50, seed=7)
    wrong = Again(runs=5, failed=1)
    wrong.wrong["boots old, not new"] = 1
    results.put_again("one", wrong, states=5, repairs=0, seed=8)
    results.put("one", **{BOOTS: {"asked": 1, "outcomes": {"as judged": 6}}})

    again = results_of(first, tmp_path)
    assert again.lacking(CUTS, 200, ["one"]) == []
    assert again.lacking(CUTS, 201, ["one"]) == ["one"]
    assert (again.lacking(REPAIRS, 50, ["one"]), again.lacking(RUNS, 5, ["one"])) == ([], [])
    own, staged = again.results()
    assert (own.name, own.states, own.bad, own.noted, own.reasons) == ("one", 9, 2, 1, result.reasons)
    assert (staged.group, staged.states) == (STAGING, 3)
    found = again.agains()["one"]
    assert (found.runs, found.wrong, found.repairs, found.spoiled.total()) == (5, wrong.wrong, 4, 0)
    text = make_tables(again.results(), again.agains(), again.boots(), how=again.how())
    assert text.startswith("Linux 6.12; seed 7; 200 random subsets")
    assert "| a group | 1 | 5 | 1 | 1 | 4 | 0 |" in text
    assert "OVMF and systemd-boot: 6 as judged." in text

    other = results_of(recording(Mark("start")), tmp_path)
    assert other.results() == []
    assert not other.agains()
    assert not other.boots()


def test_what_repairs_mended_is_kept_and_told(first: Recording, tmp_path: Path) -> None:
    second = recording(Mark("other"))
    results = Results({"one": first, "two": second, "three": recording(Mark("third"))}, tmp_path)
    for name, mended in (
        ("one", ("none", "old", "")),
        ("two", ("none", "none", "no entry of ours")),
        ("three", ("new", "new", "")),
    ):
        result = Result(name, "a group", states=3, mended=mended)
        results.put_cuts(result, Result(name, STAGING), randoms=1, seed=1, kernel="6.12")
    assert [one.mended for one in results.results()][1] == ("none", "none", "no entry of ours")
    text = make_tables(results.results(), results.agains(), results.boots(), how=results.how())
    told = "a group: of 2 that did not boot 1 boot after it, of 1 that did 1; left: no entry of ours (1)."
    assert told in text


def test_a_log_in_which_nothing_was_written_is_zeros(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(bytes(4096))
    assert not list(read_log(log))
    log.write_bytes(b"x".ljust(4096, b"\0"))
    with pytest.raises(ValueError, match="is no log"):
        list(read_log(log))
