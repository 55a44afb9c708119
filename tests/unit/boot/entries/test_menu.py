"""menu.py: reading never fails for one bad file, and never writes."""

from __future__ import annotations

import errno
import os

import pytest
from unit.boot.fat_model import FatModel
from unit.boot.fat_volume import FatVolume
from unit.boot.faults import FaultyVolume, Trigger
from unit.boot.scenarios import HEADER, KNOWN, A, B, bls_text, kernel_directory, menuentry, uki_path, uki_text

from bootc_fast.boot.efi.firmware import LoaderVariables
from bootc_fast.boot.entries.menu import read_volumes
from bootc_fast.boot.entries.plan import plan_menu
from bootc_fast.boot.loaders import grub_fedora, grub_upstream, systemd_boot
from bootc_fast.boot.loaders.entry import replace_sort_key
from bootc_fast.boot.loaders.record import LoaderRule
from bootc_fast.errors import FileSystemError
from bootc_fast.types import Loader

ENTRY = bls_text(A, "42", "bootc-fedora-0")


def _volume(files: dict[bytes, bytes]) -> FatVolume:
    volume = FatVolume(FatModel())
    for name in (b"/vmlinuz", b"/initrd"):
        volume.put(kernel_directory(A, Loader.SYSTEMD_BOOT) + name, b"k")
    for path, data in files.items():
        volume.put(path, data)
    return volume


def test_unreadable_empty_and_torn_entries_are_warnings() -> None:
    files = {
        b"/loader/entries/bootc_a-1-1.conf": ENTRY,
        b"/loader/entries/bootc_b-1-1.conf": b"",
        b"/loader/entries/bootc_c-1-1.conf": b"\0" * 300,
        b"/loader/entries/empty_foreign.conf": b"",
        b"/loader/entries/bootc_d-1-1.conf": b"an admin's note\n",
    }
    volume = _volume(files)
    volume.make_directory(b"/loader/entries/directory.conf")
    menu = read_volumes(volume, volume, loader=Loader.SYSTEMD_BOOT, known=KNOWN)
    assert menu.own_order == (A,)
    assert len([warning for warning in menu.odd.warnings if "empty or torn" in warning]) == 4
    assert [warning for warning in menu.odd.warnings if "directory.conf cannot be read" in warning]
    assert menu.odd.torn == (b"bootc_b-1-1.conf", b"bootc_c-1-1.conf")
    assert not menu.odd.is_complete


def test_an_io_error_in_one_file_is_a_warning() -> None:
    volume = _volume({b"/loader/entries/bootc_a-1-1.conf": ENTRY, b"/loader/entries/bootc_b-1-1.conf": ENTRY})
    trigger = Trigger()
    read_volumes(FaultyVolume(volume, trigger), None, loader=Loader.SYSTEMD_BOOT, known=KNOWN)
    first_read = trigger.calls.index("read")
    broken = FaultyVolume(volume, Trigger(first_read, errno.EIO))
    menu = read_volumes(broken, None, loader=Loader.SYSTEMD_BOOT, known=KNOWN)
    assert [entry.label for entry in menu.live.entries] == ["bootc_b-1-1.conf"]
    assert any("bootc_a-1-1.conf cannot be read" in warning for warning in menu.odd.warnings)


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES, errno.ETIMEDOUT], ids=errno.errorcode.__getitem__)
def test_what_cannot_be_looked_at_is_never_said_to_be_missing(error: int) -> None:
    volume = _volume({b"/loader/entries/bootc_a-1-1.conf": ENTRY, b"/loader/entries.staged/bootc_a-1-1.conf": ENTRY})
    trigger = Trigger()
    whole = read_volumes(FaultyVolume(volume, trigger), volume, loader=Loader.SYSTEMD_BOOT, known=KNOWN)
    assert [entry.missing for entry in whole.live.files] == [()]
    told = 0
    for at in range(len(trigger.calls)):
        broken = FaultyVolume(volume, Trigger(at, error))
        try:
            menu = read_volumes(broken, volume, loader=Loader.SYSTEMD_BOOT, known=KNOWN)
        except OSError:
            continue
        files = (*menu.live.files, *menu.staged.files)
        assert not any(entry.missing for entry in files), trigger.calls[at]
        if menu.odd.unread:
            told += 1
            assert all(os.strerror(error) in text for text in menu.odd.unread)
        else:
            assert len(files) == 2
        if menu.odd.unread_paths or (not menu.live.files and not menu.staged.files):
            # What is to boot must have been seen.
            with pytest.raises(FileSystemError):
                plan_menu(menu, order=(A,), staged=None)
    assert told > 2


