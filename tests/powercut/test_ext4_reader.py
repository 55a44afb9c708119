"""The reader of ext4, against e2fsprogs."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from powercut.ext4 import Ext4
from powercut.recording import read_image

if TYPE_CHECKING:
    from pathlib import Path

ENVIRONMENT = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}


def run(*argv: str | Path) -> None:
    subprocess.run(argv, check=True, env=ENVIRONMENT, capture_output=True)


def make_tree(directory: Path) -> Path:
    entries = directory / "tree/loader/entries"
    entries.mkdir(parents=True)
    for number in range(300):  # several blocks, with an index
        (entries / f"an-entry-with-a-long-name-{number:03}.conf").write_text(f"title {number}\n" * number)
    (directory / "tree/vmlinuz").write_bytes(bytes(range(256)) * 3000)
    (directory / "tree/empty").write_bytes(b"")
    return directory / "tree"


def test_a_whole_file_system_is_read_to_the_byte(tmp_path: Path) -> None:
    tree, image = make_tree(tmp_path), tmp_path / "image"
    run("mkfs.ext4", "-q", "-b", "4096", "-d", tree, image, "32M")
    expected = {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    assert Ext4(read_image(image)).files() == expected


def test_a_journal_that_was_not_replayed_is_replayed_as_e2fsck_does(tmp_path: Path) -> None:
    """`debugfs` writes a transaction: blocks of a file, one revoked later, one that begins with the journal's magic."""
    tree, image = make_tree(tmp_path), tmp_path / "image"
    run("mkfs.ext4", "-q", "-b", "4096", "-d", tree, image, "32M")
    before = Ext4(read_image(image))
    (block,) = {number for at, number in before.blocks_of(before.inode(find(image, "/vmlinuz"))).items() if at == 3}
    data = tmp_path / "data"
    data.write_bytes(b"\xc0\x3b\x39\x98" + b"replayed" * 511 + b"....")
    commands = f"jo\njw -b {block} {data}\njw -b {block + 1},{block + 2} {data}\njw -r {block + 2}\njc\n"
    subprocess.run(
        ["debugfs", "-w", "-f", "-", image], input=commands.encode(), check=True, env=ENVIRONMENT, capture_output=True
    )
    raw = Ext4(read_image(image))
    assert raw.files() == before.files()
    ours = Ext4(read_image(image))
    ours.replay()
    assert ours.files() != before.files()
    subprocess.run(["e2fsck", "-y", "-E", "journal_only", image], env=ENVIRONMENT, capture_output=True, check=False)
    assert ours.files() == Ext4(read_image(image)).files()


def find(image: Path, path: str) -> int:
    said = subprocess.run(
        ["debugfs", "-R", f"stat {path}", image], env=ENVIRONMENT, capture_output=True, check=True, text=True
    )
    return int(said.stdout.split()[1])
