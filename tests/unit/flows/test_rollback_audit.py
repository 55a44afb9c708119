"""rollback, clause by clause: what else picks an entry, what is damaged, and what fails after the commit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import flowkit
import pytest
from unit.flows.test_rollback_oddities import Updated

from bootc_fast import lab, message_ids
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOADER_GUID = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
KNOWS_PREFERRED = (1 << 19).to_bytes(8, "little")


@pytest.fixture
def make(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Updated]:
    return lambda loader=Loader.SYSTEMD_BOOT, boot_type=BootType.BLS: Updated(tmp_path / "h", loader, boot_type, capsys)


def _set_variable(updated: Updated, name: str, value: bytes) -> None:
    path = updated.host.root / f"sys/firmware/efi/efivars/{name}-{LOADER_GUID}"
    path.write_bytes(b"\x07\0\0\0" + value)


def _utf16(*texts: str) -> bytes:
    return "".join(f"{text}\0" for text in texts).encode("utf-16-le")


def _status(updated: Updated) -> str:
    return flowkit.run(updated.capsys, "status", "--root", updated.host.root)[1]


# -- overrides ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["loader.conf", "LoaderEntryDefault"])
def test_saved_stays_saved(make: Callable[..., Updated], where: str) -> None:
    updated = make()
    conf = updated.host.boot_dir / "loader/loader.conf"
    conf.write_text("timeout 3\ndefault @saved\n" if where == "loader.conf" else "timeout 3\n")
    if where != "loader.conf":
        updated.host.write_efi_variable("LoaderEntryDefault", "@saved")
    updated.host.write_efi_variable("LoaderEntryLastBooted", updated.find(updated.booted).name)
    before = conf.read_bytes()
    for wanted in (updated.previous, updated.booted, updated.previous):
        assert updated.roll_back()[0] == 0
        assert lab.read_boot_menu(updated.host).default.digest == wanted  # type: ignore[union-attr]
    assert conf.read_bytes() == before
    assert updated.host.read_efi_variable("LoaderEntryDefault") == ("@saved" if where != "loader.conf" else None)


@pytest.mark.parametrize("where", ["LoaderEntryPreferred", "loader.conf"])
def test_the_preferred_entry_counts_before_the_default_and_moves_along(
    make: Callable[..., Updated], where: str
) -> None:
    updated = make()
    _set_variable(updated, "LoaderFeatures", KNOWS_PREFERRED)
    updated.host.write_efi_variable("LoaderEntryDefault", updated.find(updated.booted).name)
    name = updated.find(updated.previous).name
    if where == "loader.conf":
        (updated.host.boot_dir / "loader/loader.conf").write_text(f"preferred {name}\ndefault nothing\n")
    else:
        updated.host.write_efi_variable(where, name)
    assert f"{where} names {name}" in _status(updated).replace("preferred in loader/loader.conf", "loader.conf")
    for wanted in (updated.booted, updated.previous):
        assert updated.roll_back()[0] == 0
        assert lab.read_boot_menu(updated.host).default.digest == wanted  # type: ignore[union-attr]


def test_a_loader_that_does_not_know_preferred_entries_passes_them_over(make: Callable[..., Updated]) -> None:
    updated = make()
    updated.host.write_efi_variable("LoaderEntryPreferred", updated.find(updated.previous).name)
    assert "Next boot: the booted deployment" in _status(updated)


def test_a_preferred_entry_without_tries_left_is_passed_over(make: Callable[..., Updated]) -> None:
    updated = make()
    _set_variable(updated, "LoaderFeatures", KNOWS_PREFERRED)
    old = updated.find(updated.previous)
    old.rename(old.with_name(old.name.replace(".conf", "+0-3.conf")))
    updated.host.write_efi_variable("LoaderEntryPreferred", old.name)
    assert "Next boot: the booted deployment" in _status(updated)


@pytest.mark.parametrize("told", [True, False])
def test_an_override_that_only_the_loader_knows_is_told(make: Callable[..., Updated], *, told: bool) -> None:
    updated = make()
    updated.host.write_efi_variable("LoaderEntryOneShot", "auto-windows")
    if told:
        _set_variable(updated, "LoaderEntries", _utf16(updated.find(updated.booted).name, "auto-windows"))
    code, out, err = updated.roll_back()
    assert (code, "First of this host: rollback deployment" in out) == (7, True)
    assert "warning: the loader boots auto-windows first, which is not of this host" in err
    assert "LoaderEntryOneShot names auto-windows" in _status(updated)
    updated.host.write_efi_variable("LoaderEntryOneShot", None)
    assert updated.next_boot() == updated.previous


def test_an_automatic_entry_that_the_loader_did_not_find_is_passed_over(make: Callable[..., Updated]) -> None:
    updated = make()
    _set_variable(updated, "LoaderEntries", _utf16(updated.find(updated.booted).name))
    updated.host.write_efi_variable("LoaderEntryDefault", "auto-windows")
    assert "Next boot: the booted deployment" in _status(updated)


def test_a_uki_without_an_entry_file_is_told_where_it_boots_first(make: Callable[..., Updated]) -> None:
    updated = make()
    images = updated.host.esp / "EFI/Linux"
    (images / "Arch.EFI").write_bytes(b"MZ")
    assert "Next boot: the booted deployment" in _status(updated)
    own = [updated.find(digest).name for digest in (updated.booted, updated.previous)]
    _set_variable(updated, "LoaderEntries", _utf16("arch.efi@1", *own, "auto-reboot-to-firmware-setup"))
    assert "the loader boots arch.efi@1 first" in updated.roll_back()[2]
    _set_variable(updated, "LoaderEntries", _utf16(*own, "arch.efi"))
    assert "the loader boots" not in updated.roll_back()[2]
    updated.host.write_efi_variable("LoaderEntryDefault", "arch.efi")
    assert "LoaderEntryDefault names arch.efi" in _status(updated)
    (images / "Arch.EFI").unlink()
    _set_variable(updated, "LoaderEntries", _utf16("arch.efi", *own))
    updated.host.write_efi_variable("LoaderEntryDefault", None)
    assert "the loader boots" not in updated.roll_back()[2]


@pytest.mark.parametrize("name", ["LoaderEntryDefault", "LoaderEntryOneShot", "LoaderEntryLastBooted"])
@pytest.mark.parametrize("value", [b"", b"\0\0", b"a", b"\x00\xd8\0\0"])
def test_a_malformed_choice_of_the_loader_stops_nothing(make: Callable[..., Updated], name: str, value: bytes) -> None:
    updated = make()
    _set_variable(updated, name, value)
    code, _, err = updated.roll_back()
    assert (code, f"warning: reading the EFI variable {name}" in err) == (0, True), err


def test_upstream_grubs_environment_block_is_read_and_moved_along(make: Callable[..., Updated]) -> None:
    updated = make(Loader.GRUB)
    (updated.host.boot_dir / "grub2").rename(updated.host.boot_dir / "grub")
    block = f"# GRUB Environment Block\nsaved_entry={updated.find(updated.previous).stem}\n".ljust(1024, "#")
    (updated.host.boot_dir / "grub/grubenv").write_text(block)
    assert "saved_entry in grubenv names" in _status(updated)
    for wanted in (updated.booted, updated.previous):
        assert updated.roll_back()[0] == 0
        assert lab.read_boot_menu(updated.host).default.digest == wanted  # type: ignore[union-attr]
        assert len((updated.host.boot_dir / "grub/grubenv").read_text()) == 1024


# -- after the commit ---------------------------------------------------------------------------------------------


def test_what_fails_after_the_new_order_is_on_disk_is_a_warning(make: Callable[..., Updated]) -> None:
    updated = make()
    (updated.host.root / "run/reboot-required").mkdir()
    lab.stage_files(updated.host, {"third": "3"}, version="3")
    code, out, err = updated.roll_back()
    assert (code, "Next boot: rollback deployment" in out) == (0, True)
    assert "warning: noting that a reboot is wanted: " in err
    assert updated.next_boot() == updated.previous
    assert not updated.host.marker.exists()


def test_a_staged_update_that_cannot_be_dropped_is_an_error_that_says_what_to_do(
    make: Callable[..., Updated], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bootc_fast.errors import FileSystemError

    updated = make()
    lab.stage_files(updated.host, {"third": "3"}, version="3")

    def fail(_host: object) -> None:
        raise FileSystemError("removing the marker: Read-only file system")

    monkeypatch.setattr("bootc_fast.flows.backend_composefs.remove_staged_marker", fail)
    code, _, err = updated.roll_back()
    assert (code, "hint: the new boot order is on disk; remove " in err) == (6, True)
    assert updated.next_boot() == updated.previous
    assert (updated.host.root / "run/reboot-required").exists()


def test_naming_the_finalized_update_does_not_say_that_it_was_dropped(make: Callable[..., Updated]) -> None:
    updated = make()
    third = lab.stage_files(updated.host, {"third": "3"}, version="3")
    assert flowkit.run(updated.capsys, "finalize", "--root", updated.host.root)[0] == 0
    code, out, _ = updated.roll_back("--to", third)
    assert (code, "dropped" in out) == (0, False)
    assert updated.next_boot() == third
    # An edit that is made now is still carried over at shutdown.
    assert updated.host.marker.exists()
    code, out, _ = updated.roll_back("--json")
    assert (code, json.loads(out)["dropped_staged"]) == (0, third)
    assert (updated.next_boot(), updated.host.marker.exists()) == (updated.booted, False)


# -- a target that would not boot ---------------------------------------------------------------------------------


def _refused(updated: Updated, code: int, said: str, *options: str) -> None:
    before = flowkit.snapshot(updated.host.root)
    found, out, err = updated.roll_back(*options)
    assert (found, out, said in err) == (code, "", True), err
    assert "--to names another one" in err
    assert flowkit.snapshot(updated.host.root) == before
    assert updated.next_boot() == updated.booted


@pytest.mark.parametrize("loader", [Loader.SYSTEMD_BOOT, Loader.GRUB])
@pytest.mark.parametrize("name", ["vmlinuz", "initrd"])
def test_a_target_whose_kernel_or_initrd_is_cut_is_refused(
    make: Callable[..., Updated], loader: Loader, name: str
) -> None:
    updated = make(loader)
    path = updated.host.kernel_area()[0] / f"bootc_composefs-{updated.previous}" / name
    path.write_bytes(path.read_bytes()[:-1])
    kind = f"of the rollback target {updated.previous[:16]}"
    _refused(updated, 11, f"{kind}…: kernel and initrd are not those that were staged")
    _refused(updated, 11, "are not those that were staged", "--dry-run")
    # Who has put another kernel there says so.
    assert updated.roll_back("--no-verify")[0] == 0
    assert updated.next_boot() == updated.previous
    # What runs is not in question.
    assert updated.roll_back("--to", "booted")[0] == 0


@pytest.mark.parametrize("loader", [Loader.SYSTEMD_BOOT, Loader.GRUB])
def test_a_target_whose_uki_is_cut_is_refused(make: Callable[..., Updated], loader: Loader) -> None:
    updated = make(loader, BootType.UKI)
    path = updated.host.esp / f"EFI/Linux/bootc/bootc_composefs-{updated.previous}.efi"
    path.write_bytes(path.read_bytes()[:200])
    before = flowkit.snapshot(updated.host.root)
    code, out, err = updated.roll_back()
    assert (code, out) == (7, ""), err
    assert flowkit.snapshot(updated.host.root) == before


def test_a_target_that_runs_and_has_no_entry_is_told_as_what_it_is(make: Callable[..., Updated]) -> None:
    updated = make()
    updated.find(updated.booted).unlink()
    code, out, err = updated.roll_back("--to", "booted")
    assert (code, out) == (7, "")
    assert f"rolling back to {updated.booted[:16]}…: it has no boot entry" in err
    assert "staged" not in err


def test_a_target_without_its_etc_is_refused(make: Callable[..., Updated]) -> None:
    updated = make()
    (updated.host.state_dir(updated.previous) / "etc").rename(updated.host.root / "elsewhere")
    _refused(updated, 10, "its etc is missing")


def test_of_two_entries_for_the_target_the_whole_one_counts(make: Callable[..., Updated]) -> None:
    updated = make(Loader.GRUB)
    whole = updated.find(updated.previous)
    broken = whole.read_text().replace("vmlinuz", "vmlinuz-gone")
    (updated.entries / "bootc_fedora-43-9.conf").write_text(broken)
    assert updated.roll_back()[0] == 0
    assert updated.next_boot() == updated.previous
    assert "vmlinuz-gone" not in "".join(path.read_text() for path in updated.entries.glob("*.conf"))


# -- sets that bootc is known to leave ----------------------------------------------------------------------------


def test_entries_of_two_families_and_a_copy_as_after_a_switch_of_the_image(make: Callable[..., Updated]) -> None:
    """What bootc's issue 2224 lists: two os ids, and the booted deployment named by both."""
    updated = make()
    for path in updated.entries.glob("bootc_zz*"):
        path.rename(path.with_name("bootc_bluefin_dakota-20260530-1.conf"))
    current, old = updated.find(updated.booted), updated.find(updated.previous)

    def write(name: str, source: str, key: str) -> None:
        lines = [line for line in source.splitlines() if not line.startswith("sort-key")]
        (updated.entries / name).write_text("\n".join([*lines, f"sort-key {key}"]) + "\n")

    now, before = current.read_text(), old.read_text()
    current.unlink()
    old.unlink()
    write("bootc_bluefin_dakota-20260530-1.conf", now, "bootc-bluefin-dakota-0")
    write("bootc_bluefin_dakota-20260528-0.conf", before, "bootc-bluefin-dakota-1")
    write("bootc_bootc-20260528-0.conf", before, "bootc-bootc-1")
    assert "Next boot: the booted deployment" in _status(updated)
    for wanted in (updated.previous, updated.booted, updated.previous):
        assert updated.roll_back()[0] == 0
        assert updated.next_boot() == wanted
        assert len(list(updated.entries.glob("*.conf"))) == 2


