"""Whether a host is as somebody wants it who asks every minute: ``status --check``.

Source:
    Issue "Right in every byte", C3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.errors import BootEntryError, InvalidStateError
from bootc_fast.records import dataclass
from bootc_fast.text import shorten_digest
from bootc_fast.types import Result

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bootc_fast.report.status import HostStatus


@dataclass(frozen=True, slots=True)
class Concern:
    """One thing that is not as it should be.

    Attributes:
        kind: For programs: ``staged-update``, ``next-boot`` or ``last-finalize``.
        message: For people.
        exit_code: What ``status --check`` exits with because of it.
    """

    kind: str
    message: str
    exit_code: int


def check_status(status: HostStatus) -> tuple[Concern, ...]:
    """Find what is not as it should be: an update that is not applied, a next boot that is not as meant.

    What cannot be told, as whether a unit is active under ``--root``, is no concern.

    Args:
        status: Of `get_status`.

    Returns:
        Concerns, the update's first; none where all is well.
    """
    return (*_check_staged(status), *_check_next_boot(status), *_check_last_finalize(status))


def _check_staged(status: HostStatus) -> Iterator[Concern]:
    staged = status.staged_status
    if staged is not None and staged.will_be_applied is False:
        yield Concern(
            "staged-update",
            f"the staged update will not be applied: {'; '.join(staged.reasons)}",
            InvalidStateError.exit_code,
        )


def _check_next_boot(status: HostStatus) -> Iterator[Concern]:
    """What boots next is one of ours, whole, and what the last command made the default."""
    following, code = status.next_boot, BootEntryError.exit_code
    if following.digest is None:
        which = following.entry_name or "nothing"
        yield Concern("next-boot", f"next boot: {which}, no deployment of this host: {following.reason}", code)
        return
    shown = (status.booted, status.staged, status.rollback, *status.others)
    target = next((one for one in shown if one is not None and one.digest == following.digest), None)
    if target is not None and target.problems:
        name = shorten_digest(target.digest)
        yield Concern("next-boot", f"next boot: {name}, which is broken: {'; '.join(target.problems)}", code)
    record = status.last_finalize
    if record is None or record.result is not Result.DONE or record.withdrawn or record.staged is None:
        return
    # Once it has run, which deployment boots next is somebody's later choice.
    if record.reported or record.staged in (status.booted.digest, following.digest):
        return
    yield Concern(
        "next-boot",
        f"next boot: {shorten_digest(following.digest)}, though {shorten_digest(record.staged)} was finalized at"
        f" {record.time}: {following.reason}",
        code,
    )


def _check_last_finalize(status: HostStatus) -> Iterator[Concern]:
    record = status.last_finalize
    if record is None or not record.has_failed:
        return
    what = "did not end" if record.result is Result.INTERRUPTED else "failed"
    why = "; ".join(error.message for error in record.errors)
    yield Concern(
        "last-finalize", f"the finalize at {record.time} {what}{f': {why}' if why else ''}", record.exit_code or 1
    )
