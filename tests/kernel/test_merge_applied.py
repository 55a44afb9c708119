"""Random merges written to disk: what is there afterwards is the result, and a second run finds nothing to do."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from unit.etc.trees import TRIPLES, Triple, flatten_entries, to_side

from bootc_fast import _core

LAW = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), database=None)


@pytest.mark.root
@LAW
@given(TRIPLES)
def test_the_result_on_disk_is_the_planned_one_and_stays(triple: Triple) -> None:
    plan = _core.plan_etc(to_side(triple.p), to_side(triple.c), to_side(triple.n), default="new")
    with tempfile.TemporaryDirectory() as name:
        fd = os.open(Path(name), os.O_RDONLY)
        try:
            _core.apply_etc(plan, fd)
            scanned = _core.Tree.scan(fd)
            again = _core.apply_etc(plan, fd)
            read = {entry.path: read_file(fd, entry) for entry in scanned.entries()}
        finally:
            os.close(fd)
    expected = flatten_entries([entry for entry, _, _ in plan.entries()])
    found = flatten_entries(scanned.entries())
    found = {path: (kind, content or read[path], *rest) for path, (kind, content, *rest) in found.items()}
    assert found == expected
    assert again.operations == []


def read_file(dir_fd: int, entry: _core.TreeEntry) -> bytes | int:
    if entry.content != "on-disk":
        return 0 if entry.rdev else b""
    fd = os.open(entry.path, os.O_RDONLY, dir_fd=dir_fd)
    with os.fdopen(fd, "rb") as file:
        return file.read()
