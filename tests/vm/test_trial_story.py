"""An update that fails its health check falls back by itself, in a whole machine.

The loader counts, the health unit reboots, the old deployment finds out. Judged by what the loader itself says: which
entry it has started, and under which name. `test_trial_stories.py` has further ends, on every kind of host.
"""

from __future__ import annotations

import json

import pytest
from vm import trial

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

SCRIPT = trial.Script(
    late=[["stage", "systemctl reboot"], ["look", "again", "systemctl poweroff"]], fates=["bad", "bad"], boots=4
)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> trial.Told:
    work = tmp_path_factory.mktemp("trial-story")
    return trial.play(trial.prepare(work, trial.KINDS["systemd-boot-bls"]), work, SCRIPT)


def test_the_loader_tries_it_as_often_as_the_policy_says_and_falls_back(told: trial.Told) -> None:
    seen = told.seen()
    assert told.starts() == [one.number for one in seen] == [1, 2, 2, 1]
    assert [one.counter for one in seen] == ["", "+1-1", "+0-2", ""]
    assert len({one.selected for one in seen[1:3]}) == 1


def test_status_says_why(told: trial.Told) -> None:
    status = told.said(1, "status")
    assert "was tried 2 times and failed" in status
    assert "vmtest: it exited with 1" in status


def test_what_is_noted_has_a_reason_for_each_try(told: trial.Told) -> None:
    record = told.record(1)
    assert (record["state"], record["tries"], len(record["reasons"])) == ("failed", 2, 2)  # type: ignore[arg-type]
    document = json.loads(told.said(1, "json"))
    assert document["bootcFast"]["nextBoot"]["verity"] == told.prepared.first


def test_the_unit_fails_once_and_the_old_one_is_complete(told: trial.Told) -> None:
    assert "bootc-fast-boot-complete.service" in told.said(1, "failed")
    assert told.said(1, "complete") == "active\n"


def test_the_same_digest_staged_again_is_refused(told: trial.Told) -> None:
    again = told.look(1, "again")["finalize"]
    assert isinstance(again, dict)
    assert again["code"] == 12
    assert "was tried 2 times and failed" in again["stderr"]


def test_another_systems_entry_is_as_it_was_and_the_file_system_clean(told: trial.Told) -> None:
    assert told.foreign == trial.FOREIGN_TEXT
    assert told.esp_check == (0, "clean")
