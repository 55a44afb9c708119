"""What a loader says about a file."""

from __future__ import annotations

from bootc_fast.records import dataclass


@dataclass(frozen=True, slots=True)
class Verdict:
    """One verdict.

    Attributes:
        reason: Why it is refused, to follow "checking …: "; None where it is accepted.
        is_unknown_signer: Nothing else is wrong but that no list has the signer.
    """

    reason: str | None = None
    is_unknown_signer: bool = False

    @property
    def is_accepted(self) -> bool:
        """Whether the loader would start it."""
        return self.reason is None


ACCEPTED = Verdict()
