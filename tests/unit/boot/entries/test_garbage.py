"""garbage.py: only what nobody names and nobody owns goes, and never a half of it stays under its name."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from unit.boot.fat_model import FREE, ROOT, FatModel, seeded
from unit.boot.fat_volume import FatVolume
from unit.boot.faults import FaultyVolume, Trigger
from unit.boot.scenarios import (
    KNOWN,
    A,
    B,
    C,
    D,
    bls_text,
    find_crossed,
    kernel_directory,
    menuentry,
    uki_path,
    uki_text,
)

from bootc_fast.boot.area.real import RealVolume
from bootc_fast.boot.entries.garbage import collect_volumes, find_garbage
from bootc_fast.boot.entries.menu import BootMenu, read_volumes
from bootc_fast.types import Loader

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

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
    # A digest that is mentioned keeps all that has it in its name.
    assert _left(volume, b"EFI/Linux/bootc") == {"a", "b", "c"}
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


def test_no_crash_leaves_a_directory_with_an_initrd_and_no_kernel() -> None:
    volume = _volume({})
    volume.model.start()
    collect_volumes(volume, volume, _read(volume), known=(A, B, C, D))
    seen = set()
    for disk in volume.model.crash_states(seeded(8), subsets=8):
        model = volume.model.mount(disk)
        for name, inode in model.find(b"/EFI/Linux").children.items():
            if name.startswith(b"bootc_composefs-") and inode.start:
                seen.add(frozenset(inode.children))
    assert seen == {frozenset({b"vmlinuz", b"initrd"}), frozenset({b"vmlinuz"}), frozenset()}


GONE_DIRECTORY = kernel_directory(GONE, SYSTEMD)
GONE_PATHS = [GONE_DIRECTORY, GONE_DIRECTORY + b"/initrd", GONE_DIRECTORY + b"/vmlinuz", uki_path(GONE)]


@pytest.mark.parametrize("remembers", [False, True])
@pytest.mark.parametrize("whose", ["free", "kernel"])
@pytest.mark.parametrize("path", GONE_PATHS)
def test_garbage_on_clusters_that_are_not_its_own_goes_and_frees_none(
    path: bytes,
    whose: str,
    remembers: bool,  # noqa: FBT001 - a case
) -> None:
    volume = _volume({b"/loader/entries/bootc_x-2-1.conf": bls_text(A, "2", "bootc-x-0")})
    kernel = kernel_directory(A, SYSTEMD) + b"/vmlinuz"
    if whose == "kernel" and path == GONE_DIRECTORY:
        kernel = kernel_directory(A, SYSTEMD)
    model = volume.model
    free = next(c for c in range(ROOT + 1, model.clusters) if model._fat(c) == FREE)
    inode = model.find(path)
    inode.start = free if whose == "free" else model.find(kernel).start
    model._write_inode(inode)
    model.start()
    model = model.mount(model.disk)
    model.remembers = remembers
    model.start()
    for number in range(2):
        volume = FatVolume(model)
        outcome = collect_volumes(volume, volume, _read(volume), known={A})
        told = [warning.endswith("is taken away and they are left alone") for warning in outcome.warnings]
        assert told == ([True] if number == 0 else [])
        after = model.mount(model.cache)
        for name in (b"/vmlinuz", b"/initrd"):
            assert after.read(after.find(kernel_directory(A, SYSTEMD) + name)) == b"k" * 600
        assert find_crossed(after) == []
    assert not model.is_read_only
    after.start()
    volume = FatVolume(after)
    assert collect_volumes(volume, volume, _read(volume), known={A}).warnings == ()
    assert _left(volume, b"EFI/Linux") == _left(volume, b"EFI/Linux/bootc") == {"a"}


def test_garbage_that_the_kernel_does_not_look_up_frees_nothing_and_stops_nothing() -> None:
    volume = _volume({b"/loader/entries/bootc_x-2-1.conf": bls_text(A, "2", "bootc-x-0")})
    model = volume.model
    inode = model.find(GONE_DIRECTORY)
    inode.start = next(c for c in range(ROOT + 1, model.clusters) if model._fat(c) == FREE)
    model._write_inode(inode)
    model.start()
    volume = FatVolume(model.mount(model.disk))
    with pytest.raises(OSError, match="Input/output error"):
        volume.open_directory(GONE_DIRECTORY)
    sizes = find_garbage(volume, _read(volume), known={A, B, C, D})
    assert sizes[GONE_DIRECTORY.lstrip(b"/")] == 0
    assert sizes[uki_path(GONE).lstrip(b"/")] == 1024


def test_where_the_device_cannot_be_written_such_garbage_stays_and_is_told() -> None:
    volume = _volume({b"/loader/entries/bootc_x-2-1.conf": bls_text(A, "2", "bootc-x-0")})
    inode = volume.model.find(GONE_DIRECTORY + b"/initrd")
    inode.start = volume.model.find(kernel_directory(A, SYSTEMD) + b"/vmlinuz").start
    volume.model._write_inode(inode)
    volume.is_device_writable = False
    outcome = collect_volumes(volume, volume, _read(volume), known={A})
    assert [GONE[:8] in one and "stays; check the partition" in one for one in outcome.warnings] == [True]
    assert _left(volume, b"EFI/Linux") == {"a", "e"}
    assert volume.model.read(volume.model.find(kernel_directory(A, SYSTEMD) + b"/vmlinuz")) == b"k" * 600


@pytest.mark.parametrize("capacity", [16, 14, 8])
def test_garbage_gives_nothing_a_new_name_so_that_no_live_directory_grows(capacity: int) -> None:
    volume = FatVolume(FatModel(slots_per_sector=capacity))
    for digest in (A, GONE):
        volume.put(kernel_directory(digest, SYSTEMD) + b"/vmlinuz", b"k")
        volume.put(uki_path(digest), b"u")
        volume.put(uki_path(digest) + b".extra.d/x.addon.efi", b"a")
    chains = {path: volume.model.chain(volume.model.find(path).start) for path in (b"/EFI/Linux", b"/EFI/Linux/bootc")}
    before = volume.model.next_tag
    outcome = collect_volumes(volume, volume, _read(volume), known=(A,))
    assert outcome.warnings == ()
    assert len(outcome.removed) == 3
    assert volume.model.next_tag == before, "a name was made"
    assert {path: volume.model.chain(volume.model.find(path).start) for path in chains} == chains


def test_a_collection_that_was_cut_is_finished_by_the_next_one() -> None:
    volume = _volume({})
    for name in (b"bootc-fast-gone-bootc_composefs-" + GONE.encode(), b"bootc_composefs-" + GONE.encode()):
        volume.put(b"/EFI/Linux/" + name + b"/initrd.part", b"i")
    collect_volumes(volume, volume, _read(volume), known=(A, B, C, D))
    assert _left(volume, b"EFI/Linux") == set("abcd")


# What names a boot file and is none of the keys that are parsed for booting.
MENTIONS = {
    "devicetree": (
        b"/loader/entries/o.conf",
        b"title o\nlinux /x\ndevicetree /EFI/Linux/bootc_composefs-%s/board.dtb\n",
    ),
    "overlay": (
        b"/loader/entries/o.conf",
        b"linux /x\ndevicetree-overlay /a.dtbo /EFI/Linux/bootc_composefs-%s/b.dtbo\n",
    ),
    "extra": (
        b"/loader/entries/o.conf",
        b"uki /u.efi\nextra /EFI/Linux/bootc/bootc_composefs-%s.efi.extra.d/x.addon.efi\n",
    ),
    "second initrd": (b"/loader/entries/o.conf", b"linux /x\ninitrd /a /EFI/Linux/bootc_composefs-%s/initrd\n"),
    "no entry": (b"/loader/entries/notes.txt", b"recovery: %s\n"),
    "counted": (b"/loader/entries/o+3.conf.off", b"efi \\EFI\\Linux\\bootc\\BOOTC_COMPOSEFS-%s.EFI\n"),
    "submenu": (
        b"/grub2/user.cfg",
        b"submenu 'old' {\n menuentry 'x' {\n  chainloader /EFI/Linux/bootc/bootc_composefs-%s.efi\n }\n}\n",
    ),
    "staged": (b"/grub2/user.cfg.staged", b"set x=%s\n"),
    "custom.cfg": (b"/grub/custom.cfg", b"linux /bootc_composefs-%s/vmlinuz\n"),
    "grub.cfg": (b"/grub2/grub.cfg", b"configfile /x/%s\n"),
    "the vendor's": (b"/EFI/fedora/grub.cfg", b"linux ($root)/%s/vmlinuz\n"),
}


@pytest.mark.parametrize("case", MENTIONS)
@pytest.mark.parametrize("loader", [Loader.SYSTEMD_BOOT, Loader.GRUB])
def test_whatever_names_a_file_keeps_it(case: str, loader: Loader) -> None:
    path, text = MENTIONS[case]
    volume = _volume({path: text % GONE.encode()}, loader)
    outcome = collect_volumes(volume, volume, _read(volume, loader), known=(A,))
    kernels = b"EFI/Linux" if loader is Loader.SYSTEMD_BOOT else b""
    assert (_left(volume, kernels), _left(volume, b"EFI/Linux/bootc")) == ({"a", "e"}, {"a", "e"})
    assert outcome.warnings == ()


def test_where_a_text_that_may_name_files_cannot_be_searched_nothing_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    volume = _volume({b"/grub2/grub.cfg": b"#" * 600})
    monkeypatch.setattr("bootc_fast.boot.entries.mentions.MAX_TEXT_BYTES", 500)
    outcome = collect_volumes(volume, volume, _read(volume), known=())
    assert (outcome.removed, len(outcome.warnings)) == ((), 1)
    assert "File too large" in outcome.warnings[0]
    assert _left(volume, b"EFI/Linux/bootc") == set("abcde")


@contextmanager
def _real(root: Path) -> Generator[RealVolume]:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield RealVolume(fd)
    finally:
        os.close(fd)


def test_links_are_never_followed(tmp_path: Path) -> None:
    """Of a link the name goes; what it leads to, or what lies below one, is not ours to empty."""
    admins = tmp_path / "admins"
    (admins / "deep").mkdir(parents=True)
    for path in (admins / "vmlinuz", admins / "deep/initrd", tmp_path / "grub.cfg"):
        path.write_bytes(b"mine")
    (tmp_path / f"bootc_composefs-{GONE}").symlink_to("admins")
    (tmp_path / f"bootc_composefs-{B}").symlink_to(admins / "deep")
    (tmp_path / f"bootc_composefs-{C}").symlink_to("nowhere")
    mixed = tmp_path / f"bootc_composefs-{D}"
    mixed.mkdir()
    (mixed / "vmlinuz").write_bytes(b"k")
    (mixed / "initrd").symlink_to("../grub.cfg")
    (mixed / "dtb").symlink_to("../admins")
    (tmp_path / "EFI").symlink_to("admins")
    uki = admins / f"Linux/bootc/bootc_composefs-{GONE}.efi"
    uki.parent.mkdir(parents=True)
    uki.write_bytes(b"u")
    with _real(tmp_path) as volume:
        menu = read_volumes(volume, volume, loader=Loader.GRUB, known=KNOWN)
        outcome = collect_volumes(volume, volume, menu, known=(A,))
    assert outcome.warnings == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["EFI", "admins", "grub.cfg"]
    assert [path.read_bytes() for path in (admins / "vmlinuz", admins / "deep/initrd", tmp_path / "grub.cfg")] == [
        b"mine"
    ] * 3
    assert uki.read_bytes() == b"u"


def test_a_directory_with_more_in_it_than_files_is_left_and_told(tmp_path: Path) -> None:
    odd = tmp_path / f"bootc_composefs-{GONE}"
    (odd / "below").mkdir(parents=True)
    (odd / "vmlinuz").write_bytes(b"k")
    with _real(tmp_path) as volume:
        menu = read_volumes(volume, volume, loader=Loader.GRUB, known=KNOWN)
        outcome = collect_volumes(volume, None, menu, known=())
    assert outcome.removed == ()
    assert "below in it is no file" in outcome.warnings[0]
    assert (odd / "vmlinuz").exists(), "the kernel goes last"


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
