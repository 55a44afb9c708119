"""outcome.py: the record of the last finalize."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from bootc_fast.errors import BootEntryError, FileSystemError, InvalidStateError
from bootc_fast.machine.host import open_host
from bootc_fast.report.finalize import read_outcome, record_failure, record_outcome, write_outcome
from bootc_fast.types import EtcReport, FinalizeOutcome, Result, VerityDigest

if TYPE_CHECKING:
    from pathlib import Path

    from bootc_fast.machine.host import Host

BEGUN = FinalizeOutcome(Result.INTERRUPTED, VerityDigest("a" * 128), VerityDigest("b" * 128))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "sysroot/state").mkdir(parents=True)
    return open_host(tmp_path)


def test_a_record_is_read_as_it_was_written(host: Host) -> None:
    outcome = replace(
        BEGUN,
        result=Result.DONE,
        etc=EtcReport(counts={"kept": 3}),
        next_boot="bootc_1.conf",
        warnings=("w\udcff",),
        phase_s={"look": 0.25},
    )
    record = record_outcome(outcome)
    write_outcome(host, record)
    assert read_outcome(host) == record
    assert oct(host.last_finalize.stat().st_mode & 0o777) == "0o644"


def test_a_failure_keeps_message_chain_hint_and_the_highest_exit_code(host: Host) -> None:
    try:
        raise FileSystemError("writing: full", hint="make room") from OSError(errno.ENOSPC, "No space", "/boot")
    except FileSystemError as error:
        group = ExceptionGroup("two", [error, BootEntryError("checking: gone")])
    write_outcome(host, record_failure(BEGUN, group))
    record = read_outcome(host)
    assert record is not None
    assert record.has_failed
    assert record.exit_code == 7
    assert [error.message for error in record.errors] == ["writing: full", "checking: gone"]
    assert (record.errors[0].chain, record.errors[0].hint) == (("/boot: No space",), "make room")


def test_no_record_is_none(host: Host) -> None:
    assert read_outcome(host) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"result": "odd", "time": ""}', "[" * 100_000, '{"result": 1}'])
def test_a_record_that_is_not_ours_is_an_invalid_state(host: Host, text: str) -> None:
    host.make_directory(host.last_finalize.parent)
    host.last_finalize.write_text(text)
    with pytest.raises(InvalidStateError, match="not a record"):
        read_outcome(host)


def test_a_record_that_cannot_be_written_leaves_the_old_one(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    write_outcome(host, record_outcome(BEGUN))

    def no_space(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(FileSystemError, match="No space left"):
        write_outcome(host, record_outcome(replace(BEGUN, result=Result.DONE)))
    assert json.loads(host.last_finalize.read_text())["result"] == "interrupted"
    assert os.listdir(host.last_finalize.parent) == ["last-finalize.json"]
