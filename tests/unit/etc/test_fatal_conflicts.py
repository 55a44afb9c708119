"""The core itself refuses to write a merge that has conflicts no strategy settles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from etc_trees import listing, make_sides, merge, write

from bootc_fast.errors import EtcConflictError
from bootc_fast.types import EtcConflict, Strategy

if TYPE_CHECKING:
    from pathlib import Path


def test_a_plan_with_fatal_conflicts_is_not_written_whoever_asks(tmp_path: Path) -> None:
    sides = make_sides(tmp_path)
    write(sides.current / "x", "a leaf")
    write(sides.new / "x" / "inside", "a directory")
    write(sides.current / "y\n" / "inside", "a directory")
    write(sides.new / "y\n", "a leaf")
    write(sides.result / "stale", "what an interrupted run left")
    before = listing(sides.result)
    with pytest.raises(EtcConflictError, match="conflicts that no strategy settles: 1") as raised:
        merge(sides, rules=[(b"y?", "current")])
    assert listing(sides.result) == before
    (conflict,) = raised.value.conflicts
    assert isinstance(conflict, EtcConflict)
    assert (conflict.path, conflict.strategy) == (b"x", Strategy.FAIL)
    assert raised.value.exit_code == 5


@pytest.mark.parametrize("strategy", ["current", "new"])
def test_a_settled_one_is_written(tmp_path: Path, strategy: str) -> None:
    sides = make_sides(tmp_path)
    write(sides.current / "x", "a leaf")
    write(sides.new / "x" / "inside", "a directory")
    merge(sides, default=strategy)
    assert (sides.result / "x").is_dir() == (strategy == "new")
