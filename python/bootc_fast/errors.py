"""The package's one exception tree; raised from Python and, by ``import_exception!``, from Rust.

Every class carries its exit code (spec commands.md, "Exit codes") and may carry a hint. Bugs stay builtins.
"""

from __future__ import annotations

import copyreg

# Not from typing: importing that takes a tenth of the whole start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from bootc_fast.types import EtcConflict

EXIT_CODES = {
    0: "done, or nothing to do",
    1: "unexpected: a defect",
    2: "wrong usage",
    3: "not a bootc host",
    4: "no rollback target",
    5: "conflicts in /etc",
    6: "the file system refused",
    7: "boot entries",
    8: "too slow, cancelled or locked",
    9: "a soft reboot is not possible",
    10: "invalid state or policy",
    11: "verification failed",
    12: "failed its trial or health checks",
}
"""What each exit code of the command means: for --help and the man pages. Errors carry theirs in their class."""


class BootcFastError(Exception):
    """Base of all errors that a caller may expect.

    Args:
        message: What was being done and what went wrong, one line.
        hint: What the reader can do about it, if anything.
    """

    exit_code: int = 1

    def __init__(self, message: str = "", *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint: str | None = hint

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle and copy without asking ``__init__``, whose arguments differ from class to class.

        Attributes, hint and notes go along, and so does what it was raised from where that is sure to pickle: an
        error of the package or an OSError.
        """
        state: dict[str, object] = dict(self.__dict__)
        if isinstance(self.__cause__, BootcFastError | OSError):
            state["__cause__"] = self.__cause__
        return copyreg.__newobj__, (type(self), *self.args), state  # type: ignore[attr-defined]


class UsageError(BootcFastError):
    """The request contradicts itself or names something that is not there."""

    exit_code = 2


class NotBootcHostError(BootcFastError):
    """This machine was not installed by bootc, or with a back end we do not know."""

    exit_code = 3


class NoRollbackTargetError(BootcFastError):
    """There is no other deployment to go back to."""

    exit_code = 4


class EtcConflictError(BootcFastError):
    """The merge found conflicts whose strategy is ``fail``; nothing was written."""

    exit_code = 5

    def __init__(self, message: str, conflicts: tuple[EtcConflict, ...], *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.conflicts = conflicts


class FileSystemError(BootcFastError):
    """A file system refused: no space, read-only, I/O error; ``__cause__`` is the OSError."""

    exit_code = 6


class ImageFormatError(FileSystemError):
    """Not an EROFS image that we can walk: corrupt, truncated or using an unsupported feature.

    Args:
        message: What is wrong and where.
        offset: Byte offset in the image; -1 where no single one is to blame.
    """

    def __init__(self, message: str, offset: int = -1, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.offset = offset


class ImageReadError(ImageFormatError):
    """A part of an image cannot be read: a bad sector, or the file is shorter than the image.

    ``offset`` is the first byte that is missing; ``__cause__`` is the OSError where a read failed.
    """

    exit_code = 11


class LimitExceededError(ImageFormatError):
    """Input passes one of the named limits of ``rust/core/src/limits.rs``."""

    def __init__(self, message: str, limit_name: str, limit: int, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.limit_name = limit_name
        self.limit = limit


class FatFormatError(FileSystemError):
    """Not a FAT file system that we can walk: another one, corrupt or truncated.

    Args:
        message: What is wrong and where.
        offset: Byte offset on the volume; -1 where no single one is to blame.
    """

    def __init__(self, message: str, offset: int = -1, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.offset = offset


class CommandError(FileSystemError):
    """A system tool failed.

    Args:
        message: What it was run for.
        argv: The command.
        returncode: Its exit status; negative for a signal.
        stderr_tail: The last lines it wrote.
    """

    def __init__(
        self,
        message: str,
        argv: tuple[str, ...],
        returncode: int,
        stderr_tail: str,
        *,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.argv = argv
        self.returncode = returncode
        self.stderr_tail = stderr_tail


class MountError(FileSystemError):
    """Mounting failed; ``__cause__`` is the OSError."""


class EspError(FileSystemError):
    """The EFI system partition is missing, ambiguous or cannot be used."""


class BootEntryError(BootcFastError):
    """Boot entries are missing, do not name what they must, or did not become what was wanted."""

    exit_code = 7


class StepTimeoutError(BootcFastError):
    """A step took longer than it may.

    Args:
        message: Which step, and how long.
        step: Its name, as in events.
        timeout_s: What it was given, in seconds.
    """

    exit_code = 8

    def __init__(self, message: str, step: str, timeout_s: float, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.step = step
        self.timeout_s = timeout_s


class LockedError(BootcFastError):
    """Another process holds the lock; the message names it."""

    exit_code = 8


class CancelledByUserError(BootcFastError):
    """SIGINT or SIGTERM; raised by the command line only, a library caller sees its own cancellation."""

    exit_code = 8


class SoftRebootError(BootcFastError):
    """The asked-for way to restart is not possible here; nothing was changed."""

    exit_code = 9


class InvalidStateError(BootcFastError):
    """Marker, origin, command line, image or state directory: missing or malformed."""

    exit_code = 10


class VerityMismatchError(BootcFastError):
    """A file is not what its digest says.

    Args:
        message: What was checked.
        path: The file, as a path for people.
        expected: Hex digest.
        found: Hex digest.
    """

    exit_code = 11

    def __init__(self, message: str, path: str, expected: str, found: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.path = path
        self.expected = expected
        self.found = found


class TrialFailedError(BootcFastError):
    """The deployment failed its trial boots and is not taken again unless that is asked for."""

    exit_code = 12


class SignatureError(BootcFastError):
    """Secure Boot is on and the firmware would refuse this UKI."""

    exit_code = 11


def code_of(error: BaseException) -> int:
    """Return the exit code of an error of ours or of a system call, of a group the highest; 1 of anything else."""
    if isinstance(error, BootcFastError):
        return error.exit_code
    if isinstance(error, BaseExceptionGroup):
        return max(code_of(one) for one in error.exceptions)
    return FileSystemError.exit_code if isinstance(error, OSError) else BootcFastError.exit_code


class BootcFastErrorGroup(BootcFastError, ExceptionGroup[Exception]):  # noqa: N818 named as ExceptionGroup is
    """Several failures of steps that ran at once; caught as the package's error and, by ``except*``, as a group.

    Args:
        message: What was being done.
        exceptions: The failures, one or more; the highest of their exit codes is the group's.
    """

    def __new__(cls, message: str, exceptions: Sequence[Exception]) -> BootcFastErrorGroup:  # noqa: PYI034
        """Make the group."""
        return ExceptionGroup.__new__(cls, message, exceptions)

    def __init__(self, message: str, exceptions: Sequence[Exception]) -> None:
        super(BootcFastError, self).__init__(message, exceptions)
        self.hint: str | None = None
        self.exit_code: int = max(map(code_of, exceptions))

    def derive(self, excs: Sequence[Exception]) -> BootcFastErrorGroup:  # type: ignore[override]
        """Make the group of a part of these, as ``split`` and ``except*`` do."""
        return BootcFastErrorGroup(self.message, excs)