def test_a_file_name_that_is_not_utf8_is_read_and_shown() -> None:
    volume = _volume({b"/loader/entries/\xff\xfe.conf": ENTRY})
    menu = read_volumes(volume, volume, loader=Loader.SYSTEMD_BOOT, known=KNOWN)
    assert menu.live.entries[0].file_name == b"\xff\xfe.conf"


def test_reading_writes_nothing() -> None:
    volume = _volume({b"/loader/entries/bootc_a-1-1.conf": ENTRY, b"/loader/entries.staged/x.conf": ENTRY})
    volume.model.start()
    read_volumes(volume, volume, loader=Loader.SYSTEMD_BOOT, known=KNOWN)
    assert volume.model.log == []


def test_a_host_without_any_entry_has_an_empty_menu() -> None:
    volume = _volume({})
    menu = read_volumes(volume, None, loader=Loader.GRUB, known=KNOWN)
    assert menu.live.entries == ()
    assert menu.default is None
    assert menu.live.choice.reason == "GRUB (Fedora blscfg): there is no entry"


@pytest.mark.parametrize(("name", "rule"), [(b"grub2", grub_fedora.RULE), (b"grub", grub_upstream.RULE)])
def test_grubs_directory_tells_which_grub_it_is(name: bytes, rule: LoaderRule) -> None:
    volume = _volume({b"/" + name + b"/grub.cfg": b""})
    assert read_volumes(volume, None, loader=Loader.GRUB, known=KNOWN).rule is rule
    assert read_volumes(volume, None, loader=Loader.SYSTEMD_BOOT, known=KNOWN).rule is systemd_boot.RULE


@pytest.mark.parametrize(("directory", "fate"), [(b"grub2", "drops"), (b"grub", "stops reading entries at")])
def test_names_that_compare_equal_are_told_with_what_this_grub_does(directory: bytes, fate: str) -> None:
    files = {b"/loader/entries/a-1-1.conf": b"linux /k\n", b"/loader/entries/a-01-1.conf": b"linux /k\n"}
    volume = _volume({**files, b"/" + directory + b"/grub.cfg": b"\n"})
    menu = read_volumes(volume, None, loader=Loader.GRUB, known=KNOWN)
    (told,) = [warning for warning in menu.odd.warnings if "compares equal" in warning]
    assert f") {fate} a-" in told


@pytest.mark.parametrize(
    ("info", "word", "is_told"),
    [
        ("systemd-boot 257.13-1~deb13u1", "uki", True),
        ("systemd-boot 257.13-1~deb13u1", "efi", False),
        ("systemd-boot 258.1-1", "uki", False),
        ("systemd-boot", "uki", False),
        (None, "uki", False),
    ],
)
def test_uki_entry_that_this_systemd_boot_does_not_show_is_told(info: str | None, word: str, *, is_told: bool) -> None:
    volume = _volume({b"/loader/entries/bootc_a-1-1.conf": uki_text(A, "1", "bootc-a-0", word=word), uki_path(A): b"u"})
    variables = LoaderVariables(info=info)
    menu = read_volumes(volume, volume, loader=Loader.SYSTEMD_BOOT, known=KNOWN, variables=variables)
    assert any("systemd-boot 257 does not show bootc_a-1-1.conf" in warning for warning in menu.odd.warnings) is is_told


