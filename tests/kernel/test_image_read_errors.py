"""An image that cannot be read, as a whole or any more, is an error with an offset and exit code 11, never a signal.

Each case runs in a process of its own, since what is tested for kills it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from erofs_support import mkfs

from bootc_fast import _core

if TYPE_CHECKING:
    from collections.abc import Generator

pytestmark = pytest.mark.root
KIB, MIB = 1 << 10, 1 << 20

PROGRAM = """
import os, sys
from bootc_fast import _core
from bootc_fast.errors import ImageReadError
what, path, cut, out = sys.argv[1], sys.argv[2], int(sys.argv[3]), os.open("/dev/null", os.O_WRONLY)
fd = os.open(path, os.O_RDONLY)
calls = {
    "tree": lambda image: image.tree(),
    "lookup": lambda image: image.lookup(b"d9/f99"),
    "walk": lambda image: list(image.walk()),
    "dump": lambda image: image.dump(out),
    "verify": lambda image: image.verify(),
    "copy_file": lambda image: image.copy_file(b"big", out),
}
peak = lambda: int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
try:
    image = _core.Image.open(fd)
    if cut >= 0:
        image.lookup(b"d9/f99")
        walk = image.walk()
        next(walk)
        os.truncate(path, cut)
        calls["walk"] = lambda _image: list(walk)
    before = peak()
    print("done", calls[what](image) is None, "peak", before, peak())
except ImageReadError as error:
    cause = error.__cause__
    print(error.exit_code, error.offset, cause and (cause.errno, cause.filename == os.fsencode(path)), error)
"""


def run(what: str, image: Path, cut: int = -1) -> str:
    argv = [sys.executable, "-c", PROGRAM, what, image, str(cut)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout


@pytest.fixture(scope="module")
def many_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some 300 KiB of metadata: inodes and directories of 2,000 files."""
    base = tmp_path_factory.mktemp("many")
    for directory in range(20):
        (base / f"tree/d{directory}").mkdir(parents=True)
        for number in range(100):
            (base / f"tree/d{directory}/f{number}").write_bytes(b"x" * 100)
    (base / "repository").mkdir()
    tree_fd, repository_fd = (os.open(base / name, os.O_RDONLY) for name in ("tree", "repository"))
    writer = _core.RepositoryWriter(repository_fd)
    digest = writer.write_image(writer.ingest_directory(tree_fd))
    os.close(tree_fd)
    os.close(repository_fd)
    return base / "repository/images" / digest


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Larger than what is kept in memory of one."""
    base = tmp_path_factory.mktemp("large")
    (base / "tree/d9").mkdir(parents=True)
    (base / "tree/big").write_bytes(os.urandom(80 * MIB))
    (base / "tree/d9/f99").write_bytes(b"x")
    return mkfs(base / "image", base / "tree")


def copy(image: Path, to: Path) -> Path:
    to.write_bytes(image.read_bytes())
    return to


@pytest.mark.parametrize("what", ["tree", "walk", "dump", "verify"])
@pytest.mark.parametrize("kept", [0, 4096, 100_000])
def test_a_file_that_is_cut_off_in_use(tmp_path: Path, many_files: Path, what: str, kept: int) -> None:
    image = copy(many_files, tmp_path / "image")
    assert image.stat().st_size > 200_000
    code, offset, *_rest = run(what, image, kept).split()
    assert code == "11"
    assert kept - 4096 < int(offset) <= image.stat().st_size + 300_000


@pytest.mark.parametrize("which", ["many_files", "large"])
def test_what_was_read_before_the_cut_stays_good(tmp_path: Path, request: pytest.FixtureRequest, which: str) -> None:
    """A page of the file itself would be gone, whatever had been made sure of before."""
    image = copy(request.getfixturevalue(which), tmp_path / "image")
    assert run("lookup", image, 0).startswith("done")


def test_a_large_file_that_is_cut_off_in_use(tmp_path: Path, large: Path) -> None:
    image = copy(large, tmp_path / "image")
    found = run("copy_file", image, 50 * MIB)
    assert found.startswith(f"11 {50 * MIB} (5, True) the image cannot be read at offset {50 * MIB:#x}: "), found
    assert run("copy_file", copy(large, image)).startswith("done")


def test_a_large_file_costs_little_memory(large: Path) -> None:
    before, after = (int(number) for number in run("copy_file", large).split("peak ")[1].split())
    assert after - before < 32 << 10, "KiB"


@pytest.mark.parametrize("kept", [2048, 4096, 70_000])
@pytest.mark.parametrize("command", ["ls", "verify", "dump"])
def test_a_file_that_is_too_short_from_the_start(tmp_path: Path, many_files: Path, command: str, kept: int) -> None:
    image = copy(many_files, tmp_path / "image")
    size = image.stat().st_size
    os.truncate(image, kept)
    argv = [sys.executable, "-m", "bootc_fast", "image", command, image]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 11, done.stderr
    assert f"cut off at offset {kept:#x}, it should have {size:#x} bytes" in done.stderr


@contextmanager
def on_a_disk_that_ends(image: Path, scratch: Path, unit: int) -> Generator[tuple[Path, int]]:
    """A real file system whose device fails reads from somewhere on; yields the file and its first bad unit."""
    disk, place = scratch / "disk", scratch / "place"
    (scratch / "content").mkdir()
    copy(image, scratch / "content/image")
    place.mkdir()
    with disk.open("wb") as file:
        file.truncate(image.stat().st_size * 2 + 8 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0", "-d", scratch / "content", disk], check=True)
    wanted, raw = image.read_bytes(), disk.read_bytes()
    # Where each unit begins on the disk: mkfs does not lay a file out in order.
    places = [raw.find(wanted[start : start + 4096]) for start in range(0, len(wanted), unit)]
    end = sorted(found for found in places if found > places[0])[1]
    subprocess.run(["mount", "-o", "loop,ro", disk, place], check=True)
    try:
        os.truncate(disk, end)
        yield place / "image", next(number for number, found in enumerate(places) if found >= end)
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("what", ["tree", "walk", "dump", "verify"])
def test_a_bad_sector_under_metadata(tmp_path: Path, many_files: Path, what: str) -> None:
    with on_a_disk_that_ends(many_files, tmp_path, 64 * KIB) as (image, first_bad):
        found = run(what, image)
    assert found.startswith("11 "), found
    assert "(5, True) the image cannot be read at offset" in found
    assert int(found.split()[1]) >= first_bad * 64 * KIB


def test_a_bad_sector_under_mapped_content(tmp_path: Path, large: Path) -> None:
    with on_a_disk_that_ends(large, tmp_path, MIB) as (image, first_bad):
        found = run("copy_file", image)
        assert found.startswith("11 "), found
        # The page cache reads up to a whole piece at once, and fails as a whole.
        assert int(found.split()[1]) <= first_bad * MIB
