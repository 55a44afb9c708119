"""_core.digest_fd: the fs-verity digest."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
import trio

from bootc_fast import _core
from bootc_fast.machine.native import run_native


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("size_bytes", [0, 1, 4096, 4097, 128 * 4096, 128 * 4096 + 1, 128 * 128 * 4096 + 1])
def test_digest_equals_that_of_fsverity_utils(tmp_path: Path, algorithm: str, size_bytes: int) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(index % 251 for index in range(4096)) * (size_bytes // 4096) + b"x" * (size_bytes % 4096))
    with path.open("rb") as file:
        ours = _core.digest_fd(file.fileno(), algorithm=algorithm)
    argv = ["fsverity", "digest", f"--hash-alg={algorithm}", "--compact", str(path)]
    theirs = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    assert ours == theirs


def test_many_contents_have_the_digests_that_each_has_alone(tmp_path: Path) -> None:
    contents = [b"", b"x", b"y" * 4096, b"z" * 4097, b"w" * 600_000, b"v" * 1024]
    for algorithm in ("sha256", "sha512"):
        alone = []
        for content in contents:
            (tmp_path / "data").write_bytes(content)
            with (tmp_path / "data").open("rb") as file:
                alone.append(_core.digest_fd(file.fileno(), algorithm=algorithm, salt=b"s", block_bytes=1024))
        assert _core.digest_many(contents, algorithm=algorithm, salt=b"s", block_bytes=1024) == alone


def test_a_file_without_fs_verity_has_no_measurement(tmp_path: Path) -> None:
    with (tmp_path / "data").open("wb") as file:
        assert _core.measure_fd(file.fileno()) is None


def test_digest_of_a_closed_descriptor_and_bad_parameters_are_errors() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        _core.digest_fd(999)
    with pytest.raises(ValueError, match="not negative"):
        _core.measure_fd(-1)
    with pytest.raises(ValueError, match="block size 4000"):
        _core.digest_many([], block_bytes=4000)
    with pytest.raises(ValueError, match="salt of 33 bytes"):
        _core.digest_many([], salt=bytes(33))


async def test_a_digest_is_cancelled_within_50_ms(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 36)
    with path.open("rb") as file:
        start = time.perf_counter()
        with trio.move_on_after(0.1) as scope:
            await run_native(_core.digest_fd, file.fileno())
        assert scope.cancelled_caught
        # A wide margin for a busy machine; without polling this takes half a minute.
        assert time.perf_counter() - start < 2
