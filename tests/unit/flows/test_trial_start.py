"""trial_start.py: what a soft reboot or a kexec has entered is counted once, by its own start-up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import flowkit
import pytest
import trio

from bootc_fast import HealthOutcome, judge_health, lab

if TYPE_CHECKING:
    from pathlib import Path

    from bootc_fast.types import VerityDigest


@pytest.fixture
def host(tmp_path: Path) -> lab.LabHost:
    return lab.make_host(tmp_path / "h", files={"a": "1"})


def _finalize(host: lab.LabHost, capsys: pytest.CaptureFixture[str], policy: str = "tries = 3") -> VerityDigest:
    path = host.root / "usr/lib/bootc-fast/trial.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[trial]\n{policy}\n")
    lab.boot(host)
    staged = lab.stage_files(host, {"a": "2"})
    assert flowkit.run(capsys, "finalize", "--root", host.root)[0] == 0
    return staged


def _judge(host: lab.LabHost) -> HealthOutcome:
    return trio.run(judge_health, host.root)


def _soft_reboot(host: lab.LabHost, digest: VerityDigest) -> None:
    """What runs is another one, and the loader has not been asked."""
    line = (host.root / "proc/cmdline").read_text().strip()
    words = [word for word in line.split() if not word.startswith("composefs=")]
    host.set_booted(digest, " ".join([*words, f"composefs={digest}"]))


def _counters(host: lab.LabHost) -> list[str]:
    return [f"+{path.stem.partition('+')[2]}" for path in (host.esp / "loader/entries").glob("*+*.conf")]


def test_a_soft_reboot_into_a_trial_is_counted_once(host: lab.LabHost, capsys: pytest.CaptureFixture[str]) -> None:
    staged = _finalize(host, capsys)
    assert _counters(host) == ["+3-0"]
    _soft_reboot(host, staged)
    for _ in range(3):
        outcome = _judge(host)
        assert outcome.warnings == ()
        assert [one[:2] for one in _counters(host)] == ["+2"]
    # The loader counts on from there.
    assert lab.boot(host).digest == staged
    assert [one[:2] for one in _counters(host)] == ["+1"]


def test_what_the_loader_has_counted_is_not_counted_again(
    host: lab.LabHost, capsys: pytest.CaptureFixture[str]
) -> None:
    _finalize(host, capsys)
    lab.boot(host)
    assert _counters(host) == ["+2-1"]
    _judge(host)
    _judge(host)
    assert _counters(host) == ["+2-1"]


def test_a_one_shot_is_used_up(host: lab.LabHost, capsys: pytest.CaptureFixture[str]) -> None:
    first = host.booted
    staged = _finalize(host, capsys, 'method = "one-shot"')
    assert host.read_efi_variable("LoaderEntryOneShot") is not None
    _soft_reboot(host, staged)
    assert (_judge(host)).warnings == ()
    assert host.read_efi_variable("LoaderEntryOneShot") is None
    assert lab.boot(host).digest == first


def test_the_last_try_stays_the_loaders(host: lab.LabHost, capsys: pytest.CaptureFixture[str]) -> None:
    staged = _finalize(host, capsys, "tries = 1")
    _soft_reboot(host, staged)
    (warning,) = (_judge(host)).warnings
    assert warning == "this try is not counted: the boot loader's last one stays"
    assert [one[:2] for one in _counters(host)] == ["+1"]


def test_nothing_is_written_where_nothing_is_on_trial(host: lab.LabHost) -> None:
    lab.boot(host)
    _judge(host)
    assert not (host.root / "run/bootc-fast/started").exists()
