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
    """

    path: Path
    plays_all: bool


@pytest.fixture
def scratch() -> Iterator[Scratch]:
    """A directory of its own for a test."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="bootc-fast-faults.", dir=where))
    yield Scratch(path, os.environ.get("BOOTC_FAST_FAULTS") == "all")
    shutil.rmtree(path, ignore_errors=True)
