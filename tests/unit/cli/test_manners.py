"""cli: how every command behaves towards shells, pipes and people."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from bootc_fast import lab
from bootc_fast.cli.failure import render_error
from bootc_fast.cli.parser import build_parser
from bootc_fast.errors import FileSystemError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path

COMMAND = [sys.executable, "-m", "bootc_fast"]


def _leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    groups = [action.choices for action in parser._actions if action.nargs == "A..." and action.choices]
    if not groups:
        yield parser
    for group in groups:
        for child in group.values():  # type: ignore[attr-defined]
            yield from _leaves(child)


@pytest.mark.parametrize("parser", list(_leaves(build_parser(complete=True))), ids=lambda parser: parser.prog)
def test_every_command_has_help_with_an_example(parser: argparse.ArgumentParser) -> None:
    text = parser.format_help()
    assert "example" in text
    assert "\n  bootc-fast " in text
    assert all(len(line) < 120 for line in text.splitlines())


@pytest.fixture
def host(tmp_path: Path) -> lab.LabHost:
    made = lab.make_host(tmp_path / "h", files={"motd": "1"}, version="43")
    lab.stage_files(made, {"motd": "2"}, version="44")
    return made


def _run(script: str, host: lab.LabHost) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HOST": str(host.root), "COMMAND": " ".join(COMMAND)}
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_closed_stream_stops_no_work(host: lab.LabHost, streams: str) -> None:
    done = _run(f"$COMMAND finalize --root $HOST {streams}", host)
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr
    default = lab.read_boot_menu(host).default
    assert default is not None
    assert default.digest != host.booted


def test_a_full_disk_for_the_output_is_said_after_the_work_is_done(host: lab.LabHost) -> None:
    done = _run("$COMMAND finalize --root $HOST >/dev/full", host)
    error = "error: writing to the standard output: No space left on device\nhint: make space on that file system\n"
    assert (done.returncode, done.stderr) == (6, error)
    assert lab.read_boot_menu(host).default.digest != host.booted  # type: ignore[union-attr]


def test_a_reader_that_goes_away_is_no_error_message(host: lab.LabHost) -> None:
    done = _run("$COMMAND image dump $HOST/sysroot/composefs/images/* | head -1", host)
    assert (len(done.stdout.splitlines()), done.stderr) == (1, "")


@pytest.mark.parametrize(
    "arguments",
    [r"status --root $'\xff\xfe'", r"rollback --root $HOST --to $'\xff\xff\xff\xff\xff\xff\xff\xff'",
     r"digest $'/\xff'", r"image ls $'/\xff'", r"lab show $'/\xff'", "status --root /nowhere", "image ls /proc/version",
     "etc diff --root /proc/version", "finalize --root /nowhere", "digest /", "image cat $HOST/lab.json /x"],
)  # fmt: skip
def test_strange_arguments_are_one_line_and_no_traceback(host: lab.LabHost, arguments: str) -> None:
    done = _run(f"$COMMAND {arguments}", host)
    lines = done.stderr.splitlines()
    assert done.returncode not in (0, 1), done.stderr
    assert (done.stdout, lines[0].startswith("error: ")) == ("", True)
    assert all(line.startswith(("  caused by: ", "hint: ")) for line in lines[1:])
    assert done.stderr.isprintable() or done.stderr.replace("\n", "").isprintable()


def test_a_refused_permission_says_who_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    error = FileSystemError("listing /boot: Permission denied")
    error.__cause__ = PermissionError(13, "Permission denied", "/boot")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert render_error(error).endswith("hint: run it as root\n")
    assert render_error(PermissionError(13, "Permission denied", "/x")).endswith("hint: run it as root\n")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "hint" not in render_error(error)


@pytest.mark.parametrize("verb", ["status", "rollback --dry-run", "finalize --dry-run"])
def test_no_colours_and_no_progress_where_nobody_looks(host: lab.LabHost, verb: str) -> None:
    done = _run(f"$COMMAND {verb} --root $HOST", host)
    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stdout + done.stderr
