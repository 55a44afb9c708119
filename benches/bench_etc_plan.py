"""Planning an /etc merge: 1 KiB files, 1 % edited, warm; against what the kernel must be asked at least, and ``diff``.

The image's tree is walked each time, as on a host. The edits keep their files' sizes: nothing but content tells.
Source: spec core.md, "Trees".
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benches.contest import Contestant
from benches.hosts import edit_files, write_files
from bootc_fast import _core

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="session")
def floor_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("floor") / "floor"
    source = Path(__file__).with_name("floor.c")
    subprocess.run(["cc", "-O2", "-pthread", "-o", str(path), str(source)], check=True)
    return path


def call(*argv: str, codes: tuple[int, ...] = (0,)) -> bytes:
    done = subprocess.run(argv, check=False, capture_output=True)
    assert done.returncode in codes, done.stderr
    return done.stdout


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "files" in metafunc.fixturenames:
        metafunc.parametrize("files", [int(text) for text in metafunc.config.getoption("--etc-files").split(",")])


def bench_plan(hold_contest: Callable[..., None], memory_directory: Path, floor_program: Path, files: int) -> None:
    root = memory_directory / f"etc-{files}"
    pristine, current = root / "p", root / "c"
    write_files(pristine, files)
    write_files(current, files)
    edited = edit_files(current, range(7, files, 100))
    (root / "repository").mkdir()
    with ExitStack() as stack:

        def open_file(path: Path) -> int:
            fd = os.open(path, os.O_RDONLY)
            stack.callback(os.close, fd)
            return fd

        writer = _core.RepositoryWriter(open_file(root / "repository"))
        digest = writer.write_image(writer.ingest_directory(open_file(pristine)))
        image_fd, current_fd = open_file(root / "repository" / "images" / digest), open_file(current)

        def plan() -> object:
            image = _core.Side(_core.Image.open(image_fd).tree())
            return _core.plan_etc(image, _core.Side(_core.Tree.scan(current_fd), dir_fd=current_fd), image)

        def is_right(plan: object) -> None:
            assert isinstance(plan, _core.EtcPlan)
            assert len(plan.kept) == edited

        def counts_all(output: object) -> None:
            assert output == b"%d\n" % files

        def finds_edits(output: object) -> None:
            assert isinstance(output, bytes)
            assert len(output.splitlines()) == edited

        threads = str(os.cpu_count() or 1)
        hold_contest(
            f"Plan for an /etc of {files:,} files, {edited:,} edited",
            [
                Contestant("bootc-fast: walk the image, scan, plan", plan, is_right, is_ours=True),
                Contestant(
                    "floor in C: readdir, statx, listxattr, read",
                    lambda: call(str(floor_program), str(current), threads),
                    counts_all,
                ),
                Contestant("the floor, one thread", lambda: call(str(floor_program), str(current), "1"), counts_all),
                Contestant(
                    "`diff -rq`: two trees, contents only",
                    lambda: call("diff", "-rq", str(pristine), str(current), codes=(1,)),
                    finds_edits,
                ),
            ],
        )
    shutil.rmtree(root)
