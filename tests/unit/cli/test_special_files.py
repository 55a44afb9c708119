"""A path that is no regular file is refused at once: a FIFO would be waited for, for ever."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bootc_fast.cli import main
from bootc_fast.composefs.images import open_object
from bootc_fast.errors import VerityMismatchError

if TYPE_CHECKING:
    from collections.abc import Generator

pytestmark = pytest.mark.timeout(60)

COMMANDS = (("digest",), ("image", "ls"), ("image", "dump"), ("image", "verify"), ("image", "cat", "FILE", "x"))


@pytest.fixture
def special(tmp_path: Path) -> Generator[dict[str, Path]]:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.open(tmp_path, os.O_RDONLY)
        bound.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
        yield {
            "a FIFO": tmp_path / "fifo",
            "a FIFO behind a link": tmp_path / "link",
            "a socket": tmp_path / "socket",
            "a character device": Path("/dev/zero"),
            "a directory": tmp_path,
        }


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("kind", ["a FIFO", "a FIFO behind a link", "a socket", "a character device", "a directory"])
def test_what_is_no_regular_file_is_refused(
    command: tuple[str, ...], kind: str, special: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = special[kind]
    assert stat.S_ISREG(path.stat().st_mode) is False
    arguments = [str(path) if word == "FILE" else word for word in command]
    assert main(arguments if "FILE" in command else [*arguments, str(path)]) == 2
    said = capsys.readouterr().err
    assert f"opening {path}: it is {kind.removesuffix(' behind a link')}, not a regular file" in said


def test_an_object_that_is_a_fifo_is_not_what_its_name_says(tmp_path: Path) -> None:
    digest = "ab" * 32
    (tmp_path / "ab").mkdir()
    os.mkfifo(tmp_path / "ab" / digest[2:])
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(VerityMismatchError), open_object(fd, digest):
            pass
    finally:
        os.close(fd)
