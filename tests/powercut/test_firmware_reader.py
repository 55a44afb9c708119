"""The reader that judges power cuts, against states of real disks that OVMF was asked about, and against mtools."""

from __future__ import annotations

import gzip
import os
import subprocess
from pathlib import Path

import pytest
from powercut.fat import Fat
from powercut.images import fill_fat

STATES = Path(__file__).parent / "states"
ENVIRONMENT = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "MTOOLS_SKIP_CHECK": "1"}

# What a power cut in a finalize left on vfat when a live directory grew; OVMF with systemd-boot showed no entry.
BAD_STATES = (
    ("frag-10-start_1_prefix_69", "loader/entries"),
    ("real-200m-start_3_subset_167", "loader/entries"),
    ("realgc-200m-start_8_one_406", "EFI/Linux"),
)


def run(*argv: str | Path) -> None:
    subprocess.run(argv, check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL)


def image_of(tree: Path, image: Path, size_mib: int, *options: str) -> bytes:
    with image.open("wb") as file:
        file.truncate(size_mib << 20)
    run("mkfs.vfat", *options, image)
    fill_fat(image, tree)
    return image.read_bytes()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    entries = tmp_path / "tree/loader/entries"
    entries.mkdir(parents=True)
    for number in range(30):  # several clusters of 512 bytes
        (entries / f"bootc_an-entry-with-a-long-name-{number:02}.conf").write_text(f"title {number}\n" * (number * 40))
    (entries / "x.conf").write_text("")
    kernel = tmp_path / "tree/EFI/Linux/vmlinuz"
    kernel.parent.mkdir(parents=True)
    kernel.write_bytes(bytes(range(256)) * 300)
    return tmp_path / "tree"


def shown_entries(fat: Fat) -> list[str]:
    """The entries that systemd-boot would show: those whose kernel is there."""
    files = fat.files()
    shown = []
    for path, entry in files.items():
        if path.startswith("loader/entries/") and path.endswith(".conf"):
            text = (fat.read(entry) or b"").decode()
            kernels = [line.split()[1].lstrip("/") for line in text.splitlines() if line.startswith("linux ")]
            shown += [path for kernel in kernels if kernel in files]
    return shown


@pytest.mark.parametrize(("name", "directory"), BAD_STATES)
def test_states_in_which_firmware_showed_no_entry_show_none(name: str, directory: str) -> None:
    fat = Fat(gzip.decompress((STATES / f"{name}.img.gz").read_bytes()))
    assert {item.path: item.problem for item in fat.walk() if item.problem} == {directory: "chain ends free"}
    assert shown_entries(fat) == []
    assert "EFI/BOOT/BOOTX64.EFI" in fat.files()


@pytest.mark.parametrize(("name", "directory"), BAD_STATES)
def test_the_same_states_show_entries_once_the_chain_has_its_end(name: str, directory: str) -> None:
    base = gzip.decompress((STATES / f"{name}.img.gz").read_bytes())
    fat = Fat(base)
    (broken,) = (item.entry for item in fat.walk() if item.problem)
    free = fat.link(fat.chain(broken.cluster).clusters[-1])
    sector = bytearray(base[fat.fat_sector(free) * 512 :][:512])
    at = free * 4 % 512
    sector[at : at + 4] = (0x0FFFFFFF).to_bytes(4, "little")
    assert shown_entries(Fat(base, {fat.fat_sector(free): bytes(sector)}))


