"""Entries that boot one of our deployments otherwise: they stay, behind its entry, as long as it does."""

from __future__ import annotations

import pytest
from unit.boot.fat_model import FatModel
from unit.boot.fat_volume import FatVolume
from unit.boot.scenarios import KNOWN, A, B, C, bls_text, kernel_directory, menuentry, uki_path, uki_text

from bootc_fast.boot.entries.menu import BootMenu, read_volumes
from bootc_fast.boot.entries.plan import plan_menu
from bootc_fast.boot.entries.publish import publish_volumes
from bootc_fast.boot.loaders.order import sort_entries
from bootc_fast.types import Loader, VerityDigest

LOADERS = [Loader.SYSTEMD_BOOT, Loader.GRUB, Loader.GRUB_CC]


def _volume(files: dict[str, bytes], loader: Loader = Loader.SYSTEMD_BOOT) -> FatVolume:
    volume = FatVolume(FatModel())
    for path, data in files.items():
        volume.put(path.encode(), data)
    for digest in (A, B, C):
        for name in (b"/vmlinuz", b"/initrd", b"/rescue.img"):
            volume.put(kernel_directory(digest, loader) + name, b"k")
        volume.put(uki_path(digest), b"u")
    return volume


def _read(volume: FatVolume, loader: Loader) -> BootMenu:
    return read_volumes(volume, volume, loader=loader, known=KNOWN)


def _publish(
    volume: FatVolume, loader: Loader, order: tuple[VerityDigest, ...], staged: VerityDigest | None
) -> BootMenu:
    menu = _read(volume, loader)
    publish_volumes(volume, volume, menu, plan_menu(menu, order=order, staged=staged))
    return _read(volume, loader)


def _assert_behind(menu: BootMenu, extra: bytes, digest: VerityDigest) -> None:
    """Every loader that may read them has a deployment's plain entry first, and the one with `extra` after it."""
    for rule in menu.record.rules:
        order = [entry for entry in sort_entries(menu.live.files, rule) if entry.digest == digest]
        assert [extra in entry.raw for entry in order] == [False, True], rule.name


BLS_EXTRAS = [
    b"options systemd.unit=rescue.target\n",
    b"options\tquiet  splash\r\n",
    b"initrd @/rescue.img\n",
    b"extra /loader/addons/debug.addon.efi\n",
    b"devicetree /board.dtb\n",
    b"devicetree-overlay /one.dtbo /two.dtbo\n",
]


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("name", ["recovery.conf", "zzzz-rescue.conf", "0.conf", "bootc_fedora-42-7.conf"])
def test_bls_variant_stays_whatever_its_name_through_update_and_rollback(loader: Loader, name: str) -> None:
    for template in BLS_EXTRAS:
        extra = template.replace(b"@", kernel_directory(A, loader))
        text = bls_text(A, "42", "!first", loader) + extra
        files = {
            "/loader/entries/bootc_fedora-42-1.conf": bls_text(A, "42", "bootc-fedora-0", loader),
            f"/loader/entries/{name}": text,
            "/board.dtb": b"d",
            "/one.dtbo": b"o",
            "/loader/entries.staged/bootc_fedora-43-1.conf": bls_text(B, "43", "bootc-fedora-0", loader),
            "/loader/entries.staged/bootc_fedora-42-0.conf": bls_text(A, "42", "bootc-fedora-1", loader),
        }
        volume = _volume(files, loader)
        menu = _publish(volume, loader, (B, A), B)
        assert menu.own_order == (B, A), extra
        _assert_behind(menu, extra, A)
        menu = _publish(volume, loader, (A, B), None)
        assert menu.own_order == (A, B), extra
        _assert_behind(menu, extra, A)
        (variant,) = [entry for entry in menu.live.files if extra in entry.raw]
        assert variant.raw.replace(variant.sort_key or b"?", b"!first") == text, "only the sort-key may change"
        menu = _publish(volume, loader, (B,), None)
        assert not [entry for entry in menu.live.files if entry.digest == A], "it goes with its deployment"


@pytest.mark.parametrize("suffix", ["conf", "CONF", "Conf"])
@pytest.mark.parametrize("extra", [b"profile 1\n", b"options rescue\n", b"extra /a.addon.efi\nextra /b.addon.efi\n"])
def test_recovery_entry_of_a_uki_follows_it(suffix: str, extra: bytes) -> None:
    loader = Loader.SYSTEMD_BOOT
    main = uki_text(A, "42", "bootc-fedora-0", word="efi")
    files = {
        "/loader/entries/bootc_fedora-42-1.conf": main,
        f"/loader/entries/recovery.{suffix}": main + extra,
        "/loader/entries.staged/bootc_fedora-43-1.conf": uki_text(B, "43", "bootc-fedora-0", word="efi"),
        "/loader/entries.staged/bootc_fedora-43-2.conf": uki_text(B, "43", "bootc-fedora-0", word="uki") + extra,
        "/loader/entries.staged/bootc_fedora-42-0.conf": main,
    }
    volume = _volume(files, loader)
    menu = _publish(volume, loader, (B, A), B)
    _assert_behind(menu, extra, A)
    _assert_behind(menu, extra, B)
    assert f"recovery.{suffix}".encode() in menu.names
    assert plan_menu(menu, order=(B, A), staged=B).is_noop, "a second run finds nothing to do"


