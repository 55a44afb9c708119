"""override.py: what picks another entry than the first, and how it moves along."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest
from unit.boot.fat_model import FatModel
from unit.boot.fat_volume import FatVolume
from unit.boot.scenarios import KNOWN, A, C, bls_text, kernel_directory

from bootc_fast.boot.efi.firmware import LoaderVariables, read_loader_variables
from bootc_fast.boot.entries.deployment_order import order_after_rollback
from bootc_fast.boot.entries.menu import BootMenu, read_volumes
from bootc_fast.boot.entries.plan import plan_menu
from bootc_fast.boot.entries.publish import publish_volumes
from bootc_fast.boot.entries.variables import make_variable_setter
from bootc_fast.boot.loaders import grub_fedora, systemd_boot
from bootc_fast.boot.loaders.entry import MenuEntry
from bootc_fast.boot.loaders.grubenv import GRUBENV_HEADER, find_grub_match, parse_grubenv, replace_grubenv_value
from bootc_fast.boot.loaders.override import LoaderOverride, OverrideKind, find_default
from bootc_fast.boot.loaders.systemd_boot import parse_loader_conf, replace_loader_conf
from bootc_fast.machine.host import open_host
from bootc_fast.types import Loader

OLD, OTHER = "bootc_fedora-42-1", "bootc_fedora-41-0"


def _grubenv(**values: str) -> bytes:
    body = "".join(f"{key}={value}\n" for key, value in values.items()).encode()
    return (GRUBENV_HEADER + body).ljust(1024, b"#")


@dataclass
class _Case:
    volume: FatVolume
    loader: Loader
    variables: LoaderVariables

    def read(self) -> BootMenu:
        return read_volumes(self.volume, self.volume, loader=self.loader, known=KNOWN, variables=self.variables)


def _make(loader: Loader, files: dict[bytes, bytes], **variables: str) -> _Case:
    volume = FatVolume(FatModel())
    entries = {OLD: bls_text(A, "42", "bootc-fedora-0", loader), OTHER: bls_text(C, "41", "bootc-fedora-1", loader)}
    for name, raw in entries.items():
        volume.put(f"/loader/entries/{name}.conf".encode(), raw)
    volume.put(b"/loader/entries/aa_other-1-1.conf", b"title other\nlinux /other\nsort-key zz\n")
    volume.put(b"/other", b"o")
    for digest in (A, C):
        for name in (b"/vmlinuz", b"/initrd"):
            volume.put(kernel_directory(digest, loader) + name, b"k")
    for path, raw in files.items():
        volume.put(path, raw)
    return _Case(volume, loader, LoaderVariables(**variables))


def _default(case: _Case) -> tuple[str | None, str]:
    menu = case.read()
    return (menu.default.label if menu.default else None), menu.live.choice.reason


def test_without_an_override_the_first_entry_boots() -> None:
    assert _default(_make(Loader.SYSTEMD_BOOT, {})) == (f"{OLD}.conf", "systemd-boot: first by sort-key")
    assert _default(_make(Loader.GRUB, {})) == (f"{OLD}.conf", "GRUB (Fedora blscfg): first by file name")


def test_each_override_of_systemd_boot_picks_an_entry_in_its_precedence() -> None:
    conf = {b"/loader/loader.conf": b"timeout 5\r\n# default x\ndefault AA_*\n"}
    case = _make(Loader.SYSTEMD_BOOT, conf)
    assert _default(case) == ("aa_other-1-1.conf", "default in loader/loader.conf names AA_*")
    case.variables = LoaderVariables(entry_default=f"{OTHER}.CONF")
    assert _default(case)[0] == f"{OTHER}.conf"
    assert _default(case)[1].startswith("LoaderEntryDefault names ")
    case.variables = LoaderVariables(entry_default=f"{OTHER}.conf", entry_oneshot=f"{OLD}.conf")
    assert _default(case)[0] == f"{OLD}.conf"
    assert _default(case)[1].startswith("LoaderEntryOneShot names ")


def test_an_override_that_matches_nothing_is_passed_over() -> None:
    case = _make(Loader.SYSTEMD_BOOT, {b"/loader/loader.conf": b"default nothing.conf\n"}, entry_default="[z-a]")
    assert _default(case)[1] == "systemd-boot: first by sort-key"


def test_saved_stands_for_the_entry_that_was_booted_last() -> None:
    case = _make(Loader.SYSTEMD_BOOT, {}, entry_default="@saved", entry_last_booted=f"{OTHER}.conf")
    assert _default(case)[0] == f"{OTHER}.conf"
    assert _default(_make(Loader.SYSTEMD_BOOT, {}, entry_default="@saved"))[0] == f"{OLD}.conf"


@pytest.mark.parametrize("value", [OTHER, "Example 41", "1"])
def test_grubs_saved_entry_is_an_id_a_title_or_a_number(value: str) -> None:
    case = _make(Loader.GRUB, {b"/grub2/grubenv": _grubenv(saved_entry=value)})
    assert _default(case)[0] == f"{OTHER}.conf"
    case = _make(Loader.GRUB, {b"/grub2/grubenv": _grubenv(saved_entry=value, next_entry=OLD)})
    assert _default(case) == (f"{OLD}.conf", f"next_entry in grubenv names {OLD}")


@pytest.mark.parametrize(
    ("loader", "files", "variables", "where"),
    [
        (Loader.SYSTEMD_BOOT, {}, {"entry_default": f"{OLD}.conf"}, OverrideKind.DEFAULT_VARIABLE),
        (Loader.SYSTEMD_BOOT, {}, {"entry_oneshot": f"{OLD}.conf"}, OverrideKind.ONE_SHOT),
        (Loader.SYSTEMD_BOOT, {b"/loader/loader.conf": f"default {OLD}.conf\n".encode()}, {}, OverrideKind.LOADER_CONF),
        (Loader.GRUB, {b"/grub2/grubenv": _grubenv(saved_entry=OLD)}, {}, OverrideKind.GRUB_SAVED),
        (Loader.GRUB, {b"/grub2/grubenv": _grubenv(next_entry=OLD)}, {}, OverrideKind.GRUB_NEXT),
    ],
    ids=lambda value: value.value if isinstance(value, OverrideKind) else "",
)
def test_an_override_of_one_of_ours_moves_along_with_the_change(
    loader: Loader, files: dict[bytes, bytes], variables: dict[str, str], where: OverrideKind
) -> None:
    case = _make(loader, files, **variables)
    menu = case.read()
    assert menu.live.choice.override is not None
    plan = plan_menu(menu, order=order_after_rollback(menu, first=C, kept=KNOWN), staged=None)
    assert [override.kind for override in plan.moved_overrides] == [where]
    written: dict[OverrideKind, str] = {}

    def set_variable(kind: OverrideKind, value: bytes) -> None:
        written[kind] = value.decode()

    outcome = publish_volumes(case.volume, case.volume, menu, plan, set_variable=set_variable)
    assert outcome.warnings == ()
    case.variables = LoaderVariables(
        entry_default=written.get(OverrideKind.DEFAULT_VARIABLE), entry_oneshot=written.get(OverrideKind.ONE_SHOT)
    )
    after = case.read()
    assert after.default is not None
    assert after.default.digest == C
    assert after.live.choice.override is not None
    assert after.live.choice.override.kind is where


def test_an_override_of_a_foreign_entry_stays_and_is_told() -> None:
    case = _make(Loader.SYSTEMD_BOOT, {}, entry_default="aa_other-1-1.conf")
    menu = case.read()
    assert any("boots aa_other-1-1.conf first" in warning for warning in menu.odd.warnings)
    plan = plan_menu(menu, order=order_after_rollback(menu, first=C, kept=KNOWN), staged=None)
    assert plan.moved_overrides == ()


def test_a_glob_that_still_picks_the_new_default_stays() -> None:
    case = _make(Loader.SYSTEMD_BOOT, {b"/loader/loader.conf": b"default bootc_*\n"})
    menu = case.read()
    plan = plan_menu(menu, order=order_after_rollback(menu, first=C, kept=KNOWN), staged=None)
    assert plan.moved_overrides == ()


def test_a_variable_that_cannot_be_set_is_a_warning() -> None:
    case = _make(Loader.SYSTEMD_BOOT, {}, entry_default=f"{OLD}.conf")
    menu = case.read()
    plan = plan_menu(menu, order=order_after_rollback(menu, first=C, kept=KNOWN), staged=None)

    def refuse(kind: OverrideKind, value: bytes) -> None:
        raise OSError("the firmware is full")

    outcome = publish_volumes(case.volume, case.volume, menu, plan, set_variable=refuse)
    assert outcome.warnings == ("changing LoaderEntryDefault: the firmware is full",)
    # The name is gone, so that the loader falls back on its order, which is the wanted one.
    assert _default(case)[0] == outcome.next_boot


def test_under_a_root_directory_the_variable_is_a_file(tmp_path) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001 - a fixture
    efivars = tmp_path / "sys/firmware/efi/efivars"
    efivars.mkdir(parents=True)
    host = open_host(tmp_path)
    make_variable_setter(host)(OverrideKind.DEFAULT_VARIABLE, b"bootc_zz-00000001-99.conf")
    assert read_loader_variables(host).entry_default == "bootc_zz-00000001-99.conf"
    efivars.rename(tmp_path / "gone")
    with pytest.raises(OSError, match="LoaderEntryDefault"):
        make_variable_setter(host)(OverrideKind.DEFAULT_VARIABLE, b"x")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"timeout 5\ndefault  a.conf \n", b"a.conf"),
        (b"default a\ndefault b\n", b"b"),
        (b"#default a\n", None),
        (b"\tdefault\tx y\r\neditor no\r\n", b"x y"),
        (b"", None),
    ],
)
def test_reads_the_default_of_loader_conf(raw: bytes, expected: bytes | None) -> None:
    assert parse_loader_conf(raw) == expected
    changed = replace_loader_conf(raw, b"new.conf")
    assert parse_loader_conf(changed) == (None if expected is None else b"new.conf")
    assert len(changed) == len(raw) - len(expected or b"") + (0 if expected is None else len(b"new.conf"))


def test_an_environment_block_keeps_its_length_and_all_else() -> None:
    raw = _grubenv(saved_entry="old", boot_success="1", odd="a\\\\b")
    changed = replace_grubenv_value(raw, b"saved_entry", b"new entry \\ x")
    assert changed is not None
    assert len(changed) == len(raw)
    assert parse_grubenv(changed) == {b"saved_entry": b"new entry \\ x", b"boot_success": b"1", b"odd": b"a\\b"}
    assert replace_grubenv_value(raw, b"saved_entry", b"x" * 2000) is None
    assert replace_grubenv_value(raw, b"absent", b"x") is None
    assert parse_grubenv(b"saved_entry=x\n") == {}


def test_globs_match_as_systemd_boot_does() -> None:
    case = _make(Loader.SYSTEMD_BOOT, {})
    shown = case.read().live.entries
    for value, expected in [
        ("bootc_fedora-4?-0.conf", OTHER),
        ("bootc_fedora-4[0-1]*", OTHER),
        ("bootc\\_fedora-41-0.conf", OTHER),
        ("*", OLD),
    ]:
        override = LoaderOverride(OverrideKind.LOADER_CONF, value.encode())
        choice = find_default(shown, systemd_boot.RULE, [override])
        assert choice.entry is not None
        assert choice.entry.label == f"{expected}.conf"
        assert choice.override is override


def test_grub_has_no_efi_overrides() -> None:
    variables = LoaderVariables(entry_default="x")
    assert grub_fedora.RULE.collect_overrides(b"default x", variables) == ()


def test_a_line_inside_of_another_variables_value_is_none_of_the_block() -> None:
    raw = (GRUBENV_HEADER + b"note=x\\\nsaved_entry=inside\nsaved_entry=old\n").ljust(1024, b"#")
    changed = replace_grubenv_value(raw, b"saved_entry", b"new")
    assert changed is not None
    assert parse_grubenv(changed) == {b"note": b"x\nsaved_entry=inside", b"saved_entry": b"new"}


def test_of_a_variable_that_is_set_twice_the_one_that_counts_is_changed() -> None:
    raw = (GRUBENV_HEADER + b"saved_entry=a\nsaved_entry=b\n").ljust(1024, b"#")
    changed = replace_grubenv_value(raw, b"saved_entry", b"new")
    assert changed is not None
    assert parse_grubenv(changed) == {b"saved_entry": b"new"}
    assert b"saved_entry=a\n" in changed


def test_a_block_without_line_ends_is_read_in_no_time() -> None:
    raw = GRUBENV_HEADER + b"#" * (1 << 18)
    started = time.monotonic()
    assert parse_grubenv(raw + b"\\") == {}
    assert replace_grubenv_value(raw, b"saved_entry", b"x") is None
    assert time.monotonic() - started < 5


def test_a_key_without_a_value_in_loader_conf_stays_one() -> None:
    assert replace_loader_conf(b"default a\ndefault  \n", b"new") == b"default new\ndefault  \n"


def test_a_number_of_ten_thousand_digits_is_no_place_in_the_menu() -> None:
    menu = [MenuEntry(b"a.conf", b"")]
    assert find_grub_match(LoaderOverride(OverrideKind.GRUB_SAVED, b"9" * 10_000), menu) is None
    assert find_grub_match(LoaderOverride(OverrideKind.GRUB_SAVED, b"0"), menu) is menu[0]
