"""Which loader counts how."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.boot.counting.grub import GrubCounter
from bootc_fast.boot.counting.nothing import NoCounter
from bootc_fast.boot.counting.systemd_boot import SystemdBootCounter
from bootc_fast.boot.loaders.record import CountsIn

if TYPE_CHECKING:
    from bootc_fast.boot.counting.records import Counter
    from bootc_fast.boot.loaders.record import LoaderRecord

_COUNTERS: dict[CountsIn | None, Counter] = {
    CountsIn.NAMES: SystemdBootCounter(),
    CountsIn.GRUBENV: GrubCounter(),
}


def counter_of(record: LoaderRecord) -> Counter:
    """Return how a loader counts; one that nobody can make count decides so."""
    return _COUNTERS.get(record.counts_in) or NoCounter()
