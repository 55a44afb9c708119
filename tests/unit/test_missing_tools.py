"""A tool that is missing skips the tests that need it after ``make demo``, and is an error in ``make test``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import missing_tools
import pytest

TESTS = Path(__file__).parents[1]
_CONFTEST = f"""
import importlib.util, sys
sys.path.insert(0, {str(TESTS)!r})
spec = importlib.util.spec_from_file_location("repository_conftest", {str(TESTS / "conftest.py")!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
pytest_runtest_call, pytest_fixture_setup = module.pytest_runtest_call, module.pytest_fixture_setup
"""
_CASES = """
import subprocess
import pytest


@pytest.fixture
def image():
    subprocess.run(["mkfs.erofs", "x"], check=True)


def test_a_command():
    subprocess.run(["fsverity", "digest"], check=True)


def test_a_fixture(image):
    pass


def test_the_cause_of_an_error():
    try:
        subprocess.run(["mcopy"], check=True)
    except OSError as error:
        raise RuntimeError("making an ESP") from error


def test_a_file():
    open("/usr/lib/shim/gone.efi")


def test_tasks():
    try:
        subprocess.run(["mtype"], check=True)
    except OSError as error:
        raise ExceptionGroup("of a nursery", [error])


def test_tasks_of_which_one_failed_for_itself():
    try:
        subprocess.run(["mtype"], check=True)
    except OSError as error:
        raise ExceptionGroup("of a nursery", [error, ValueError()])


def test_a_library():
    raise ModuleNotFoundError("No module named 'gi'", name="gi")


def test_what_is_no_tool():
    subprocess.run(["no-such-program"], check=True)


def test_what_fails_for_itself():
    assert False


def test_what_needs_nothing():
    pass
"""


def _play(tmp_path: Path, **environment: str) -> str:
    """Run the cases where no tool is, with the hooks of the repository's tests."""
    (tmp_path / "conftest.py").write_text(_CONFTEST)
    (tmp_path / "test_cases.py").write_text(_CASES)
    (tmp_path / "bin").mkdir(exist_ok=True)
    argv = [sys.executable, "-m", "pytest", "-q", "-rsfp", "-c", os.devnull, "--rootdir", tmp_path]
    done = subprocess.run(
        [*argv, "-p", "no:cacheprovider", tmp_path], capture_output=True, text=True, check=False, timeout=120,
        env={"PATH": str(tmp_path / "bin"), **environment},
    )  # fmt: skip
    return done.stdout + done.stderr


def test_after_make_demo_it_is_a_skip_that_says_what_to_install(tmp_path: Path) -> None:
    told = _play(tmp_path)
    reasons = sorted(re.findall(r"^SKIPPED .*?: (needs .*)$", told, re.MULTILINE))
    assert reasons == [
        "needs /usr/lib/shim/gone.efi (Debian: shim-unsigned)",
        "needs PyGObject and libostree (make setup)",
        "needs fsverity (Debian: fsverity)",
        "needs mcopy (Debian: mtools)",
        "needs mkfs.erofs (Debian: erofs-utils)",
        "needs mtype (Debian: mtools)",
    ], told
    assert re.findall(r"^FAILED .*::(\w+)", told, re.MULTILINE) == [
        "test_tasks_of_which_one_failed_for_itself",
        "test_what_is_no_tool",
        "test_what_fails_for_itself",
    ]
    assert "3 failed, 1 passed, 6 skipped" in told


def test_in_make_test_it_is_an_error(tmp_path: Path) -> None:
    told = _play(tmp_path, **{missing_tools.ALL_ARE_HERE: "1"})
    assert "SKIPPED" not in told
    assert "8 failed, 1 passed, 1 error" in told
    assert f"export {missing_tools.ALL_ARE_HERE}=1\n" in (TESTS.parent / "tools/test").read_text()


def test_a_tool_that_is_here_explains_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "fsverity"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert missing_tools.explain(FileNotFoundError(2, "x", "fsverity")) is None
    assert missing_tools.explain(FileNotFoundError(2, "x", "mcopy")) == "needs mcopy (Debian: mtools)"
    assert missing_tools.explain(FileNotFoundError(2, "x")) is None


def test_what_a_command_does_not_find_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(missing_tools.shutil, "which", lambda _name: None)
    stub = next(proof for proof in missing_tools.list_tools() if proof.endswith(".efi.stub"))
    monkeypatch.setattr(missing_tools.Path, "exists", lambda self: str(self) != stub)
    for error in (
        subprocess.CalledProcessError(1, ["objdump", "-h", stub]),
        subprocess.CalledProcessError(127, ["bash", "-euc", "checkmodule -M x\nsemodule_package y"]),
        AssertionError("fleet.md:9: $ status | jq .x\nbash: line 1: jq: command not found"),
    ):
        assert str(missing_tools.explain(error)).startswith("needs "), error
    for error in (
        subprocess.CalledProcessError(1, ["bash", "-euc", "checkmodule -M x"]),
        subprocess.CalledProcessError(127, ["bash", "-euc", "nobodys-tool"]),
        AssertionError("nobodys-tool: command not found"),
        AssertionError("jq says nothing"),
    ):
        assert missing_tools.explain(error) is None, error
