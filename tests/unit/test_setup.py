"""What the set-up cannot install is said before it installs anything."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def _set_up(tmp_path: Path, **programs: str) -> subprocess.CompletedProcess[str]:
    """Run the set-up where only these programs differ from this machine's; apt and pip must not be reached."""
    for name, script in {"apt-get": "exit 99", **programs}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "BOOTC_FAST_SETUP": "demo"}
    return subprocess.run(
        [REPOSITORY / "tools/setup"], env=environment, check=False, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("version", ["1.63.0", "1.88.9", "0.99.0"])
def test_a_rust_that_is_too_old_is_told_with_what_is_wanted(tmp_path: Path, version: str) -> None:
    done = _set_up(tmp_path, cargo=f"echo 'cargo {version} (0123456 2022-01-01)'")
    wanted = re.search(r'^rust-version = "(.*)"', (REPOSITORY / "Cargo.toml").read_text(), re.MULTILINE)
    assert wanted is not None
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"setup: Rust {wanted[1]} or newer is needed, and {version} is here")
    assert "rustup" in done.stderr


def test_a_rust_that_does_not_start_is_none(tmp_path: Path) -> None:
    done = _set_up(tmp_path, cargo="exit 1")
    assert (done.returncode, "and none is here" in done.stderr) == (1, True), done.stderr


def test_a_python_that_is_too_old_is_told(tmp_path: Path) -> None:
    done = _set_up(tmp_path, python3="exit 1", cargo="echo 'cargo 1.100.0 (0123456 2027-01-01)'")
    assert (done.returncode, done.stderr) == (1, "setup: Python 3.11 or newer is needed\n")


def _install(dest: Path, *version: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [REPOSITORY / "tools/install", dest, *version], check=False, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("link", ["python3.13", "/usr/bin/python3.13"])
def test_a_python_that_is_not_the_targets_is_refused_before_the_build(tmp_path: Path, link: str) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/python3").symlink_to(link)
    done = _install(tmp_path, "3.12")
    assert (done.returncode, done.stderr) == (2, f"install: {tmp_path} has Python 3.13, and 3.12 is asked for\n")
    assert not (tmp_path / "usr/lib").exists()


@pytest.mark.parametrize("version", ["3.10", "3.9", "2.7", "3", "x"])
def test_a_python_that_is_too_old_for_the_program_is_refused(tmp_path: Path, version: str) -> None:
    done = _install(tmp_path, version)
    assert (done.returncode, "3.11 or newer is needed" in done.stderr) == (2, True), done.stderr
    assert not list(tmp_path.iterdir())


def test_a_target_with_an_old_python_is_refused(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/python3").symlink_to("python3.9")
    done = _install(tmp_path)
    assert (done.returncode, "and 3.9 is asked for" in done.stderr) == (2, True), done.stderr


def test_make_install_into_nowhere_is_refused_before_the_build() -> None:
    done = subprocess.run(
        ["make", "-s", "install", "DESTDIR="], cwd=REPOSITORY, check=False, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, "make install DESTDIR=/path/to/root" in done.stderr) == (2, True), done.stderr
