"""systemd.py: what the service manager says of failed units, and that it may say nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from bootc_fast.flows.health import check_units
from bootc_fast.machine import systemd
from bootc_fast.machine.host import open_host
from bootc_fast.machine.systemd import list_failed_units
from bootc_fast.trial.checks import CheckKind, CheckResult
from bootc_fast.trial.policy import HealthPolicy

if TYPE_CHECKING:
    from pathlib import Path

# What `systemctl list-units --state=failed --plain --no-legend --full --no-pager` of systemd 257 prints.
LISTING = """\
db.service                                loaded failed failed The data base
dev-disk-by\\x2duuid-0.device              loaded failed failed dev-disk-by\\x2duuid-0.device
"""
DB, DISK = "db.service", "dev-disk-by\\x2duuid-0.device"


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in for the service manager, which no test machine need run: a systemctl that does what is written here."""
    path = tmp_path / "bin/systemctl"
    path.parent.mkdir()
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    return path


def _say(answer: Path, body: str) -> None:
    answer.write_text(f"#!/bin/sh\n{body}\n")
    answer.chmod(0o755)


async def test_failed_units_are_listed_by_their_whole_names(answer: Path) -> None:
    _say(answer, f"cat <<'EOF'\n{LISTING}EOF")
    assert await list_failed_units(open_host("/")) == (DB, DISK)
    _say(answer, "true")
    assert await list_failed_units(open_host("/")) == ()


@pytest.mark.parametrize("body", ["exit 1", "sleep 60", "kill -9 $$"])
async def test_a_manager_that_does_not_answer_is_none(answer: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    monkeypatch.setattr(systemd, "_ASK_TIMEOUT_S", 0.5)
    _say(answer, body)
    assert await list_failed_units(open_host("/")) is None
    check = await check_units(open_host("/"), HealthPolicy(no_failed_units=True))
    assert (check.result, check.reason) == (CheckResult.FAILED, "the service manager cannot be asked")


async def test_a_host_in_a_directory_has_no_units(tmp_path: Path, answer: Path) -> None:
    _say(answer, f"cat <<'EOF'\n{LISTING}EOF")
    assert await list_failed_units(open_host(tmp_path)) == ()


@pytest.mark.parametrize(
    ("excepted", "reason"),
    [((), f"failed: {DB}, {DISK}"), ((DB,), f"failed: {DISK}"), ((DISK, DB, "other.service"), "")],
)
async def test_units_that_may_have_failed_are_no_reason(answer: Path, excepted: tuple[str, ...], reason: str) -> None:
    _say(answer, f"cat <<'EOF'\n{LISTING}EOF")
    check = await check_units(open_host("/"), HealthPolicy(failed_units_except=excepted))
    assert (check.kind, check.reason) == (CheckKind.REQUIRED, reason)
    assert check.result is (CheckResult.FAILED if reason else CheckResult.PASSED)
