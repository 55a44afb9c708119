"""trial_failure.py, health.py: what follows where what runs is not healthy. The reboot is one that takes notes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import flowkit
import pytest
import trio

from bootc_fast import judge_health, lab
from bootc_fast.boot.counting.records import CountMethod, RunningTrial
from bootc_fast.errors import CommandError
from bootc_fast.flows.trial_failure import decide_consequence
from bootc_fast.trial.states import TrialRecord, TrialState
from bootc_fast.trial.trial_policy import OnFailure, TrialPolicy
from bootc_fast.types import BootType, VerityDigest

if TYPE_CHECKING:
    from pathlib import Path

A, B = VerityDigest("a" * 128), VerityDigest("b" * 128)


@dataclass
class _Restarts:
    """What would have rebooted the machine."""

    host: lab.LabHost
    messages: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)

    async def __call__(self, message: str) -> None:
        self.messages.append(message)
        # All that has to be on disk by then is.
        self.known.append((self.host.sysroot / "state/bootc-fast/deployments.json").read_text())


def _fail(host: lab.LabHost, body: str = "exit 1") -> None:
    path = host.root / "usr/lib/bootc-fast/health.d/required.d/bad"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def _policy(host: lab.LabHost, text: str) -> None:
    path = host.root / "usr/lib/bootc-fast/trial.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[trial]\n{text}\n")


@pytest.fixture
def host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> lab.LabHost:
    """A host whose update is finalized, and not booted."""
    host = lab.make_host(tmp_path / "h", files={"a": "1"})
    lab.stage_files(host, {"a": "2"})
    assert flowkit.run(capsys, "finalize", "--root", host.root)[0] == 0
    return host


async def test_each_try_is_noted_and_rebooted_until_the_old_one_runs_which_stays_up(host: lab.LabHost) -> None:
    first = host.booted
    _fail(host)
    restarts = _Restarts(host)
    ran = []
    for _ in range(6):
        ran.append(lab.boot(host).digest)
        outcome = await judge_health(host.root, restart=restarts)
        assert not outcome.is_healthy
        if not outcome.restarts:
            break
    # Both are bad: the old one is not on trial.
    assert ran == [ran[0]] * 3 + [first]
    assert ran[0] != first
    assert len(restarts.messages) == 3
    assert outcome.consequence == ""
    assert all("bad: it exited with 1" in message for message in restarts.messages)
    records = [json.loads(text)["deployments"][ran[0]] for text in restarts.known]
    assert [len(one["reasons"]) for one in records] == [1, 2, 3]


async def test_a_policy_of_staying_is_obeyed_and_said(host: lab.LabHost) -> None:
    _fail(host)
    _policy(host, 'on-failure = "stay"')
    lab.boot(host)
    restarts = _Restarts(host)
    outcome = await judge_health(host.root, restart=restarts)
    assert (outcome.restarts, restarts.messages) == (False, [])
    assert outcome.consequence == 'it stays up, since trial.toml says `on-failure = "stay"`'


async def test_where_no_boots_are_counted_nothing_reboots(host: lab.LabHost) -> None:
    """It would be the same one again, for ever."""
    _fail(host)
    lab.boot(host)
    for path in (host.esp / "loader/entries").glob("*+*.conf"):
        path.rename(path.with_name(f"{path.name.partition('+')[0]}.conf"))
    restarts = _Restarts(host)
    outcome = await judge_health(host.root, restart=restarts)
    assert (outcome.restarts, restarts.messages) == (False, [])
    assert "it would boot again, without its boots being counted" in outcome.consequence


async def test_an_override_that_boots_it_for_ever_ends_the_reboots_with_the_tries(host: lab.LabHost) -> None:
    _fail(host)
    (entry,) = (host.esp / "loader/entries").glob("*+*.conf")
    host.write_efi_variable("LoaderEntryDefault", f"{entry.name.partition('+')[0]}.conf")
    restarts = _Restarts(host)
    for _ in range(5):
        lab.boot(host)
        outcome = await judge_health(host.root, restart=restarts)
    assert len(restarts.messages) == 2
    assert "it would boot again" in outcome.consequence


async def test_healthy_or_without_a_restart_nothing_reboots(host: lab.LabHost) -> None:
    lab.boot(host)
    restarts = _Restarts(host)
    assert (await judge_health(host.root, restart=restarts)).is_healthy
    assert restarts.messages == []
    _fail(host)
    outcome = await judge_health(host.root)
    assert (outcome.restarts, outcome.consequence) == (False, "")


async def test_red_scripts_have_ended_when_it_reboots(host: lab.LabHost) -> None:
    _fail(host)
    path = host.root / "usr/lib/bootc-fast/health.d/red.d/alarm"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\nsleep 0.3; touch alarmed\n")
    path.chmod(0o755)
    lab.boot(host)
    seen = []

    async def restart(_: str) -> None:
        seen.append((host.root / "alarmed").exists())

    await judge_health(host.root, restart=restart)
    assert seen == [True]


async def test_what_the_reboot_itself_raises_comes_through(host: lab.LabHost) -> None:
    _fail(host)
    lab.boot(host)

    async def restart(_: str) -> None:
        await trio.lowlevel.checkpoint()
        raise CommandError("restarting: systemctl: no", ("systemctl",), 1, "")

    with pytest.raises(CommandError, match="restarting"):
        await judge_health(host.root, restart=restart)


async def test_boot_entries_that_cannot_be_read_lead_to_no_reboot(host: lab.LabHost) -> None:
    _fail(host)
    lab.boot(host)
    (host.esp / "loader").rename(host.esp / "gone")
    (host.esp / "loader").write_text("")
    restarts = _Restarts(host)
    outcome = await judge_health(host.root, restart=restarts)
    assert (outcome.restarts, restarts.messages) == (False, [])


def test_reboot_and_root_do_not_go_together(host: lab.LabHost, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = flowkit.run(capsys, "health", "--reboot", "--root", host.root)
    assert code == 2
    assert "--reboot is for the machine itself" in err


_ON_TRIAL = TrialRecord(TrialState.TRIAL)
_COUNTED = RunningTrial(A, CountMethod.COUNTER, 2, 1)


@pytest.mark.parametrize(
    ("record", "trial", "restarts"),
    [
        (_ON_TRIAL, _COUNTED, True),
        # The file is lost: the counter says it.
        (None, _COUNTED, True),
        (None, None, False),
        (TrialRecord(TrialState.GOOD), _COUNTED, False),
        (TrialRecord(TrialState.NEW), _COUNTED, False),
        # Somebody boots it all the same: it is not tried, and whoever did that wants to look at it.
        (TrialRecord(TrialState.FAILED), _COUNTED, False),
        (_ON_TRIAL, None, False),
        (_ON_TRIAL, RunningTrial(A, CountMethod.COUNTER, 0, 3, is_given_up=True), False),
        (_ON_TRIAL, RunningTrial(A, CountMethod.GRUBENV, None, None), False),
    ],
)
def test_it_reboots_only_where_a_next_try_is_counted(
    record: TrialRecord | None, trial: RunningTrial | None, *, restarts: bool
) -> None:
    assert decide_consequence(A, record, trial, None, TrialPolicy()).restarts is restarts
    stay = TrialPolicy(on_failure=OnFailure.STAY)
    assert not decide_consequence(A, record, trial, None, stay).restarts


def test_a_boot_type_other_than_the_first_is_tried_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = lab.make_host(tmp_path / "h", files={"a": "1"}, boot_type=BootType.UKI)
    first = host.booted
    lab.stage_files(host, {"a": "2"})
    assert flowkit.run(capsys, "finalize", "--root", host.root)[0] == 0
    _fail(host)
    ran = []
    for _ in range(4):
        ran.append(lab.boot(host).digest)
        trio.run(lambda: judge_health(host.root, restart=_Restarts(host)))
    assert [one == first for one in ran] == [False, False, False, True]
