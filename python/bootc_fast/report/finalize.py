"""How the last finalize ended, kept on disk: shown by ``status``, and by a unit that fails once after a failure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bootc_fast.errors import FileSystemError, InvalidStateError
from bootc_fast.text import describe_error, dump_json, error_chain, exit_code_of, flatten, hint_of, reason_of
from bootc_fast.types import Result

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bootc_fast.machine.host import Host
    from bootc_fast.types import FinalizeOutcome

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """One error as it was told.

    Attributes:
        message: ``<what was being done>: <what went wrong>``.
        chain: What it was raised from, nearest first.
        hint: What can be done about it.
    """

    message: str
    chain: tuple[str, ...] = ()
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class OutcomeRecord:
    """The content of ``last-finalize.json``.

    Attributes:
        result: ``done``, ``failed``, or ``interrupted``: written before the first change, so it stays when the
            process is killed or the power goes.
        time: Of the end (of the start, while ``interrupted``), ISO 8601 in UTC.
        booted: The deployment that ran.
        staged: The deployment that was to become the default.
        errors: Of a failure, in order.
        exit_code: What the command line exited with.
        counts: Numbers of the merge's report.
        warnings: What did not stop it.
        phase_s: Seconds a phase took.
        next_boot: File name of the entry that the loader takes first, where it was read back.
        reported: The unit at boot has failed with it already.
    """

    result: Result
    time: str
    booted: str | None = None
    staged: str | None = None
    errors: tuple[ErrorRecord, ...] = ()
    exit_code: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    phase_s: Mapping[str, float] = field(default_factory=dict)
    next_boot: str | None = None
    reported: bool = False

    @property
    def has_failed(self) -> bool:
        """It did not come to its end."""
        return self.result in {Result.FAILED, Result.INTERRUPTED}


def now_text() -> str:
    """The time, as it stands in records: ISO 8601, UTC, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def record_outcome(outcome: FinalizeOutcome) -> OutcomeRecord:
    """Make the record of a finalize that ended, or of one that begins to write (``interrupted``)."""
    return OutcomeRecord(
        result=outcome.result,
        time=now_text(),
        booted=outcome.booted,
        staged=outcome.staged,
        counts=dict(outcome.etc.counts) if outcome.etc else {},
        warnings=outcome.warnings,
        phase_s={name: round(seconds, 6) for name, seconds in outcome.phase_s.items()},
        next_boot=outcome.next_boot,
    )


def record_failure(outcome: FinalizeOutcome, error: BaseException) -> OutcomeRecord:
    """Make the record of a finalize that `error` ended; `outcome` is what was known by then."""
    leaves = flatten(error)
    errors = tuple(
        ErrorRecord(
            message=describe_error(leaf),
            chain=tuple(error_chain(leaf)),
            hint=hint_of(leaf),
        )
        for leaf in leaves
    )
    made = record_outcome(replace(outcome, result=Result.FAILED))
    return replace(made, errors=errors, exit_code=exit_code_of(error))


def write_outcome(host: Host, record: OutcomeRecord) -> None:
    """Replace the record on disk, atomically and flushed.

    Raises:
        FileSystemError: It could not be written; the old one is still there.

    Source:
        Spec commands.md, "composefs-finalize-staged".
    """
    # Under a staged name: only a missing directory is worth the extra system calls.
    if host.find_status(host.last_finalize.parent) is None:
        host.make_directory(host.last_finalize.parent)
    text = dump_json({"version": FORMAT_VERSION, **asdict(record)})
    host.write_file(host.last_finalize, f"{text}\n".encode())


def read_outcome(host: Host) -> OutcomeRecord | None:
    """Read the record; None where there is none.

    Raises:
        InvalidStateError: It is none of ours.
        FileSystemError: It is there and cannot be read.
    """
    try:
        data = host.read_bytes(host.last_finalize)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FileSystemError(f"reading {host.last_finalize}: {reason_of(error)}") from error
    try:
        return _parse_record(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidStateError(f"reading {host.last_finalize}: it is not a record of bootc-fast") from error


def _parse_record(value: dict[str, Any]) -> OutcomeRecord:
    return OutcomeRecord(
        result=Result(value["result"]),
        time=str(value["time"]),
        booted=_text_or_none(value.get("booted")),
        staged=_text_or_none(value.get("staged")),
        errors=tuple(
            ErrorRecord(str(each["message"]), tuple(map(str, each.get("chain", ()))), _text_or_none(each.get("hint")))
            for each in value.get("errors", ())
        ),
        exit_code=int(value.get("exit_code", 0)),
        counts={str(name): int(count) for name, count in value.get("counts", {}).items()},
        warnings=tuple(map(str, value.get("warnings", ()))),
        phase_s={str(name): float(seconds) for name, seconds in value.get("phase_s", {}).items()},
        next_boot=_text_or_none(value.get("next_boot")),
        reported=bool(value.get("reported", False)),
    )


def _text_or_none(value: object) -> str | None:
    return None if value is None else str(value)
