"""states.py: what is known of trials survives whatever is on the disk, and only what is to be known."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import hosts
import pytest
from hosts import SHORT, A, B
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemas import validate

from bootc_fast.errors import FileSystemError
from bootc_fast.trial.states import (
    MAX_FAILED,
    MAX_REASON_CHARS,
    MAX_REASONS,
    TrialRecord,
    TrialState,
    change_states,
    find_states_file,
    read_states,
)
from bootc_fast.types import VerityDigest

if TYPE_CHECKING:
    from pathlib import Path

    from bootc_fast.machine.host import Host

ONE, TWO, THREE = map(VerityDigest, (A, B, SHORT))
NOW = "2026-11-30T06:00:00Z"
GOOD, FAILED = TrialRecord(TrialState.GOOD), TrialRecord(TrialState.FAILED, tries=3, reasons=("no DNS",))


def _put(host: Host, **records: TrialRecord) -> tuple[str, ...]:
    names = {"one": ONE, "two": TWO, "three": THREE}
    new = {names[name]: record for name, record in records.items()}
    return change_states(host, lambda known: {**known, **new}, with_state={ONE, TWO}, time=NOW)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return hosts.make_host(tmp_path / "h")


def test_what_is_written_is_read_and_has_the_documented_form(host: Host) -> None:
    assert read_states(host) == ({}, ())
    assert _put(host, one=GOOD, two=FAILED) == ()
    known, unread = read_states(host)
    assert unread == ()
    assert (known[ONE].state, known[ONE].time, known[ONE].number) == (TrialState.GOOD, NOW, 1)
    assert (known[TWO].tries, known[TWO].reasons, known[TWO].number) == (3, ("no DNS",), 2)
    validate("deployments", json.loads(find_states_file(host).read_bytes()))
    assert os.listdir(find_states_file(host).parent) == ["deployments.json"]


def test_nothing_is_written_where_nothing_changes(host: Host) -> None:
    _put(host, one=GOOD)
    before = find_states_file(host).stat().st_ino
    assert change_states(host, lambda known: known, with_state={ONE}, time="later") == ()
    assert find_states_file(host).stat().st_ino == before


def test_what_is_gone_is_forgotten_unless_it_failed(host: Host) -> None:
    _put(host, one=GOOD, two=GOOD, three=FAILED)
    change_states(host, lambda known: known, with_state={ONE}, time=NOW)
    assert set(read_states(host)[0]) == {ONE, THREE}


def test_of_the_failed_ones_the_newest_fifty_stay_whatever_the_clock_says(host: Host) -> None:
    digests = [VerityDigest(f"{number:064x}") for number in range(MAX_FAILED + 20)]
    for number, digest in enumerate(digests):
        time = f"{2040 - number}-01-01T00:00:00Z"
        change_states(host, lambda known, one=digest: {**known, one: FAILED}, with_state={digests[0]}, time=time)  # type: ignore[misc]
    # What has a state directory is known however old it is.
    assert set(read_states(host)[0]) == {digests[0], *digests[20:]}


def test_what_is_too_long_is_cut(host: Host) -> None:
    _put(host, one=TrialRecord(TrialState.FAILED, reasons=("x" * 10_000,) * 100))
    reasons = read_states(host)[0][ONE].reasons
    assert (len(reasons), {len(one) for one in reasons}) == (MAX_REASONS, {MAX_REASON_CHARS})


UNREADABLE = {
    "empty": b"",
    "cut": b'{"version": 1, "deployments": {"',
    "list": b"[]",
    "null": b"null",
    "no version": b'{"deployments": {}}',
    "newer": b'{"version": 2, "deployments": {}}',
    "version is text": b'{"version": "1", "deployments": {}}',
    "version is true": b'{"version": true, "deployments": {}}',
    "path": b'{"version": 1, "deployments": {"../../etc": {"state": "good", "time": "", "number": 1}}}',
    "state": b'{"version": 1, "deployments": {"%s": {"state": "fine", "time": "", "number": 1}}}' % A.encode(),
    "tries": b'{"version": 1, "deployments": {"%s": {"state": "good", "time": "", "number": 1, "tries": -1}}}'
    % A.encode(),
    "reasons": b'{"version": 1, "deployments": {"%s": {"state": "good", "time": "", "number": 1, "reasons": [1]}}}'
    % A.encode(),
    "not UTF-8": b'{"version": 1, "deployments": {}, "\xff": 1}',
    "deep": b"[" * 100_000,
    "long": b" " * (2 << 20),
}


@pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_is_a_warning_is_kept_aside_and_started_anew(host: Host, data: bytes) -> None:
    path = find_states_file(host)
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    known, warnings = read_states(host)
    assert known == {}
    assert "nothing is known of earlier trials" in warnings[0]
    assert path.read_bytes() == data
    (warning,) = _put(host, one=GOOD)
    aside = path.with_name("deployments.json.unreadable")
    assert f"it is kept as {aside}, and started anew" in warning
    assert aside.read_bytes() == data
    assert read_states(host) == ({ONE: TrialRecord(TrialState.GOOD, NOW, 1)}, ())


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_what_is_no_file_is_kept_aside_as_well(host: Host, kind: str) -> None:
    path = find_states_file(host)
    path.parent.mkdir(parents=True)
    {"directory": path.mkdir, "fifo": lambda: os.mkfifo(path)}[kind]()
    known, warnings = read_states(host)
    assert (known, len(warnings)) == ({}, 1)
    assert "started anew" in _put(host, one=GOOD)[0]
    assert read_states(host)[0][ONE].state is TrialState.GOOD


def test_what_the_disk_does_not_give_is_not_put_aside(host: Host) -> None:
    path = find_states_file(host)
    path.parent.mkdir(parents=True)
    path.symlink_to(path.name)
    known, warnings = read_states(host)
    assert (known, len(warnings)) == ({}, 1)
    with pytest.raises(FileSystemError, match=r"deployments\.json: Too many levels of symbolic links"):
        _put(host, one=GOOD)
    assert path.is_symlink()


RECORDS = st.builds(
    TrialRecord,
    st.sampled_from(TrialState),
    st.text(max_size=30),
    st.integers(0, 1 << 40),
    st.none() | st.integers(0, 1000),
    st.lists(st.text(max_size=20), max_size=MAX_REASONS).map(tuple),
    st.booleans(),
)


@given(st.dictionaries(st.sampled_from([ONE, TWO, THREE]), RECORDS, min_size=1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_records_are_read_as_they_were_written(host: Host, records: dict[VerityDigest, TrialRecord]) -> None:
    change_states(host, lambda _known: records, with_state={ONE, TWO, THREE}, time=NOW)
    known, unread = read_states(host)
    assert unread == ()
    assert {digest: record.reasons for digest, record in known.items()} == {
        digest: record.reasons for digest, record in records.items()
    }
    validate("deployments", json.loads(find_states_file(host).read_bytes()))
    numbers = [record.number for record in known.values()]
    assert len(set(numbers)) == len(numbers)
