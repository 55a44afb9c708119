"""GRUB and UKIs: Debian 13's GRUB starts what the menuentries of ``user.cfg`` name; a kexec does without it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from vm.grub import UKI_CONFIG, make_image
from vm.secure_boot import add_arguments
from vm.story import Story, play, prepare_host, prepare_tree

from bootc_fast.lab.rootfs import STUB_NAME

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.vm, pytest.mark.machines, pytest.mark.timeout(3600)]


def play_story(work: Path) -> Story:
    """Update and roll back, and roll back again, by kexec."""
    image = make_image("trixie", work / "grub.efi")
    host = prepare_host(work, prepare_tree(work, guest="guest_loaders"), loader="grub", boot_type="uki")
    for uki in (host.lab / "efi/EFI/Linux/bootc").glob("*.efi*"):
        add_arguments(uki, "console=ttyS0", (host.root / STUB_NAME).read_bytes())
    (host.lab / "sysroot/state/os/default/var/lib/bootc-fast-vmtest/kexec").touch()
    (host.lab / "sysroot/boot/grub2/grub.cfg").write_text(UKI_CONFIG)
    return play(host, work, esp_files={"EFI/BOOT/BOOTX64.EFI": image}, boots=3)


def test_it_is_debians_grub_that_boots(story: Story) -> None:
    for number in range(3):
        (info,) = story.facts(number, "loader")["LoaderInfo"]  # type: ignore[misc]
        assert info.startswith("GRUB 2.12")


def test_each_boot_runs_what_it_should(story: Story) -> None:
    for number, digest in enumerate((story.first, story.second, story.first)):
        assert digest in str(story.phase(number)["cmdline"]), story.phase(min(number, 1)).get("journal")


def test_staged_deployment_passes_a_dry_run(story: Story) -> None:
    assert story.facts(0, "dry_run")["code"] == 0, story.facts(0, "dry_run")


def test_update_brings_the_admins_file_and_the_new_image(story: Story) -> None:
    etc = story.facts(1, "etc")
    assert etc["motd"] == "the admin's words\n"
    assert 'IMAGE_VERSION="2"' in str(etc["os"])


def test_rollback_is_queued_by_our_own_account(story: Story) -> None:
    assert story.facts(1, "rollback")["code"] == 0, story.facts(1, "rollback")
    status = json.loads(str(story.facts(1, "status_after")["stdout"]))["status"]
    assert status["rollbackQueued"] is True
    assert status["rollback"]["composefs"]["verity"] == story.first


def test_a_kexec_takes_kernel_initrd_and_command_line_out_of_the_uki(story: Story) -> None:
    report = story.phase(3)
    assert story.second in str(report["cmdline"])
    assert "console=ttyS0" in str(report["cmdline"])
    assert 'IMAGE_VERSION="2"' in str(story.facts(3, "etc")["os"])
    # Four systems ran; the firmware started GRUB three times.
    assert story.run.console.count("BdsDxe: starting Boot") == 3


def test_grub_counted_the_update_and_its_complete_boot_ended_the_trial(story: Story) -> None:
    journal = str(story.facts(1, "journal")["stdout"])
    assert "cannot count boots" not in journal
    grub = story.facts(1, "grub")
    assert "### BEGIN bootc-fast ###" in str(grub["custom.cfg"])
    assert "bootc_fast" not in str(grub["grubenv"])
    status = json.loads(str(story.facts(1, "json")["stdout"]))
    assert status["status"]["booted"]["bootcFast"]["trial"]["state"] == "good"


def test_no_unit_of_ours_failed_at_any_boot(story: Story) -> None:
    for number in range(4):
        assert "bootc-fast" not in str(story.facts(number, "failed")["stdout"])


def test_esp_is_a_clean_fat_afterwards(story: Story) -> None:
    assert story.esp_check == (0, "clean")
