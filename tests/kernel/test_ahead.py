"""What would stop an update or a rollback on the boot partition is said by dry run and status, and before any write."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from flowkit import Case, make_case, run, snapshot

from bootc_fast import lab

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

pytestmark = pytest.mark.root


@contextmanager
def _on_a_disk(case: Case, scratch: Path) -> Generator[str]:
    """Put the ESP on a loop device of its own; yields the device."""
    disk, place = scratch / "disk", case.root / "efi"
    disk.touch()
    os.truncate(disk, 8 << 20)
    # One without a reserve for root.
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-d", place, disk], check=True, capture_output=True)
    argv = ["losetup", "--find", "--show", disk]
    loop = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    try:
        subprocess.run(["mount", loop, place], check=True, capture_output=True)
        try:
            yield loop
        finally:
            subprocess.run(["umount", place], check=True)
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)


def _fill(place: Path) -> Path:
    filler = place / "EFI/Linux" / ("bootc_composefs-" + "e" * 64)
    filler.mkdir()
    (place / "loader/entries/other.conf").write_text(f"title o\nlinux /EFI/Linux/{filler.name}/vmlinuz\n")
    with (filler / "vmlinuz").open("wb") as file:
        while True:
            try:
                file.write(b"x" * 4096)
                file.flush()
            except OSError:
                return filler


def _say_all(case: Case, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Dry run, status and the run itself, which changes nothing; what each says."""
    before = snapshot(case.root)
    code, _out, dry = run(capsys, "composefs-finalize-staged", "--dry-run", "--root", case.root)
    assert code == 6, dry
    _code, status, err = run(capsys, "status", "--root", case.root)
    code, _out, real = run(capsys, "composefs-finalize-staged", "--root", case.root)
    assert code == 6, real
    assert snapshot(case.root) == before
    return [dry, " ".join((status + err).split()), real]


def test_a_full_boot_partition_is_told_with_where_and_by_what(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = make_case(tmp_path / "host")
    with _on_a_disk(case, tmp_path) as loop:
        _fill(case.root / "efi")
        for said in _say_all(case, capsys):
            assert "bytes are needed" in said
            assert loop in said
            assert "mounted at" in said
            assert "/EFI/Linux/bootc_composefs-eeeeeeee" in said
        (case.root / "efi/loader/entries/other.conf").unlink()
        # What is garbage goes first, and then there is space.
        code, _out, err = run(capsys, "composefs-finalize-staged", "--root", case.root)
        assert code == 0, err


@pytest.mark.parametrize("name", ["loader", "loader/entries"])
def test_an_immutable_directory_is_told_with_what_undoes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    case = make_case(tmp_path / "host")
    with _on_a_disk(case, tmp_path) as loop:
        subprocess.run(["chattr", "+i", case.root / "efi" / name], check=True)
        for said in _say_all(case, capsys):
            assert f"/{name} is immutable: `chattr -i -a` makes it writable" in said
            assert loop in said
        subprocess.run(["chattr", "-i", case.root / "efi" / name], check=True)
        code, _out, err = run(capsys, "composefs-finalize-staged", "--root", case.root)
        assert code == 0, err
        lab.boot(case.host)
        subprocess.run(["chattr", "+a", case.root / "efi" / name], check=True)
        for options in (["--dry-run"], []):
            code, _out, err = run(capsys, "rollback", *options, "--root", case.root)
            assert (code, f"/{name} is immutable" in err) == (6, True), err
        subprocess.run(["chattr", "-a", case.root / "efi" / name], check=True)


def test_a_device_that_is_read_only_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = make_case(tmp_path / "host")
    with _on_a_disk(case, tmp_path) as loop:
        subprocess.run(["mount", "-o", "remount,ro", case.root / "efi"], check=True)
        subprocess.run(["blockdev", "--setro", loop], check=True)
        try:
            for said in _say_all(case, capsys):
                assert "the device is read-only" in said
                assert loop in said
        finally:
            # The device keeps it for whatever it is used for next.
            subprocess.run(["blockdev", "--setrw", loop], check=True)
