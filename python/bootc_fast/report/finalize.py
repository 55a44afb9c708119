"""How the last finalize ended, kept on disk: shown by ``status``, and by a unit that fails once after a failure.

The file is made beforehand, when a boot is complete, as large as a record may get; a finalize writes over it in place,
so that a full disk, which is why many of them fail, cannot keep the failure from being told.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from bootc_fast.errors import BootcFastError, EtcConflictError, FileSystemError, InvalidStateError
from bootc_fast.etc.policy import decode_choice, encode_choice
from bootc_fast.records import asdict, dataclass, field, replace
from bootc_fast.text import (
    describe_error,
    dump_json,
    encode_bytes,
    error_chain,
    exit_code_of,
    flatten,
    hint_of,
    reason_of,
)
from bootc_fast.types import Result, Strategy

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from bootc_fast.etc.policy import ConflictChoice
    from bootc_fast.machine.host import Host
    from bootc_fast.types import FinalizeOutcome, VerityDigest

FORMAT_VERSION = 1

RECORD_BYTES = 16 << 10
"""Size of the file: what a failure says, with the names of many conflicts. What does not fit is cut."""

_KEPT = ((64, 2000), (16, 1000), (4, 500), (1, 100))
# How many of each list, and how many characters of each text; the last always fits, escaped too.

_MAX_NAME_CHARS = 200
"""A digest has 128, a time 20: what is longer was not written here."""

_MAX_EXIT_CODE = 255


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """One error as it was told.

    Attributes:
        message: ``<what was being done>: <what went wrong>``.
        chain: What it was raised from, nearest first.
        hint: What can be done about it.
        conflicts: Paths below /etc that the merge could not join.
    """

    message: str
    chain: tuple[str, ...] = ()
    hint: str | None = None
    conflicts: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class OutcomeRecord:
    """The content of ``last-finalize.json``.

    Attributes:
        result: ``done``, ``failed``, or ``interrupted``: written as soon as there is something to do, so it stays
            when the process is killed or the power goes.
        time: Of the end (of the start, while ``interrupted``), ISO 8601 in UTC.
        booted: The deployment that ran.
        staged: The deployment that was to become the default.
        errors: Of a failure, in order.
        exit_code: What the command line exited with.
        counts: Numbers of the merge's report.
        warnings: What did not stop it.
        phase_s: Seconds a phase took.
        next_boot: File name of the entry that the loader takes first, where it was read back.
        reported: The unit at boot has failed with it already, or has seen `staged` run.
        on_conflict: The strategy that was asked for `staged`; the next run takes it again.
        committed: When an earlier run had made `staged` the next boot, ISO 8601; None where none had.
        withdrawn: Another deployment was chosen since: by a rollback, or by a boot loader that gave up on this one.
        boot_id: The kernel's name of the boot in which it ran.
        number: Counts the finalizes of this host: their order, whatever the clock says.
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
    on_conflict: Strategy | ConflictChoice | None = None
    committed: str | None = None
    withdrawn: bool = False
    boot_id: str | None = None
    number: int = 0

    @property
    def has_failed(self) -> bool:
        """It did not come to its end."""
        return self.result in {Result.FAILED, Result.INTERRUPTED}


@dataclass(frozen=True, slots=True)
class Recall:
    """What a finalize knows of those before it.

    Attributes:
        previous: The record of the last one; None where there is none that can be read.
        on_conflict: The strategy to take: the one asked for now, else the one asked for this deployment before.
        committed: When an earlier run made this deployment the next boot; None where none did.
        boot_id: The kernel's name of this boot.
        number: Of this finalize.
    """

    previous: OutcomeRecord | None = None
    on_conflict: Strategy | ConflictChoice | None = None
    committed: str | None = None
    boot_id: str | None = None
    number: int = 1


def recall_finalize(
    host: Host, staged: VerityDigest | None, on_conflict: Strategy | ConflictChoice | None = None
) -> Recall:
    """Look what earlier finalizes left for this one; blocks, never raises.

    Args:
        host: Where.
        staged: What is to be finalized; what was noted of another deployment does not count.
        on_conflict: Asked for now.
    """
    try:
        previous = read_outcome(host)
    except (BootcFastError, OSError):
        # It is told when a boot is complete, and moved aside there.
        previous = None
    boot_id = read_boot_id(host)
    if previous is None or previous.staged != staged or staged is None:
        return Recall(previous, on_conflict, None, boot_id, _next_number(previous))
    committed = previous.time if previous.result is Result.DONE else previous.committed
    return Recall(
        previous,
        previous.on_conflict if on_conflict is None else on_conflict,
        None if previous.withdrawn else committed,
        boot_id,
        _next_number(previous),
    )


