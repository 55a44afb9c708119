"""Lab hosts and trees of any size for the benchmarks, made once and copied for every round that changes them."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

PROGRAM = Path(sysconfig.get_path("scripts")) / "bootc-fast"
FILES_PER_DIRECTORY = 100
FILE_BYTES = 1024


def write_files(root: Path, files: int) -> None:
    """Write files of 1 KiB, a hundred a directory; no two are equal."""
    for number in range(files):
        path = file_path(root, number)
        if number % FILES_PER_DIRECTORY == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(b"%08d" % number * (FILE_BYTES // 8))


def file_path(root: Path, number: int) -> Path:
    """Where ``write_files`` puts a file."""
    return root / f"d{number // FILES_PER_DIRECTORY}" / f"f{number}"


def edit_files(root: Path, numbers: range) -> int:
    """Change the first bytes, not the size, as the most expensive edit to find; returns how many."""
    for number in numbers:
        path = file_path(root, number)
        path.write_bytes(b"edited!!" + path.read_bytes()[8:])
    return len(numbers)


def write_rootfs(root: Path, files: int, *, version: int) -> None:
    """Write a small OS with so many files in /etc; the second version's image changes one file in a hundred."""
    modules = root / f"usr/lib/modules/6.12.{version}-lab"
    modules.mkdir(parents=True)
    for directory in ("boot", "sysroot", "var", "run", "usr/bin", "tmp", "proc", "sys", "dev"):
        (root / directory).mkdir(parents=True)
    (modules / "vmlinuz").write_bytes(f"lab kernel {version}\n".encode().ljust(8 << 20, b"k"))
    (modules / "initramfs.img").write_bytes(f"lab initrd {version}\n".encode().ljust(24 << 20, b"i"))
    (root / "usr/lib/os-release").write_text(f'NAME="Lab OS"\nID=lab\nVERSION_ID={version}\n')
    write_files(root / "etc", files)
    if version > 1:
        edit_files(root / "etc", range(3, files, 100))


def make_staged_host(work: Path, files: int, edits: int) -> Path:
    """Make a lab host with a staged update and so many edited files in /etc."""
    host = work / "host"
    for version, verb in ((1, "create"), (2, "stage")):
        rootfs = work / f"rootfs-{version}"
        write_rootfs(rootfs, files, version=version)
        argv = [str(PROGRAM), "lab", verb, str(host), "--from", str(rootfs)]
        subprocess.run(argv, check=True, capture_output=True)
        shutil.rmtree(rootfs)
    edit_files(host / "etc", range(5, files, max(files // edits, 1))[:edits])
    return host


def copy_host(host: Path, target: Path) -> Path:
    """Copy a host with all attributes; /etc in it is a link that leads into the copy."""
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(["cp", "-a", "--reflink=auto", str(host), str(target)], check=True)
    return target
