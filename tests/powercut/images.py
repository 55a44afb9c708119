"""Boot partitions as image files, made without mounting them: mkfs, mtools, and a few words written by hand."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from typing import TYPE_CHECKING

from powercut.fat import read_layout

if TYPE_CHECKING:
    from pathlib import Path

    from powercut.configurations import Configuration

_SECTOR = 512
_MIB = 1 << 20
# What the lab writes into efiuuid.cfg, by which GRUB finds the ESP.
_VOLUME_ID = "7B7795E7"
_END = 0x0FFFFFFF
_BAD = 0x0FFFFFF7
LOADER_PATH = "EFI/BOOT/BOOTX64.EFI"
LOADER_BYTES = 256 << 10


def _run(*argv: str | Path) -> None:
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "MTOOLS_SKIP_CHECK": "1"}
    subprocess.run(argv, check=True, env=environment, stdout=subprocess.DEVNULL)


def lay_out(one: Configuration, host: Path, tree: Path) -> None:
    """Make the tree that goes onto the boot partition of a configuration."""
    if one.boot == "boot":
        shutil.copytree(host / "sysroot/boot", tree)
    else:
        shutil.copytree(host / "efi", tree)
    if one.boot == "shared":
        shutil.copytree(host / "sysroot/boot", tree, dirs_exist_ok=True)
    if not one.is_ext4 and one.free is None:
        # Room for a loader: its sectors are zero here, and filled in where a state is booted.
        (tree / LOADER_PATH).parent.mkdir(parents=True, exist_ok=True)
        (tree / LOADER_PATH).write_bytes(bytes(LOADER_BYTES))
        (tree / "loader").mkdir(exist_ok=True)
        (tree / "loader/loader.conf").write_text("timeout 0\n")
    if one.fill is not None:
        directory, slots = one.fill
        for number in range(slots):
            (tree / directory / f"FILL{number:02d}").write_text("x")


def fill_fat(image: Path, tree: Path, *, first: str = "") -> None:
    """Copy a tree into a FAT, in the order of the names: a directory lists them in that of the copying.

    Args:
        image: The file system.
        tree: What is copied.
        first: A name at the top that comes before the others.
    """
    for path in sorted(tree.iterdir(), key=lambda path: (path.name != first, path.name)):
        if path.is_dir():
            below = (found for found in sorted((path, *path.rglob("*"))) if found.is_dir())
            for directory in below:
                where = f"::{directory.relative_to(tree)}"
                _run("mmd", "-i", image, where)
                if files := sorted(found for found in directory.iterdir() if found.is_file()):
                    _run("mcopy", "-i", image, *files, where)
        else:
            _run("mcopy", "-i", image, path, "::")


def make_image(one: Configuration, tree: Path, image: Path) -> None:
    """Make the boot partition with a tree on it."""
    with image.open("wb") as file:
        file.truncate(one.size_mib * _MIB)
    if one.is_ext4:
        _run("mkfs.ext4", "-q", "-b", "4096", "-d", tree, image)
        return
    _run("mkfs.vfat", *one.options, "-i", _VOLUME_ID, image)
    fill_fat(image, tree, first="loader")
    if one.free is not None or one.holes:
        _take_clusters(image, one)


def _take_clusters(image: Path, one: Configuration) -> None:
    """Mark free clusters as bad: nothing gets them, and no file has to be carried along for them.

    With holes, a single cluster stays free in each sector of the FAT, so that neighbours never share a sector.
    """
    with image.open("r+b") as file:
        boot = file.read(_SECTOR)
        layout = read_layout(boot)
        width, code = (4, "I") if layout.is_fat32 else (2, "H")
        fats, fat_sectors = boot[16], (layout.root_start - layout.fat_start) // boot[16]
        file.seek(layout.fat_start * _SECTOR)
        raw = file.read(fat_sectors * _SECTOR)
        links = list(struct.unpack(f"<{len(raw) // width}{code}", raw))
        free = [number for number in range(2, layout.clusters + 2) if links[number] == 0]
        per_sector = _SECTOR // width
        keep = (
            set(free[: one.free]) if one.free is not None else {at for at in free if at % per_sector == per_sector // 2}
        )
        for number in free:
            if number not in keep:
                links[number] = _BAD & ((1 << width * 8) - 1)
        for copy in range(fats):
            file.seek((layout.fat_start + copy * fat_sectors) * _SECTOR)
            file.write(struct.pack(f"<{len(links)}{code}", *links))
        if layout.is_fat32:  # FSINFO: how many are free, and where to look next
            info = struct.unpack_from("<H", boot, 48)[0]
            file.seek(info * _SECTOR + 488)
            file.write(struct.pack("<II", len(keep), 2))
