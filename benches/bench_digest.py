"""fs-verity digests: this program, ``fsverity digest``, and the tree built on OpenSSL's hashes.

Run with ``make bench``. Each size and algorithm is a group; the table's last column says what the peer took.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import hashes

from bootc_fast import _core

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_benchmark.fixture import BenchmarkFixture

BLOCK_BYTES = 4096
OPENSSL = {"sha256": hashes.SHA256, "sha512": hashes.SHA512}
PROGRAM = Path(sysconfig.get_path("scripts")) / "bootc-fast"


def _hash(algorithm: str, data: bytes) -> bytes:
    context = hashes.Hash(OPENSSL[algorithm]())
    context.update(data)
    return context.finalize()


def digest_openssl(algorithm: str, data: bytes) -> str:
    """The definition, one block after the other."""
    level = data
    root = b""
    while level:
        blocks = range(0, len(level), BLOCK_BYTES)
        digests = [_hash(algorithm, level[at : at + BLOCK_BYTES].ljust(BLOCK_BYTES, b"\0")) for at in blocks]
        root = digests[0]
        level = b"".join(digests) if len(digests) > 1 else b""
    number = {"sha256": 1, "sha512": 2}[algorithm]
    head = bytes([1, number, 12, 0, 0, 0, 0, 0]) + len(data).to_bytes(8, "little")
    return _hash(algorithm, (head + root).ljust(256, b"\0")).hex()


@pytest.fixture(scope="session")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file of 1 GiB in the page cache; ``DIGEST_BENCH_MIB`` makes it smaller."""
    size_mib = int(os.environ.get("DIGEST_BENCH_MIB", "1024"))
    path = tmp_path_factory.mktemp("digest") / "large"
    piece = b"".join(hashlib.sha512(index.to_bytes(4, "little")).digest() for index in range(1 << 14))
    with path.open("wb") as file:
        for _ in range(size_mib):
            file.write(piece)
    yield path
    path.unlink()


def _fsverity(algorithm: str, path: Path) -> str:
    argv = ["fsverity", "digest", f"--hash-alg={algorithm}", "--compact", str(path)]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def _program(algorithm: str, path: Path) -> str:
    argv = [str(PROGRAM), "digest", f"--algorithm={algorithm}", "--compact", str(path)]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def _in_process(algorithm: str, path: Path) -> str:
    with path.open("rb") as file:
        return _core.digest_fd(file.fileno(), algorithm=algorithm, threads=1)


def _openssl(algorithm: str, path: Path) -> str:
    """One thread, one hash over the whole: what hashing alone costs at least, without the tree."""
    with path.open("rb") as file:
        context = hashes.Hash(OPENSSL[algorithm]())
        while piece := file.read(1 << 20):
            context.update(piece)
    return context.finalize().hex()


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize(
    "who", [_program, _fsverity, _in_process, _openssl], ids=["bootc-fast", "fsverity", "one thread", "OpenSSL"]
)
def bench_large_file(
    benchmark: BenchmarkFixture, large_file: Path, algorithm: str, who: Callable[[str, Path], str]
) -> None:
    benchmark.group = f"digest of {large_file.stat().st_size >> 20} MiB, {algorithm}"
    if who is not _openssl:
        assert who(algorithm, large_file) == _fsverity(algorithm, large_file)
    benchmark.pedantic(who, (algorithm, large_file), rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("size_bytes", [1024, 4096, 10_000])
@pytest.mark.parametrize("who", ["lanes", "OpenSSL"])
def bench_many_small_contents(benchmark: BenchmarkFixture, algorithm: str, size_bytes: int, who: str) -> None:
    count = 100_000 if size_bytes <= 1024 else 20_000
    contents = [index.to_bytes(4, "little") * (size_bytes // 4) for index in range(count)]
    benchmark.group = f"digests of {count} contents of {size_bytes} bytes, {algorithm}"
    expected = [digest_openssl(algorithm, content) for content in contents[:50]]
    assert _core.digest_many(contents[:50], algorithm=algorithm) == expected
    if who == "lanes":
        benchmark.pedantic(_core.digest_many, (contents,), {"algorithm": algorithm}, rounds=5, warmup_rounds=1)
    else:
        benchmark.pedantic(_hash_all_openssl, (contents, algorithm), rounds=3, warmup_rounds=1)


def _hash_all_openssl(contents: list[bytes], algorithm: str) -> None:
    """One padded block and one descriptor for each, less all tree building: what OpenSSL's part is at least."""
    function = getattr(hashlib, algorithm)
    descriptor = bytes(256)
    for content in contents:
        padding = bytes(-len(content) % BLOCK_BYTES)
        context = function(content)
        context.update(padding)
        context.digest()
        function(descriptor).digest()
