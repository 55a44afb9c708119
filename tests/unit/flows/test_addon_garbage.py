"""UKI addons over a chain of updates: they stay as long as their UKI, and go with it; all others stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import flowkit
import pytest
from unit.boot.entries.test_systemd_menu import make_pe

from bootc_fast import lab
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from pathlib import Path

# Companion files of a UKI: addons of either case, credentials, extension images, a note of somebody.
COMPANIONS = ("quiet.addon.efi", "DEBUG.ADDON.EFI", "token.cred", "tools.sysext.raw", "site.confext.raw", "README")


def _companions(host: lab.LabHost, digest: str) -> Path:
    return host.esp / f"EFI/Linux/bootc/bootc_composefs-{digest}.efi.extra.d"


def _fill(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name in COMPANIONS:
        (directory / name).write_bytes(make_pe({".cmdline": b"quiet\0"}))


def _update(host: lab.LabHost, capsys: pytest.CaptureFixture[str], version: int) -> str:
    lab.stage_files(host, {"motd": f"v{version}\n"}, version=str(version))
    code, _, err = flowkit.run(capsys, "finalize", "--root", host.root)
    assert (code, err) == (0, "")
    lab.boot(host)
    return host.booted


@pytest.mark.parametrize("loader", [Loader.SYSTEMD_BOOT, Loader.GRUB])
def test_addons_live_and_go_with_their_uki_over_six_updates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader
) -> None:
    host = lab.make_host(tmp_path / "h", loader=loader, boot_type=BootType.UKI)
    deployments = [host.booted]
    _fill(_companions(host, host.booted))
    everywhere = host.esp / "loader/addons"
    _fill(everywhere)
    # Of another system's UKI, beside ours and in ours; and one that says the digest of a deployment that will be gone.
    foreign = [host.esp / "EFI/Linux/fedora.efi.extra.d", host.esp / "EFI/Linux/bootc/mine.efi.extra.d"]
    for directory in foreign:
        _fill(directory)
    (everywhere / f"for-{host.booted}.addon.efi").write_bytes(b"MZ")
    for version in range(2, 8):
        deployments.append(_update(host, capsys, version))
        _fill(_companions(host, host.booted))
        for digest in deployments[-2:]:
            assert {path.name for path in _companions(host, digest).iterdir()} >= set(COMPANIONS), version
        for digest in deployments[:-2]:
            # Whole: no empty directory is left either.
            assert not _companions(host, digest).exists(), version
        for directory in (everywhere, *foreign):
            assert {path.name for path in directory.iterdir()} >= set(COMPANIONS)
    assert (everywhere / f"for-{deployments[0]}.addon.efi").exists()


def test_addons_of_a_pinned_uki_stay_until_it_is_not_pinned_any_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = lab.make_host(tmp_path / "h", loader=Loader.SYSTEMD_BOOT, boot_type=BootType.UKI)
    first = host.booted
    _fill(_companions(host, first))
    policy = host.root / "etc/bootc-fast/boot.toml"
    policy.parent.mkdir()
    policy.write_text(f'pinned = ["{first}"]\n')
    for version in (2, 3, 4):
        _update(host, capsys, version)
        assert {path.name for path in _companions(host, first).iterdir()} >= set(COMPANIONS)
    policy.write_text("")
    lab.stage_files(host, {"motd": "v5\n"}, version="5")
    assert flowkit.run(capsys, "finalize", "--root", host.root)[0] == 0
    assert not _companions(host, first).exists()


def test_addons_stay_where_a_foreign_systems_entry_names_one_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = lab.make_host(tmp_path / "h", loader=Loader.SYSTEMD_BOOT, boot_type=BootType.UKI)
    first = host.booted
    _fill(_companions(host, first))
    # A credential, by the key that no specification has: whatever is mentioned stays.
    (host.esp / "loader/entries/other.conf").write_text(
        f"title Other\nefi /EFI/other.efi\nx-borrows {_companions(host, first).name}/token.cred\n"
    )
    (host.esp / "EFI/other.efi").write_bytes(b"MZ")
    for version in (2, 3, 4):
        _update(host, capsys, version)
    assert {path.name for path in _companions(host, first).iterdir()} >= set(COMPANIONS)
    (host.esp / "loader/entries/other.conf").unlink()
    _update(host, capsys, 5)
    assert not _companions(host, first).exists()


def test_a_directory_among_the_addons_is_left_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = lab.make_host(tmp_path / "h", loader=Loader.SYSTEMD_BOOT, boot_type=BootType.UKI)
    first = host.booted
    _fill(_companions(host, first))
    (_companions(host, first) / "nested").mkdir()
    (_companions(host, first) / "nested/x.addon.efi").write_bytes(b"MZ")
    _update(host, capsys, 2)
    lab.stage_files(host, {"motd": "v3\n"}, version="3")
    code, _, err = flowkit.run(capsys, "finalize", "--root", host.root)
    # Done all the same: what cannot go is a warning.
    assert code == 0
    assert f"bootc_composefs-{first[:16]}*.efi.extra.d is left: nested in it is no file" in err
    assert (_companions(host, first) / "nested/x.addon.efi").exists()
