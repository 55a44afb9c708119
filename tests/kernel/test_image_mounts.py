"""The walker's tree against what this kernel shows of the same image: entry by entry, all attributes."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from erofs_builder import build, sample
from erofs_support import (
    Record,
    assert_same,
    composefs_image,
    mkfs,
    mounted_records,
    open_image,
    walker_records,
)
from kernel_mounts import mount_composefs, mount_image

from bootc_fast import _core

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextlib import AbstractAsyncContextManager

pytestmark = pytest.mark.root

# u::rwx,u:1000:r--,g::r-x,m::r-x,o::--- as the kernel stores it.
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHi", tag, permissions, identity)
    for tag, permissions, identity in ((1, 7, -1), (2, 4, 1000), (4, 5, -1), (0x10, 5, -1), (0x20, 0, -1))
)


@pytest.fixture(scope="module")
def source_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of this machine's files, and one of every kind that is not among them."""
    tree = tmp_path_factory.mktemp("source") / "tree"
    tree.mkdir()
    subprocess.run(["cp", "-a", "/etc/default", "/etc/pam.d", "/usr/share/terminfo", tree], check=True)
    for name, mode, device in (
        ("char", stat.S_IFCHR | 0o620, os.makedev(5, 1)),
        ("block", stat.S_IFBLK | 0o660, os.makedev(259, 70000)),
        ("zero", stat.S_IFCHR | 0o600, 0),
        ("fifo", stat.S_IFIFO | 0o640, 0),
        ("socket", stat.S_IFSOCK | 0o755, 0),
    ):
        os.mknod(tree / name, mode, device)
    (tree / "setuid").write_bytes(b"#!")
    (tree / "setuid").chmod(0o4755)
    (tree / "large").write_bytes(os.urandom(300_001))
    (tree / "aligned").write_bytes(os.urandom(8192))
    (tree / "empty").touch()
    with (tree / "sparse").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(500_000)
        file.write(b"data")
    os.link(tree / "large", tree / "default" / "hard link")
    os.link(tree / "fifo", tree / "fifo 2")
    os.symlink("t/" * 400, tree / "long link")
    (tree / "many").mkdir()
    for number in range(700):
        (tree / "many" / f"{'n' * (number % 90)}{number:04}").write_bytes(b"%d" % number)
    (tree / os.fsdecode(b"\xff\x01 \\")).mkdir(0o1777)
    os.chown(tree / "empty", 100_000, 200_000)
    os.utime(tree / "empty", ns=(0, -1_500_000_000))
    os.setxattr(tree / "setuid", "user.large", b"v" * 2000)
    os.setxattr(tree / "setuid", "trusted.overlay.metacopy", b"")
    os.setxattr(tree / "large", "security.capability", bytes.fromhex("0100000200040000" + "00" * 12))
    os.setxattr(tree / "many", "system.posix_acl_default", ACL)
    os.setxattr(tree / "empty", "system.posix_acl_access", ACL)
    for path in (tree / "many").iterdir():
        os.setxattr(path, "user.shared", b"by all")
    return tree


@pytest.fixture
def opened() -> Generator[list[int]]:
    fds: list[int] = []
    yield fds
    for fd in fds:
        os.close(fd)


async def _records_of(mount: AbstractAsyncContextManager[int]) -> dict[bytes, Record]:
    async with mount as root_fd:
        return mounted_records(root_fd)


async def _compare_plain(path: Path, opened: list[int]) -> dict[bytes, Record]:
    opened.append(os.open(path, os.O_RDONLY))
    mounted = await _records_of(mount_image(opened[-1]))
    image = open_image(path)
    assert_same(walker_records(image.tree()), mounted)
    assert image.verify() == (len(mounted), [])
    return mounted


LAYOUTS = {
    "default": (),
    # Large owners do not fit and make mkfs refuse.
    "compact inodes": ("-Eforce-inode-compact", "--ignore-mtime", "-T1000", "--all-root"),
    "extended inodes": ("-Eforce-inode-extended",),
    "no inline data": ("-Enoinline_data",),
    "chunk indexes": ("--chunksize=4096", "-Eforce-chunk-indexes"),
    "block map": ("--chunksize=8192", "-Eforce-inode-blockmap"),
    "large chunks": ("--chunksize=1048576",),
    "shared xattrs": ("-x1",),
    "own xattrs": ("-x10000",),
    "no checksum": ("-T5",),
}


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_walker_shows_what_the_kernel_shows_of_an_mkfs_image(
    layout: str, source_tree: Path, tmp_path: Path, opened: list[int]
) -> None:
    image = mkfs(tmp_path / "image", source_tree, *LAYOUTS[layout])
    if layout == "no checksum":
        with image.open("r+b") as file:
            file.seek(1024 + 8)
            compat = file.read(1)[0]
            assert compat & 1
            file.seek(1024 + 8)
            file.write(bytes([compat & ~1]))
    mounted = await _compare_plain(image, opened)
    assert len(mounted) > 700
    assert mounted[b"large"].links == (b"default/hard link", b"large")


@pytest.mark.parametrize("block_bits", [9, 10, 11, 12])
async def test_walker_shows_what_the_kernel_shows_for_every_block_size(
    block_bits: int, tmp_path: Path, opened: list[int]
) -> None:
    prefixes = ((1, b"long.infix."), (6, b"x"))
    image = build(sample(block_bits), block_bits=block_bits, epoch=(1000, 5), long_prefixes=prefixes)
    (tmp_path / "image").write_bytes(image.data)
    mounted = await _compare_plain(tmp_path / "image", opened)
    assert mounted[b"xattrs"].xattrs[b"user.long.infix.name"] == b"long"
    assert b"lustre.hidden" not in mounted[b"xattrs"].xattrs


