"""What an unstaging did.

Source:
    Spec trial.md, "Unstage, hold, keep".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.records import dataclass

if TYPE_CHECKING:
    from bootc_fast.types import VerityDigest


@dataclass(frozen=True, slots=True)
class UnstageOutcome:
    """What an unstaging did, or with ``dry_run`` would do.

    Attributes:
        unstaged: The deployment that was staged; None where none was.
        removed: What went, in words for people: the staged entries, a state directory, paths on the boot partition.
            With ``dry_run`` what would go, less single boot files.
        kept: What stays of it, and why, in words for people.
        next_boot: File name of the entry that boots next, now as before; None where that cannot be told.
        dry_run: Nothing was written.
        warnings: Everything odd, and what could not be removed: the next run tries it again.
    """

    unstaged: VerityDigest | None
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    next_boot: str | None = None
    dry_run: bool = False
    warnings: tuple[str, ...] = ()
