"""plan.py, naming.py: what is wanted, for every loader, and what is refused."""

from __future__ import annotations

import pytest
from unit.boot.fat_model import FatModel
from unit.boot.fat_volume import FatVolume
from unit.boot.scenarios import (
    FOREIGN,
    HEADER,
    KNOWN,
    A,
    B,
    C,
    D,
    bls_text,
    kernel_directory,
    menuentry,
    uki_path,
    uki_text,
)

from bootc_fast.boot.entries.choose import find_rollback_target, is_rollback_queued
from bootc_fast.boot.entries.deployment_order import (
    describe_dropped,
    find_dropped,
    order_after_finalize,
    order_after_rollback,
)
from bootc_fast.boot.entries.keep import KeepPolicy
from bootc_fast.boot.entries.menu import BootMenu, read_volumes
from bootc_fast.boot.entries.naming import MAX_GENERATION, choose_names
from bootc_fast.boot.entries.plan import MenuPlan, plan_menu
from bootc_fast.boot.entries.publish import publish_volumes
from bootc_fast.boot.loaders.entry import parse_entry, replace_sort_key
from bootc_fast.boot.loaders.order import sort_entries
from bootc_fast.boot.loaders.table import list_rules, record_of
from bootc_fast.errors import BootEntryError
from bootc_fast.text import shorten_digest
from bootc_fast.types import Loader, VerityDigest

LOADERS = [Loader.SYSTEMD_BOOT, Loader.GRUB, Loader.GRUB_CC]


def _volume(files: dict[str, bytes], loader: Loader = Loader.SYSTEMD_BOOT, *, kernels: str = "ABCD") -> FatVolume:
    volume = FatVolume(FatModel())
    for path, data in files.items():
        volume.put(path.encode(), data)
    for letter, digest in zip("ABCD", (A, B, C, D), strict=True):
        if letter in kernels:
            for name in (b"/vmlinuz", b"/initrd"):
                volume.put(kernel_directory(digest, loader) + name, b"k")
            volume.put(uki_path(digest), b"u")
    return volume


def _read(volume: FatVolume, loader: Loader = Loader.SYSTEMD_BOOT) -> BootMenu:
    return read_volumes(volume, volume, loader=loader, known=KNOWN)


def _rollback(menu: BootMenu, first: VerityDigest) -> MenuPlan:
    return plan_menu(menu, order=order_after_rollback(menu, first=first, kept=KNOWN), staged=None)


def _publish(volume: FatVolume, menu: BootMenu, plan: MenuPlan) -> BootMenu:
    publish_volumes(volume, volume, menu, plan)
    return _read(volume, menu.loader)


def _two(loader: Loader, *, old: str = "42", new: str = "41") -> dict[str, bytes]:
    return {
        f"/loader/entries/bootc_fedora-{old}-1.conf": bls_text(A, old, "bootc-fedora-0", loader),
        f"/loader/entries/bootc_fedora-{new}-0.conf": bls_text(C, new, "bootc-fedora-1", loader),
    }


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(("old", "new"), [("43", "42"), ("10", "9"), ("9", "10"), ("42", "43"), ("1", "1")])
def test_a_rollback_takes_effect_whatever_the_versions_are(loader: Loader, old: str, new: str) -> None:
    files = _two(loader, old=old, new=new)
    volume = _volume(files, loader)
    menu = _read(volume, loader)
    for first in (C, A, C):
        plan = plan_menu(menu, order=order_after_rollback(menu, first=first, kept=KNOWN), staged=None)
        menu = _publish(volume, menu, plan)
        assert menu.own_order[0] == first
        assert set(menu.own_order) == {A, C}
        # A set that this loader has right already is left alone; a new one is right for every loader.
        for rule in list_rules() if plan.new_files else record_of(loader).rules:
            shown = [entry for entry in sort_entries(menu.live.files, rule) if entry.is_own]
            assert shown[0].digest == first, rule


