"""cli.lab_demo: the story ends well, for every loader and boot type."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from bootc_fast import lab
from bootc_fast.cli import main
from bootc_fast.types import BootType, Loader

ALL = [(loader, boot_type) for loader in Loader for boot_type in BootType]


@pytest.mark.parametrize(("loader", "boot_type"), ALL)
def test_every_step_does_what_the_story_says(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], loader: Loader, boot_type: BootType
) -> None:
    assert main(["lab", "demo", str(tmp_path / "h"), f"--loader={loader}", f"--boot-type={boot_type}"]) == 0
    told = capfd.readouterr().out
    for command in ("create", "edit", "stage", "boot"):
        assert f"$ bootc-fast lab {command} {tmp_path / 'h'}" in told
    for command in (
        "etc diff",
        "composefs-finalize-staged --dry-run",
        "composefs-finalize-staged",
        "rollback",
        "status",
    ):
        assert f"$ bootc-fast --root {tmp_path / 'h'} {command}\n" in told
    assert "K /etc/lab-helper" in told
    assert "I /etc/lab/app.conf" in told
    assert "The story ends well" in told
    host = lab.open_lab(tmp_path / "h")
    assert (host.etc / "lab/only-in-2.conf").exists()
    assert len(host.deployments) == 2


def test_without_a_directory_nothing_stays(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert main(["lab", "demo"]) == 0
    assert str(tmp_path) in capfd.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_fails_ends_the_story_with_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["lab", "demo", str(tmp_path)]) == 1
    told = capfd.readouterr()
    assert "is not empty" in told.err
    assert "step 1 ended with exit code 2" in told.err
    assert "ends well" not in told.out


@pytest.mark.parametrize(("loader", "boot_type"), [one for one in ALL if one[0] is not Loader.GRUB_CC])
def test_the_story_of_a_trial_ends_with_the_better_update(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], loader: Loader, boot_type: BootType
) -> None:
    kind = (f"--loader={loader}", f"--boot-type={boot_type}")
    assert main(["lab", "demo", str(tmp_path / "h"), "--trial", *kind]) == 0
    told = capfd.readouterr()
    assert told.out.count("not healthy, reboots: ") == 3
    assert "was tried 3 times and failed" in told.out
    assert "it was tried 3 times and failed" in told.err
    assert "The story ends well" in told.out
    assert len(lab.open_lab(tmp_path / "h").deployments) == 3


def test_a_loader_that_counts_nothing_has_no_such_story(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "demo", "--trial", "--loader=grub-cc"]) == 2
    assert "needs a loader that counts boots" in capfd.readouterr().err