def _next_number(previous: OutcomeRecord | None) -> int:
    return 1 if previous is None else previous.number + 1


def read_boot_id(host: Host) -> str | None:
    """Read the kernel's name of this boot; None where it has none, as in most directories laid out like a host."""
    try:
        return host.read_bytes(host.boot_id, max_bytes=64).decode("ascii").strip() or None
    except (OSError, InvalidStateError, UnicodeDecodeError):
        return None


def now_text() -> str:
    """The time, as it stands in records: ISO 8601, UTC, whole seconds."""
    from datetime import UTC, datetime

    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def record_outcome(outcome: FinalizeOutcome, recall: Recall = Recall()) -> OutcomeRecord:
    """Make the record of a finalize that ended, or of one that begins (``interrupted``)."""
    return OutcomeRecord(
        result=outcome.result,
        time=now_text(),
        booted=outcome.booted,
        staged=outcome.staged,
        counts=dict(outcome.etc.counts) if outcome.etc else {},
        warnings=outcome.warnings,
        phase_s={name: round(seconds, 6) for name, seconds in outcome.phase_s.items()},
        next_boot=outcome.next_boot,
        on_conflict=recall.on_conflict,
        committed=recall.committed,
        boot_id=recall.boot_id,
        number=recall.number,
    )


def record_failure(
    outcome: FinalizeOutcome,
    error: BaseException,
    recall: Recall = Recall(),
) -> OutcomeRecord:
    """Make the record of a finalize that `error` ended; `outcome` is what was known by then."""
    leaves = flatten(error)
    errors = tuple(
        ErrorRecord(
            message=describe_error(leaf),
            chain=tuple(error_chain(leaf)),
            hint=hint_of(leaf),
            conflicts=tuple(one.path for one in leaf.conflicts) if isinstance(leaf, EtcConflictError) else (),
        )
        for leaf in leaves
    )
    made = record_outcome(replace(outcome, result=Result.FAILED), recall)
    return replace(made, errors=errors, exit_code=exit_code_of(error))


def encode_record(record: OutcomeRecord | None) -> bytes:
    """Encode a record, or that there is none, as JSON of `RECORD_BYTES` bytes: what is left is blank."""
    for keep, characters in _KEPT:
        cut = record if record is None else _cut(record, keep, characters)
        text = dump_json(_plain(cut)).encode()
        if len(text) < RECORD_BYTES - 1:
            break
    return text + b"\n" + b" " * (RECORD_BYTES - len(text) - 2) + b"\n"


def _plain(record: OutcomeRecord | None) -> dict[str, Any]:
    if record is None:
        return {"version": FORMAT_VERSION, "result": None}
    plain = {"version": FORMAT_VERSION, **asdict(record), "on_conflict": encode_choice(record.on_conflict)}
    for error in plain["errors"]:
        error["conflicts"] = [encode_bytes(path) for path in error["conflicts"]]
    return plain


def _cut(record: OutcomeRecord, keep: int, characters: int) -> OutcomeRecord:
    """Keep so much of every list and text; what a whole record is known by stays."""

    def shorten(text: str, most: int = characters) -> str:
        return text if len(text) <= most else f"{text[:most]}…"

    def name(text: str | None) -> str | None:
        return None if text is None else shorten(text, _MAX_NAME_CHARS)

    errors = tuple(
        ErrorRecord(
            shorten(error.message),
            tuple(shorten(text) for text in error.chain[:keep]),
            shorten(error.hint) if error.hint else None,
            tuple(path[:characters] for path in error.conflicts[:keep]),
        )
        for error in record.errors[:keep]
    )
    return replace(
        record,
        time=shorten(record.time, _MAX_NAME_CHARS),
        booted=name(record.booted),
        staged=name(record.staged),
        committed=name(record.committed),
        boot_id=name(record.boot_id),
        errors=errors,
        warnings=tuple(shorten(text) for text in record.warnings[:keep]),
        counts={shorten(key): value for key, value in list(record.counts.items())[:keep]},
        phase_s={shorten(key): value for key, value in list(record.phase_s.items())[:keep]},
        next_boot=name(record.next_boot),
    )


def write_outcome(host: Host, record: OutcomeRecord | None) -> None:
    """Replace the record on disk, flushed: over the file in place where it was made beforehand, else anew.

    Args:
        host: Where.
        record: None makes room for one.

    Raises:
        FileSystemError: It could not be written.

    Source:
        Spec commands.md, "composefs-finalize-staged".
    """
    data = encode_record(record)
    with suppress(OSError):
        if host.overwrite_file(host.last_finalize, data):
            return
    try:
        # Under a staged name: only a missing directory is worth the extra system calls.
        if host.find_status(host.last_finalize.parent) is None:
            host.make_directory(host.last_finalize.parent)
    except OSError as error:
        raise FileSystemError(f"writing {host.last_finalize}: {reason_of(error)}") from error
    host.write_file(host.last_finalize, data)