def test_updates_staged_one_after_the_other_leave_entries_of_both_and_the_marker_decides(
    make: Callable[..., Updated],
) -> None:
    """What bootc's issue 1857 lists: `entries.staged` of a UKI host is not emptied before it is filled again."""
    updated = make(Loader.SYSTEMD_BOOT, BootType.UKI)
    lab.stage_files(updated.host, {"third": "3"}, version="99")
    kept = flowkit.read_tree(updated.host.boot_dir / "loader/entries.staged")
    fourth = lab.stage_files(updated.host, {"fourth": "4"}, version="4")
    for name, raw in kept.items():
        path = updated.host.boot_dir / "loader/entries.staged" / name.decode()
        if not path.exists():
            path.write_bytes(raw)
    assert flowkit.run(updated.capsys, "finalize", "--root", updated.host.root)[0] == 0
    assert updated.next_boot() == fourth
    assert updated.roll_back()[0] == 0
    assert updated.next_boot() == updated.booted


# -- what is told -------------------------------------------------------------------------------------------------


def test_all_that_is_printed(make: Callable[..., Updated]) -> None:
    updated = make()
    (updated.host.etc / "added").write_text("1")
    third = lab.stage_files(updated.host, {"third": "3"}, version="3")
    digests = {one: flowkit.read_tree(updated.host.state_dir(one))[f"{one}.origin".encode()] for one in _both(updated)}
    sums = {one: raw.decode().split("manifest_digest = ")[1].splitlines()[0] for one, raw in digests.items()}
    image = "  Image: ostree-unverified-image:docker://registry.example/lab/os:latest"

    def told(one: str, *lines: str) -> list[str]:
        return [image, f"  Digest: {sums[one][:23]}…", f"  Verity: {one[:16]}…", *lines]

    lister = f"bootc-fast rollback --to {updated.previous[:16]} --dry-run -v"
    edit = f"  1 local change in /etc of the booted deployment is not in this one (`{lister}` lists them)"
    dropped = f"notice: The staged update {third[:16]}… was dropped"
    before = told(updated.previous, edit)
    code, out, err = updated.roll_back()
    assert (code, out.splitlines(), err) == (0, [dropped, "Next boot: rollback deployment", *before], "")
    code, out, _ = updated.roll_back("--to", "previous")
    assert (code, out.splitlines()) == (0, ["Next boot: rollback deployment (as before)", *before])
    now = told(updated.booted)
    revert = "notice: Reverting queued rollback state"
    code, out, _ = updated.roll_back()
    assert (code, out.splitlines()) == (0, [revert, "Next boot: current deployment", *now])
    code, out, _ = updated.roll_back("--to", "booted", "--dry-run")
    assert (code, out.splitlines()) == (0, ["Would be next boot: current deployment (as before)", *now])


