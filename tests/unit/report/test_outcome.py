"""outcome.py: the record of the last finalize."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from bootc_fast.errors import BootEntryError, EtcConflictError, FileSystemError, InvalidStateError
from bootc_fast.machine.host import open_host
from bootc_fast.report import finalize
from bootc_fast.report.finalize import (
    RECORD_BYTES,
    ErrorRecord,
    read_outcome,
    recall_finalize,
    record_failure,
    record_outcome,
    reserve_record,
    set_aside,
    write_outcome,
)
from bootc_fast.types import EtcConflict, EtcReport, FinalizeOutcome, Result, Strategy, VerityDigest

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


def _fail_calls(monkeypatch: pytest.MonkeyPatch, *names: str, number: int = errno.ENOSPC) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise OSError(number, os.strerror(number))

    for name in names:
        monkeypatch.setattr(os, name, fail)


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_record_that_cannot_be_made_leaves_the_old_one(
    host: Host, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """One of another size, as older versions wrote it, is replaced atomically."""
    host.make_directory(host.last_finalize.parent)
    host.last_finalize.write_text('{"result": "interrupted", "time": "t"}')
    _fail_calls(monkeypatch, call)
    with pytest.raises(FileSystemError, match="No space left"):
        write_outcome(host, record_outcome(replace(BEGUN, result=Result.DONE)))
    assert json.loads(host.last_finalize.read_text())["result"] == "interrupted"
    assert os.listdir(host.last_finalize.parent) == ["last-finalize.json"]


def test_on_a_full_disk_a_record_is_written_over_the_one_made_beforehand(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve_record(host, None)
    assert read_outcome(host) is None
    before = host.last_finalize.stat()
    # No name, no directory and no block can be had: what is written goes into what is there.
    _fail_calls(monkeypatch, "rename", "mkdir", "fsync")
    for number in range(3):
        record = replace(record_outcome(BEGUN), number=number, errors=(ErrorRecord("e" * (number * 3000)),))
        write_outcome(host, record)
        found = read_outcome(host)
        assert found is not None
        assert found.number == number
    after = host.last_finalize.stat()
    assert (after.st_ino, after.st_size, after.st_blocks) == (before.st_ino, RECORD_BYTES, before.st_blocks)


def test_room_is_made_once_and_keeps_what_is_there(host: Host) -> None:
    host.make_directory(host.last_finalize.parent)
    host.last_finalize.write_text('{"result": "done", "time": "t", "next_boot": "kept.conf"}')
    record = read_outcome(host)
    reserve_record(host, record)
    assert host.last_finalize.stat().st_size == RECORD_BYTES
    inode = host.last_finalize.stat().st_ino
    reserve_record(host, record)
    assert (read_outcome(host), host.last_finalize.stat().st_ino) == (record, inode)


@pytest.mark.parametrize("kind", ["link", "symlink", "directory", "other size"])
def test_only_a_file_of_its_own_is_written_over(host: Host, tmp_path: Path, kind: str) -> None:
    host.make_directory(host.last_finalize.parent)
    other = tmp_path / "sysroot/other"
    other.write_bytes(b"x" * RECORD_BYTES)
    if kind == "link":
        os.link(other, host.last_finalize)
    elif kind == "symlink":
        host.last_finalize.symlink_to(other)
    elif kind == "directory":
        (host.last_finalize / "inside").mkdir(parents=True)
    else:
        host.last_finalize.write_bytes(b"short")
    if kind == "directory":
        with pytest.raises(FileSystemError):
            write_outcome(host, None)
        set_aside(host)
    else:
        write_outcome(host, None)
    assert read_outcome(host) is None
    assert other.read_bytes() == b"x" * RECORD_BYTES


@pytest.mark.parametrize("character", ["a", "\u202e", "\U0001f600", "\udcff"])
def test_whatever_failed_fits_and_says_what_it_is(host: Host, character: str) -> None:
    """A merge with thousands of conflicts, and errors and warnings without end."""
    conflicts = tuple(
        EtcConflict(f"{character * 300}{number}".encode("utf-8", "surrogateescape"), "c", "n", Strategy.FAIL)
        for number in range(3000)
    )
    error = EtcConflictError(character * 100_000, conflicts, hint=character * 100_000)
    group = ExceptionGroup("all", [error, *(BootEntryError(character * 5000) for _ in range(100))])
    warned = replace(BEGUN, warnings=(character * 10_000,) * 500, next_boot=character * 10_000)
    write_outcome(host, record_failure(warned, group))
    assert host.last_finalize.stat().st_size == RECORD_BYTES
    record = read_outcome(host)
    assert record is not None
    assert (record.result, record.exit_code, record.staged) == (Result.FAILED, 7, "b" * 128)
    assert record.errors[0].message
    assert record.errors[0].conflicts[0].startswith(character.encode("utf-8", "surrogateescape"))


@pytest.mark.parametrize("path", [b"ssh/sshd_config", b"odd-\xff", b"two\nlines"])
def test_the_paths_of_conflicts_are_read_as_they_were_written(host: Host, path: bytes) -> None:
    error = EtcConflictError("merging", (EtcConflict(path, "file, changed", "gone", Strategy.FAIL),))
    write_outcome(host, record_failure(BEGUN, error))
    record = read_outcome(host)
    assert record is not None
    assert record.errors[0].conflicts == (path,)


@pytest.mark.parametrize("code", [0, 256, 512, -1, 10**30, True, 3.7, None, "5", [], 1 << 64])
def test_the_exit_code_of_a_failure_is_never_that_of_success(host: Host, code: object) -> None:
    host.make_directory(host.last_finalize.parent)
    host.last_finalize.write_text(json.dumps({"result": "failed", "time": "t", "exit_code": code}))
    record = read_outcome(host)
    assert record is not None
    assert 1 <= record.exit_code <= 255


@pytest.mark.parametrize("version", [2, 99, 10**40])
def test_a_newer_record_is_not_guessed_at(host: Host, version: int) -> None:
    host.make_directory(host.last_finalize.parent)
    host.last_finalize.write_text(json.dumps({"version": version, "result": "done", "time": "t"}))
    with pytest.raises(InvalidStateError, match="newer bootc-fast"):
        read_outcome(host)


def test_finalizes_are_counted_and_know_their_boot_whatever_the_clock_says(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot_id = tmp_path / "proc/sys/kernel/random/boot_id"
    boot_id.parent.mkdir(parents=True)
    for number, time in enumerate(("2038-01-19T03:14:07Z", "1970-01-01T00:00:00Z", "2026-01-01T00:00:00Z"), 1):
        boot_id.write_text(f"boot-{number}\n")
        monkeypatch.setattr(finalize, "now_text", lambda time=time: time)
        write_outcome(host, record_outcome(BEGUN, recall_finalize(host, BEGUN.staged)))
        record = read_outcome(host)
        assert record is not None
        assert (record.number, record.boot_id, record.time) == (number, f"boot-{number}", time)
