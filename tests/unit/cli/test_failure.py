"""cli/failure.py: errors as text and exit codes."""

from __future__ import annotations

import errno
import os

import pytest

from bootc_fast.cli.failure import escape, exit_code_of, render_error
from bootc_fast.errors import BootEntryError, EtcConflictError, FileSystemError, InvalidStateError, UsageError
from bootc_fast.text import describe_error, explain_failure, flatten, reason_of
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
    assert "  conflict: /etc/a\\n\\xff: here file, changed; new image now a directory\n" in text


def test_an_os_error_exits_as_a_file_system_error_and_a_defect_as_unexpected() -> None:
    assert exit_code_of(OSError(errno.EIO, "I/O error")) == 6
    assert exit_code_of(ZeroDivisionError("x")) == 1
    assert "hint: this looks like a defect" in render_error(ZeroDivisionError("x"))
    assert exit_code_of(UsageError("x")) == 2


def test_control_characters_and_bytes_that_are_not_text_are_escaped() -> None:
    assert escape("a\x1b[31m\n\udcff é") == "a\\x1b[31m\\n\\xff é"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (OSError(errno.EIO, "Input/output error", ""), "Input/output error"),
        (OSError(errno.EIO, None), "Input/output error"),
        (OSError("6 bytes are needed"), "6 bytes are needed"),
        (OSError(), "OSError"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_a_system_calls_failure_always_has_a_reason(error: OSError, text: str) -> None:
    assert reason_of(error) == text
    assert describe_error(error) == text


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS], ids=errno.errorcode.__getitem__)
def test_what_a_disk_says_comes_with_a_hint_however_deep_it_lies(number: int) -> None:
    cause = OSError(number, os.strerror(number), "/boot/x")
    for error in (cause, FileSystemError("writing x: it failed"), BootEntryError("reading x: it failed")):
        raised = error if error is cause else _raised(error, cause)
        assert render_error(raised).splitlines()[-1].startswith("hint: ")
        assert exit_code_of(raised) in (6, 7)
    assert render_error(_raised(FileSystemError("a: b", hint="mine"), cause)).endswith("hint: mine\n")


def test_a_failure_says_what_was_being_done_also_in_a_group() -> None:
    cause = OSError(errno.EIO, "Input/output error", b"grub2")
    made = explain_failure("reading boot entries", cause)
    assert isinstance(made, FileSystemError)
    assert (str(made), made.__cause__) == ("reading boot entries: grub2: Input/output error", cause)
    mine = InvalidStateError("c: d")
    assert explain_failure("x", mine) is mine
    group = explain_failure("x", ExceptionGroup("g", [cause, ExceptionGroup("h", [mine])]))
    assert [str(leaf) for leaf in flatten(group)] == ["x: grub2: Input/output error", "c: d"]
    late = TimeoutError()
    assert explain_failure("x", late) is late


def test_a_descriptor_is_no_name_of_a_file() -> None:
    assert render_error(OSError(5, "Input/output error", 19)).startswith("error: Input/output error\n")