def _both(updated: Updated) -> tuple[str, str]:
    return updated.booted, updated.previous


def test_the_journal_gets_bootcs_id_the_kind_and_the_digests(make: Callable[..., Updated]) -> None:
    from unit.machine.test_journal import _fields, _listen

    updated = make()
    path = updated.host.root / "run/systemd/journal/socket"
    path.parent.mkdir(parents=True)
    origins = {one: flowkit.read_tree(updated.host.state_dir(one))[f"{one}.origin".encode()] for one in _both(updated)}
    sums = {one: raw.split(b"manifest_digest = ")[1].splitlines()[0] for one, raw in origins.items()}
    with _listen(path) as receiver:
        for kind, target in (("rollback", updated.previous), ("revert", updated.booted)):
            assert updated.roll_back()[0] == 0
            fields, changed = _fields(receiver.recv(1 << 16)), _fields(receiver.recv(1 << 16))
            assert changed["MESSAGE_ID"] == message_ids.BOOT_ORDER_CHANGED.encode()
            assert fields["MESSAGE_ID"] == b"26f3b1eb24464d12aa5e7b544a6b5468"
            assert fields["BOOTC_FAST_OPERATION"] == b"rollback"
            assert fields["BOOTC_ROLLBACK_TYPE"] == kind.encode()
            assert fields["BOOTC_MANIFEST_DIGEST"] == sums[target]
            assert fields["BOOTC_CURRENT_MANIFEST_DIGEST"] == sums[updated.booted]
            assert (fields["BOOTC_FAST_BOOTED"], fields["BOOTC_FAST_NEXT_BOOT"]) == (
                updated.booted.encode(),
                target.encode(),
            )
        assert updated.roll_back("--dry-run")[0] == 0
        receiver.settimeout(0.05)
        with pytest.raises(TimeoutError):
            receiver.recv(1)