@pytest.mark.parametrize(
    ("size_mib", "options"), [(64, ("-F32", "-s1")), (288, ("-F32", "-s8")), (32, ("-F16", "-s4"))], ids=str
)
def test_a_whole_file_system_is_read_to_the_byte(
    tree: Path, tmp_path: Path, size_mib: int, options: tuple[str, ...]
) -> None:
    fat = Fat(image_of(tree, tmp_path / "image", size_mib, *options))
    read = {path: fat.read(entry) for path, entry in fat.files().items()}
    assert read == {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    assert not [item for item in fat.walk() if item.problem]
    assert not fat.crossed()


def test_a_directory_that_runs_into_a_free_cluster_is_empty_and_a_file_cannot_be_read(
    tree: Path, tmp_path: Path
) -> None:
    base = image_of(tree, tmp_path / "image", 64, "-F32", "-s1")
    whole = Fat(base)
    reached = {item.path: item.entry for item in whole.walk()}
    for path in ("loader/entries", "EFI/Linux/vmlinuz"):
        last = whole.chain(reached[path].cluster).clusters[-1]
        sector = bytearray(base[whole.fat_sector(last) * 512 :][:512])
        at = last * 4 % 512
        sector[at : at + 4] = bytes(4)
        cut = Fat(base, {whole.fat_sector(last): bytes(sector)})
        if reached[path].is_directory:
            assert cut.list_directory(reached[path]) == ((), "chain ends free")
        else:
            assert whole.read(reached[path]) is not None
            assert cut.read(reached[path]) is None


def test_two_names_on_one_cluster_are_told(tree: Path, tmp_path: Path) -> None:
    base = image_of(tree, tmp_path / "image", 64, "-F32", "-s1")
    whole = Fat(base)
    reached = {item.path: item.entry for item in whole.walk()}
    first, second = (reached[f"loader/entries/bootc_an-entry-with-a-long-name-{n}.conf"].cluster for n in ("10", "11"))
    sector = bytearray(base[whole.fat_sector(first) * 512 :][:512])
    at = first * 4 % 512
    sector[at : at + 4] = second.to_bytes(4, "little")
    pairs = Fat(base, {whole.fat_sector(first): bytes(sector)}).crossed()
    assert [tuple(name.rpartition("-")[2] for name in pair) for pair in pairs] == [("10.conf", "11.conf")]


@pytest.mark.parametrize("kept", ["after", "before"])
def test_parts_of_a_name_that_is_gone_hide_nothing(tree: Path, tmp_path: Path, kept: str) -> None:
    """A name's slots lie in two sectors, of which a cut leaves one: its first parts, or its last ones and the file.

    EDK II goes back from the short name (``FatLoadLongNameEntry``) and takes that where the parts before it do not fit;
    Linux does alike, and ``fsck.fat -a`` leaves what has lost its beginning.
    """
    base = image_of(tree, tmp_path / "image", 64, "-F32", "-s1")
    whole = Fat(base)
    entries = {item.path: item.entry for item in whole.walk()}["loader/entries"]
    sectors = [
        whole.layout.data_start + (cluster - 2) * whole.layout.sectors_per_cluster
        for cluster in whole.chain(entries.cluster).clusters
    ]
    # Names of 35 characters take 4 slots, 16 slots are a sector: the one that lies in two has its short name in the
    # second.
    slots = [(sector, at) for sector in sectors for at in range(0, 512, 32)]
    raw = {place: base[place[0] * 512 + place[1] :][:32] for place in slots}
    group: list[tuple[int, int]] = []
    for place in slots:
        group.append(place)
        if raw[place][11] != 0x0F:
            if len({sector for sector, _at in group}) > 1:
                break
            group = []
    first = group[0][0]
    gone = [place for place in group if (place[0] == first) == (kept == "after")]
    changed: dict[int, bytearray] = {}
    for sector, at in gone:
        changed.setdefault(sector, bytearray(base[sector * 512 :][:512]))[at] = 0xE5
    image = bytearray(base)
    for sector, data in changed.items():
        image[sector * 512 : sector * 512 + 512] = data
    found = set(Fat(bytes(image)).files())
    (lost,) = set(whole.files()) - found
    extra = {path.rpartition("/")[2] for path in found - set(whole.files())}
    assert all(len(name) <= 12 and "~" in name for name in extra)
    assert len(extra) == (kept == "after")
    (tmp_path / "image").write_bytes(image)
    done = subprocess.run(
        ["fsck.fat", "-n", tmp_path / "image"], check=False, capture_output=True, text=True, env=ENVIRONMENT
    )
    assert ("fragment" if kept == "after" else "Orphaned long file name part") in done.stdout
    # Linux's driver is tried where there is one (`rerun.py`); mtools reads like it.
    listed = subprocess.run(
        ["mdir", "-b", "-i", tmp_path / "image", "::loader/entries"], check=True, capture_output=True, text=True,
        env=ENVIRONMENT,
    ).stdout  # fmt: skip
    assert lost.rpartition("/")[2] not in listed
