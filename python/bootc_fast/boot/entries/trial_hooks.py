"""Where a publication of boot entries lets a trial in."""

from __future__ import annotations

from typing import Protocol


class TrialHooks(Protocol):
    """What begins a trial beside the boot entries, in the middle of a publication (``boot.counting``)."""

    def begin(self) -> list[str]:
        """Before the new set is live; a failure (OSError, BootEntryError) refuses the publication."""
        ...

    def take_back(self) -> list[str]:
        """The publication failed: undo `begin`."""
        ...

    def arm(self) -> list[str]:
        """The new set is in force."""
        ...
