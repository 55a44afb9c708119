"""Contents of the merge's sides: images and directories alike, each file read once, races survived."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bootc_fast import _core
from bootc_fast.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

SIZES = (0, 1, 64, 65, 4096, 4097, 300_000)


@contextmanager
def opened(path: Path) -> Generator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def write_tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def make_image(repository: Path, source: Path) -> _core.Tree:
    with opened(repository) as repo_fd, opened(source) as source_fd:
        writer = _core.RepositoryWriter(repo_fd, algorithm="sha512")
        digest = writer.write_image(writer.ingest_directory(source_fd))
    with (repository / "images" / digest).open("rb") as file:
        return _core.Image.open(file.fileno()).tree()


def plan_directories(
    p: Path, c: Path, n: Path, meanwhile: Callable[[], object] = lambda: None, **options: Any
) -> _core.EtcPlan:
    with opened(p) as p_fd, opened(c) as c_fd, opened(n) as n_fd:
        sides = [_core.Side(_core.Tree.scan(fd), dir_fd=fd) for fd in (p_fd, c_fd, n_fd)]
        meanwhile()
        return _core.plan_etc(*sides, **options)


def decisions(plan: _core.EtcPlan) -> list[tuple[bytes, int, str, bytes]]:
    return sorted((entry.path, entry.mode, side, path) for entry, side, path in plan.entries())


def changed(data: bytes) -> bytes:
    """As long, and different in the last byte."""
    return data[:-1] + b"!" if data else b"!"


def test_images_and_directories_give_the_same_result(tmp_path: Path) -> None:
    # More files than one batch and one thread take.
    base = {f"d{number % 7}/{size}-{number}": b"%d" % number * size for size in SIZES for number in range(60)}
    base = {name: data[: int(name.split("/")[1].split("-")[0])] for name, data in base.items()}
    by_admin = {name: changed(data) for name, data in base.items() if "-1" in name}
    by_image = {name: changed(data) + b"new" for name, data in base.items() if name.endswith(("2", "11"))}
    p = write_tree(tmp_path / "p", base)
    c = write_tree(tmp_path / "c", base | by_admin | {"d0/mine": b"1" * 5000})
    n = write_tree(tmp_path / "n", base | by_image | {"d0/theirs": b"2" * 5000})
    expected = plan_directories(p, c, n)
    repository = tmp_path / "repository"
    repository.mkdir()
    p_image, n_image = make_image(repository, p), make_image(repository, n)
    with opened(c) as c_fd:
        current = _core.Side(_core.Tree.scan(c_fd), dir_fd=c_fd)
        found = _core.plan_etc(_core.Side(p_image), current, _core.Side(n_image))
    assert decisions(found) == decisions(expected)
    assert found.kept == expected.kept
    assert {path.decode() for path, _ in found.kept} == {*by_admin, "d0/mine"}
    assert {path.decode() for path, _ in found.image_changes_ignored} == by_admin.keys() & by_image.keys()


def test_nothing_of_the_images_objects_is_read(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "p", {"a": b"1" * 5000})
    repository = tmp_path / "repository"
    repository.mkdir()
    image = make_image(repository, source)
    shutil.rmtree(repository / "objects")
    with opened(source) as fd:
        current = _core.Side(_core.Tree.scan(fd), dir_fd=fd)
        found = _core.plan_etc(_core.Side(image), current, _core.Side(image))
    assert found.kept == []


def test_a_directory_without_its_descriptor_cannot_be_compared(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "p", {"a": b"1"})
    with opened(source) as fd:
        side = _core.Side(_core.Tree.scan(fd))
    with pytest.raises(UsageError, match="descriptor of its directory"):
        _core.plan_etc(side, side, side)


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    ("what", "kept"), [(Path.unlink, []), (replace_by_fifo, ["FIFO"]), (replace_by_link, ["symlink"])]
)
def test_a_file_that_is_no_file_any_more_is_what_it_became(
    tmp_path: Path, what: Callable[[Path], object], kept: list[str]
) -> None:
    p, c, n = (write_tree(tmp_path / name, {"a": b"old", "b": b"x"}) for name in "pcn")
    found = plan_directories(p, c, n, lambda: what(c / "a"))
    assert found.deleted == ([] if kept else [(b"a", "")])
    assert found.kept == [(b"a", f"file replaced by {kind}") for kind in kept]
    assert found.warnings == []


def test_a_file_that_vanished_and_was_never_in_the_image_is_gone(tmp_path: Path) -> None:
    p, c, n = (write_tree(tmp_path / name, {"b": b"x"}) for name in "pcn")
    (c / "a").write_bytes(b"new")
    (n / "a").write_bytes(b"NEW")
    found = plan_directories(p, c, n, (c / "a").unlink)
    assert (found.kept, found.deleted) == ([], [])
    assert [(path, side) for entry, side, path in found.entries() if entry.path == b"a"] == [(b"a", "new")]


def test_a_file_that_grew_since_the_scan_counts_as_it_is_read(tmp_path: Path) -> None:
    p, c, n = (write_tree(tmp_path / name, {"a": b"old"}) for name in "pcn")
    found = plan_directories(p, c, n, lambda: (c / "a").write_bytes(b"old and more"))
    assert found.kept == [(b"a", "content")]


def overwrite_with_times_kept(path: Path) -> None:
    found = path.stat()
    path.write_bytes(b"y" * 500)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def replace_with_times_kept(path: Path) -> None:
    found = path.stat()
    path.with_name("new").write_bytes(b"y" * 500)
    path.with_name("new").rename(path)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def become_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def become_link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")


def move_directory(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))


MOVED = [(b"moved/a", "file added"), (b"moved/b", "file added")]


@pytest.mark.parametrize(
    ("change", "kept", "deleted"),
    [
        (overwrite_with_times_kept, [(b"d/a", "content")], []),
        (replace_with_times_kept, [(b"d/a", "content")], []),
        (lambda path: path.touch(), [], []),
        (lambda path: path.write_bytes(b"x" * 499), [(b"d/a", "content")], []),
        (become_fifo, [(b"d/a", "file replaced by FIFO")], []),
        (become_link, [(b"d/a", "file replaced by symlink"), (b"d/real", "file added")], []),
        (move_directory, [(b"moved", "directory added"), *MOVED], [b"d", b"d/a", b"d/b"]),
    ],
)
def test_what_changed_between_scan_and_plan_is_seen(
    tmp_path: Path,
    change: Callable[[Path], object],
    kept: list[tuple[bytes, str]],
    deleted: list[bytes],
) -> None:
    files = {"d/a": b"x" * 500, "d/b": b"b" * 500}
    c = write_tree(tmp_path / "c", files)
    (tmp_path / "repository").mkdir()
    image = make_image(tmp_path / "repository", write_tree(tmp_path / "p", files))
    with opened(c) as fd:
        current = _core.Side(_core.Tree.scan(fd), dir_fd=fd)
        change(c / "d" / "a")
        plan = _core.plan_etc(_core.Side(image), current, _core.Side(image))
    assert (plan.kept, [path for path, _ in plan.deleted]) == (kept, deleted)


def test_the_exception_of_check_ends_the_planning(tmp_path: Path) -> None:
    p, c, n = (write_tree(tmp_path / name, {"a": b""}) for name in "pcn")
    for root in (p, c, n):
        with (root / "large").open("wb") as file:
            file.truncate(3 << 30)

    class StopError(Exception):
        pass

    def check() -> None:
        raise StopError

    with pytest.raises(StopError):
        plan_directories(p, c, n, check=check)


COUNT = """
import os, sys
from bootc_fast import _core
fds = [os.open(os.path.join(sys.argv[1], name), os.O_RDONLY) for name in ("p", "c", "n")]
_core.plan_etc(*(_core.Side(_core.Tree.scan(fd), dir_fd=fd) for fd in fds))
"""


def count_calls(directory: Path, log: Path) -> dict[str, int]:
    # All calls: listxattrat (465), which takes llistxattr's place from Linux 6.13 on, is unknown to older straces.
    argv = ["strace", "-f", "-qq", "-o", str(log)]
    subprocess.run([*argv, sys.executable, "-c", COUNT, str(directory)], check=True)
    calls = re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.MULTILINE)
    calls = ["llistxattr" if name in {"listxattrat", "syscall_0x1d1"} else name for name in calls]
    return {name: calls.count(name) for name in set(calls)}


def test_system_calls_grow_with_the_number_of_files_and_no_faster(tmp_path: Path) -> None:
    found = {}
    for files in (300, 600, 1200):
        root = tmp_path / str(files)
        for side in "pcn":
            write_tree(root / side, {f"d{number // 100}/{number}": b"%d" % number for number in range(files)})
        found[files] = count_calls(root, tmp_path / "log")
    for name in ("openat2", "statx", "llistxattr", "flistxattr", "read"):
        first, second = (found[2 * files][name] - found[files][name] for files in (300, 600))
        assert second == pytest.approx(2 * first, rel=0.1), name
    # One listing of attributes an entry of the three trees, of a directory by the descriptor that its names are read
    # from; each of two files that are compared is opened once.
    assert found[1200]["llistxattr"] == 3 * 1200
    assert found[1200]["flistxattr"] == 3 * (12 + 1)
    assert found[1200]["openat2"] <= 2 * 1200 + 3 * 12 + 100
