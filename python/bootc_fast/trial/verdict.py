"""Known bad: whether a deployment has failed its trial, by what was noted or by a boot counter at its end.

Source:
    Spec trial.md, "Known bad"; UAPI boot loader specification, "Boot counting".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.errors import TrialFailedError
from bootc_fast.text import count, shorten_digest
from bootc_fast.trial.states import TrialRecord, TrialState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bootc_fast.boot.entries.menu import BootMenu
    from bootc_fast.types import VerityDigest

_NO_RECORD = "the boot loader gave up on it, and it left no record: it did not reach user space"


def find_given_up(menu: BootMenu) -> dict[VerityDigest, int]:
    """Find our deployments on which the loader gave up, whoever made it count, and how often it had tried them."""
    if not menu.rule.counts_boots:
        return {}
    found: dict[VerityDigest, int] = {}
    for entry in menu.live.files:
        if entry.is_own and entry.digest is not None and entry.tries_left == 0:
            found[entry.digest] = max(entry.tries_done or 0, found.get(entry.digest, 0))
    # Another entry that is tried still, or not counted, boots it.
    alive = {entry.digest for entry in menu.live.entries if entry.tries_left != 0}
    return {digest: tries for digest, tries in found.items() if digest not in alive}


def judge_deployment(
    states: Mapping[VerityDigest, TrialRecord], digest: VerityDigest, menu: BootMenu | None, *, is_staged: bool = False
) -> TrialRecord | None:
    """Say what is known of a deployment: what was noted, and what a boot counter says.

    Args:
        states: What was noted.
        digest: Which deployment.
        menu: Its boot entries, whose counters count as well; None where they cannot be read.
        is_staged: What is staged and of which nothing is known is ``new``.

    Returns:
        None where nothing is known.
    """
    record = states.get(digest)
    if record is not None and (record.state is TrialState.FAILED or record.is_forgiven):
        return record
    tries = find_given_up(menu).get(digest) if menu is not None else None
    if tries is not None:
        return TrialRecord(TrialState.FAILED, tries=tries or None)
    return TrialRecord(TrialState.NEW) if record is None and is_staged else record


def describe_failure(record: TrialRecord | None) -> str | None:
    """``was tried 3 times and failed: …``; None where it did not fail."""
    if record is None or record.state is not TrialState.FAILED:
        return None
    tried = f"was tried {count(record.tries, 'times')} and failed" if record.tries else "failed its trial"
    return f"{tried}: {'; '.join(record.reasons) or _NO_RECORD}"


def refuse_failed(
    states: Mapping[VerityDigest, TrialRecord], digest: VerityDigest, menu: BootMenu | None, *, doing: str
) -> None:
    """Refuse a deployment that failed its trial.

    Raises:
        TrialFailedError: It did.
    """
    failure = describe_failure(judge_deployment(states, digest, menu))
    if failure is not None:
        raise TrialFailedError(
            f"{doing} {shorten_digest(digest)}: it {failure}",
            hint=f"--force takes it all the same; `bootc-fast forget-failure {digest[:16]}` makes it like any other",
        )
