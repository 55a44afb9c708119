"""One recording made now: Debian's kernel, the product as it is, the same judge."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from powercut.configurations import CONFIGURATIONS
from powercut.machine import REPOSITORY, ROOTFS
from powercut.record import record
from powercut.recording import Mark
from powercut.replay import replay

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]


def test_what_is_recorded_now_boots_whenever_power_fails(tmp_path: Path) -> None:
    subprocess.run([REPOSITORY / "tools/make-rootfs", "trixie", ROOTFS], check=True)
    one = CONFIGURATIONS["default-200"]
    recording = record([one], tmp_path)[one.name]
    assert [event.name for event in recording.events if isinstance(event, Mark)] == ["start", *one.steps, "unmount"]
    assert all(code == 0 for code, _text in recording.facts["said"].values()), recording.facts["said"]
    result = replay(recording, randoms=200, seed=1)
    assert result.states > 400
    assert not result.bad, result.describe()
