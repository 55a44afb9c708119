"""Which loader counts how."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.boot.loaders.record import CountsIn

if TYPE_CHECKING:
    from bootc_fast.boot.counting.records import Counter
    from bootc_fast.boot.loaders.record import LoaderRecord


def counter_of(record: LoaderRecord) -> Counter:
    """Return how a loader counts; one that nobody can make count decides so. The others' modules are not imported."""
    if record.counts_in is CountsIn.NAMES:
        from bootc_fast.boot.counting.systemd_boot import SystemdBootCounter

        return SystemdBootCounter()
    if record.counts_in is CountsIn.GRUBENV:
        from bootc_fast.boot.counting.grub import GrubCounter

        return GrubCounter()
    from bootc_fast.boot.counting.nothing import NoCounter

    return NoCounter()
