"""What became of trials at a boot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.records import dataclass, field

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bootc_fast.trial.states import TrialRecord
    from bootc_fast.types import VerityDigest


@dataclass(frozen=True, slots=True)
class BlessOutcome:
    """What became of trials at this boot.

    Attributes:
        booted: The deployment that runs.
        is_complete: A boot of it was complete, so that it is good.
        is_blessed: It was on trial, and is not any more: its boot entry lost its counters, or became the default.
        is_restored: The boot loader had given up on another deployment, which comes behind the others from now on.
        failed: Deployments whose failure was not known before, and what is known of them.
        warnings: What did not go as it should. A trial that could not be ended stays one: the next boot tries again.
    """

    booted: VerityDigest
    is_complete: bool = False
    is_blessed: bool = False
    is_restored: bool = False
    failed: Mapping[VerityDigest, TrialRecord] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