def reserve_record(host: Host, record: OutcomeRecord | None) -> None:
    """Make the file of the record as large as one may get, where it is not; blocks.

    Raises:
        FileSystemError: It could not be made.
    """
    try:
        found = host.find_status(host.last_finalize, follow=False)
    except OSError:
        found = None
    if found is None or found.st_size != RECORD_BYTES:
        write_outcome(host, record)


def note_withdrawn(host: Host, target: VerityDigest) -> None:
    """Note that a rollback chose what boots next, so that nobody misses what was finalized before; blocks.

    Raises:
        FileSystemError: It could not be written.
    """
    record = recall_finalize(host, None).previous
    if record is not None and record.staged is not None:
        write_outcome(host, replace(record, withdrawn=record.staged != target))


def note_given_up(host: Host, failed: Collection[VerityDigest]) -> None:
    """Note that the boot loader gave up on what was finalized: it does not boot next any more; blocks.

    Raises:
        FileSystemError: It could not be written.
    """
    record = recall_finalize(host, None).previous
    if record is not None and record.staged in failed and not record.withdrawn:
        write_outcome(host, replace(record, withdrawn=True))


def set_aside(host: Host) -> str:
    """Move a record that cannot be read out of the way, and make room for the next; returns its new name; blocks.

    Raises:
        FileSystemError: It stays where it is.
    """
    moved = host.move_file(host.last_finalize, f"{host.last_finalize.name}.unreadable")
    write_outcome(host, None)
    return str(moved)


def read_outcome(host: Host) -> OutcomeRecord | None:
    """Read the record; None where there is none.

    Raises:
        InvalidStateError: It is none of ours, or of a newer bootc-fast.
        FileSystemError: It is there and cannot be read.
    """
    try:
        data = host.read_bytes(host.last_finalize)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FileSystemError(f"reading {host.last_finalize}: {reason_of(error)}") from error
    try:
        value = json.loads(data)
        version = value.get("version", FORMAT_VERSION)
        if isinstance(version, int) and version > FORMAT_VERSION:
            message = f"it was written by a newer bootc-fast: format {version}, this one knows {FORMAT_VERSION}"
            raise InvalidStateError(f"reading {host.last_finalize}: {message}")
        return None if value.get("result", "") is None else _parse_record(value)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise InvalidStateError(f"reading {host.last_finalize}: it is not a record of bootc-fast") from error


def _parse_record(value: dict[str, Any]) -> OutcomeRecord:
    result = Result(value["result"])
    return OutcomeRecord(
        result=result,
        time=str(value["time"]),
        booted=_text_or_none(value.get("booted")),
        staged=_text_or_none(value.get("staged")),
        errors=tuple(map(_parse_error, value.get("errors", ()))),
        exit_code=_exit_code(value.get("exit_code", 0), has_failed=result is Result.FAILED),
        counts={str(name): int(count) for name, count in value.get("counts", {}).items()},
        warnings=tuple(map(str, value.get("warnings", ()))),
        phase_s={str(name): float(seconds) for name, seconds in value.get("phase_s", {}).items()},
        next_boot=_text_or_none(value.get("next_boot")),
        reported=bool(value.get("reported", False)),
        on_conflict=decode_choice(value.get("on_conflict")),
        committed=_text_or_none(value.get("committed")),
        withdrawn=bool(value.get("withdrawn", False)),
        boot_id=_text_or_none(value.get("boot_id")),
        number=int(value.get("number", 0)),
    )


def _parse_error(value: dict[str, Any]) -> ErrorRecord:
    return ErrorRecord(
        str(value["message"]),
        tuple(map(str, value.get("chain", ()))),
        _text_or_none(value.get("hint")),
        tuple(map(_decode_bytes, value.get("conflicts", ()))),
    )


def _decode_bytes(value: str | dict[str, str]) -> bytes:
    """The inverse of ``text.encode_bytes``."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    import base64

    return base64.b64decode(value["base64"], validate=True)


def _exit_code(value: object, *, has_failed: bool) -> int:
    """A code that a process can exit with: of one that is none the kernel keeps 8 bits, and 256 would be success."""
    code = int(value) if isinstance(value, int | float | str) else 0
    if 0 < code <= _MAX_EXIT_CODE:
        return code
    return 1 if has_failed or code else 0


def _text_or_none(value: object) -> str | None:
    return None if value is None else str(value)
