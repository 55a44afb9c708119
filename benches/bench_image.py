"""Walking and dumping a composefs image. Source: spec core.md, "EROFS"."""

from __future__ import annotations

import hashlib
import os
import subprocess
from contextlib import ExitStack
from types import SimpleNamespace
from typing import TYPE_CHECKING

from benches.contest import Contestant
from benches.hosts import PROGRAM
from bootc_fast import _core

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pytest

FILES_PER_DIRECTORY = 1000


def entries(count: int) -> Iterator[SimpleNamespace]:
    common = {"uid": 0, "gid": 0, "rdev": 0, "mtime_ns": 10**18, "xattrs": {}, "target": None, "link_group": None}
    directory = {
        **common,
        "mode": 0o40755,
        "nlink": 2,
        "size_bytes": 0,
        "content": "none",
        "data": None,
        "digest": None,
    }
    file = {**common, "mode": 0o100644, "nlink": 1, "size_bytes": 1024, "content": "object", "data": None}
    yield SimpleNamespace(path=b"", **directory)
    for number in range(count):
        if number % FILES_PER_DIRECTORY == 0:
            yield SimpleNamespace(path=b"d%d" % (number // FILES_PER_DIRECTORY), **directory)
        path = b"d%d/f%d" % (number // FILES_PER_DIRECTORY, number)
        yield SimpleNamespace(path=path, digest=hashlib.sha512(path).hexdigest(), **file)


def bench_dump(hold_contest: Callable[..., None], memory_directory: Path, pytestconfig: pytest.Config) -> None:
    count = pytestconfig.getoption("--image-entries")
    repository = memory_directory / "image"
    repository.mkdir()
    with ExitStack() as stack:
        repository_fd = os.open(repository, os.O_RDONLY)
        stack.callback(os.close, repository_fd)
        digest = _core.RepositoryWriter(repository_fd).write_image(_core.build_tree(entries(count)))
        image = (repository / "images" / digest).resolve()
        image_fd = os.open(image, os.O_RDONLY)
        stack.callback(os.close, image_fd)

        def dump(*argv: str) -> str:
            """The digest of the output, which goes through a file in memory: a pipe would be measured, too."""
            with (memory_directory / "dump").open("w+b") as out:
                subprocess.run(argv, check=True, stdout=out)
                return str(out.tell())

        ours = (str(PROGRAM), "image", "dump", str(image))
        theirs = ("target/release/examples/composefs-dump", "sha512", str(image))
        dump(*theirs)
        expected = hashlib.sha256((memory_directory / "dump").read_bytes()).hexdigest()

        def is_equal(_: object) -> None:
            assert hashlib.sha256((memory_directory / "dump").read_bytes()).hexdigest() == expected

        def walk() -> int:
            return _core.Image.open(image_fd).verify()[0]

        def find() -> object:
            return _core.Image.open(image_fd).lookup(b"d%d/f%d" % ((count - 1) // FILES_PER_DIRECTORY, count - 1))

        hold_contest(
            f"Dump of a composefs image of {count:,} files",
            [
                Contestant("`bootc-fast image dump`", lambda: dump(*ours), is_equal, is_ours=True),
                Contestant("the composefs crate 0.9.4, a program", lambda: dump(*theirs), is_equal),
                Contestant("in-process: read and check everything", walk, is_ours=True),
                Contestant("in-process: open, find one path", find, is_ours=True),
            ],
        )
