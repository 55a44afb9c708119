"""A finalize that failed, for people and for programs: the same in the journal, and when the next boot is complete."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bootc_fast.errors import BootcFastError
from bootc_fast.text import count, escape_bytes, flatten

if TYPE_CHECKING:
    from bootc_fast.report.finalize import OutcomeRecord, Recall

MAX_TOLD_CONFLICTS = 20
"""In a text; the record has more of them."""


def failure_lines(record: OutcomeRecord) -> list[str]:
    """A failure for people: each error with what caused it, the paths in conflict, what can be done about it."""
    lines: list[str] = []
    for error in record.errors:
        lines.append(f"error: {error.message}")
        lines += [f"  caused by: {text}" for text in error.chain]
        lines += [f"  conflict: /etc/{escape_bytes(path)}" for path in error.conflicts[:MAX_TOLD_CONFLICTS]]
        if len(error.conflicts) > MAX_TOLD_CONFLICTS:
            lines.append(f"  and {count(len(error.conflicts) - MAX_TOLD_CONFLICTS, 'more conflicts')}")
        if error.hint:
            lines.append(f"hint: {error.hint}")
    return lines


def failure_fields(record: OutcomeRecord) -> dict[str, object]:
    """A failure for programs, as docs/journal.md lists it; several values of a field are lines of it."""
    chain = [text for error in record.errors for text in (error.message, *error.chain)]
    hints = [error.hint for error in record.errors if error.hint]
    conflicts = [os.fsdecode(path) for error in record.errors for path in error.conflicts]
    return {
        "BOOTC_FAST_ERROR_CHAIN": "\n".join(chain) or None,
        "BOOTC_FAST_HINT": "\n".join(hints) or None,
        "BOOTC_FAST_CONFLICTS": "\n".join(conflicts) or None,
        "BOOTC_FAST_EXIT_CODE": record.exit_code,
    }


def hint_at_commit(error: BaseException, recall: Recall) -> None:
    """Say in the error's hint what it does not undo: an earlier run has made the update the next boot."""
    if recall.committed is None:
        return
    leaf = next((leaf for leaf in flatten(error) if isinstance(leaf, BootcFastError)), None)
    if leaf is not None:
        text = f"the update boots next all the same: with /etc as it was merged at {recall.committed}, not as it is now"
        leaf.hint = f"{leaf.hint}; {text}" if leaf.hint else text