@pytest.mark.parametrize("loader", LOADERS)
def test_a_finalize_puts_the_new_one_first_and_the_booted_one_second(loader: Loader) -> None:
    files = {
        **_two(loader),
        "/loader/entries/bootc_fedora-40-0.conf": bls_text(D, "40", "bootc-fedora-2", loader),
        "/loader/entries.staged/bootc_debian-10-1.conf": bls_text(B, "10", "bootc-debian-0", loader),
    }
    volume = _volume(files, loader)
    menu = _read(volume, loader)
    # Booted is C, chosen in the menu by hand: not what was first.
    order = order_after_finalize(menu, staged=B, booted=C, kept=KNOWN, policy=KeepPolicy(keep=9))
    assert order == (B, C, A, D)
    assert order_after_finalize(menu, staged=B, booted=C, kept=KNOWN) == (B, C)
    assert find_dropped(menu, (B, C)) == (A, D)
    menu = _publish(volume, menu, plan_menu(menu, order=order, staged=B))
    assert menu.own_order == (B, C, A, D)
    assert not menu.staged.is_present


def test_two_stay_as_with_bootc_and_more_only_where_the_policy_asks_for_it() -> None:
    volume = _volume(
        {
            **_two(Loader.SYSTEMD_BOOT),
            "/loader/entries/bootc_fedora-40-0.conf": bls_text(D, "40", "bootc-fedora-2"),
            "/loader/entries.staged/bootc_debian-10-1.conf": bls_text(B, "10", "bootc-debian-0"),
        }
    )
    menu = _read(volume)

    def order(keep: int, *pinned: VerityDigest, kept: frozenset[VerityDigest] = KNOWN) -> str:
        policy = KeepPolicy(keep, pinned)
        return "".join(one[0] for one in order_after_finalize(menu, staged=B, booted=A, kept=kept, policy=policy))

    assert (order(2), order(3), order(4), order(50)) == ("ba", "bac", "bacd", "bacd")
    assert (order(2, D), order(3, D), order(2, A), order(2, B, A)) == ("bad", "badc", "ba", "ba")
    assert order(2, D, kept=frozenset({A, B, C})) == "ba", "pinned, but it has no state or image any more"
    assert describe_dropped(find_dropped(menu, (B, A)), KeepPolicy()) == (
        f"deployments {shorten_digest(C)}, {shorten_digest(D)} lose their boot entries and boot files: 2 are kept",
    )
    assert describe_dropped(find_dropped(menu, (B, A, C)), KeepPolicy(3)) == (), "what every update does is no warning"


def test_a_deployment_without_state_or_image_goes_and_foreign_entries_stay_byte_for_byte() -> None:
    files = {
        **_two(Loader.SYSTEMD_BOOT),
        "/loader/entries/memtest.conf": FOREIGN,
        "/loader/entries/README": b"an admin's note",
        "/loader/entries/other.conf": bls_text("f" * 64, "1", None),
        "/loader/entries.staged/bootc_fedora-43-1.conf": bls_text(B, "43", "bootc-fedora-0"),
    }
    volume = _volume(files)
    menu = _read(volume)
    order = order_after_finalize(menu, staged=B, booted=A, kept={A, B})
    menu = _publish(volume, menu, plan_menu(menu, order=order, staged=B))
    assert menu.own_order == (B, A)
    directory = volume.open_directory(b"/loader/entries")
    assert directory is not None
    for name in ("memtest.conf", "README", "other.conf"):
        assert directory.read(name.encode(), 9999) == files[f"/loader/entries/{name}"]


def test_only_the_sort_key_line_and_the_name_change() -> None:
    raw = (
        b"# kept\r\ntitle\tX  y\r\nsort-key\tbootc-fedora-1\r\nversion 1\r\n"
        + f"linux /EFI/Linux/bootc_composefs-{C}/vmlinuz\r\n\r\noptions composefs={C}\r\nx-own \xff\r\n".encode(
            "latin-1"
        )
    )
    files = {**_two(Loader.SYSTEMD_BOOT), "/loader/entries/bootc_fedora-41-0.conf": raw}
    volume = _volume(files)
    menu = _read(volume)
    plan = plan_menu(menu, order=(C, A), staged=None)
    (entry,) = plan.new_files
    assert entry.sort_key is not None
    assert entry.raw == raw.replace(b"bootc-fedora-1", entry.sort_key)
    assert plan.removed == (b"bootc_fedora-41-0.conf",)


def test_a_set_that_is_as_wanted_is_left_alone() -> None:
    volume = _volume(_two(Loader.SYSTEMD_BOOT))
    volume.model.start()
    menu = _read(volume)
    plan = plan_menu(menu, order=(A, C), staged=None)
    assert plan.is_noop
    publish_volumes(volume, volume, menu, plan)
    assert [item for item in volume.model.log if item[0] == "write"] == []


