"""systemd-boot and UKIs with Secure Boot on: keys in the firmware, signatures on everything that it starts.

The ESP also has a few dozen entries with odd names and versions, which are another system's: systemd-boot and
``bootctl`` say in which order they see them.
"""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING

import pytest
from loader_emulation import list_menu
from ukis import make_authority
from vm.secure_boot import add_arguments, make_keys, sign_in_place, write_enrolment
from vm.story import SYSTEMD_BOOT, Story, play, prepare_host, prepare_tree
from vm.tables import KERNEL, make_systemd_table, parse_table

from bootc_fast.boot.loaders import systemd_boot
from bootc_fast.boot.loaders.order import sort_entries
from bootc_fast.lab.rootfs import STUB_NAME
from bootc_fast.types import Loader

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

# systemd-boot enrols the keys at the first boot and resets the machine.
_LOADER_CONF = "timeout 0\nsecure-boot-enroll force\n"


def play_story(work: Path) -> Story:
    """Enrol the keys, then update and roll back once."""
    keys = make_keys()
    host = prepare_host(work, prepare_tree(work, guest="guest_loaders"), loader="systemd-boot", boot_type="uki")
    # systemd-boot 257 does not know the key `uki`, and bootc writes `efi` there. What is staged keeps `uki`: bootc
    # takes it where the new image has a newer systemd, and the loader on the ESP is the old one all the same.
    for entry in (host.lab / "efi/loader/entries").glob("*.conf"):
        entry.write_text(entry.read_text().replace("\nuki ", "\nefi "))
    ukis = list((host.lab / "efi/EFI/Linux/bootc").glob("*.efi*"))
    for uki in ukis:
        add_arguments(uki, "console=ttyS0", (host.root / STUB_NAME).read_bytes())
    (staged,) = (uki for uki in ukis if host.second in uki.name)
    rogue = host.lab / "sysroot/state/os/default/var/lib/bootc-fast-vmtest/rogue.efi"
    shutil.copy(staged, rogue)
    sign_in_place(rogue, make_authority("nobody the firmware knows"), work)
    for uki in ukis:
        sign_in_place(uki, keys.database, work)
    loader = work / "systemd-boot.efi"
    shutil.copy(host.root / SYSTEMD_BOOT, loader)
    sign_in_place(loader, keys.database, work)
    table = {f"loader/entries/{name}": raw.decode() for name, raw in make_systemd_table().items()}
    files: dict[str, Path | str] = {
        "EFI/BOOT/BOOTX64.EFI": loader,
        "loader/loader.conf": _LOADER_CONF,
        KERNEL.lstrip("/"): "no kernel\n",
        **table,
        **write_enrolment(keys, work),
    }
    return play(host, work, esp_files=files, boots=4, secure_boot=True)


def _loader(story: Story, number: int, name: str = "loader") -> dict[str, object]:
    facts = story.facts(number, name)
    assert isinstance(facts, dict)
    return facts


def _table_ids() -> list[str]:
    entries = sort_entries(parse_table(make_systemd_table()), systemd_boot.RULE)
    return [entry.loader_id.decode() for entry in entries]


def _menu(story: Story, number: int) -> list[str]:
    found = _loader(story, number)["LoaderEntries"]
    assert isinstance(found, list)
    return found


def _bootctl(story: Story, number: int, name: str = "loader") -> list[dict[str, object]]:
    said = _loader(story, number, name)["bootctl"]
    assert isinstance(said, dict)
    assert said["code"] == 0, said
    return [entry for entry in json.loads(str(said["stdout"])) if entry["type"] == "type1"]


def _digests(entries: list[dict[str, object]]) -> list[str]:
    """Digests that the entries' UKIs have in their names, in order."""
    found = (re.search(r"[0-9a-f]{128}", json.dumps(entry)) for entry in entries)
    return [match[0] for match in found if match]


def _status_order(story: Story, number: int, name: str = "json") -> list[str]:
    said = story.facts(number, name)
    assert said["code"] == 0, said
    status = json.loads(str(said["stdout"]))["status"]
    slots = ("booted", "rollback") if not status["rollbackQueued"] else ("rollback", "booted")
    return [status[slot]["composefs"]["verity"] for slot in slots if status[slot]]


def test_secure_boot_is_on_and_each_boot_runs_what_it_should(story: Story) -> None:
    for number, digest in enumerate((story.first, story.second, story.first)):
        assert _loader(story, number)["secure_boot"] is True
        assert digest in str(story.phase(number)["cmdline"])


def test_uki_of_a_signer_that_the_firmware_does_not_know_is_refused(story: Story) -> None:
    refusal = story.facts(0, "refusal")
    assert refusal["code"] == 11, refusal
    assert "nobody the firmware knows" in str(refusal["stderr"])


def test_uki_of_the_firmwares_signer_passes(story: Story) -> None:
    assert story.facts(0, "dry_run")["code"] == 0, story.facts(0, "dry_run")


def test_update_brings_the_admins_file_and_the_new_image(story: Story) -> None:
    etc = story.facts(1, "etc")
    assert etc["motd"] == "the admin's words\n"
    assert 'IMAGE_VERSION="2"' in str(etc["os"]), story.facts(1, "journal")


def test_rollback_boots_the_first_deployment_again(story: Story) -> None:
    rollback = story.facts(1, "rollback")
    assert rollback["code"] == 0, rollback
    assert "Next boot: rollback deployment" in str(rollback["stdout"])


def test_bootctl_and_our_status_agree_on_the_order(story: Story) -> None:
    for number in range(3):
        assert _digests(_bootctl(story, number)) == _status_order(story, number)
    assert _digests(_bootctl(story, 1, "loader_after")) == _status_order(story, 1, "status_after")


def test_systemd_boot_orders_odd_names_as_we_say(story: Story) -> None:
    expected = _table_ids()
    assert len(expected) > 80
    for number in range(3):
        shown = [name for name in _menu(story, number) if name in set(expected)]
        assert shown == expected


def test_systemd_boot_shows_ours_first(story: Story) -> None:
    for number in range(3):
        theirs = set(_table_ids())
        assert _menu(story, number)[0] not in theirs


def test_bootctl_orders_odd_names_as_we_say(story: Story) -> None:
    # It has its own mind, unlike the loader, about letters in upper case, `^` and `~` in names, and characters beyond
    # UCS-2 in sort-keys (that is k02).
    names = {entry.loader_id.decode() for entry in parse_table(make_systemd_table()) if entry.label.islower()}
    expected = [name for name in _table_ids() if name in names and not set(name) & set("^~") and name != "k02.conf"]
    shown = [str(entry["id"]) for entry in _bootctl(story, 0)]
    assert len(expected) > 80
    assert [name for name in shown if name in set(expected)] == expected


def test_the_tests_own_loader_orders_odd_names_like_the_real_one(story: Story) -> None:
    files = {f"loader/entries/{name}": raw for name, raw in make_systemd_table().items()}
    menu = list_menu(Loader.SYSTEMD_BOOT, {**files, KERNEL.lstrip("/"): b"no kernel\n"})
    assert [re.sub(r"\+[0-9]+(-[0-9]+)?(?=\.conf$)", "", entry.name).lower() for entry in menu] == _table_ids()


def test_no_unit_of_ours_failed_at_any_boot(story: Story) -> None:
    for number in range(3):
        assert "bootc-fast" not in str(story.facts(number, "failed")["stdout"])


def test_esp_is_a_clean_fat_afterwards(story: Story) -> None:
    assert story.esp_check == (0, "clean")
