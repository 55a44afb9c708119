"""cli.cmd_digest: equal to ``fsverity digest``."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from bootc_fast.cli import main
from bootc_fast.cli.cmd_digest import SMALL_FILE_BYTES

SALT = "00112233445566778899aabbccddeeff"
DIGEST_BYTES = {"sha256": 32, "sha512": 64}
POOL_BYTES = 6 << 20


def _sizes(digest_bytes: int, block_bytes: int) -> list[int]:
    """200 sizes around the edges of hash blocks, blocks, lanes, levels, and of what counts as small."""
    fanout = block_bytes // digest_bytes
    edges = [0, 64, 128, 4 << 20, SMALL_FILE_BYTES, fanout * block_bytes]
    edges += [count * block_bytes for count in (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 128)]
    edges += [size for count in (2, 8, 16, fanout) if (size := count * fanout * block_bytes) < POOL_BYTES]
    edges += [1 << bits for bits in range(20)]
    found = {edge + step for edge in edges for step in (-1, 0, 1) if edge + step >= 0}
    # Odd sizes in between make up for what coincides.
    filler = (7919 * index + 3 for index in range(1000))
    while len(found) < 200:
        found.add(next(filler))
    assert len(found) == 200
    return sorted(found)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What files start with; longer ones end in a hole."""
    path = tmp_path_factory.mktemp("digest") / "pool"
    path.write_bytes(b"".join(index.to_bytes(4, "little") for index in range(POOL_BYTES // 4)))
    return path


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize(("block_bytes", "salt"), [(1024, SALT), (4096, ""), (4096, SALT), (65536, SALT[:2])])
def test_equals_fsverity_on_200_sizes_around_all_edges(
    pool: Path,
    tmp_path: Path,
    capfdbinary: pytest.CaptureFixture[bytes],
    *,
    algorithm: str,
    block_bytes: int,
    salt: str,
) -> None:
    content = pool.read_bytes()
    names = []
    for size in _sizes(DIGEST_BYTES[algorithm], block_bytes):
        path = tmp_path / str(size)
        path.write_bytes(content[:size])
        os.truncate(path, size)
        names.append(str(path))
    options = [f"--block-size={block_bytes}", *([f"--salt={salt}"] if salt else []), *names]
    theirs = subprocess.run(
        ["fsverity", "digest", f"--hash-alg={algorithm}", *options], check=True, capture_output=True
    )
    assert theirs.stdout.count(b"\n") == 200
    assert main(["digest", f"--algorithm={algorithm}", *options]) == 0
    assert capfdbinary.readouterr().out == theirs.stdout


def test_default_is_bootcs_sha512_with_4096_bytes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"x" * 5000)
    argv = ["fsverity", "digest", "--hash-alg=sha512", str(path)]
    assert main(["digest", str(path)]) == 0
    assert capfd.readouterr().out == subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def test_compact_and_json_show_the_same_digest(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9")
    path.write_bytes(b"x")
    assert main(["digest", "--compact", str(path)]) == 0
    digest = capfd.readouterr().out.strip()
    assert main(["digest", "--json", str(path)]) == 0
    (row,) = json.loads(capfd.readouterr().out)
    assert row["digest"] == digest
    assert row["algorithm"] == "sha512"
    assert set(row["path"]) == {"base64"}


def test_order_is_that_of_the_arguments_whatever_the_sizes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names = []
    for index, size in enumerate([1, SMALL_FILE_BYTES + 1, 2, 0, SMALL_FILE_BYTES, 3]):
        (tmp_path / str(index)).write_bytes(b"y" * size)
        names.append(str(tmp_path / str(index)))
    assert main(["digest", *names]) == 0
    assert [line.split(" ")[1] for line in capfd.readouterr().out.splitlines()] == names


def test_a_pipe_and_a_file_of_procfs_are_read_to_their_end(capfd: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    os.write(writer, Path("/proc/version").read_bytes())
    os.close(writer)
    try:
        assert main(["digest", "--compact", "/proc/version", f"/dev/fd/{reader}"]) == 0
    finally:
        os.close(reader)
    first, second = capfd.readouterr().out.split()
    assert first == second


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--block-size", "1000"], "power of two"),
        (["--block-size", "-4096"], "computing digests"),
        (["--salt", "xyz"], "hexadecimal"),
        (["--salt", "00" * 33], "longer than 32"),
    ],
)
def test_bad_options_are_usage_errors(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert main(["digest", *options, str(tmp_path)]) == 2
    assert words in capfd.readouterr().err


def test_a_missing_file_and_a_directory_are_errors_that_name_them(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for path in (tmp_path / "missing", tmp_path):
        assert main(["digest", str(path)]) != 0
        assert str(path) in capfd.readouterr().err
