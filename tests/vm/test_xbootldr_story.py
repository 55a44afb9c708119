"""XBOOTLDR in a whole machine: entries and kernels on a vfat partition that lsblk tells of, the loader on the ESP."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
from vm.story import SYSTEMD_BOOT, Story, add_console, play, prepare_host, prepare_tree

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.vm, pytest.mark.machines, pytest.mark.timeout(3600)]


def play_story(work: Path) -> Story:
    """Update and roll back once, as bootc 1.17.5 lays such a host out."""
    host = prepare_host(work, prepare_tree(work, guest="guest_loaders"), loader="systemd-boot", boot_type="bls")
    add_console(host.lab / "efi/loader")
    extended = work / "extended"
    for name in ("loader/entries", "loader/entries.staged", "EFI/Linux"):
        target = extended / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(host.lab / "efi" / name, target)
    files = {"EFI/BOOT/BOOTX64.EFI": host.root / SYSTEMD_BOOT, "loader/loader.conf": "timeout 0\n"}
    return play(host, work, esp_files=files, boots=3, extended=extended)


def _next_boot(story: Story, number: int, name: str) -> dict[str, object]:
    said = story.facts(number, name)
    assert said["code"] == 0, said
    found = json.loads(str(said["stdout"]))["bootcFast"]["nextBoot"]
    assert isinstance(found, dict)
    return found


def test_the_loader_boots_the_update_and_then_the_first_again(story: Story) -> None:
    for number, digest in enumerate((story.first, story.second, story.first)):
        assert digest in str(story.phase(number)["cmdline"]), story.phase(min(number, 1)).get("journal")
    assert story.facts(1, "etc")["motd"] == "the admin's words\n"


def test_status_knows_what_is_on_the_partition(story: Story) -> None:
    assert _next_boot(story, 0, "json")["verity"] == story.first
    assert _next_boot(story, 1, "json")["verity"] == story.second
    assert _next_boot(story, 1, "status_after")["verity"] == story.first
    for number in range(3):
        (info,) = story.facts(number, "loader")["LoaderInfo"]  # type: ignore[misc]
        assert info.startswith("systemd-boot")


def _list(story: Story, number: int) -> list[str]:
    """The loader's own menu at the start of a boot, less its own commands."""
    shown = story.facts(number, "loader")["LoaderEntries"]
    assert isinstance(shown, list)
    return [name for name in shown if not name.startswith("auto-")]


def test_the_loaders_own_list_has_what_status_says(story: Story) -> None:
    # At its first boot the update is on trial: the loader's list is older than the set that blesses it.
    on_trial, first = _list(story, 1)
    assert story.facts(1, "loader")["LoaderEntrySelected"] == [on_trial]
    assert [first] == _list(story, 0) == [_next_boot(story, 0, "json")["bootEntry"]]
    blessed = _next_boot(story, 1, "json")["bootEntry"]
    assert blessed not in (on_trial, first)
    assert _list(story, 2) == [_next_boot(story, 1, "status_after")["bootEntry"], blessed]
    assert _list(story, 2)[0] == _next_boot(story, 2, "json")["bootEntry"]


def test_nothing_of_ours_is_on_the_esp(story: Story) -> None:
    for number in range(3):
        bootctl = story.facts(number, "loader")["bootctl"]
        assert story.first not in str(bootctl["stdout"])  # type: ignore[index]


def test_no_unit_of_ours_failed_at_any_boot(story: Story) -> None:
    for number in range(3):
        assert "bootc-fast" not in str(story.facts(number, "failed")["stdout"])


def test_esp_is_a_clean_fat_afterwards(story: Story) -> None:
    assert story.esp_check == (0, "clean")