def test_the_second_entry_of_a_deployment_goes() -> None:
    files = {**_two(Loader.SYSTEMD_BOOT), "/loader/entries/bootc_twin-42-1.conf": bls_text(A, "42", "bootc-x-7")}
    volume = _volume(files)
    menu = _read(volume)
    assert menu.own_order == (A, C)
    menu = _publish(volume, menu, plan_menu(menu, order=(A, C), staged=None))
    assert sorted(entry.digest or "" for entry in menu.live.files) == [A, C]


def test_oldest_names_and_bare_sort_keys_are_outranked() -> None:
    files = {
        "/loader/entries/bootc-composefs-1.conf": bls_text(A, "42", "0"),
        "/loader/entries/bootc-composefs-0.conf": bls_text(C, "41", "1"),
    }
    volume = _volume(files)
    menu = _read(volume)
    for first in (C, A, C, A):
        menu = _publish(
            volume, menu, plan_menu(menu, order=order_after_rollback(menu, first=first, kept=KNOWN), staged=None)
        )
        assert menu.own_order[0] == first


@pytest.mark.parametrize("os_id", ["4mlinux", "zz", "zorin", "0day"])
@pytest.mark.parametrize("loader", LOADERS)
def test_odd_os_ids_are_outranked(loader: Loader, os_id: str) -> None:
    files = {
        f"/loader/entries/bootc_{os_id}-42-1.conf": bls_text(A, "42", f"bootc-{os_id}-0", loader),
        f"/loader/entries/bootc_{os_id}-41-0.conf": bls_text(C, "41", f"bootc-{os_id}-1", loader),
    }
    volume = _volume(files, loader)
    menu = _read(volume, loader)
    for first in (C, A):
        menu = _publish(
            volume, menu, plan_menu(menu, order=order_after_rollback(menu, first=first, kept=KNOWN), staged=None)
        )
        assert menu.own_order[0] == first


def test_a_name_that_nothing_can_outrank_is_a_boot_entry_error() -> None:
    entry = parse_entry(b"zz_bootc-99999999-99.conf", bls_text(A, "1", "bootc-x-0"), known=KNOWN)
    with pytest.raises(BootEntryError, match="generation number"):
        choose_names(entry, [entry], [b"bootc_zz-%08d-99.conf" % MAX_GENERATION], Loader.GRUB)
    top = parse_entry(b"zzzz-1-1.conf", bls_text(A, "1", "bootc-x-0"), known=KNOWN)
    with pytest.raises(BootEntryError, match=r"zzzz-1-1\.conf") as caught:
        choose_names(top, [top], [], Loader.GRUB)
    assert caught.value.exit_code == 7
    assert choose_names(top, [top], [], Loader.SYSTEMD_BOOT).generation == 1


def test_an_exhausted_entry_keeps_its_counter_unless_it_is_to_boot_next() -> None:
    files = {
        "/loader/entries/bootc_fedora-42-1.conf": bls_text(A, "42", "bootc-fedora-0"),
        "/loader/entries/bootc_fedora-41-0+0-3.conf": bls_text(C, "41", "bootc-fedora-1"),
        "/loader/entries/bootc_fedora-40-0.conf": bls_text(D, "40", "bootc-fedora-2"),
    }
    volume = _volume(files)
    menu = _read(volume)
    assert menu.own_order == (A, D, C)
    plan = plan_menu(menu, order=(C, A, D), staged=None)
    assert plan.default.tries_left is None
    menu = _publish(volume, menu, plan)
    assert menu.own_order[0] == C


def test_bootcs_own_reader_still_finds_version_and_digest() -> None:
    volume = _volume(_two(Loader.SYSTEMD_BOOT))
    menu = _read(volume)
    (entry,) = plan_menu(menu, order=(C, A), staged=None).new_files
    # bootc splits lines at one space, wants a version and either linux or efi/uki, and UTF-8 file names.
    fields = dict(line.split(" ", 1) for line in entry.raw.decode().splitlines())
    assert {"version", "linux", "options", "sort-key"} <= set(fields)
    assert f"composefs={C}" in fields["options"]
    assert entry.file_name.decode("ascii").endswith(".conf")
    assert entry.raw == replace_sort_key(bls_text(C, "41", "bootc-fedora-1"), entry.sort_key or b"")


# -- what is refused ---------------------------------------------------------------------------------------------