def test_a_user_cfg_that_cannot_be_read_is_never_replaced(make: Callable[..., Updated]) -> None:
    updated = make(Loader.GRUB, BootType.UKI)
    path = updated.host.boot_dir / "grub2/user.cfg"
    path.write_bytes(path.read_bytes() + b"# an admin's\n" * 100_000)
    lab.stage_files(updated.host, {"third": "3"}, version="3")
    before = path.read_bytes()
    for verb, code in (("finalize", 7), ("rollback", 7)):
        found, _, err = flowkit.run(updated.capsys, verb, "--root", updated.host.root)
        assert (found, "user.cfg cannot be read" in err) == (code, True), err
        assert path.read_bytes() == before


@pytest.mark.parametrize("verb", ["rollback", "finalize"])
def test_an_override_that_names_an_entry_that_could_not_be_read_is_found_out_after_writing(
    make: Callable[..., Updated], monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    from bootc_fast.boot.area.real import RealDirectory

    updated = make()
    if verb == "finalize":
        lab.stage_files(updated.host, {"third": "3"}, version="3")
    policy = updated.host.root / "usr/lib/bootc-fast/boot.toml"
    policy.parent.mkdir(parents=True, exist_ok=True)
    policy.write_text("keep = 3\n")
    name = updated.find(updated.booted).name
    updated.host.write_efi_variable("LoaderEntryDefault", name)
    read, failures = RealDirectory.read, [OSError(5, "Input/output error")]

    def fail_once(self: RealDirectory, what: bytes, max_bytes: int) -> bytes:
        if what == name.encode() and failures:
            raise failures.pop()
        return read(self, what, max_bytes)

    monkeypatch.setattr(RealDirectory, "read", fail_once)
    code, out, err = flowkit.run(updated.capsys, verb, "--root", updated.host.root)
    # It outranks an entry that is kept as it is, and is outranked by a new one.
    wanted, told = 7, f"but the loader boots {name} (LoaderEntryDefault names {name})"
    if verb == "rollback":
        # The new order was made without it, which is the disk's fault and not the order's.
        wanted, told = 6, f"{name} cannot be read: Input/output error\nhint: "
    assert (code, out, told in err) == (wanted, "", True), err
    assert updated.next_boot() == updated.booted
    # The disk has come to its senses.
    assert flowkit.run(updated.capsys, "rollback", "--to", "previous", "--root", updated.host.root)[0] == 0
    assert updated.next_boot() == updated.previous


@pytest.mark.parametrize("loader", [Loader.SYSTEMD_BOOT, Loader.GRUB])
def test_where_bootc_renamed_a_kernels_directory_and_was_cut_the_staged_entry_counts(
    make: Callable[..., Updated], loader: Loader
) -> None:
    updated = make(loader)
    third = lab.stage_files(updated.host, {"third": "3"}, version="3")
    live = updated.find(updated.booted)
    live.write_text(live.read_text().replace("bootc_composefs-", ""))
    code, _, err = flowkit.run(updated.capsys, "finalize", "--root", updated.host.root)
    assert (code, updated.next_boot()) == (0, third), err
    assert updated.roll_back()[0] == 0
    assert updated.next_boot() == updated.booted
    lab.boot(updated.host)


def test_foreign_entries_survive_the_end_of_an_exchange_that_was_cut(make: Callable[..., Updated]) -> None:
    updated = make()
    foreign = {
        f"{name}.conf": f"title {name}\nlinux /m.bin\n# mine".encode() for name in ("zz-memtest", "bootc-windows")
    }
    for name, raw in foreign.items():
        (updated.entries / name).write_bytes(raw)
    updated.entries.rename(updated.entries.with_name("entries.staged"))
    assert updated.roll_back()[0] == 0
    assert updated.next_boot() == updated.previous
    assert not updated.entries.with_name("entries.staged").exists()
    assert {name: (updated.entries / name).read_bytes() for name in foreign} == foreign
