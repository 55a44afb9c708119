"""Repositories and root trees for tests."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from crosscheck import find_program

from bootc_fast import _core

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

REPOSITORY = Path(__file__).parent.parent


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Generator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def writer(path: Path, algorithm: str = "sha512", *, durable: bool = False) -> _core.RepositoryWriter:
    path.mkdir(parents=True, exist_ok=True)
    with opened(path) as fd:
        return _core.RepositoryWriter(fd, algorithm=algorithm, durable=durable)


def ingest(
    repository: _core.RepositoryWriter,
    directory: Path,
    *,
    exclude: Sequence[bytes] = (),
    squash_owner: tuple[int, int] | None = None,
) -> _core.Tree:
    with opened(directory, os.O_RDONLY | os.O_DIRECTORY) as fd:
        return repository.ingest_directory(fd, exclude=exclude, squash_owner=squash_owner)


def object_names(repository: Path) -> set[str]:
    return {path.parent.name + path.name for path in (repository / "objects").glob("*/*")}


def composefs_fsck(repository: Path, digest: str) -> bytes:
    """Let the composefs crate check the repository; returns its dump of the image."""
    program = find_program("composefs-fsck")
    done = subprocess.run([program, repository, digest], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def debian_tree(suite: str = "bookworm") -> Path:
    """A real root tree, made once and kept under ``build``."""
    path = REPOSITORY / "build" / "rootfs" / suite
    subprocess.run([REPOSITORY / "tools" / "make-rootfs", suite, path], check=True, capture_output=True)
    return path
