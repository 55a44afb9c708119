"""trial_start.py: what a soft reboot or a kexec has entered is counted once, by its own start-up."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import flowkit
import pytest
import trio

from bootc_fast import HealthOutcome, judge_health, lab
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from collections.abc import Callable
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
        assert _counters(host) == ["+2-1"]
    # The loader counts on from there.
    assert lab.boot(host).digest == staged
    assert _counters(host) == ["+1-2"]


def test_a_try_by_a_soft_reboot_is_among_those_that_are_told(
    host: lab.LabHost, capsys: pytest.CaptureFixture[str]
) -> None:
    first, staged = host.booted, _finalize(host, capsys)
    _soft_reboot(host, staged)
    _judge(host)
    assert [lab.boot(host).digest for _ in range(3)] == [staged, staged, first]
    code, _out, err = flowkit.run(capsys, "boot-complete", "--root", host.root)
    assert (code, "was tried 3 times and failed" in err) == (12, True), err


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


# -- GRUB --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def grub_host(tmp_path: Path, request: pytest.FixtureRequest) -> lab.LabHost:
    return lab.make_host(tmp_path / "h", files={"a": "1"}, loader=Loader.GRUB, boot_type=request.param)


GRUB = pytest.mark.parametrize("grub_host", [BootType.BLS, BootType.UKI], indirect=True)


def _grubenv(host: lab.LabHost) -> dict[str, str]:
    lines = (host.boot_dir / "grub2/grubenv").read_text().split("\n")
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _left(host: lab.LabHost) -> str | None:
    return _grubenv(host).get("bootc_fast_tries")


def _kexec(host: lab.LabHost, digest: VerityDigest) -> None:
    """As a soft reboot, and /run is another one."""
    shutil.rmtree(host.root / "run/bootc-fast", ignore_errors=True)
    _soft_reboot(host, digest)


@GRUB
@pytest.mark.parametrize("enter", [_soft_reboot, _kexec])
def test_under_grub_too_what_went_around_it_is_counted_once(
    grub_host: lab.LabHost, enter: Callable[[lab.LabHost, VerityDigest], None], capsys: pytest.CaptureFixture[str]
) -> None:
    host, first = grub_host, grub_host.booted
    staged = _finalize(host, capsys)
    assert _left(host) == "3"
    enter(host, staged)
    for _ in range(3):
        assert _judge(host).warnings == ()
        assert _left(host) == "2"
    # GRUB counts on from there, and so does what it has started itself.
    assert lab.boot(host).digest == staged
    assert _left(host) == "1"
    assert _judge(host).warnings == ()
    assert _left(host) == "1"
    assert [lab.boot(host).digest for _ in range(2)] == [staged, first]
    code, _out, err = flowkit.run(capsys, "boot-complete", "--root", host.root)
    assert (code, "was tried 3 times and failed" in err) == (12, True), err
    assert not [key for key in _grubenv(host) if key.startswith("bootc_fast")]


@GRUB
def test_between_tries_of_grub_a_kexec_counts(grub_host: lab.LabHost, capsys: pytest.CaptureFixture[str]) -> None:
    host, first = grub_host, grub_host.booted
    staged = _finalize(host, capsys)
    assert lab.boot(host).digest == staged
    _judge(host)
    assert _left(host) == "2"
    for left in ("1", "0", "0"):
        _kexec(host, staged)
        assert _judge(host).warnings == ()
        assert _left(host) == left
    assert lab.boot(host).digest == first


@GRUB
def test_a_try_of_grub_that_never_came_to_its_checks_is_counted_by_grub_alone(
    grub_host: lab.LabHost, capsys: pytest.CaptureFixture[str]
) -> None:
    host = grub_host
    staged = _finalize(host, capsys)
    assert [lab.boot(host).digest for _ in range(2)] == [staged, staged]
    assert _left(host) == "1"
    _judge(host)
    assert _left(host) == "1"


@GRUB
def test_a_soft_reboot_to_what_is_not_tried_counts_nothing(
    grub_host: lab.LabHost, capsys: pytest.CaptureFixture[str]
) -> None:
    host, first = grub_host, grub_host.booted
    _finalize(host, capsys)
    _soft_reboot(host, first)
    before = (host.boot_dir / "grub2/grubenv").read_bytes()
    assert _judge(host).warnings == ()
    assert (host.boot_dir / "grub2/grubenv").read_bytes() == before


@GRUB
def test_a_trial_of_before_this_was_seen_is_counted_by_grub_alone(
    grub_host: lab.LabHost, capsys: pytest.CaptureFixture[str]
) -> None:
    """An earlier version has written the variables: nobody can tell who started this try."""
    host = grub_host
    _finalize(host, capsys)
    path = host.boot_dir / "grub2/grubenv"
    text = path.read_text()
    assert "bootc_fast_tries_seen=3\n" in text
    path.write_text(text.replace("bootc_fast_tries_seen=3\n", "").ljust(1024, "#"))
    lab.boot(host)
    _judge(host)
    assert (_left(host), _grubenv(host)["bootc_fast_tries_seen"]) == ("2", "2")


@GRUB
def test_what_cannot_be_counted_is_said_and_tried_all_the_same(
    grub_host: lab.LabHost, capsys: pytest.CaptureFixture[str]
) -> None:
    host = grub_host
    staged = _finalize(host, capsys)
    _soft_reboot(host, staged)
    (host.boot_dir / "grub2/grub.cfg").unlink()
    outcome = _judge(host)
    assert outcome.is_healthy
    assert outcome.warnings == ("GRUB's variables of a trial cannot be changed: /grub2/grub.cfg is not there",)
    assert _left(host) == "3"


@GRUB
def test_next_entry_spends_no_try_of_grubs_and_the_start_up_counts_it(
    grub_host: lab.LabHost, capsys: pytest.CaptureFixture[str]
) -> None:
    host = grub_host
    staged = _finalize(host, capsys)
    path = host.boot_dir / "grub2/grubenv"
    text, name = path.read_text().rstrip("#"), _grubenv(host)["bootc_fast_trial"]
    path.write_text(f"{text}next_entry={name}\n".ljust(1024, "#"))
    assert lab.boot(host).digest == staged
    assert _left(host) == "3"
    _judge(host)
    assert _left(host) == "2"
