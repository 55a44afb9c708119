"""garbage.py: only what nobody names and nobody owns goes, and never a half of it stays under its name."""

from __future__ import annotations

import errno

import pytest
from unit.boot.fat_model import FatModel, seeded
from unit.boot.fat_volume import FatVolume
from unit.boot.faults import FaultyVolume, Trigger
from unit.boot.scenarios import KNOWN, A, B, C, D, bls_text, kernel_directory, menuentry, uki_path, uki_text

from bootc_fast.boot.entries.garbage import GONE_PREFIX, collect_volumes
from bootc_fast.boot.entries.menu import BootMenu, read_volumes
from bootc_fast.types import Loader

GONE = "e" * 64
SYSTEMD = Loader.SYSTEMD_BOOT


def _volume(files: dict[bytes, bytes], loader: Loader = SYSTEMD) -> FatVolume:
    volume = FatVolume(FatModel())
    for digest in (A, B, C, D, GONE):
        for name in (b"/vmlinuz", b"/initrd"):
            volume.put(kernel_directory(digest, loader) + name, b"k" * 600)
        volume.put(uki_path(digest), b"u" * 600)
        volume.put(uki_path(digest) + b".extra.d/x.addon.efi", b"a")
    for path, data in files.items():
        volume.put(path, data)
    return volume


def _read(volume: FatVolume, loader: Loader = SYSTEMD) -> BootMenu:
    return read_volumes(volume, volume, loader=loader, known=KNOWN)


def _left(volume: FatVolume, path: bytes) -> set[str]:
    directory = volume.open_directory(path)
    names = directory.list_names() if directory is not None else []
    return {letter for letter in "abcde" for name in names if letter * 64 in name.decode()}


@pytest.mark.parametrize("loader", [Loader.SYSTEMD_BOOT, Loader.GRUB])
def test_removes_what_no_entry_names_and_no_deployment_owns(loader: Loader) -> None:
    files = {
        b"/loader/entries/bootc_x-2-1.conf": bls_text(A, "2", "bootc-x-0", loader),
        b"/loader/entries.staged/bootc_x-3-1.conf": bls_text(B, "3", "bootc-x-0", loader),
    }
    volume = _volume(files, loader)
    outcome = collect_volumes(volume, volume, _read(volume, loader), known={A, C})
    assert outcome.warnings == ()
    assert _left(volume, b"EFI/Linux" if loader is Loader.SYSTEMD_BOOT else b"") == {"a", "b", "c"}
    assert _left(volume, b"EFI/Linux/bootc") == {"a", "c"}
    assert any(GONE in path for path in outcome.removed)
    assert volume.find_size(uki_path(A) + b".extra.d/x.addon.efi") == 1


def test_a_kernel_directory_that_another_deployment_shares_stays() -> None:
    shared = bls_text(A, "2", "bootc-x-0").replace(
        f"bootc_composefs-{A}/".encode(), f"bootc_composefs-{GONE}/".encode()
    )
    volume = _volume({b"/loader/entries/bootc_x-2-1.conf": shared})
    collect_volumes(volume, volume, _read(volume), known={A})
    assert _left(volume, b"EFI/Linux") == {"a", "e"}


def test_ukis_that_an_entry_or_a_menuentry_names_stay_with_their_addons() -> None:
    volume = _volume({b"/loader/entries/bootc_x-2-1.conf": uki_text(D, "2", "bootc-x-0")})
    collect_volumes(volume, volume, _read(volume), known=())
    assert _left(volume, b"EFI/Linux/bootc") == {"d"}
    volume = _volume({b"/grub2/user.cfg": menuentry(D), b"/grub2/user.cfg.staged": menuentry(C)}, Loader.GRUB)
    collect_volumes(volume, volume, _read(volume, Loader.GRUB), known=())
    assert _left(volume, b"EFI/Linux/bootc") == {"c", "d"}


def test_what_is_not_bootcs_stays() -> None:
    files = {
        b"/EFI/Linux/fedora.efi": b"f",
        b"/EFI/Linux/bootc/mine.efi": b"m",
        b"/EFI/Linux/" + b"a" * 32 + b"/linux": b"l",
    }
    volume = _volume(files)
    collect_volumes(volume, volume, _read(volume), known=())
    assert all(volume.find_size(path) == 1 for path in files)


def test_nothing_goes_where_an_entry_could_not_be_read() -> None:
    volume = _volume({})
    volume.make_directory(b"/loader/entries/broken.conf")
    outcome = collect_volumes(volume, volume, _read(volume), known=())
    assert outcome.removed == ()
    assert "could be read" in outcome.warnings[0]
    assert _left(volume, b"EFI/Linux/bootc") == set("abcde")


def test_no_crash_leaves_a_directory_with_an_initrd_and_no_kernel_under_its_name() -> None:
    volume = _volume({})
    volume.model.start()
    collect_volumes(volume, volume, _read(volume), known=(A, B, C, D))
    for disk in volume.model.crash_states(seeded(8), subsets=8):
        model = volume.model.mount(disk)
        for name, inode in model.find(b"/EFI/Linux").children.items():
            if name.startswith(b"bootc_composefs-") and inode.start:
                assert set(inode.children) == {b"vmlinuz", b"initrd"}, name


def test_a_collection_that_was_cut_is_finished_by_the_next_one() -> None:
    volume = _volume({})
    volume.put(b"/EFI/Linux/" + GONE_PREFIX + b"x/initrd", b"i")
    collect_volumes(volume, volume, _read(volume), known=(A, B, C, D))
    directory = volume.open_directory(b"/EFI/Linux")
    assert directory is not None
    assert not [name for name in directory.list_names() if name.startswith(GONE_PREFIX)]


@pytest.mark.parametrize("error", [errno.EIO, errno.EROFS, errno.ENOENT])
def test_every_failure_is_a_warning(error: int) -> None:
    trigger = Trigger()
    volume = _volume({})
    collect_volumes(FaultyVolume(volume, trigger), None, _read(volume), known=(A, B, C, D))
    for at in range(len(trigger.calls)):
        volume = _volume({})
        menu = _read(volume)
        try:
            outcome = collect_volumes(FaultyVolume(volume, Trigger(at, error)), None, menu, known=(A, B, C, D))
        except OSError as raised:
            pytest.fail(f"{trigger.calls[at]}: {raised}")
        assert _left(volume, b"EFI/Linux") >= set("abcd")
        assert isinstance(outcome.warnings, tuple)