def _add_object(objects: Path, data: bytes, algorithm: str, tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "object").write_bytes(data)
    with (tmp_path / "object").open("rb") as file:
        digest = _core.digest_fd(file.fileno(), algorithm=algorithm)
    (objects / digest[:2]).mkdir(parents=True, exist_ok=True)
    (objects / digest[:2] / digest[2:]).write_bytes(data)
    return f"{digest[:2]}/{digest[2:]}", digest


def _composefs_dump(path: str, digest: str) -> str:
    acl = "".join(f"\\x{byte:02x}" for byte in ACL)
    return f"""\
/ 0 40555 6 0 0 0 1633950376.7 - - - trusted.foo=bar security.selinux=system_u:object_r:root_t:s0\\x00
/-x 0 40700 2 1 2 0 1633950376.7 - - -
/#x# 3 100600 1 70000 70001 0 1633950376.7 - a\\x00b -
/aa 0 20644 1 0 0 0 1633950376.7 - - - user.mine=1
/acl 3 100640 1 0 0 0 9.0 - acl - system.posix_acl_access={acl}
/bb 4 100644 1 0 0 0 1633950376.7 - =-\\\\\\n -
/blockdev 0 60777 1 0 0 107690 5.0 - - - trusted.bar=bar-2
/chardev 0 20777 1 0 0 4294967295 1.999999999 - - -
/dir 0 41777 3 0 0 0 1633950376.8 - - - user.a=\\x3d trusted.overlay.custom=1
/dir/sp\\x20ace\\t 0 100644 1 0 0 0 4.0 - - - user.long={"1" * 3000} user.empty=
/dir/sub 0 40755 2 0 0 0 1633950376.7 - - - security.selinux=system_u:object_r:etc_t:s0\\x00
/dir/sub/hard 70 100755 3 0 0 0 5.0 {path} - {digest} security.selinux=system_u:object_r:etc_t:s0\\x00
/escaped 0 100777 1 0 0 0 6.0 - - - trusted.overlay.redirect=/foo user.overlay.redirect=/foo
/external 70 104755 1 0 0 0 7.0 {path} - {digest} trusted.overlay.overlay.nested=2
/fifo 0 10777 1 0 0 0 8.0 - - -
/hard2 0 @120000 - - - - 0.0 /dir/sub/hard - -
/hard3 0 @120000 - - - - 0.0 /dir/sub/hard - -
/inline 300 100777 1 0 0 0 9.0 - {"CC=" * 100} - user.foo=bar-2
/link 1000 120777 1 0 0 0 10.0 {"t/" * 500} - -
/lustre 0 100644 1 0 0 0 11.0 - - - lustre.x=1 weird.y=2
/sock 0 140644 1 0 0 0 12.0 - - -
/whiteout 0 20777 1 0 0 0 14.0 - - - trusted.foo=bar-2
/z 0 40755 2 0 0 0 15.0 - - -
/z/whiteout 0 20777 1 0 0 0 16.0 - - -
"""


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("version", [0, 1, 2])
async def test_walker_shows_what_the_overlay_shows_of_a_composefs_image(
    version: int, algorithm: str, tmp_path: Path, opened: list[int]
) -> None:
    objects = tmp_path / "objects"
    path, digest = _add_object(objects, b"x" * 70, algorithm, tmp_path)
    image = composefs_image(_composefs_dump(path, digest), tmp_path / "image", version=version, algorithm=algorithm)
    opened += [os.open(image, os.O_RDONLY), os.open(objects, os.O_RDONLY)]
    mounted = await _records_of(mount_composefs(opened[0], opened[1], require_verity=False))
    walked = walker_records(open_image(image).tree(), objects)
    assert_same(walked, mounted)
    assert mounted[b"hard2"].links == (b"dir/sub/hard", b"hard2", b"hard3")
    assert mounted[b"external"].xattrs == {b"trusted.overlay.overlay.nested": b"2"}
    assert not any(name.startswith(b"trusted.overlay.") for name in mounted[b""].xattrs if version == 2)
    # The older form keeps whiteouts as devices, which an overlay hides; the others store files that it shows.
    assert (b"z/whiteout" in mounted) == (version != 2)
    assert not {b"00", b"7f", b"ff"} & mounted.keys()
    assert open_image(image).verify() == (len(mounted), [(digest, 70)])


async def test_walker_shows_what_the_overlay_shows_of_our_own_image(
    source_tree: Path, tmp_path: Path, opened: list[int]
) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    opened += [os.open(repository, os.O_RDONLY), os.open(source_tree, os.O_RDONLY)]
    writer = _core.RepositoryWriter(opened[0])
    tree = writer.ingest_directory(opened[1])
    digest = writer.write_image(tree)
    image = repository / "images" / digest
    opened += [os.open(image, os.O_RDONLY), os.open(repository / "objects", os.O_RDONLY)]
    mounted = await _records_of(mount_composefs(opened[2], opened[3], require_verity=False))
    walked = open_image(image).tree()
    assert_same(walker_records(walked, repository / "objects"), mounted)
    assert len(mounted) > 700
