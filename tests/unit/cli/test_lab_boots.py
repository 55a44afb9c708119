"""cli.lab_boots: boots that fail, panic or are healthy, as the lab's loader counts them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import flowkit
import pytest

from bootc_fast import lab
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=list(BootType))
def host(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> lab.LabHost:
    """A host whose update is finalized, on trial."""
    host = lab.make_host(tmp_path / "h", files={"a": "1"}, boot_type=request.param)
    flowkit.run(capsys, "lab", "boot", host.root, "--healthy")
    lab.stage_files(host, {"a": "2"})
    assert flowkit.run(capsys, "finalize", "--root", host.root)[0] == 0
    return host


def _boot(capsys: pytest.CaptureFixture[str], host: lab.LabHost, *options: str) -> list[dict[str, str]]:
    code, out, err = flowkit.run(capsys, "lab", "boot", host.root, "--json", *options)
    assert (code, err) == (0, "")
    boots = json.loads(out)["boots"]
    assert isinstance(boots, list)
    return boots


def _state(host: lab.LabHost, digest: str) -> dict[str, object]:
    found = json.loads((host.sysroot / "state/bootc-fast/deployments.json").read_text())["deployments"][digest]
    assert isinstance(found, dict)
    return found


def test_boots_that_fail_end_in_the_old_one_with_a_reason_each(
    host: lab.LabHost, capsys: pytest.CaptureFixture[str]
) -> None:
    first = host.booted
    boots = _boot(capsys, host, "--fails", "3")
    second = boots[0]["digest"]
    assert [one["digest"] for one in boots] == [second] * 3 + [first]
    assert [one["ended"] for one in boots] == ["not healthy, reboots"] * 3 + ["runs"]
    assert [one["entry"].partition("+")[2] for one in boots] == ["3-0.conf", "2-1.conf", "1-2.conf", ""]
    record = _state(host, second)
    reasons = record["reasons"]
    assert isinstance(reasons, list)
    assert (record["state"], len(reasons)) == ("failed", 3)
    assert not list((host.root / "usr/lib/bootc-fast/health.d/required.d").iterdir())


def test_one_that_fails_once_and_is_healthy_then_is_good(host: lab.LabHost, capsys: pytest.CaptureFixture[str]) -> None:
    boots = _boot(capsys, host, "--fails", "1")
    assert len({one["digest"] for one in boots}) == 1
    assert _state(host, boots[0]["digest"])["state"] == "good"
    assert [one["digest"] for one in _boot(capsys, host)] == [boots[0]["digest"]]


def test_panics_are_counted_without_a_record(host: lab.LabHost, capsys: pytest.CaptureFixture[str]) -> None:
    first = host.booted
    boots = _boot(capsys, host, "--panics")
    assert [one["ended"] for one in boots] == ["panics, reboots"] * 3 + ["runs"]
    assert boots[-1]["digest"] == first
    assert "did not reach user space" in flowkit.run(capsys, "status", "--root", host.root)[1]


def test_a_healthy_one_is_good_and_stays(host: lab.LabHost, capsys: pytest.CaptureFixture[str]) -> None:
    (boot,) = _boot(capsys, host, "--healthy")
    assert _state(host, boot["digest"])["state"] == "good"
    assert not list((host.boot_dir / "loader/entries").glob("*+*"))
    assert _boot(capsys, host, "--panics")[0]["digest"] == boot["digest"]


def test_what_is_not_on_trial_stays_up_however_it_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = lab.make_host(tmp_path / "h")
    (boot,) = _boot(capsys, host, "--fails", "5")
    assert boot["ended"] == "not healthy, stays up"
    text = flowkit.run(capsys, "lab", "boot", host.root, "--fails", "1")[1]
    assert "It is not healthy, stays up" in text


def test_a_number_that_is_none_and_two_ends_at_once_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = lab.make_host(tmp_path / "h")
    for number in ("0", "33", "-1"):
        assert flowkit.run(capsys, "lab", "boot", host.root, f"--fails={number}")[0] == 2
    with pytest.raises(SystemExit):
        flowkit.run(capsys, "lab", "boot", host.root, "--fails=1", "--panics")


@pytest.mark.parametrize(("loader", "boot_type"), [(one, kind) for one in Loader for kind in BootType])
def test_what_does_not_run_can_be_staged_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader, boot_type: BootType
) -> None:
    host = lab.make_host(tmp_path / "h", files={"a": "1"}, loader=loader, boot_type=boot_type)
    assert flowkit.run(capsys, "lab", "stage", host.root, "--again")[0] == 2
    staged = lab.stage_files(host, {"a": "2"})
    host.marker.unlink()
    first = host.booted
    if not (host.boot_dir / "grub2/user.cfg.staged").exists():
        entries = host.boot_dir / "loader/entries"
        entries.rename(entries.with_name("old"))
        entries.with_name("entries.staged").rename(entries)
    else:
        (host.boot_dir / "grub2/user.cfg.staged").rename(host.boot_dir / "grub2/user.cfg")
    code, out, _err = flowkit.run(capsys, "lab", "stage", host.root, "--again")
    assert (code, out.split()) == (0, ["Staged:", f"{staged[:16]}…"])
    found = json.loads(flowkit.run(capsys, "lab", "show", host.root, "--json")[1])
    assert (found["staged"], [one["digest"] for one in found["staged_entries"]]) == (staged, [staged, first])
