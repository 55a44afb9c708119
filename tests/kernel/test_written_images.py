"""Images that the writer made, mounted by this kernel: EROFS, and the overlay over the objects."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio
from erofs_support import assert_same, mounted_records, open_image, walker_records
from hypothesis import HealthCheck, given, settings
from kernel_mounts import mount_composefs
from repo_support import composefs_fsck, ingest, object_names, opened, writer
from tree_strategies import Entry, directory, entries, inline, with_link_counts

from bootc_fast import _core

if TYPE_CHECKING:
    from pathlib import Path

    from erofs_support import Record

pytestmark = pytest.mark.root

CONTENTS = [b"x" * 65, b"y" * 4096, b"z" * 70_001]


def stored_objects(repository: _core.RepositoryWriter, scratch: Path) -> dict[str, int]:
    found = {}
    for data in CONTENTS:
        (scratch / "content").write_bytes(data)
        with opened(scratch / "content") as fd:
            found[repository.add_object(fd)] = len(data)
    return found


async def mounted(repository: Path, digest: str) -> dict[bytes, Record]:
    with opened(repository / "images" / digest) as image, opened(repository / "objects") as objects:
        async with mount_composefs(image, objects, require_verity=False) as root_fd:
            return mounted_records(root_fd)


def check_with_tools(image: Path) -> None:
    subprocess.run(["fsck.erofs", image], check=True, capture_output=True)
    shown = subprocess.run(["dump.erofs", "-s", image], check=True, capture_output=True, text=True).stdout
    assert f"Filesystem blocks: {image.stat().st_size // 4096}".split() in [line.split() for line in shown.splitlines()]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_kernel_shows_any_tree_that_was_written(algorithm: str, tmp_path: Path) -> None:
    repository = writer(tmp_path / "repo", algorithm)
    objects = stored_objects(repository, tmp_path)

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(made=entries(objects))
    def check(made: list[Entry]) -> None:
        tree = _core.build_tree(made)
        digest = repository.write_image(tree)
        check_with_tools(tmp_path / "repo/images" / digest)
        assert_same(walker_records(tree, tmp_path / "repo/objects"), trio.run(mounted, tmp_path / "repo", digest))

    check()


async def test_kernel_shows_the_edges_of_the_layout(tmp_path: Path) -> None:
    """Directories around block sizes, targets and attributes around block ends, names of every byte."""
    made = [directory(b"")]
    for count in (1, 60, 120, 121, 122, 240, 1000):
        made.append(directory(b"d%d" % count, mtime_ns=count))
        made += [inline(b"d%d/%0*d" % (count, 5 + count % 20, number), b"") for number in range(count)]
    for size in (*range(1, 40), *range(3900, 4096, 13)):
        link = Entry(b"l%d" % size, 0o120777, content="target", target=b"t" * size, size_bytes=size, mtime_ns=size % 2)
        made.append(link)
        made.append(inline(b"x%d" % size, b"", xattrs={b"user.v": b"v" * size}))
    made += [inline(b"byte" + bytes([byte]), bytes([byte])) for byte in range(1, 256) if byte != ord("/")]
    made = with_link_counts(made)
    repository = writer(tmp_path / "repo")
    tree = _core.build_tree(made)
    digest = repository.write_image(tree)
    check_with_tools(tmp_path / "repo/images" / digest)
    assert_same(walker_records(tree), await mounted(tmp_path / "repo", digest))
    assert_same(walker_records(open_image(tmp_path / "repo/images" / digest).tree()), walker_records(tree))
    composefs_fsck(tmp_path / "repo", digest)


def on_small_tmpfs(tmp_path: Path, script: str, options: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command in a mount namespace of its own, with a tmpfs at ``mnt``."""
    (tmp_path / "mnt").mkdir(exist_ok=True)
    line = f"mount -t tmpfs -o {options} tmpfs {tmp_path}/mnt && {script}"
    return subprocess.run(["unshare", "-m", "sh", "-c", line], check=False, capture_output=True, text=True, timeout=60)


PROGRAM = """
import os, sys
from bootc_fast import _core
target, source = (os.open(name, os.O_RDONLY) for name in sys.argv[1:3])
try:
    repository = _core.RepositoryWriter(target)
    repository.write_image(repository.ingest_directory(source))
except OSError as error:
    print(error.errno)
"""


def test_full_file_system_leaves_only_whole_objects(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for number in range(20):
        (tmp_path / f"source/{number:02}").write_bytes(os.urandom(100_000))
    (tmp_path / "program").write_text(PROGRAM)
    script = (
        f"{sys.executable} {tmp_path}/program {tmp_path}/mnt {tmp_path}/source && cp -a {tmp_path}/mnt {tmp_path}/copy"
    )
    done = on_small_tmpfs(tmp_path, script, "size=1m")
    assert done.stdout.strip() == str(errno.ENOSPC), done
    names = object_names(tmp_path / "copy")
    assert 5 < len(names) < 12
    for name in names:
        with opened(tmp_path / "copy/objects" / name[:2] / name[2:]) as fd:
            assert _core.digest_fd(fd) == name
    assert [path.name for path in (tmp_path / "copy/objects").glob(".*")] == []
    assert list((tmp_path / "copy/images").iterdir()) == []


def test_read_only_file_system_is_the_systems_error(tmp_path: Path) -> None:
    (tmp_path / "program").write_text(PROGRAM)
    done = on_small_tmpfs(tmp_path, f"{sys.executable} {tmp_path}/program {tmp_path}/mnt {tmp_path}", "ro")
    assert done.stdout.strip() == str(errno.EROFS), done


def test_owners_devices_and_labels_are_taken_in(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    os.mknod(source / "null", 0o20666, os.makedev(1, 3))
    os.chown(source / "null", 12, 70_000)
    os.setxattr(source, "trusted.overlay.opaque", b"y")
    repository = writer(tmp_path / "repo")
    tree = ingest(repository, source)
    null = tree.find(b"null")
    assert null is not None
    assert (null.rdev, null.uid, null.gid) == (os.makedev(1, 3), 12, 70_000)
    shown = trio.run(mounted, tmp_path / "repo", repository.write_image(tree))
    assert shown[b""].xattrs == {b"trusted.overlay.opaque": b"y"}
    assert shown[b"null"].rdev == os.makedev(1, 3)