def test_a_set_staged_for_another_deployment_than_the_markers_is_refused_and_named() -> None:
    files = {**_two(Loader.SYSTEMD_BOOT), "/loader/entries.staged/bootc_x-1-1.conf": bls_text(D, "1", "bootc-x-0")}
    menu = _read(_volume(files))
    with pytest.raises(BootEntryError, match="the staged set has entries for dddd") as caught:
        plan_menu(menu, order=(B, A, C), staged=B)
    assert caught.value.exit_code == 7
    assert B in str(caught.value)
    assert caught.value.hint is not None


def test_missing_staged_entries_are_refused() -> None:
    menu = _read(_volume(_two(Loader.SYSTEMD_BOOT)))
    with pytest.raises(BootEntryError, match="there are no staged entries"):
        plan_menu(menu, order=(B, A, C), staged=B)


@pytest.mark.parametrize("lost", ["vmlinuz", "initrd"])
def test_a_default_whose_kernel_or_initrd_is_missing_or_empty_is_refused(lost: str) -> None:
    for content in (None, b""):
        files = {**_two(Loader.SYSTEMD_BOOT), "/loader/entries.staged/bootc_x-1-1.conf": bls_text(B, "1", "bootc-x-0")}
        volume = _volume(files, kernels="ACD")
        for name in {"vmlinuz", "initrd"} - {lost}:
            volume.put(kernel_directory(B, Loader.SYSTEMD_BOOT) + b"/" + name.encode(), b"k")
        if content is not None:
            volume.put(kernel_directory(B, Loader.SYSTEMD_BOOT) + b"/" + lost.encode(), content)
        with pytest.raises(BootEntryError, match=f"missing or empty: .*{lost}"):
            plan_menu(_read(volume), order=(B, A, C), staged=B)


def test_a_default_whose_uki_is_missing_is_refused() -> None:
    files = {**_two(Loader.SYSTEMD_BOOT), "/loader/entries.staged/bootc_x-1-1.conf": uki_text(B, "1", "bootc-x-0")}
    with pytest.raises(BootEntryError, match=r"missing or empty: .*\.efi"):
        plan_menu(_read(_volume(files, kernels="ACD")), order=(B, A, C), staged=B)


def test_a_torn_staged_entry_is_refused() -> None:
    files = {
        **_two(Loader.SYSTEMD_BOOT),
        "/loader/entries.staged/bootc_x-1-1.conf": b"title x\noptions composefs=" + B.encode(),
    }
    with pytest.raises(BootEntryError, match="no boot entry for"):
        plan_menu(_read(_volume(files)), order=(B, A, C), staged=B)


@pytest.mark.parametrize("order", [(), (A, A)])
def test_an_order_that_is_none_is_a_bug_of_the_caller(order: tuple[VerityDigest, ...]) -> None:
    with pytest.raises(ValueError, match="deployment"):
        plan_menu(_read(_volume(_two(Loader.SYSTEMD_BOOT))), order=order, staged=None)


def test_another_deployment_without_entry_or_kernel_is_a_warning() -> None:
    volume = _volume(_two(Loader.SYSTEMD_BOOT), kernels="A")
    menu = _read(volume)
    assert any("missing or empty" in warning for warning in menu.odd.warnings)
    plan = plan_menu(menu, order=(A, D, C), staged=None)
    assert any("has no boot entry" in warning for warning in plan.warnings)


def test_a_foreign_entry_that_comes_first_is_a_warning() -> None:
    files = {**_two(Loader.GRUB), "/loader/entries/windows-11-1.conf": b"title W\nlinux /w\n"}
    volume = _volume(files, Loader.GRUB)
    menu = _read(volume, Loader.GRUB)
    assert any("boots windows-11-1.conf first" in warning for warning in menu.odd.warnings)
    # Ours are in the order that they are to be in: a rollback rolls back, and status says the same.
    assert not is_rollback_queued(menu, booted=A)
    plan = plan_menu(menu, order=(C, A), staged=None)
    assert any("boots windows-11-1.conf first" in warning for warning in plan.warnings)
    assert _publish(volume, menu, plan).own_order == (C, A)


# -- bootc's interrupted exchange --------------------------------------------------------------------------------


def test_an_exchange_of_bootcs_that_was_cut_is_finished() -> None:
    files = {
        "/loader/entries.staged/bootc_fedora-43-1.conf": bls_text(B, "43", "bootc-fedora-0"),
        "/loader/entries.staged/bootc_fedora-42-0.conf": bls_text(A, "42", "bootc-fedora-1"),
    }
    volume = _volume(files)
    menu = _read(volume)
    assert menu.odd.is_exchange_unfinished
    assert menu.default is None
    menu = _publish(volume, menu, plan_menu(menu, order=(B, A), staged=B))
    assert menu.own_order == (B, A)
    assert not menu.staged.is_present


