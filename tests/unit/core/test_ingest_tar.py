"""Taking in tar archives: every form, against the directory that they were made of, and broken ones."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
from erofs_support import walker_records
from repo_support import ingest, object_names, opened, writer

from bootc_fast.errors import FileSystemError

if TYPE_CHECKING:
    from pathlib import Path

    from bootc_fast import _core


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "usr/lib").mkdir(parents=True)
    (root / "usr/lib/short").write_bytes(b"short")
    (root / "usr/lib/large").write_bytes(os.urandom(3_000_000))
    os.link(root / "usr/lib/large", root / "usr/lib/linked")
    (root / "usr/lib" / ("n" * 120)).write_bytes(b"long name")
    (root / ("d" * 100) / ("e" * 100)).mkdir(parents=True)
    os.symlink("t" * 150, root / "usr/lib/link")
    os.mkfifo(root / "usr/fifo")
    (root / "usr/lib/setuid").write_bytes(b"#!")
    (root / "usr/lib/setuid").chmod(0o4755)
    for path in [*root.rglob("*"), root]:
        os.utime(path, ns=(0, 1_600_000_000_000_000_000), follow_symlinks=False)
    return root


def from_tar(repository: _core.RepositoryWriter, archive: Path) -> _core.Tree:
    with opened(archive) as fd:
        return repository.ingest_tar(fd)


def run_tar(archive: Path, source: Path, *options: str) -> Path:
    subprocess.run(["tar", "--numeric-owner", *options, "-C", source, "-cf", archive, "."], check=True)
    return archive


@pytest.mark.parametrize("form", ["gnu", "oldgnu", "pax"])
def test_archive_gives_the_image_of_its_directory(form: str, source: Path, tmp_path: Path) -> None:
    archive = run_tar(tmp_path / "archive", source, f"--format={form}")
    repository = writer(tmp_path / "repo")
    expected = repository.write_image(ingest(repository, source))
    names = object_names(tmp_path / "repo")
    assert repository.write_image(from_tar(repository, archive)) == expected
    assert object_names(tmp_path / "repo") == names


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_pythons_archives_are_read_too(form: int, source: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "archive", "w", format=form) as archive:
        archive.add(source, ".")
    repository = writer(tmp_path / "repo")
    tree = from_tar(repository, tmp_path / "archive")
    assert repository.write_image(tree) == repository.write_image(ingest(repository, source))


def test_pax_archive_keeps_names_times_and_attributes_that_other_forms_cannot(source: Path, tmp_path: Path) -> None:
    odd = os.fsencode(source) + b"/new\nline \xff="
    with open(odd, "wb") as file:
        file.write(b"x")
    os.setxattr(odd, "user.binary", b"a\nb\x00=c\n")
    os.setxattr(odd, "user.empty", b"")
    os.utime(odd, ns=(0, -1_250_000_000))
    archive = run_tar(tmp_path / "archive", source, "--format=pax", "--xattrs", "--xattrs-include=user.*")
    repository = writer(tmp_path / "repo")
    tree = from_tar(repository, archive)
    entry = tree.find(b"new\nline \xff=")
    assert entry is not None
    assert entry.xattrs == {b"user.binary": b"a\nb\x00=c\n", b"user.empty": b""}
    assert entry.mtime_ns == -1_250_000_000
    assert repository.write_image(tree) == repository.write_image(ingest(repository, source))


def make(path: Path, members: list[tuple[dict[str, object], bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for attributes, data in members:
            info = tarfile.TarInfo()
            info.size = len(data)
            for name, value in attributes.items():
                setattr(info, name, value)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_later_entries_replace_earlier_ones(tmp_path: Path) -> None:
    archive = make(
        tmp_path / "archive",
        [
            ({"name": "d", "type": tarfile.DIRTYPE, "mode": 0o700}, b""),
            ({"name": "d/kept"}, b"kept"),
            ({"name": "d", "type": tarfile.DIRTYPE, "mode": 0o755}, b""),
            ({"name": "f"}, b"old"),
            ({"name": "g", "type": tarfile.LNKTYPE, "linkname": "f"}, b""),
            ({"name": "./f"}, b"new"),
            ({"name": "gone", "type": tarfile.DIRTYPE}, b""),
            ({"name": "gone/below"}, b""),
            ({"name": "gone"}, b"file"),
            ({"name": ".wh.f"}, b""),
        ],
    )
    records = walker_records(from_tar(writer(tmp_path / "repo"), archive), tmp_path / "repo/objects")
    assert sorted(records) == [b"", b".wh.f", b"d", b"d/kept", b"f", b"g", b"gone"]
    assert records[b"d"].mode == stat.S_IFDIR | 0o755
    assert records[b"f"].content != records[b"g"].content
    assert records[b"g"].nlink == 1


def test_devices_owners_and_missing_directories(tmp_path: Path) -> None:
    archive = make(
        tmp_path / "archive",
        [
            ({"name": "/a/b/char", "type": tarfile.CHRTYPE, "devmajor": 5, "devminor": 300, "mode": 0o620}, b""),
            ({"name": "a/block", "type": tarfile.BLKTYPE, "devmajor": 259, "devminor": 7, "uid": 4_000_000_000}, b""),
        ],
    )
    tree = from_tar(writer(tmp_path / "repo"), archive)
    records = walker_records(tree)
    assert records[b"a/b/char"].rdev == os.makedev(5, 300)
    assert records[b"a/block"].rdev == os.makedev(259, 7)
    assert records[b"a/block"].uid == 4_000_000_000
    assert (records[b"a/b"].mode, records[b"a/b"].uid, records[b"a/b"].mtime_ns) == (stat.S_IFDIR | 0o755, 0, 0)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([({"name": "../up"}, b"")], "upwards"),
        ([({"name": "l", "type": tarfile.LNKTYPE, "linkname": "none"}, b"")], "hard link"),
        ([({"name": "s", "type": tarfile.SYMTYPE, "linkname": "x"}, b""), ({"name": "s/f"}, b"")], "not a directory"),
        ([({"name": "x", "type": b"~"}, b"")], "unknown type"),
    ],
)
def test_archives_that_are_no_tree_are_refused(
    members: list[tuple[dict[str, object], bytes]], message: str, tmp_path: Path
) -> None:
    archive = make(tmp_path / "archive", members)
    with pytest.raises(FileSystemError, match=message):
        from_tar(writer(tmp_path / "repo"), archive)


def test_truncated_or_compressed_archives_are_refused(source: Path, tmp_path: Path) -> None:
    archive = run_tar(tmp_path / "archive", source)
    whole = archive.read_bytes()
    for size in (100, 700, 1_000_000, len(whole) - 2_000_000):
        archive.write_bytes(whole[:size])
        with pytest.raises(FileSystemError, match="ends within"):
            from_tar(writer(tmp_path / f"repo{size}"), archive)
    run_tar(archive, source, "--gzip")
    with pytest.raises(FileSystemError, match="checksum"):
        from_tar(writer(tmp_path / "repo"), archive)


def test_cancelling_an_archive_leaves_nothing_half_written(tmp_path: Path) -> None:
    archive = make(tmp_path / "archive", [({"name": "large"}, b"x" * (64 << 20))])

    class StopError(Exception):
        pass

    def check() -> None:
        raise StopError

    repository = writer(tmp_path / "repo")
    with opened(archive) as fd, pytest.raises(StopError):
        repository.ingest_tar(fd, check=check)
    assert list((tmp_path / "repo/objects").iterdir()) == []
