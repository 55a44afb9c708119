"""The ends of a trial in whole machines, on every kind of host: two machines for each.

The first one's update fails its health check, then the power goes in its second try; it is tried again by somebody who
insists, and panics, and hangs; again, and is healthy, and stays after another reboot. The second one enters its update
by a soft reboot, and the update and the old deployment are both bad.

Judged by the console (the initramfs says what the loader has started), by what the loader itself says (systemd-boot's
variables; what GRUB prints, and its environment block), and at last by ours. `test_trial_story.py` has what CI plays.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from vm import trial

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.vm, pytest.mark.machines, pytest.mark.timeout(7200)]

_REBOOT, _OFF = "systemctl reboot", "systemctl poweroff"
LONG = trial.Script(
    late=[
        ["stage", _REBOOT],
        ["look", "again", "retry", _REBOOT],
        ["look", "retry", _REBOOT],
        ["look", _REBOOT],
        ["look", _OFF],
    ],
    fates=["bad", "cut", "panic", "hang", "good", "good"],
    boots=9,
)
SHORT = trial.Script(
    late=[["stage", "old bad", "soft bad", "systemctl soft-reboot"], ["look", _OFF]],
    fates=["bad"],
    boots=3,
)


@pytest.fixture(scope="module", params=trial.KINDS)
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[trial.Prepared]:
    found = trial.prepare(tmp_path_factory.mktemp(f"trial-{request.param}"), trial.KINDS[request.param])
    yield found
    found.disk.unlink()


@pytest.fixture(scope="module")
def long(prepared: trial.Prepared, tmp_path_factory: pytest.TempPathFactory) -> trial.Told:
    return trial.play(prepared, tmp_path_factory.mktemp(f"{prepared.disk.parent.name}-long"), LONG)


@pytest.fixture(scope="module")
def short(prepared: trial.Prepared, tmp_path_factory: pytest.TempPathFactory) -> trial.Told:
    return trial.play(prepared, tmp_path_factory.mktemp(f"{prepared.disk.parent.name}-short"), SHORT)


def _is_grub(told: trial.Told) -> bool:
    return told.prepared.kind.loader == "grub"


def test_each_boot_starts_what_the_tries_say(long: trial.Told) -> None:
    assert long.starts() == [1, 2, 2, 1, 2, 2, 1, 2, 2]
    # What panicked or hung did not come to user space.
    seen = long.seen()
    assert [one.number for one in seen] == [1, 2, 2, 1, 1, 2, 2]
    if _is_grub(long):
        # What the script has taken off at each boot; with none left it boots the old one. What is good has none.
        assert long.grub_says() == ["", "1", "0", "0", "1", "0", "0", "1", ""]
        assert [one.counter for one in seen] == ["", "1", "0", "0", "0", "1", ""]
    else:
        assert [one.counter for one in seen] == ["", "+1-1", "+0-2", "", "", "+1-1", ""]


def test_a_failed_check_and_a_power_cut_are_tries_and_status_says_why(long: trial.Told) -> None:
    record = long.record(1)
    # The try whose power went has left no reason.
    assert (record["state"], record["tries"], len(record["reasons"])) == ("failed", 2, 1)  # type: ignore[arg-type]
    assert "was tried 2 times and failed" in long.said(1, "status")
    assert "vmtest: it exited with 1" in long.said(1, "status")
    assert "bootc-fast-boot-complete.service" in long.said(1, "failed")
    assert long.said(1, "complete") == "active\n"


def test_the_same_digest_staged_again_is_refused(long: trial.Told) -> None:
    again = long.look(1, "again")["finalize"]
    assert isinstance(again, dict)
    assert again["code"] == 12


def test_who_insists_has_it_counted_again(long: trial.Told) -> None:
    for phase in (1, 2):
        retried = long.look(phase, "retry")
        assert retried["code"] == 0, retried
        assert "cannot count boots" not in str(retried)


def test_a_panic_and_a_hang_are_tries_that_leave_no_record(long: trial.Told) -> None:
    console = long.run.console
    assert console.count("vmtest: init gives up") == console.count("Attempted to kill init!") == 1
    assert console.count("vmtest: init hangs") == 1
    record = long.record(2)
    assert (record["state"], record["tries"], record.get("reasons") or []) == ("failed", 2, [])
    assert "did not reach user space" in long.said(2, "status")


def test_what_is_healthy_is_blessed_at_its_first_boot_and_stays_after_the_second(long: trial.Told) -> None:
    for phase in (3, 4):
        assert long.record(phase)["state"] == "good"
        document = json.loads(long.said(phase, "json"))
        assert document["bootcFast"]["nextBoot"]["verity"] == long.prepared.second
        assert long.said(phase, "failed") == ""
        assert long.said(phase, "complete") == "active\n"


def test_a_soft_reboot_into_a_trial_is_counted_and_its_failure_is_a_full_reboot(short: trial.Told) -> None:
    # By the loader: the old one, the second try, the old one.
    assert short.starts() == [1, 2, 1]
    seen = short.seen()
    assert [one.number for one in seen] == [1, 2, 2, 1]
    assert short.look(0, "soft bad")["prepared"]["code"] == 0, short.look(0, "soft bad")  # type: ignore[index]
    if _is_grub(short):
        assert short.grub_says() == ["", "0", "0"]
        # Before its own start-up has counted it.
        assert [one.counter for one in seen] == ["", "2", "0", "0"]
    else:
        assert [one.counter for one in seen][2:] == ["+0-2", ""]
        assert seen[1].selected == seen[0].selected
    record = short.record(1)
    assert (record["state"], record["tries"], len(record["reasons"])) == ("failed", 2, 2)  # type: ignore[arg-type]


def test_an_old_deployment_that_is_bad_too_stays_up(short: trial.Told) -> None:
    assert short.said(1, "complete") == "inactive\n"
    failed = short.said(1, "failed")
    assert "bootc-fast-health.service" in failed
    # It came to its end, and to the next action of the script: no reboot had been asked for.
    assert short.run.console.count("vmtest: deployment") == SHORT.boots


def test_what_is_anothers_is_as_it_was_and_the_file_system_clean(long: trial.Told, short: trial.Told) -> None:
    for told in (long, short):
        if _is_grub(told):
            assert told.foreign.startswith(trial.CUSTOM_TEXT)
        else:
            assert told.foreign == trial.FOREIGN_TEXT
        assert told.esp_check == (0, "clean")
