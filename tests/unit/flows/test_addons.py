"""UKI addons that belong to another deployment than the UKI to which systemd-stub adds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import flowkit
import pytest
from unit.boot.entries.test_systemd_menu import make_pe
from unit.flows.test_rollback_oddities import Updated

from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from pathlib import Path


def _warnings(updated: Updated) -> list[str]:
    out = flowkit.run(updated.capsys, "status", "-v", "--root", updated.host.root)[1]
    return [line.strip() for line in out.splitlines() if "addon" in line]


@pytest.mark.parametrize("loader", [Loader.SYSTEMD_BOOT, Loader.GRUB])
def test_addons_of_others_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader) -> None:
    updated = Updated(tmp_path / "h", loader, BootType.UKI, capsys)
    images = updated.host.esp / "EFI/Linux/bootc"
    own = images / f"bootc_composefs-{updated.booted}.efi.extra.d"
    own.mkdir(exist_ok=True)
    everywhere = updated.host.esp / "loader/addons"
    everywhere.mkdir(parents=True, exist_ok=True)
    assert _warnings(updated) == []
    quiet = make_pe({".cmdline": b"quiet\0"})
    mine = make_pe({".text": b"x", ".cmdline": f"composefs=?{updated.booted} quiet".encode()})
    other = make_pe({".cmdline": f"  a=b\ncomposefs={updated.previous}\0".encode()})
    (own / "quiet.addon.efi").write_bytes(quiet)
    (own / "mine.ADDON.EFI").write_bytes(mine)
    (own / "readme.txt").write_bytes(other)
    (own / "broken.addon.efi").write_bytes(b"MZ")
    (everywhere / "quiet.addon.efi").write_bytes(quiet)
    assert _warnings(updated) == []
    (own / "other.addon.efi").write_bytes(other)
    (own / f"for-{updated.previous}.addon.efi").write_bytes(quiet)
    (everywhere / "odd\x1b.addon.efi").write_bytes(mine)
    told = _warnings(updated)
    assert len(told) == 3
    previous, booted = updated.previous[:8], updated.booted[:8]
    assert sum(f"belongs to {previous}" in line and f"the UKI of {booted}" in line for line in told) == 2
    assert sum(f"belongs to {booted}" in line and "every UKI" in line for line in told) == 1
    assert "\x1b" not in "".join(told)


def test_hosts_without_ukis_have_no_stray_addons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    updated = Updated(tmp_path / "h", Loader.SYSTEMD_BOOT, BootType.BLS, capsys)
    everywhere = updated.host.esp / "loader/addons"
    everywhere.mkdir(parents=True)
    (everywhere / "x.addon.efi").write_bytes(make_pe({".cmdline": f"composefs={updated.previous}".encode()}))
    assert _warnings(updated) == []
