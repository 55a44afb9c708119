"""A name that leads to nothing, on volumes that mkfs.vfat and mtools made; fsck.fat and mtools look at the rest."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from tests.fat_images import FatImage, make_image

from bootc_fast.boot.area.fat import FatReader
from bootc_fast.boot.area.fat_check import check_names
from bootc_fast.boot.area.fat_detach import detach_name, find_slot_offset
from bootc_fast.boot.area.fat_look import FatLook

if TYPE_CHECKING:
    from pathlib import Path

KINDS = [(12, 512), (16, 4096), (32, 512), (32, 4096)]
MANY = {f"loader/{number:02}{'-a-long-name' * 14}.conf": b"x" for number in range(10)}
LAST = [*MANY][-1]
TREE = {
    "BFNEW0": b"in the root" * 100,
    "EFI/": b"",
    "EFI/kernel": b"k" * 9001,
    "loader/": b"",
    **MANY,
    "loader/BFSET0/": b"",
    "loader/BFSET0/bootc_zz-00000001-99.conf": b"title\n" * 200,
    "loader/entries/": b"",
    "loader/entries/bootc_fedora-42-1.conf": b"title one\n",
}


@pytest.fixture(params=KINDS, ids=lambda kind: f"FAT{kind[0]}-{kind[1]}")
def image(request: pytest.FixtureRequest, tmp_path: Path) -> FatImage:
    bits, cluster_bytes = request.param
    made = make_image(tmp_path / "fat.img", bits=bits, cluster_bytes=cluster_bytes)
    made.write_tree(TREE)
    return made


def detach(image: FatImage, path: str) -> bool:
    fd = os.open(image.path, os.O_RDWR)
    try:
        return detach_name(fd, path)
    finally:
        os.close(fd)


def look(image: FatImage, path: bytes) -> tuple[str | None, bool]:
    fd = os.open(image.path, os.O_RDONLY)
    try:
        found = FatLook(FatReader(fd), "image")
        return found.why_left(path), found.leads_nowhere(path)
    finally:
        os.close(fd)


@pytest.mark.parametrize("path", ["BFNEW0", "loader/BFSET0", LAST, "EFI/kernel"])
def test_the_name_is_an_empty_file_and_nothing_else_is_written(image: FatImage, path: str) -> None:
    before = image.path.read_bytes()
    assert detach(image, path)
    after = image.path.read_bytes()
    slots = [at for at in range(0, len(before), 32) if before[at : at + 32] != after[at : at + 32]]
    assert len(slots) == 1, "so one sector: written whole or not at all"
    said = image.fsck()
    assert "and\n" not in said, "two names that share clusters"
    assert "runcat" not in said
    assert look(image, path.encode()) == (None, True)
    image.remove(path)
    assert image.path.read_bytes()[slots[0]] == 0xE5


def test_what_is_not_there_is_not_written(image: FatImage) -> None:
    before = image.path.read_bytes()
    assert not detach(image, "loader/BFSET1")
    assert not detach(image, "nowhere/BFSET0")
    assert image.path.read_bytes() == before


def test_the_other_owner_of_shared_clusters_is_whole_then(image: FatImage) -> None:
    with open(image.path, "r+b") as file:
        reader = FatReader(file.fileno())
        entries, offset = reader.find_entry("loader/entries"), find_slot_offset(reader, "loader/BFSET0")
        assert entries is not None
        assert offset is not None
        file.seek(offset + 26)
        file.write(entries.first_cluster.to_bytes(2, "little"))
    reason, is_nowhere = look(image, b"loader/BFSET0")
    assert (reason or "").startswith("shares clusters with loader/")
    assert not is_nowhere
    assert "and\n" in image.fsck()
    assert detach(image, "loader/BFSET0")
    with open(image.path, "rb") as file:
        assert check_names(FatReader(file.fileno())) == ()
    assert "and\n" not in image.fsck()
