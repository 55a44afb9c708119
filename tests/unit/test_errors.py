"""errors.py: the exit codes of the specification."""

from __future__ import annotations

import pytest

from bootc_fast import errors


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("BootcFastError", 1),
        ("UsageError", 2),
        ("NotBootcHostError", 3),
        ("NoRollbackTargetError", 4),
        ("EtcConflictError", 5),
        ("ImageFormatError", 6),
        ("FatFormatError", 6),
        ("MountError", 6),
        ("EspError", 6),
        ("BootEntryError", 7),
        ("StepTimeoutError", 8),
        ("LockedError", 8),
        ("SoftRebootError", 9),
        ("InvalidStateError", 10),
        ("VerityMismatchError", 11),
        ("SignatureError", 11),
    ],
)
def test_every_error_class_has_the_exit_code_of_the_specification(name: str, code: int) -> None:
    assert getattr(errors, name).exit_code == code
