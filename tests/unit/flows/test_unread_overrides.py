"""What picks another entry than the first, where it is a link, or cannot be read: it is never taken for "none"."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import flowkit
import pytest
from unit.flows.test_rollback_oddities import Updated

from bootc_fast.boot.efi.firmware import LOADER_GUID
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from pathlib import Path

HEADER = "# GRUB Environment Block\n"


def _block(updated: Updated, digest: str, key: str = "saved_entry") -> bytes:
    return f"{HEADER}{key}={updated.find(digest).name.removesuffix('.conf')}\nkept=1\n".ljust(1024, "#").encode()


def _link(updated: Updated, target: str) -> Path:
    home = updated.host.boot_dir / "grub2"
    home.mkdir(exist_ok=True)
    (home / "grubenv").unlink(missing_ok=True)
    os.symlink(target, home / "grubenv")
    return home / "grubenv"


LINKS = [
    ("../efi/EFI/redhat/grubenv", "efi/EFI/redhat/grubenv", "saved_entry"),
    ("/boot/efi/EFI/opensuse/grubenv", "efi/EFI/opensuse/grubenv", "next_entry"),
    ("../../efi/EFI/almalinux/grubenv", "efi/EFI/almalinux/grubenv", "saved_entry"),
    ("./x/../env.2", "boot/grub2/env.2", "next_entry"),
    ("/boot/env.3", "boot/env.3", "saved_entry"),
]


@pytest.mark.parametrize(("target", "place", "key"), LINKS)
def test_grubenv_is_followed_to_where_it_is_and_moves_along(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str, place: str, key: str
) -> None:
    updated = Updated(tmp_path / "h", Loader.GRUB, BootType.BLS, capsys)
    path = updated.host.root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_block(updated, updated.booted, key))
    link = _link(updated, target)
    for wanted in (updated.previous, updated.booted):
        code, out, err = updated.roll_back("--to", wanted)
        assert (code, err) == (0, ""), out
        assert path.read_bytes() == _block(updated, wanted, key), "what was saved names the new default"
        assert link.is_symlink()


UNREADABLE = [
    "../efi/EFI/gone/grubenv",
    "/etc/grubenv",
    "grubenv",
    "../../../../outside",
    "/boot/efi/../../root/x",
    "",
]


@pytest.mark.parametrize("target", UNREADABLE)
def test_grubenv_that_cannot_be_read_may_name_none_of_the_new_entries(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    updated = Updated(tmp_path / "h", Loader.GRUB, BootType.BLS, capsys)
    if target:
        _link(updated, target)
    else:
        (updated.host.boot_dir / "grub2/grubenv").unlink(missing_ok=True)
        (updated.host.boot_dir / "grub2/grubenv").mkdir(parents=True)
    before = set(os.listdir(updated.entries))
    for options in (("--dry-run",), ()):
        code, _, err = updated.roll_back(*options)
        assert (code, "unless grub2/grubenv, which cannot be read, picks another" in err) == (0, True)
    assert not before & set(os.listdir(updated.entries)), "whatever it names is gone"
    assert flowkit.next_boot(updated.host) == updated.previous


@pytest.mark.parametrize("name", ["LoaderEntryDefault", "LoaderEntryOneShot", "LoaderEntryPreferred", "loader.conf"])
def test_what_systemd_boot_is_told_and_we_cannot_read_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    updated = Updated(tmp_path / "h", Loader.SYSTEMD_BOOT, BootType.BLS, capsys)
    if name == "loader.conf":
        path = updated.host.boot_dir / "loader/loader.conf"
        path.unlink(missing_ok=True)
        path.write_bytes(b"#" * (2 << 20))
    else:
        efivars = updated.host.root / "sys/firmware/efi/efivars"
        efivars.mkdir(parents=True, exist_ok=True)
        (efivars / f"{name}-{LOADER_GUID}").write_bytes(b"\7")
    before = set(os.listdir(updated.entries))
    code, _, err = updated.roll_back()
    assert (code, f"unless {'loader/' * (name == 'loader.conf')}{name}, which cannot be read" in err) == (0, True)
    assert not before & set(os.listdir(updated.entries))


def test_an_unreadable_variable_is_nothing_to_grub(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    updated = Updated(tmp_path / "h", Loader.GRUB, BootType.BLS, capsys)
    efivars = updated.host.root / "sys/firmware/efi/efivars"
    efivars.mkdir(parents=True, exist_ok=True)
    (efivars / f"LoaderEntryDefault-{LOADER_GUID}").write_bytes(b"\7")
    assert "unless" not in updated.roll_back()[2]
