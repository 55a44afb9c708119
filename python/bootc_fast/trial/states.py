"""The states of deployments, by digest, in ``/sysroot/state/bootc-fast/deployments.json`` (docs/trial.md).

A digest whose state directory is gone is forgotten, except where it failed: it has to be known when it comes again.

Source:
    Spec trial.md, "States, per deployment digest".
"""

from __future__ import annotations

import enum
import json
from typing import TYPE_CHECKING, Any

from bootc_fast.boot.counting.records import CountMethod
from bootc_fast.errors import FileSystemError, InvalidStateError
from bootc_fast.machine.cmdline import parse_digest
from bootc_fast.records import dataclass, replace
from bootc_fast.text import dump_json, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from bootc_fast.machine.host import Host
    from bootc_fast.types import VerityDigest

FORMAT_VERSION = 1
MAX_FAILED = 50
"""Failed deployments that are remembered without a state directory, the newest."""
MAX_STATES_BYTES = 1 << 20
MAX_REASONS = 8
MAX_REASON_CHARS = 500
_MAX_TRIES = 1 << 31


class TrialState(enum.StrEnum):
    """What is known of a deployment."""

    NEW = "new"
    TRIAL = "trial"
    GOOD = "good"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """What is known of one deployment.

    Attributes:
        state: ``new`` (staged), ``trial`` (finalized, not proven yet), ``good``, or ``failed``.
        time: Since when, ISO 8601 in UTC; for people, since clocks jump.
        number: Counts the changes of this host: their order, whatever the clock says.
        tries: How often it was booted until it failed; None where that is not known.
        reasons: Why it failed, in words, on trial too: one for each try that left one; n ≤ ``MAX_REASONS``.
        is_forgiven: Its failure was forgotten, so that a boot counter at its end does not count any more.
        method: How its boots are counted (``CountMethod``); None where they are not, or that is not known.
        allowed: How often it is tried at most; None where its boots are not counted.
    """

    state: TrialState
    time: str = ""
    number: int = 0
    tries: int | None = None
    reasons: tuple[str, ...] = ()
    is_forgiven: bool = False
    method: CountMethod | None = None
    allowed: int | None = None


States = dict["VerityDigest", TrialRecord]


def find_states_file(host: Host) -> Path:
    """Where they are."""
    return host.last_finalize.parent / "deployments.json"


def read_states(host: Host) -> tuple[States, tuple[str, ...]]:
    """Read all that is known; blocks, writes nothing, never raises.

    Returns:
        The states, and a warning where they cannot be read: nothing is known then.
    """
    try:
        return _read(host), ()
    except (InvalidStateError, FileSystemError) as error:
        return {}, (f"{error}: nothing is known of earlier trials",)


def change_states(
    host: Host,
    change: Callable[[Mapping[VerityDigest, TrialRecord]], Mapping[VerityDigest, TrialRecord]],
    *,
    with_state: Collection[VerityDigest],
    time: str,
) -> tuple[str, ...]:
    """Change what is known, atomically and flushed; blocks. Nothing is written where nothing changes.

    What cannot be read, or is of a newer version, is kept aside under another name, and all starts anew.

    Args:
        host: Whose; its lock is held, its /sysroot writable.
        change: Gets what is known, gives what is to be; a record that it makes or changes gets number and time here,
            the time where its state is another one than before.
        with_state: Deployments that have a state directory: of others only failed ones are remembered.
        time: Now, as it is to stand there.

    Returns:
        A warning, where it was started anew.

    Raises:
        FileSystemError: It could not be written; what was known still is.
    """
    path = find_states_file(host)
    warnings: tuple[str, ...] = ()
    try:
        before = _read(host)
    except InvalidStateError as error:
        moved = host.move_file(path, f"{path.name}.unreadable")
        before, warnings = {}, (f"{error}: it is kept as {moved}, and started anew",)
    number = 1 + max((record.number for record in before.values()), default=0)
    after: States = {}
    for digest, record in change(dict(before)).items():
        known = before.get(digest)
        is_same = known == record
        since = known.time if known is not None and known.state is record.state else time
        after[digest] = record if is_same else replace(_shorten(record), time=since, number=number)
        number += not is_same
    after = _prune(after, with_state)
    if after != before or warnings:
        _write(host, path, after)
    return warnings


def _shorten(record: TrialRecord) -> TrialRecord:
    def cut(text: str) -> str:
        return text if len(text) <= MAX_REASON_CHARS else f"{text[: MAX_REASON_CHARS - 1]}…"

    return replace(record, reasons=tuple(map(cut, record.reasons[-MAX_REASONS:])))


def _prune(states: States, with_state: Collection[VerityDigest]) -> States:
    failed = [digest for digest, record in states.items() if record.state is TrialState.FAILED]
    newest = sorted(failed, key=lambda digest: states[digest].number, reverse=True)[:MAX_FAILED]
    kept = {*with_state, *newest}
    return {digest: record for digest, record in states.items() if digest in kept}


def _write(host: Host, path: Path, states: Mapping[VerityDigest, TrialRecord]) -> None:
    document = {
        "version": FORMAT_VERSION,
        "deployments": {
            digest: {
                "state": record.state.value,
                "time": record.time,
                "number": record.number,
                "tries": record.tries,
                "reasons": list(record.reasons),
                "is_forgiven": record.is_forgiven,
                "method": record.method,
                "allowed": record.allowed,
            }
            for digest, record in sorted(states.items(), key=lambda item: item[1].number)
        },
    }
    try:
        if host.find_status(path.parent) is None:
            host.make_directory(path.parent)
    except OSError as error:
        raise FileSystemError(f"writing {path}: {reason_of(error)}") from error
    host.write_file(path, f"{dump_json(document)}\n".encode())


def _read(host: Host) -> States:
    """Read the file; an absent one knows nothing.

    Raises:
        InvalidStateError: It cannot be understood, or is of a newer version.
        FileSystemError: It cannot be read.
    """
    path = find_states_file(host)
    what = f"reading {path}"
    try:
        data = host.read_bytes(path, max_bytes=MAX_STATES_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise FileSystemError(f"{what}: {reason_of(error)}") from error
    try:
        value = json.loads(data)
        version = value["version"]
        if type(version) is not int:
            raise TypeError(version)
        if version > FORMAT_VERSION:
            message = f"it was written by a newer bootc-fast: format {version}, this one knows {FORMAT_VERSION}"
            raise InvalidStateError(f"{what}: {message}")
        if version != FORMAT_VERSION:
            raise ValueError(version)
        return {parse_digest(key, what=what): _parse(one) for key, one in value["deployments"].items()}
    except InvalidStateError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise InvalidStateError(f"{what}: it is not what bootc-fast writes there") from error


def _parse(value: dict[str, Any]) -> TrialRecord:
    tries, reasons = value.get("tries"), value.get("reasons", [])
    number, time = value["number"], value["time"]
    is_forgiven = value.get("is_forgiven", False)
    method, allowed = value.get("method"), value.get("allowed")
    if not (
        isinstance(number, int)
        and isinstance(time, str)
        and isinstance(is_forgiven, bool)
        and all(one is None or (isinstance(one, int) and 0 <= one < _MAX_TRIES) for one in (tries, allowed))
        and isinstance(reasons, list)
        and all(isinstance(one, str) for one in reasons)
    ):
        raise TypeError
    counted = None if method is None else CountMethod(method)
    return TrialRecord(TrialState(value["state"]), time, number, tries, tuple(reasons), is_forgiven, counted, allowed)
