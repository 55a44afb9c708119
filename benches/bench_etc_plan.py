"""Planning an /etc merge: 1 KiB files, 1 % edited, warm; against a bare loop over the same files, and ``diff -rq``.

The images' trees are in memory, as on a host where they are walked at the same time; scanning the running /etc and
planning are timed together. Source: spec core.md, "Trees".
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from bootc_fast import _core

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

FILE_BYTES = 1024
FILES_PER_DIRECTORY = 100


@dataclass(frozen=True)
class Host:
    pristine_dir: Path
    current_dir: Path
    current_fd: int
    image: _core.Tree
    files: int
    edited: int


def write_files(root: Path, files: int, *, edited: bool) -> int:
    count = 0
    for number in range(files):
        directory = root / f"d{number // FILES_PER_DIRECTORY}"
        if number % FILES_PER_DIRECTORY == 0:
            directory.mkdir(parents=True)
        data = b"%08d" % number * (FILE_BYTES // 8)
        if edited and number % 100 == 7:
            data = b"edited!!" + data[8:]
            count += 1
        (directory / f"f{number}").write_bytes(data)
    return count


@pytest.fixture(scope="module", params=[1_000, 10_000, 100_000])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Host]:
    files = request.param
    root = tmp_path_factory.mktemp("etc")
    write_files(root / "p", files, edited=False)
    edited = write_files(root / "c", files, edited=True)
    (root / "repository").mkdir()
    repo_fd, p_fd = (os.open(root / name, os.O_RDONLY) for name in ("repository", "p"))
    writer = _core.RepositoryWriter(repo_fd)
    digest = writer.write_image(writer.ingest_directory(p_fd))
    image_fd = os.open(root / "repository" / "images" / digest, os.O_RDONLY)
    image = _core.Image.open(image_fd).tree()
    for fd in (repo_fd, p_fd, image_fd):
        os.close(fd)
    current_fd = os.open(root / "c", os.O_RDONLY)
    yield Host(root / "p", root / "c", current_fd, image, files, edited)
    os.close(current_fd)


def plan(host: Host) -> _core.EtcPlan:
    current = _core.Tree.scan(host.current_fd)
    return _core.plan_etc(host.image, current, host.image, current_dir=host.current_fd)


def floor(root: bytes) -> int:
    """What has to be asked of the kernel, whoever asks: names, attributes, and the bytes of every file."""
    count = 0
    with os.scandir(root) as entries:
        for entry in entries:
            entry.stat(follow_symlinks=False)
            os.listxattr(entry.path, follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                count += floor(entry.path)
            else:
                fd = os.open(entry.path, os.O_RDONLY)
                os.read(fd, FILE_BYTES + 1)
                os.close(fd)
                count += 1
    return count


def bench_scan_and_plan(benchmark: BenchmarkFixture, host: Host) -> None:
    assert len(plan(host).kept) == host.edited
    benchmark.extra_info["files"] = host.files
    benchmark.pedantic(plan, args=(host,), rounds=5, warmup_rounds=1)


def bench_scan(benchmark: BenchmarkFixture, host: Host) -> None:
    assert len(_core.Tree.scan(host.current_fd)) == host.files + -(-host.files // FILES_PER_DIRECTORY) + 1
    benchmark.extra_info["files"] = host.files
    benchmark.pedantic(_core.Tree.scan, args=(host.current_fd,), rounds=5, warmup_rounds=1)


def bench_floor_python_loop(benchmark: BenchmarkFixture, host: Host) -> None:
    root = os.fsencode(host.current_dir)
    assert floor(root) == host.files
    benchmark.extra_info["files"] = host.files
    benchmark.pedantic(floor, args=(root,), rounds=3, warmup_rounds=1)


def bench_peer_diff(benchmark: BenchmarkFixture, host: Host) -> None:
    argv = ["diff", "-rq", str(host.pristine_dir), str(host.current_dir)]

    def run() -> bytes:
        return subprocess.run(argv, check=False, capture_output=True).stdout

    assert len(run().splitlines()) == host.edited
    benchmark.extra_info["files"] = host.files
    benchmark.pedantic(run, rounds=3, warmup_rounds=1)
