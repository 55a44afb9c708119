"""Further ends of a trial in a whole machine; `test_trial_story.py` has the one that CI plays.

Judged by what the loader itself says, and by the console.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from vm import trial

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.vm, pytest.mark.machines, pytest.mark.timeout(7200)]

_LATE = (("stage", "systemctl reboot"), ("look", "systemctl poweroff"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> trial.Prepared:
    return trial.prepare(tmp_path_factory.mktemp("trial-stories"), boot_type="bls")


def test_an_init_that_panics_is_counted_and_leaves_no_record(prepared: trial.Prepared, tmp_path: Path) -> None:
    told = trial.play(prepared, tmp_path, trial.Script(late=_LATE, boots=4, panic=[2]))
    assert told.run.console.count("vmtest: init gives up") == trial.TRIES
    assert told.run.console.count("Kernel panic - not syncing: Attempted to kill init!") == trial.TRIES
    # What panicked said nothing: only the old one came to user space, at first and at last.
    assert [(number, counter) for number, counter, _ in told.boots()] == [(1, ""), (1, "")]
    assert "did not reach user space" in told.said(1, "look", "status")
    assert told.foreign == trial.FOREIGN_TEXT
    assert told.esp_check == (0, "clean")


def test_an_init_that_hangs_is_reset_by_the_watchdog_and_counted(prepared: trial.Prepared, tmp_path: Path) -> None:
    told = trial.play(prepared, tmp_path, trial.Script(late=_LATE, boots=4, hang=[2]))
    assert told.run.console.count("vmtest: init hangs") == trial.TRIES
    assert [(number, counter) for number, counter, _ in told.boots()] == [(1, ""), (1, "")]
    assert "did not reach user space" in told.said(1, "look", "status")
    assert told.esp_check == (0, "clean")
