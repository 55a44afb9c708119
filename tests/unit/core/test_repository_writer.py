"""RepositoryWriter: layout, objects, what is taken in, errors, cancellation."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest
from erofs_support import open_image, walker_records
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from repo_support import ingest, object_names, opened, writer
from tree_strategies import Entry, directory, entries, inline

from bootc_fast import _core
from bootc_fast.errors import FileSystemError, InvalidStateError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "etc").mkdir(parents=True)
    (root / "etc/hosts").write_bytes(b"127.0.0.1 localhost\n")
    (root / "etc/large").write_bytes(b"line\n" * 100_000)
    (root / os.fsdecode(b"etc/\xff\n-")).write_bytes(b"bytes")
    os.link(root / "etc/large", root / "etc/linked")
    os.symlink("no/such", root / "etc/dangling")
    os.mkfifo(root / "etc/fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.open(root / "etc", os.O_RDONLY)
        bound.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    (root / "etc/setuid").write_bytes(b"#!")
    (root / "etc/setuid").chmod(0o4750)
    os.setxattr(root / "etc/hosts", "user.note", b"\x00\xff")
    os.utime(root / "etc/hosts", ns=(0, 1_234_567_890_123_456_789))
    (root / "proc").mkdir()
    (root / "proc/1").mkdir()
    return root


def test_new_repository_has_the_layout_and_metadata_of_composefs(tmp_path: Path) -> None:
    writer(tmp_path / "repo", "sha256")
    assert sorted(path.name for path in (tmp_path / "repo").iterdir()) == ["images", "meta.json", "objects", "streams"]
    assert json.loads((tmp_path / "repo/meta.json").read_text()) == {
        "version": 1,
        "algorithm": "fsverity-sha256-12",
        "features": {"compatible": [], "read-only-compatible": ["v1_erofs"], "incompatible": []},
        "erofs_formats": {"default": 1},
    }
    writer(tmp_path / "repo", "sha256")  # again: nothing to do


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"version": 1, "algorithm": "fsverity-sha256-12"}', "another hash"),
        ('{"version": 2, "algorithm": "fsverity-sha512-12"}', "unknown version"),
        ('{"version": 1, "algorithm": "fsverity-sha512-12", "features": {"incompatible": ["x"]}}', "features"),
        ('{"version": 1, "algorithm": "fsverity-sha512-12", "features": {"read-only-compatible": ["x"]}}', "features"),
        ("", "not JSON"),
    ],
)
def test_refuses_a_repository_that_it_may_not_write_to(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "meta.json").write_text(text)
    with pytest.raises(InvalidStateError, match=message):
        writer(tmp_path)
    assert (tmp_path / "meta.json").read_text() == text


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("durable", [False, True])
def test_image_is_an_object_named_by_its_digest(tmp_path: Path, source: Path, algorithm: str, *, durable: bool) -> None:
    repository = writer(tmp_path / "repo", algorithm, durable=durable)
    digest = repository.write_image(ingest(repository, source))
    link = tmp_path / "repo/images" / digest
    assert os.readlink(link) == f"../objects/{digest[:2]}/{digest[2:]}"
    for name in object_names(tmp_path / "repo"):
        with opened(tmp_path / "repo/objects" / name[:2] / name[2:]) as fd:
            assert _core.digest_fd(fd, algorithm=algorithm) == name
    hashed = subprocess.run(
        ["fsverity", "digest", "--compact", f"--hash-alg={algorithm}", link], check=True, capture_output=True, text=True
    )
    assert hashed.stdout.strip() == digest


def test_image_shows_what_the_directory_holds(tmp_path: Path, source: Path) -> None:
    repository = writer(tmp_path / "repo")
    tree = ingest(repository, source)
    image = open_image(tmp_path / "repo/images" / repository.write_image(tree))
    records = walker_records(image.tree(), tmp_path / "repo/objects")
    assert records == walker_records(tree, tmp_path / "repo/objects")
    assert len(records) == 12
    for path, record in records.items():
        status = os.lstat(os.fsencode(source) + b"/" + path)
        assert (record.mode, record.uid, record.gid) == (status.st_mode, status.st_uid, status.st_gid), path
        assert record.mtime_ns == status.st_mtime_ns, path
    assert records[b"etc/hosts"].xattrs == {b"user.note": b"\x00\xff"}
    assert records[b"etc/large"].links == (b"etc/large", b"etc/linked")
    assert records[b"etc/dangling"].content == b"no/such"
    assert stat.S_ISSOCK(records[b"etc/socket"].mode)


@pytest.mark.parametrize(("size", "content"), [(0, "inline"), (64, "inline"), (65, "object"), (4096, "object")])
def test_files_of_up_to_64_bytes_are_in_the_image(tmp_path: Path, size: int, content: str) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_bytes(b"x" * size)
    entry = ingest(writer(tmp_path / "repo"), tmp_path / "source").find(b"file")
    assert entry is not None
    assert (entry.content, entry.size_bytes) == (content, size)
    assert len(object_names(tmp_path / "repo")) == (content == "object")


def test_second_time_adds_no_object_and_gives_the_same_image(tmp_path: Path, source: Path) -> None:
    first = writer(tmp_path / "repo")
    digest = first.write_image(ingest(first, source))
    names = object_names(tmp_path / "repo")
    second = writer(tmp_path / "repo")
    assert second.write_image(ingest(second, source)) == digest
    assert object_names(tmp_path / "repo") == names


def test_owner_can_be_squashed_and_paths_left_out(tmp_path: Path, source: Path) -> None:
    tree = ingest(writer(tmp_path / "repo"), source, squash_owner=(7, 8), exclude=[b"proc/*", b"etc/linked"])
    assert {(entry.uid, entry.gid) for entry in tree.entries()} == {(7, 8)}
    assert tree.find(b"proc") is not None
    assert tree.find(b"proc/1") is None
    large = tree.find(b"etc/large")
    assert large is not None
    assert (large.nlink, large.link_group) == (1, None)


def test_object_can_be_added_alone(tmp_path: Path, source: Path) -> None:
    repository = writer(tmp_path / "repo")
    with opened(source / "etc/hosts") as fd:
        os.lseek(fd, 5, os.SEEK_SET)
        digest = repository.add_object(fd)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 5
    assert object_names(tmp_path / "repo") == {digest}
    assert (tmp_path / "repo/objects" / digest[:2] / digest[2:]).read_bytes() == b"127.0.0.1 localhost\n"


def test_cancelling_leaves_only_whole_objects(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/large").write_bytes(b"x" * (64 << 20))
    repository = writer(tmp_path / "repo")

    class StopError(Exception):
        pass

    def check() -> None:
        raise StopError

    with opened(tmp_path / "source") as fd, pytest.raises(StopError):
        repository.ingest_directory(fd, check=check)
    assert list((tmp_path / "repo/objects").iterdir()) == []


def test_errors_are_the_systems_own(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with opened(tmp_path / "file") as fd:
        with pytest.raises(NotADirectoryError):
            _core.RepositoryWriter(fd)
        with pytest.raises(NotADirectoryError):
            writer(tmp_path / "repo").ingest_directory(fd)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/objects").touch()
    with pytest.raises(NotADirectoryError):
        writer(tmp_path / "taken")


def test_tree_that_was_not_taken_in_is_refused(tmp_path: Path) -> None:
    tree = _core.build_tree([directory(b""), Entry(b"f", stat.S_IFREG | 0o644, content="on-disk")])
    with pytest.raises(FileSystemError, match="ingest it first"):
        writer(tmp_path).write_image(tree)
    assert object_names(tmp_path) == set()


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        [inline(b"f", b"")],
        [directory(b""), inline(b"missing/f", b"")],
        [directory(b""), inline(b"f", b""), inline(b"f", b"")],
        [directory(b""), inline(b"f", b""), inline(b"f/g", b"")],
        [directory(b""), inline(b"..", b"")],
        [directory(b""), Entry(b"f", 0o644)],
        [directory(b""), Entry(b"f", stat.S_IFREG, content="object", digest="xy")],
        [directory(b""), Entry(b"f", stat.S_IFREG, content="object")],
    ],
)
def test_entries_that_are_no_tree_are_refused(wrong: list[Entry]) -> None:
    with pytest.raises(ValueError, match=r"."):
        _core.build_tree(wrong)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=entries({"ab" * 64: 4097, "cd" * 64: 65, "01" * 64: 5 << 40}), data=st.data())
def test_any_tree_comes_back_from_its_image(tmp_path: Path, made: list[Entry], data: st.DataObject) -> None:
    repository = writer(tmp_path)
    digest = repository.write_image(_core.build_tree(made))
    back = open_image(tmp_path / "images" / digest).tree()

    def facts(tree: _core.Tree) -> dict[bytes, tuple[object, ...]]:
        groups: dict[int | None, int] = {}
        return {
            entry.path: (
                entry.mode, entry.uid, entry.gid, entry.nlink, entry.rdev, entry.size_bytes, entry.mtime_ns,
                entry.xattrs, entry.content, entry.data, entry.target, entry.digest,
                entry.link_group and groups.setdefault(entry.link_group, len(groups)),
            )
            for entry in tree.entries()
        }  # fmt: skip

    assert facts(back) == facts(_core.build_tree(made))
    assert repository.write_image(back) == digest
    # The order in which a tree was made does not matter.
    shuffled = [made[0], *data.draw(st.permutations([entry for entry in made[1:] if b"/" not in entry.path]))]
    rest = [entry for entry in made[1:] if b"/" in entry.path]
    assert repository.write_image(_core.build_tree([*shuffled, *rest])) == digest
