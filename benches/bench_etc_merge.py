"""The whole merge of an /etc as commands, result written: against bootc's way, as a program of its own.

As on a host: one /etc of 1 KiB files, 1 % of them edited, and a new deployment's /etc that is a copy of its image's,
where the update changed another 1 %. bootc reads the images' sides through the kernel's mounts; here they are plain
directories for it, which costs it less. Source: rust/crosscheck-oci/examples/etc-merge-peer.rs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

from benches.contest import Contestant
from benches.hosts import PROGRAM, edit_files, file_path, write_files
from bootc_fast import _core

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

PEER = "target/release/examples/etc-merge-peer"


def bench_written_merge(hold_contest: Callable[..., None], memory_directory: Path, pytestconfig: pytest.Config) -> None:
    files: int = pytestconfig.getoption("--merge-files")
    work = memory_directory / "merge"
    sides = {name: work / name for name in ("pristine", "current", "new")}
    for side in sides.values():
        write_files(side, files)
    edited = edit_files(sides["current"], range(7, files, 100))
    edit_files(sides["new"], range(3, files, 100))
    result, repository = work / "result", work / "repository"
    repository.mkdir()
    images = {}
    with ExitStack() as stack:

        def open_directory(path: Path) -> int:
            fd = os.open(path, os.O_RDONLY)
            stack.callback(os.close, fd)
            return fd

        writer = _core.RepositoryWriter(open_directory(repository))
        for name in ("pristine", "new"):
            images[name] = (
                repository / "images" / writer.write_image(writer.ingest_directory(open_directory(sides[name])))
            )

    def copy_new() -> None:
        shutil.rmtree(result, ignore_errors=True)
        subprocess.run(["cp", "-a", str(sides["new"]), str(result)], check=True)

    def run(*argv: str | Path) -> None:
        subprocess.run(argv, check=True, capture_output=True)

    def is_merged(_: object) -> None:
        for number in (3, 7, 8):
            side = sides["new" if number == 3 else "current"]
            assert file_path(result, number).read_bytes() == file_path(side, number).read_bytes()
        assert sum(len(names) for _, _, names in os.walk(result)) == files

    def ours(**where: Path) -> Callable[[], None]:
        options = [f"--{name}={path}" for name, path in where.items()]
        objects = f"--objects={repository / 'objects'}"
        into = f"--into={result}"
        return lambda: run(PROGRAM, "etc", "merge", *options, objects, "--subdir=", into, "--json")

    hold_contest(
        f"Written merge of an /etc of {files:,} files, {edited:,} edited, whole commands",
        [
            Contestant(
                "`bootc-fast etc merge`, images",
                ours(current=sides["current"], **images),
                is_merged,
                copy_new,
                is_ours=True,
            ),
            Contestant("`bootc-fast etc merge`, directories", ours(**sides), is_merged, copy_new, is_ours=True),
            Contestant(
                "in bootc's way, a program",
                lambda: run(PEER, sides["pristine"], sides["current"], result),
                is_merged,
                copy_new,
            ),
        ],
    )
    shutil.rmtree(work)
