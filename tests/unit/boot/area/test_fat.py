"""The FAT reader on volumes that mkfs.vfat and mtools made, whole and damaged; fsck.fat is the second opinion."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fat_images import FatImage, make_image

from bootc_fast.boot.area.fat import FatReader, Verdict
from bootc_fast.boot.area.fat_check import FatFinding, FatProblem, check_volume
from bootc_fast.boot.area.fat_device import open_volume_device
from bootc_fast.boot.area.fat_slots import parse_slots, slots_for_name
from bootc_fast.errors import FatFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KINDS = [(12, 512), (12, 4096), (16, 512), (16, 4096), (32, 512), (32, 4096)]
DIGEST = "ab" * 64
LONG = f"EFI/Linux/bootc_composefs-{DIGEST}"
TREE = {
    "EFI/": b"",
    "EFI/Linux/": b"",
    f"{LONG}/": b"",
    f"{LONG}/vmlinuz": b"k" * 9001,
    f"{LONG}/initrd": b"i" * 20000,
    "loader/": b"",
    "loader/loader.conf": b"timeout 3\n",
    "loader/entries/": b"",
    "loader/entries.staged/": b"",
    "loader/entries/bootc_fedora-42-1.conf": b"title one\n",
    "loader/entries/bootc_fedora-43-0.conf": b"title two\n" * 60,
    "loader/entries/EMPTY.CON": b"",
}


@contextmanager
def reading(image: FatImage) -> Iterator[FatReader]:
    fd = os.open(image.path, os.O_RDONLY)
    try:
        yield FatReader(fd)
    finally:
        os.close(fd)


def check(image: FatImage) -> tuple[FatFinding, ...]:
    with reading(image) as reader:
        return check_volume(reader)


def problems(image: FatImage) -> set[tuple[str, str]]:
    return {(finding.problem.value, finding.path) for finding in check(image)}


@pytest.fixture(params=KINDS, ids=lambda kind: f"FAT{kind[0]}-{kind[1]}")
def image(request: pytest.FixtureRequest, tmp_path: Path) -> FatImage:
    bits, cluster_bytes = request.param
    made = make_image(tmp_path / "fat.img", bits=bits, cluster_bytes=cluster_bytes)
    made.write_tree(TREE)
    return made


def test_a_whole_volume_is_read_as_mtools_wrote_it(image: FatImage) -> None:
    with reading(image) as reader:
        assert (reader.geometry.fat_bits, reader.geometry.cluster_bytes) == (image.bits, image.cluster_bytes)
        assert reader.geometry.volume_id == 0xB007FA57
        for path, data in TREE.items():
            entry = reader.find_entry(path.upper())
            assert entry is not None, path
            assert entry.is_directory == path.endswith("/")
            assert entry.name == path.rstrip("/").rsplit("/", 1)[-1]
            if entry.is_directory or not data:
                continue
            chain = reader.read_chain(entry.first_cluster)
            assert chain.is_whole
            assert b"".join(map(reader.read_cluster, chain.clusters))[: entry.size_bytes] == data
            assert len(chain.clusters) == reader.clusters_of_size(entry.size_bytes)
        assert reader.find_entry("loader/nothing") is None
        assert reader.find_entry("loader/loader.conf/below") is None
        assert reader.find_directory("loader/loader.conf") is None
    assert check(image) == ()
    assert "Dirty bit" not in image.fsck()


def test_free_slots_are_those_that_linux_would_use(image: FatImage) -> None:
    with reading(image) as reader:
        before = reader.find_directory("loader/entries")
    assert before is not None
    assert before.table.slot_count == image.cluster_bytes // 32
    # ".", "..", two names of 22 characters with two parts each, one short name.
    assert sum(before.table.free_runs) == before.table.free_after_end == before.table.slot_count - 2 - 3 - 3 - 1
    image.remove("loader/entries/bootc_fedora-42-1.conf")
    with reading(image) as reader:
        after = reader.find_directory("loader/entries")
    assert after is not None
    assert after.table.free_after_end == before.table.free_after_end
    assert after.table.free_runs == (3, before.table.free_after_end)


def test_room_is_a_run_of_neighbouring_slots() -> None:
    slot = b"A       CON" + b"\x20" + bytes(20)
    raw = slot + b"\xe5" * 64 + slot + b"\xe5" * 64 + slot + bytes(32)
    table, _ = parse_slots(raw, wide_clusters=True)
    assert table.free_runs == (2, 2, 1)
    assert table.has_room_for(["short.conf", "other.conf"])
    assert not table.has_room_for(["short.conf", "other.conf", "x"])
    assert not table.has_room_for(["longer-than-13.conf"])
    assert slots_for_name("x" * 13) == 2
    assert slots_for_name("x" * 14) == 3
    assert slots_for_name("\U0001f600" * 7) == 3


def test_directories_of_several_clusters_are_read_whole(tmp_path: Path) -> None:
    image = make_image(tmp_path / "fat.img", bits=32, cluster_bytes=512)
    names = [f"an-entry-with-a-long-name-{number:02}.conf" for number in range(30)]
    image.write_tree({"loader/": b"", "loader/entries/": b"", **{f"loader/entries/{name}": b"x" for name in names}})
    with reading(image) as reader:
        directory = reader.find_directory("loader/entries")
        assert directory is not None
        assert [entry.name for entry in directory.entries] == names
        assert len(directory.chain.clusters) == 8
    broken = directory.chain.clusters[4]
    image.set_fat(broken, 0)
    with reading(image) as reader:
        directory = reader.find_directory("loader/entries")
        assert directory is not None
        assert directory.chain.verdict is Verdict.FREE
        assert not directory.chain.is_whole
        assert len(directory.chain.clusters) == 4
    assert ("directory-broken", "loader/entries") in problems(image)
    assert "Contains a free cluster" in image.fsck()


def test_a_directory_whose_new_cluster_has_no_end_mark_is_broken(image: FatImage) -> None:
    start = image.first_cluster(b"ENTRIES    ")
    free = image.first_cluster(b"EMPTY   CON") or 300
    assert image.get_fat(free) == 0
    image.set_fat(start, free)
    assert problems(image) == {("directory-broken", "loader/entries")}
    assert "Contains a free cluster" in image.fsck()


def test_a_directory_with_a_free_first_cluster_is_unreachable(image: FatImage) -> None:
    image.set_fat(image.first_cluster(b"ENTRIES    "), 0)
    found = problems(image)
    assert ("directory-unreachable", "loader/entries") in found
    assert ("orphan-clusters", "") in found
    assert "loader/entries" in image.fsck().lower()


def test_a_directory_without_a_cluster_is_unreachable(image: FatImage) -> None:
    image.set_first_cluster(b"ENTRIES    ", 0)
    assert ("directory-unreachable", "loader/entries") in problems(image)
    assert "Start cluster" in image.fsck() or "loader/entries" in image.fsck().lower()


def test_a_first_cluster_out_of_the_volume_is_unreachable(image: FatImage) -> None:
    image.set_first_cluster(b"ENTRIES    ", 0xFFF0)
    if image.bits == 32 and image.cluster_bytes == 512:
        image.set_first_cluster(b"ENTRIES    ", 0x0FFFFFF0)
    assert ("directory-unreachable", "loader/entries") in problems(image)


def test_missing_dots_are_found_and_fsck_agrees(image: FatImage) -> None:
    start = image.first_cluster(b"ENTRIES    ")
    with reading(image) as reader:
        offset = reader.geometry.data_offset_bytes + (start - 2) * image.cluster_bytes
    image.patch(offset, b"\xe5")
    image.patch(offset + 32, b"\xe5")
    assert ("dots-missing", "loader/entries") in problems(image)
    said = image.fsck()
    assert "dot" in said.lower() or '"."' in said


def test_two_names_on_one_chain_are_cross_linked(image: FatImage) -> None:
    slot = next(name for name in (b"BOOTC_~2CON", b"BOOTC_F2CON", b"BOOTC_~1CON") if name in image.path.read_bytes())
    image.set_first_cluster(slot, image.first_cluster(b"VMLINUZ    "))
    found = [f for f in check(image) if f.problem is FatProblem.CROSS_LINKED]
    assert len(found) == 1
    assert {found[0].path.rsplit("/", 1)[-1], (found[0].other or "").rsplit("/", 1)[-1]} >= {"vmlinuz"}
    assert "share clusters" in image.fsck()


def test_a_directory_that_shares_its_cluster_is_cross_linked_and_not_walked_twice(image: FatImage) -> None:
    staged = next(n for n in (b"ENTRIE~1STA", b"ENTRIE~2STA") if n in image.path.read_bytes())
    image.set_first_cluster(staged, image.first_cluster(b"ENTRIES    "))
    found = [f for f in check(image) if f.problem is FatProblem.CROSS_LINKED]
    assert [{f.path, f.other} for f in found] == [{"loader/entries", "loader/entries.staged"}]


def test_a_ring_of_directories_ends(image: FatImage) -> None:
    image.set_first_cluster(b"ENTRIES    ", image.first_cluster(b"LOADER     "))
    assert ("cross-linked", "loader/entries") in problems(image)


def test_a_ring_of_clusters_ends(image: FatImage) -> None:
    start = image.first_cluster(b"INITRD     ")
    image.set_fat(image.get_fat(start), start)
    with reading(image) as reader:
        assert reader.read_chain(start).verdict is Verdict.CROSSED
    if image.cluster_bytes < 10000:
        assert ("file-truncated", f"{LONG}/initrd") in problems(image)


def test_a_torn_file_is_too_short(image: FatImage) -> None:
    start = image.first_cluster(b"INITRD     ")
    image.set_fat(start, 0)
    assert ("file-truncated", f"{LONG}/initrd") in problems(image)
    assert "initrd" in image.fsck().lower()


def test_orphans_are_counted_as_fsck_counts_them(image: FatImage) -> None:
    offset = image.slot_offset(b"INITRD     ")
    image.patch(offset, b"\xe5")
    found = check(image)
    assert [f.problem for f in found if f.problem is not FatProblem.TORN_NAME] == [FatProblem.ORPHANS]
    assert found[-1].clusters == -(-20000 // image.cluster_bytes)
    assert f"Reclaimed {found[-1].clusters} unused cluster" in image.fsck()


def test_fat_copies_that_differ_are_found(image: FatImage) -> None:
    image.set_fat(image.first_cluster(b"INITRD     "), 0, copies=(1,))
    assert problems(image) == {("fat-copies-differ", "")}
    assert "FATs differ" in image.fsck()


def test_the_dirty_mark_is_found(image: FatImage) -> None:
    where = 65 if image.bits == 32 else 37
    image.patch(where, bytes([image.peek(where, 1)[0] | 1]))
    assert problems(image) == {("dirty-mark", "")}
    assert "Dirty bit is set" in image.fsck()


def test_a_long_name_whose_file_is_gone_is_torn(image: FatImage) -> None:
    short = next(name for name in (b"BOOTC_~1CON", b"BOOTC_F1CON") if name in image.path.read_bytes())
    image.patch(image.slot_offset(short), b"\xe5")
    assert ("torn-name", "loader/entries") in problems(image)


def test_what_is_no_fat_is_refused_with_the_readers_own_error(tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"x" * 100, bytes(4096), b"\xff" * 4096)):
        path = tmp_path / str(number)
        path.write_bytes(content)
        with pytest.raises(FatFormatError), reading(FatImage(path, 32, 512)):
            pass


def test_a_device_that_ends_inside_the_volume_is_refused(image: FatImage) -> None:
    os.truncate(image.path, image.path.stat().st_size - (1 << 16))
    with pytest.raises(FatFormatError, match="sectors of 512 bytes on"), reading(image):
        pass


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> FatImage:
    image = make_image(tmp_path_factory.mktemp("fat") / "small.img", bits=12, cluster_bytes=512, megabytes=1)
    image.write_tree(TREE)
    return image


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_garbage_anywhere_raises_nothing_but_the_readers_own_error(small: FatImage, data: st.DataObject) -> None:
    content = bytearray(small.path.read_bytes())
    used = 60_000  # boot sector, FATs, directories, the first files
    for _ in range(data.draw(st.integers(1, 6))):
        junk = data.draw(st.binary(min_size=1, max_size=64))
        # The boot sector's numbers and the root directory are hit more often than chance would.
        start = data.draw(st.one_of(st.integers(11, 90), st.integers(512, 9000), st.integers(0, used)))
        content[start : start + len(junk)] = junk
    path = small.path.with_suffix(".junk")
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    try:
        reader = FatReader(fd)
        for finding in check_volume(reader):
            assert finding.detail
        reader.find_entry("loader/entries/x")
    except FatFormatError:
        pass
    finally:
        os.close(fd)


@given(st.binary(max_size=2048))
def test_any_bytes_are_a_directory(raw: bytes) -> None:
    table, entries = parse_slots(raw, wide_clusters=True)
    assert sum(table.free_runs) <= table.slot_count == len(raw) // 32
    assert len(entries) <= table.slot_count


def test_a_directory_on_another_file_system_has_no_fat_device(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert open_volume_device(fd) is None
    finally:
        os.close(fd)
