"""Where the hosts of these tests lie, and how much of it is played."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Scratch:
    """A directory in memory: thousands of flushes.

    Attributes:
        path: The directory.
        plays_all: Not a sample (`make faults`).
        every_error: Each call gets every error, and not one of them in turn.
    """

    path: Path
    plays_all: bool
    every_error: bool


@pytest.fixture
def scratch() -> Iterator[Scratch]:
    """A directory of its own for a test."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="bootc-fast-faults.", dir=where))
    plays = os.environ.get("BOOTC_FAST_FAULTS", "")
    assert plays in {"", "once", "all"}
    yield Scratch(path, plays_all=plays != "", every_error=plays == "all")
    shutil.rmtree(path, ignore_errors=True)
