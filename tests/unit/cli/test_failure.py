"""cli/failure.py: errors as text and exit codes."""

from __future__ import annotations

import errno

from bootc_fast.cli.failure import escape, exit_code_of, render_error
from bootc_fast.errors import BootEntryError, EtcConflictError, FileSystemError, InvalidStateError, UsageError
from bootc_fast.types import EtcConflict, Strategy


def _raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:  # noqa: BLE001
        return caught


def test_an_error_prints_its_message_then_its_chain_then_its_hint() -> None:
    cause = OSError(errno.ENOSPC, "No space left on device", "/boot/x")
    error = _raised(FileSystemError("writing boot entries: the ESP is full", hint="remove old kernels"), cause)
    assert render_error(error) == (
        "error: writing boot entries: the ESP is full\n"
        "  caused by: /boot/x: No space left on device\n"
        "hint: remove old kernels\n"
    )


def test_a_cause_that_the_message_already_tells_is_not_told_twice() -> None:
    cause = OSError(errno.ENOSPC, "No space left on device")
    assert "caused by" not in render_error(_raised(FileSystemError("syncing /etc: No space left on device"), cause))


def test_a_traceback_is_printed_with_vv_only() -> None:
    error = _raised(InvalidStateError("reading the marker: it is empty"))
    assert "Traceback" not in render_error(error, verbosity=1)
    assert "Traceback" in render_error(error, verbosity=2)


def test_a_group_prints_each_error_and_exits_with_the_highest_code() -> None:
    group = ExceptionGroup("look", [BootEntryError("a: b"), ExceptionGroup("in", [InvalidStateError("c: d")])])
    assert render_error(group) == "error: a: b\nerror: c: d\n"
    assert exit_code_of(group) == 10


def test_every_conflict_is_listed_with_both_sides() -> None:
    conflict = EtcConflict(b"a\n\xff", "file, changed", "now a directory", Strategy.FAIL)
    text = render_error(EtcConflictError("merging /etc: 1 conflict", (conflict,)))
    assert "  conflict: a\\n\\xff: here file, changed; new image now a directory\n" in text


def test_an_os_error_exits_as_a_file_system_error_and_a_defect_as_unexpected() -> None:
    assert exit_code_of(OSError(errno.EIO, "I/O error")) == 6
    assert exit_code_of(ZeroDivisionError("x")) == 1
    assert "hint: this looks like a defect" in render_error(ZeroDivisionError("x"))
    assert exit_code_of(UsageError("x")) == 2


def test_control_characters_and_bytes_that_are_not_text_are_escaped() -> None:
    assert escape("a\x1b[31m\n\udcff é") == "a\\x1b[31m\\n\\xff é"


def test_a_descriptor_is_no_name_of_a_file() -> None:
    assert render_error(OSError(5, "Input/output error", 19)) == "error: Input/output error\n"