@pytest.mark.parametrize("has_live_entry", [False, True])
def test_uki_entry_that_this_systemd_boot_does_not_show_is_written_so_that_it_does(*, has_live_entry: bool) -> None:
    """bootc takes the key from the image's systemd; the one on the ESP may be older."""
    text = uki_text(B, "2", "bootc-a-0", word="uki")
    files = {
        b"/loader/entries/bootc_a-1-1.conf": uki_text(A, "1", "bootc-a-1", word="efi"),
        b"/loader/entries.staged/bootc_a-2-1.conf": text,
        uki_path(A): b"u",
        uki_path(B): b"u",
    }
    if has_live_entry:
        files[b"/loader/entries/bootc_zz-00000001-99.conf"] = replace_sort_key(text, b"bootc-!000000000000")
    volume = _volume(files)
    variables = LoaderVariables(info="systemd-boot 257.13-1~deb13u1")
    menu = read_volumes(volume, volume, loader=Loader.SYSTEMD_BOOT, known=KNOWN, variables=variables)
    plan = plan_menu(menu, order=(B, A), staged=B)
    assert plan.default.raw.split(b"\n")[:3] == text.replace(b"uki ", b"efi ", 1).split(b"\n")[:3]
    assert not plan.default.needs_uki_key
    newer = LoaderVariables(info="systemd-boot 258.1")
    menu = read_volumes(volume, volume, loader=Loader.SYSTEMD_BOOT, known=KNOWN, variables=newer)
    assert plan_menu(menu, order=(B, A), staged=B).default.needs_uki_key


def test_grub_cc_follows_fedoras_rule_whatever_lies_on_its_esp() -> None:
    volume = _volume({b"/loader/entries/bootc_a-1-1.conf": ENTRY, b"/grub/grub.cfg": b"\n"})
    assert read_volumes(volume, volume, loader=Loader.GRUB_CC, known=KNOWN).rule is grub_fedora.RULE


def test_grub_paths_may_start_with_boot() -> None:
    raw = ENTRY.replace(b"/EFI/Linux/", b"/boot/EFI/Linux/")
    volume = _volume({b"/loader/entries/bootc_a-1-1.conf": raw})
    (entry,) = read_volumes(volume, None, loader=Loader.GRUB, known=KNOWN).live.entries
    assert entry.missing == ()


def test_staged_ukis_and_addons_are_found_and_count_as_there() -> None:
    extra = uki_path(B) + b".extra.d"
    files = {
        b"/loader/entries.staged/bootc_x-1-1.conf": uki_text(B, "1", "bootc-x-0"),
        uki_path(B) + b".staged": b"u",
        extra + b"/one.addon.efi.staged": b"a",
        extra + b"/two.addon.efi": b"a",
        b"/EFI/Linux/bootc/other.efi.staged": b"o",
    }
    volume = _volume(files)
    menu = read_volumes(volume, volume, loader=Loader.SYSTEMD_BOOT, known=KNOWN)
    assert menu.staged.entries[0].missing == ()
    found = {(item.directory, item.old, item.new) for item in menu.staged.renames}
    name = os.path.basename(uki_path(B))
    assert found == {
        (b"EFI/Linux/bootc", name + b".staged", name),
        (b"EFI/Linux/bootc/" + name + b".extra.d", b"one.addon.efi.staged", b"one.addon.efi"),
    }


def test_a_menuentry_on_a_host_whose_esp_was_not_found_is_a_warning() -> None:
    volume = _volume({b"/grub2/user.cfg": HEADER + menuentry(A)})
    menu = read_volumes(volume, None, loader=Loader.GRUB, known=KNOWN)
    assert menu.live.entries[0].missing == (uki_path(A),)
    assert any("ESP that was not found" in warning for warning in menu.odd.warnings)
