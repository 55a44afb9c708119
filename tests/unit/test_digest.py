"""_core.digest_fd: the fs-verity digest."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bootc_fast import _core


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
