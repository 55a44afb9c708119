"""What a deployment boots from is read back from the disk before it becomes the default: bootc flushes nothing.

A loop device stands for the boot partition; its content is changed behind the mounted file system, so that the kernel's
memory has the good file and the disk a damaged one, as after staging to a disk that lost writes.
"""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from flowkit import Case, make_case, next_boot, read_tree, run

from bootc_fast import lab
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

pytestmark = pytest.mark.root
KINDS = [BootType.BLS, BootType.UKI]


@contextmanager
def _on_a_disk(case: Case, scratch: Path) -> Generator[Path]:
    """Put the ESP on a loop device; yields the file below it."""
    disk, place = scratch / "disk", case.root / "efi"
    disk.touch()
    with disk.open("r+b") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-d", place, disk], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop", disk, place], check=True, capture_output=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", place], check=True)


def _damage(disk: Path, good: bytes) -> None:
    raw = disk.read_bytes()
    assert good in raw
    with disk.open("r+b") as file:
        start = raw.find(good)
        while start >= 0:
            file.seek(start)
            file.write(b"\0" * len(good))
            start = raw.find(good, start + 1)


@pytest.mark.parametrize("boot_type", KINDS)
def test_an_update_that_the_disk_does_not_have_whole_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], boot_type: BootType
) -> None:
    case = make_case(tmp_path / "host", Loader.SYSTEMD_BOOT, boot_type)
    with _on_a_disk(case, tmp_path) as disk:
        before = read_tree(case.root / "efi")
        code, _out, _err = run(capsys, "composefs-finalize-staged", "--dry-run", "--root", case.root)
        assert code == 0
        _damage(disk, b"kernel 2\n")
        assert read_tree(case.root / "efi") == before, "the kernel has the good file in its memory"
        code, _out, err = run(capsys, "composefs-finalize-staged", "--root", case.root)
        assert code == 11, err
        assert "bootc upgrade" in err
        assert next_boot(case.host) == case.booted
        assert {path for path in read_tree(case.root / "efi") if b"loader/" in path} == {
            path for path in before if b"loader/" in path
        }


@pytest.mark.parametrize("boot_type", KINDS)
def test_a_rollback_target_that_the_disk_does_not_have_whole_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], boot_type: BootType
) -> None:
    case = make_case(tmp_path / "host", Loader.SYSTEMD_BOOT, boot_type)
    code, _out, err = run(capsys, "composefs-finalize-staged", "--root", case.root)
    assert code == 0, err
    lab.boot(case.host)
    with _on_a_disk(case, tmp_path) as disk:
        before = read_tree(case.root / "efi")
        _damage(disk, b"kernel 1\n")
        assert read_tree(case.root / "efi") == before
        code, _out, err = run(capsys, "rollback", "--root", case.root)
        assert code == 11, err
        assert next_boot(case.host) == case.staged
        code, _out, err = run(capsys, "rollback", "--no-verify", "--root", case.root)
        assert code == 0, err
