"""Short names that cuts leave on real file systems are told from what Linux leaves before them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from powercut.cuts import cut_everywhere
from powercut.recording import load
from powercut.replay import RECORDINGS
from unit.boot.fat_model import seeded

from bootc_fast.boot.area.fat import FatReader, parse_geometry
from bootc_fast.boot.area.fat_look import FatLook
from bootc_fast.boot.entries.aliases import parse_alias

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECTOR = 512


class _Reader(FatReader):
    """The product's reader on a recorded state."""

    def __init__(self, *layers: Mapping[int, bytes]) -> None:
        self.layers = layers
        self.geometry = parse_geometry(self.read_bytes(0, _SECTOR), 1 << 40)
        self._windows = {}
        self._directories = {}

    def read_bytes(self, offset_bytes: int, count: int) -> bytes:
        """See FatReader."""
        first, inside = divmod(offset_bytes, _SECTOR)
        sectors = range(first, first + -(-(inside + count) // _SECTOR))
        empty = bytes(_SECTOR)
        found = b"".join(next((one[at] for one in self.layers if at in one), empty) for at in sectors)
        return found[inside : inside + count]


@pytest.mark.parametrize("name", ["garbage-512", "foreign-fat16"])
def test_what_a_cut_leaves_of_a_kernels_directory_says_whose_it_was(name: str) -> None:
    recording = load(RECORDINGS / "all.xz")[name]
    found: dict[str, str] = {}
    for cut in cut_everywhere(recording.events, seeded(1), 0):
        look = FatLook(_Reader(cut.changed, recording.base), "a recording")
        for short, lost in look.find_short_names(b"EFI/Linux").items():
            alias = parse_alias(short, lost, is_for_ukis=False)
            # Foreign files there have names that need no long one.
            assert alias is not None or "~" not in short, short
            if alias is None:
                continue
            assert alias.is_ours, lost
            assert re.fullmatch(r"[0-9a-f]{128}", alias.digest)
            found[short] = alias.digest
    assert len(found) > 1, found
    assert len(set(found.values())) == len(found)
