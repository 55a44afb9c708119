"""A real root tree: taken in, written, mounted by this kernel, read by the composefs crate."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest
from erofs_support import assert_same, mounted_records, open_image, walker_records
from kernel_mounts import mount_composefs
from repo_support import composefs_fsck, debian_tree, ingest, opened, writer

if TYPE_CHECKING:
    from pathlib import Path

    from erofs_support import Record

pytestmark = pytest.mark.root

# What bootc leaves out of an image: the kernel's and the boot loader's directories are filled at run time.
EXCLUDE = [b"boot/*", b"dev/*", b"proc/*", b"run/*", b"sys/*", b"tmp/*"]


def _links_inside(record: Record) -> Record:
    """The record with the links of the tree counted only: the tree may share its files with a copy elsewhere."""
    return record if stat.S_ISDIR(record.mode) else record._replace(nlink=max(1, len(record.links)))


@pytest.mark.timeout(900)  # the tree is made the first time
async def test_debian_tree_is_the_same_for_walker_kernel_and_composefs_crate(tmp_path: Path) -> None:
    source = debian_tree()
    repository = writer(tmp_path / "repo")
    tree = ingest(repository, source, exclude=EXCLUDE)
    digest = repository.write_image(tree)
    image = open_image(tmp_path / "repo/images" / digest)
    walked = walker_records(image.tree(), tmp_path / "repo/objects")
    assert len(walked) > 5000

    # The tree that was taken in, and the directory itself as the kernel shows it.
    assert walked == walker_records(tree, tmp_path / "repo/objects")
    with opened(source, os.O_RDONLY | os.O_DIRECTORY) as fd:
        directory = mounted_records(fd)
    left_out = tuple(pattern.removesuffix(b"*") for pattern in EXCLUDE)
    # The link count of a directory counts what was left out in it.
    parents = {pattern.removesuffix(b"/*") for pattern in EXCLUDE}
    present = {path: record for path, record in directory.items() if not path.startswith(left_out)}
    assert_same(
        {path: record for path, record in walked.items() if path not in parents},
        {path: _links_inside(record) for path, record in present.items() if path not in parents},
    )

    # The image as this kernel shows it, through the overlay.
    with opened(tmp_path / "repo/images" / digest) as fd, opened(tmp_path / "repo/objects") as objects:
        async with mount_composefs(fd, objects, require_verity=False) as root_fd:
            assert_same(walked, mounted_records(root_fd))

    # The crate checks every object and reads the same tree.
    with (tmp_path / "dump").open("wb") as file:
        image.dump(file.fileno())
    assert composefs_fsck(tmp_path / "repo", digest) == (tmp_path / "dump").read_bytes()
