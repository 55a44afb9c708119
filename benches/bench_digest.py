"""fs-verity digests: this program, ``fsverity digest``, and OpenSSL's plain hashes.

Source: spec core.md, "fs-verity".
"""

from __future__ import annotations

import hashlib
import subprocess
from typing import TYPE_CHECKING

import pytest

from benches.contest import Contestant
from benches.hosts import PROGRAM
from bootc_fast import _core

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BLOCK_BYTES = 4096
SMALL_FILES = 100_000


def digest_by_definition(algorithm: str, data: bytes) -> str:
    """One block after the other, as the kernel's documentation has it."""
    level = data
    root = b""
    while level:
        blocks = range(0, len(level), BLOCK_BYTES)
        padded = [level[at : at + BLOCK_BYTES].ljust(BLOCK_BYTES, b"\0") for at in blocks]
        digests = [hashlib.new(algorithm, block).digest() for block in padded]
        root = digests[0]
        level = b"".join(digests) if len(digests) > 1 else b""
    number = {"sha256": 1, "sha512": 2}[algorithm]
    head = bytes([1, number, 12, 0, 0, 0, 0, 0]) + len(data).to_bytes(8, "little")
    return hashlib.new(algorithm, (head + root).ljust(256, b"\0")).hexdigest()


def by_program(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def in_process(algorithm: str, path: Path) -> str:
    with path.open("rb") as file:
        return _core.digest_fd(file.fileno(), algorithm=algorithm, threads=1)


def by_openssl(algorithm: str, path: Path) -> str:
    """One thread, one hash over the whole: what hashing alone costs at least, without the tree."""
    context = hashlib.new(algorithm)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            context.update(piece)
    return context.hexdigest()


@pytest.fixture(scope="session")
def large_file(memory_directory: Path, request: pytest.FixtureRequest) -> Path:
    path = memory_directory / "large"
    piece = b"".join(hashlib.sha512(index.to_bytes(4, "little")).digest() for index in range(1 << 14))
    with path.open("wb") as file:
        for _ in range(request.config.getoption("--digest-mib")):
            file.write(piece)
    return path


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def bench_large_file(hold_contest: Callable[..., None], large_file: Path, algorithm: str) -> None:
    path = str(large_file)
    expected = by_program("fsverity", "digest", f"--hash-alg={algorithm}", "--compact", path)

    def is_right(found: object) -> None:
        assert found == expected

    ours = (str(PROGRAM), "digest", f"--algorithm={algorithm}", "--compact", path)
    theirs = ("fsverity", "digest", f"--hash-alg={algorithm}", "--compact", path)
    hold_contest(
        f"fs-verity digest of one file of {large_file.stat().st_size >> 20:,} MiB, {algorithm}",
        [
            Contestant("`bootc-fast digest`", lambda: by_program(*ours), is_right, is_ours=True),
            Contestant("in-process, one thread", lambda: in_process(algorithm, large_file), is_right, is_ours=True),
            Contestant("`fsverity digest`", lambda: by_program(*theirs), is_right),
            Contestant("OpenSSL: one hash over the whole, no tree", lambda: by_openssl(algorithm, large_file)),
        ],
    )


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def bench_many_small_contents(hold_contest: Callable[..., None], algorithm: str) -> None:
    contents = [b"%08d" % number * 128 for number in range(SMALL_FILES)]

    def is_right(found: object) -> None:
        assert isinstance(found, list)
        assert found[:50] == [digest_by_definition(algorithm, content) for content in contents[:50]]

    def one_by_one() -> list[str]:
        return [digest_by_definition(algorithm, content) for content in contents]

    def hashes_alone() -> None:
        # A padded block and a descriptor for each, nothing else: OpenSSL's part of the work above.
        function = getattr(hashlib, algorithm)
        padding, descriptor = bytes(BLOCK_BYTES - 1024), bytes(256)
        for content in contents:
            function(content + padding).digest()
            function(descriptor).digest()

    hold_contest(
        f"fs-verity digests of {SMALL_FILES:,} contents of 1 KiB in memory, {algorithm}, one thread",
        [
            Contestant(
                "bootc-fast: lanes filled across files",
                lambda: _core.digest_many(contents, algorithm=algorithm),
                is_right,
                is_ours=True,
            ),
            Contestant("OpenSSL: the two hashes of each file, no tree", hashes_alone),
            Contestant("OpenSSL: the definition, in Python", one_by_one, is_right),
        ],
    )