def test_the_plain_entry_counts_though_the_loader_shows_the_variant_first() -> None:
    loader = Loader.SYSTEMD_BOOT
    main = uki_text(A, "42", "bootc-fedora-0", word="efi")
    files = {
        "/loader/entries/bootc_fedora-42-1.conf": main,
        "/loader/entries/0.conf": main + b"profile 2\nsort-key !\n",
    }
    menu = _publish(_volume(files, loader), loader, (A,), None)
    assert menu.default is not None
    assert b"profile" not in menu.default.raw
    _assert_behind(menu, b"profile 2", A)


def test_an_entry_that_boots_the_same_is_one_twice_and_goes() -> None:
    loader = Loader.SYSTEMD_BOOT
    for change in (b"title Other\n", b"# a note\n", b"profile 0\n", b"version 7\n", b""):
        files = {
            "/loader/entries/bootc_fedora-42-1.conf": uki_text(A, "42", "bootc-fedora-0", word="efi"),
            "/loader/entries/copy.conf": uki_text(A, "42", "bootc-fedora-0", word="uki") + change,
        }
        menu = _publish(_volume(files, loader), loader, (A,), None)
        assert len(menu.live.files) == 1, change


def test_what_cannot_start_is_no_variant() -> None:
    loader = Loader.SYSTEMD_BOOT
    gone = bls_text(A, "42", "bootc-fedora-0").replace(b"/vmlinuz", b"/gone")
    files = {
        "/loader/entries/bootc_fedora-42-1.conf": bls_text(A, "42", "bootc-fedora-0"),
        "/loader/entries/old.conf": gone + b"options rescue\n",
    }
    menu = _publish(_volume(files, loader), loader, (A,), None)
    assert len(menu.live.files) == 1


def test_staged_kernel_arguments_replace_those_of_the_same_deployment() -> None:
    """bootc stages a deployment again that is still there, with other arguments: no variant of it is left."""
    loader = Loader.SYSTEMD_BOOT
    files = {
        "/loader/entries/bootc_fedora-42-1.conf": bls_text(A, "42", "bootc-fedora-0"),
        "/loader/entries/bootc_fedora-43-0.conf": bls_text(B, "43", "bootc-fedora-1"),
        "/loader/entries.staged/bootc_fedora-43-1.conf": bls_text(B, "43", "bootc-fedora-0") + b"options quiet\n",
    }
    menu = _publish(_volume(files, loader), loader, (B, A), B)
    assert [entry.digest for entry in menu.live.entries] == [B, A]
    assert b"options quiet" in menu.live.entries[0].raw


def test_menuentry_with_other_arguments_stays_behind_its_deployments() -> None:
    other = menuentry(A, "Rescue").replace(b".efi\n", b".efi systemd.unit=rescue.target\n")
    files = {
        "/grub2/user.cfg": other + menuentry(A) + b"# an admin's\n",
        "/grub2/user.cfg.staged": menuentry(B) + menuentry(A),
    }
    volume = _volume(files, Loader.GRUB)
    for order, staged in (((B, A), B), ((A, B), None)):
        menu = _publish(volume, Loader.GRUB, order, staged)
        titles = [(entry.title or b"").split(b":")[0] for entry in menu.live.entries if entry.digest == A]
        assert titles == [b"Example Bootc UKI", b"Rescue"]
        assert menu.own_order == order
    assert b"# an admin's\n" in (menu.live.user_cfg or b"")


@pytest.mark.parametrize("loader", LOADERS)
def test_boot_counters_stay_as_they_are_on_a_staged_entry_and_behind_it(loader: Loader) -> None:
    for counters, kept in (("+3", "+3"), ("+5-0", "+5-0"), ("+2-1", "+2-1"), ("+0-3", ""), ("+99999999999", "")):
        files = {
            "/loader/entries/bootc_fedora-42-1+1-4.conf": bls_text(A, "42", "bootc-fedora-0", loader),
            f"/loader/entries.staged/bootc_fedora-41-1{counters}.conf": bls_text(B, "41", "bootc-fedora-0", loader),
        }
        menu = _publish(_volume(files, loader), loader, (B, A), B)
        assert menu.own_order == (B, A), counters
        names = {entry.digest: entry.file_name.decode() for entry in menu.live.files}
        assert names[B].endswith(f"-99{kept}.conf"), counters
        assert names[A].endswith("+1-4.conf"), counters
