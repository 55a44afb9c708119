"""A whole update in a machine: firmware, systemd-boot, vfat, fs-verity, shutdown by systemd — and back again.

Then the ways around the firmware: a soft reboot into the update, one back, a kexec.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from vm.story import SYSTEMD_BOOT, Story, add_console, play, prepare_host, prepare_tree

from bootc_fast.machine.mountinfo import find_mount, parse_mountinfo

if TYPE_CHECKING:
    from pathlib import Path

    from bootc_fast.machine.mountinfo import MountInfo

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]


def mount_at(table: object, point: str) -> MountInfo:
    found = find_mount(parse_mountinfo(str(table).encode()), point.encode())
    assert found is not None, table
    return found


def play_story(work: Path) -> Story:
    """Update and roll back once; the tests below look at what the machine reported."""
    host = prepare_host(work, prepare_tree(work), loader="systemd-boot", boot_type="bls")
    add_console(host.lab / "efi/loader")
    files = {"EFI/BOOT/BOOTX64.EFI": host.root / SYSTEMD_BOOT, "loader/loader.conf": "timeout 0\n"}
    (host.lab / "sysroot/state/os/default/var/lib/bootc-fast-vmtest/faster").touch()
    return play(host, work, esp_files=files, boots=3, boot_timeout_s=1200)


def test_first_boot_runs_the_installed_deployment_and_knows_what_is_staged(story: Story) -> None:
    assert story.first in str(story.phase(0)["cmdline"])
    staged = story.facts(0, "staged")
    assert staged["code"] == 0, staged
    assert story.second[:12] in str(staged["stdout"])
    assert story.facts(0, "unit")["stdout"] == "active\n"


def test_dry_run_on_the_machine_changes_nothing_and_succeeds(story: Story) -> None:
    assert story.facts(0, "dry_run")["code"] == 0, story.facts(0, "dry_run")


def test_kernel_fs_verity_measures_what_we_compute(story: Story) -> None:
    facts = story.phase(0)["verity"]
    assert isinstance(facts, dict)
    assert len(facts) == 7  # three sizes of both hashes, and an object that the repository writer sealed
    for name, pair in facts.items():
        assert pair["kernel"] == pair["computed"], name


def test_shutdown_makes_the_staged_deployment_the_next_boot(story: Story) -> None:
    assert story.second in str(story.phase(1)["cmdline"]), story.facts(1, "journal")
    assert 'IMAGE_VERSION="2"' in str(story.facts(1, "etc")["os"])


def test_admins_edits_and_the_images_changes_are_both_there_after_the_update(story: Story) -> None:
    etc = story.facts(1, "etc")
    assert etc["motd"] == "the admin's words\n"
    assert etc["issue"] == "the image's second version\n"
    assert etc["new_default"] is True
    assert etc["debian_version_exists"] is False
    assert etc["setuid_mode"] == "0o104755"
    assert etc["xattr"] == "n" * 200
    assert etc["unit_link"] == "/etc/systemd/system/vmtest-admin.service"


def test_rollback_boots_the_first_deployment_again(story: Story) -> None:
    rollback = story.facts(1, "rollback")
    assert rollback["code"] == 0, rollback
    assert "Next boot: rollback deployment" in str(rollback["stdout"])
    assert story.first in str(story.phase(2)["cmdline"])


def test_objects_that_are_not_sealed_refuse_the_soft_reboot_before_anything_changes(story: Story) -> None:
    unsealed = story.facts(2, "unsealed")
    assert unsealed["code"] == 9, unsealed
    assert "no: its init has no fs-verity, and must have it" in str(unsealed["stderr"])
    status = json.loads(str(story.facts(2, "json")["stdout"]))["status"]
    assert status["rollback"]["bootcFast"]["softReboot"] == "no: its init has no fs-verity, and must have it"


def test_dry_runs_say_which_way_is_possible_and_leave_no_mount(story: Story) -> None:
    report = story.phase(2)
    assert int(str(report["objects"])) > 1000
    for name, way in (("dry_run", "soft-reboot"), ("dry_kexec", "kexec")):
        said = story.facts(2, name)
        assert said["code"] == 0, said
        assert f"Would restart by: systemctl {way}" in str(said["stdout"])
    assert report["mounts_after"] == report["mounts"]
    assert "Restart:" not in str(report["journal"])


def test_a_soft_reboot_enters_the_update_with_required_verity_and_without_another_kernel(story: Story) -> None:
    report = story.phase(3)
    # The restart ends the program that asked for it, which is no failure.
    assert "error" not in str(report["applied"])
    assert "Restart by: systemctl soft-reboot" in str(report["applied"])
    assert story.first in str(report["cmdline"])
    assert report["init"] == "/usr/lib/systemd/systemd"
    root = mount_at(report["mounts"], "/")
    assert (root.fstype, root.source) == ("overlay", f"composefs:{story.second}".encode())
    assert b"verity=require" in root.super_options
    etc = mount_at(report["mounts"], "/etc")
    assert etc.root.endswith(f"/state/deploy/{story.second}/etc".encode())
    assert 'IMAGE_VERSION="2"' in str(story.facts(3, "etc")["os"])
    assert story.facts(3, "etc")["issue"] == "the image's second version\n"
    assert report["reboot_required"] is False


def test_the_deployment_that_a_soft_reboot_entered_is_known_for_the_booted_one(story: Story) -> None:
    for number, booted, other in ((3, story.second, story.first), (4, story.first, story.second)):
        status = json.loads(str(story.facts(number, "json")["stdout"]))["status"]
        assert status["booted"]["composefs"]["verity"] == booted
        assert status["rollback"]["composefs"]["verity"] == other
        assert status["staged"] is None


def test_a_staged_update_is_finalized_at_a_soft_reboot_with_the_edits_of_the_last_minute(story: Story) -> None:
    prepared = story.facts(3, "prepared")
    assert prepared["code"] == 0, prepared
    assert json.loads(str(prepared["stdout"])) == {
        "target": story.first,
        "way": "soft-reboot",
        "notes": [],
        "is_finalized": True,
        "dry_run": False,
    }
    next_root = mount_at(story.phase(3)["prepared_mounts"], "/run/nextroot")
    assert next_root.source == f"composefs:{story.first}".encode()
    report = story.phase(4)
    assert mount_at(report["mounts"], "/").source == f"composefs:{story.first}".encode()
    assert story.phase(3)["last_minute"] is False
    assert report["last_minute"] is True
    assert 'IMAGE_VERSION="2"' not in str(story.facts(4, "etc")["os"])


def test_a_kexec_boots_the_update_without_firmware_and_loader(story: Story) -> None:
    report = story.phase(5)
    assert story.second in str(report["cmdline"])
    assert "initrd=" not in str(report["cmdline"])
    assert "initrd=" in str(story.phase(2)["cmdline"])
    assert mount_at(report["mounts"], "/").source == f"composefs:{story.second}".encode()
    # Six systems ran; the firmware started a loader three times.
    assert story.run.console.count("BdsDxe: starting Boot") == 3


def test_the_journal_tells_each_restart_that_was_prepared(story: Story) -> None:
    lines = str(story.facts(4, "journal")["stdout"]).splitlines()
    assert lines == [
        f"Prepared: `systemctl soft-reboot` enters {story.second}",
        f"Prepared: `systemctl soft-reboot` enters {story.first}",
    ]


def test_no_unit_of_ours_failed_at_any_boot(story: Story) -> None:
    for number in range(6):
        assert "bootc-fast" not in str(story.facts(number, "failed")["stdout"])


def test_esp_is_a_clean_fat_afterwards(story: Story) -> None:
    assert story.esp_check == (0, "clean")
