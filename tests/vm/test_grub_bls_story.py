"""GRUB and kernels: GRUB 2.14 reads the entries itself, with ``blscfg``, and orders them by file name alone.

The update's version is lower than the installed one's, and so is its file name as bootc gives it: GRUB would go on
booting the old deployment.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from vm.grub import BLS_CONFIG, make_image
from vm.story import Story, add_console, change_image, play, prepare_host, prepare_tree

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.vm, pytest.mark.machines, pytest.mark.timeout(3600)]


def _go_back_in_version(root: Path) -> None:
    change_image(root)
    release = root / "usr/lib/os-release"
    release.write_text(re.sub(r"(?m)^VERSION_ID=.*$", 'VERSION_ID="9"', release.read_text()))


def play_story(work: Path) -> Story:
    """Update and roll back once."""
    image = make_image("forky", work / "grub.efi", "blsuki")
    root = prepare_tree(work, guest="guest_loaders")
    host = prepare_host(work, root, loader="grub", boot_type="bls", change=_go_back_in_version)
    add_console(host.lab / "sysroot/boot/loader")
    grub = host.lab / "sysroot/boot/grub2"
    grub.mkdir(exist_ok=True)
    (grub / "grub.cfg").write_text(BLS_CONFIG)
    return play(host, work, esp_files={"EFI/BOOT/BOOTX64.EFI": image}, boots=3)


def test_it_is_the_grub_with_blscfg_that_boots(story: Story) -> None:
    for number in range(3):
        (info,) = story.facts(number, "loader")["LoaderInfo"]  # type: ignore[misc]
        assert info.startswith("GRUB 2.14")


def test_lower_version_boots_after_the_update_and_the_higher_one_after_the_rollback(story: Story) -> None:
    for number, digest in enumerate((story.first, story.second, story.first)):
        assert digest in str(story.phase(number)["cmdline"]), story.phase(min(number, 1)).get("journal")
    assert 'VERSION_ID="9"' in str(story.facts(1, "etc")["os"])
    assert 'VERSION_ID="13"' in str(story.facts(2, "etc")["os"])


def test_admins_file_is_there_after_the_update(story: Story) -> None:
    assert story.facts(1, "etc")["motd"] == "the admin's words\n"


def test_rollback_is_queued_by_our_own_account(story: Story) -> None:
    assert story.facts(1, "rollback")["code"] == 0, story.facts(1, "rollback")
    status = json.loads(str(story.facts(1, "status_after")["stdout"]))["status"]
    assert status["rollbackQueued"] is True
    assert status["rollback"]["composefs"]["verity"] == story.first


def test_grub_counted_the_update_and_its_complete_boot_ended_the_trial(story: Story) -> None:
    journal = str(story.facts(1, "journal")["stdout"])
    assert "cannot count boots" not in journal
    grub = story.facts(1, "grub")
    assert "### BEGIN bootc-fast ###" in str(grub["custom.cfg"])
    assert "bootc_fast" not in str(grub["grubenv"])
    status = json.loads(str(story.facts(1, "json")["stdout"]))
    assert status["status"]["booted"]["bootcFast"]["trial"]["state"] == "good"


def test_no_unit_of_ours_failed_at_any_boot(story: Story) -> None:
    for number in range(3):
        assert "bootc-fast" not in str(story.facts(number, "failed")["stdout"])


def test_esp_is_a_clean_fat_afterwards(story: Story) -> None:
    assert story.esp_check == (0, "clean")