def test_an_old_set_left_in_the_staged_directory_does_not_become_live() -> None:
    files = {
        "/loader/entries/bootc_fedora-43-1.conf": bls_text(B, "43", "bootc-fedora-0"),
        "/loader/entries.staged/bootc_fedora-42-1.conf": bls_text(A, "42", "bootc-fedora-0"),
        "/loader/entries.staged/bootc_fedora-41-0.conf": bls_text(C, "41", "bootc-fedora-1"),
    }
    volume = _volume(files)
    menu = _read(volume)
    menu = _publish(volume, menu, plan_menu(menu, order=(B, A), staged=None))
    assert menu.own_order == (B, A)


# -- GRUB with UKIs ----------------------------------------------------------------------------------------------


def test_user_cfg_keeps_text_and_foreign_menuentries_where_they_are() -> None:
    cfg = HEADER + b'menuentry "Memory test" {\n  linux16 /memtest\n}\n' + menuentry(A) + b"# note\n" + menuentry(C)
    files = {"/grub2/user.cfg": cfg, "/grub2/user.cfg.staged": HEADER + menuentry(B) + menuentry(A)}
    volume = _volume(files, Loader.GRUB)
    menu = _read(volume, Loader.GRUB)
    plan = plan_menu(menu, order=(B, A, C), staged=B)
    expected = cfg.replace(menuentry(A), menuentry(B) + menuentry(A))
    assert plan.user_cfg == expected
    assert any("boots Memory test first" in warning for warning in plan.warnings)


def test_grub_goes_from_bls_to_uki_and_keeps_the_old_entry() -> None:
    files = {**_two(Loader.GRUB), "/grub2/user.cfg.staged": HEADER + menuentry(B), "/grub2/grubenv": b""}
    volume = _volume(files, Loader.GRUB)
    menu = _read(volume, Loader.GRUB)
    menu = _publish(volume, menu, plan_menu(menu, order=(B, A, C), staged=B))
    assert menu.own_order == (B, A, C)
    assert menu.live.choice.reason == "GRUB: first menuentry in user.cfg"


def test_grub_goes_from_uki_to_bls_and_says_that_the_menuentry_goes() -> None:
    entry = bls_text(B, "43", "bootc-fedora-0", Loader.GRUB)
    files = {"/grub2/user.cfg": HEADER + menuentry(A), "/loader/entries.staged/bootc_fedora-43-1.conf": entry}
    volume = _volume(files, Loader.GRUB)
    menu = _read(volume, Loader.GRUB)
    plan = plan_menu(menu, order=(B, A), staged=B)
    assert any("GRUB would boot it first" in warning for warning in plan.warnings)
    assert _publish(volume, menu, plan).own_order == (B,)


# -- questions ---------------------------------------------------------------------------------------------------


def test_the_rollback_target_is_the_first_other_deployment_in_the_loaders_order() -> None:
    files = {**_two(Loader.SYSTEMD_BOOT), "/loader/entries/bootc_fedora-50-0.conf": bls_text(D, "50", "bootc-fedora-2")}
    menu = _read(_volume(files))
    assert find_rollback_target(menu, booted=A, staged=None) == C
    assert find_rollback_target(menu, booted=C, staged=None) == A
    assert find_rollback_target(menu, booted=A, staged=C) == D
    assert not is_rollback_queued(menu, booted=A)
    assert is_rollback_queued(menu, booted=C)
    assert find_rollback_target(_read(_volume({})), booted=A, staged=None) is None


def test_new_names_outrank_each_older_generation_under_every_rule() -> None:
    entry = parse_entry(b"bootc_fedora-42-1.conf", bls_text(A, "42", "bootc-fedora-0"), known=KNOWN)
    seen = [entry]
    for _ in range(12):
        maker = choose_names(entry, seen, [old.file_name for old in seen], Loader.GRUB)
        fresh = [maker.rename(entry, rank) for rank in range(3)]
        for rule in list_rules():
            assert all(rule.compare(fresh[0], old) < 0 for old in (*seen, *fresh[1:]))
            assert rule.compare(fresh[1], fresh[2]) < 0
        seen += fresh
