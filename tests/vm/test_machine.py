"""A whole update in a machine: firmware, systemd-boot, vfat, fs-verity, shutdown by systemd — and back again."""

from __future__ import annotations

import pytest
from vm.story import SYSTEMD_BOOT, Story, add_console, play, prepare_host, prepare_tree

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Update and roll back once in the machine; the tests below look at what it reported."""
    work = tmp_path_factory.mktemp("machine")
    host = prepare_host(work, prepare_tree(work), loader="systemd-boot", boot_type="bls")
    add_console(host.lab / "efi/loader")
    files = {"EFI/BOOT/BOOTX64.EFI": host.root / SYSTEMD_BOOT, "loader/loader.conf": "timeout 0\n"}
    return play(host, work, esp_files=files, boots=3)


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


def test_no_unit_of_ours_failed_at_any_boot(story: Story) -> None:
    for number in range(3):
        assert "bootc-fast" not in str(story.facts(number, "failed")["stdout"])


def test_esp_is_a_clean_fat_afterwards(story: Story) -> None:
    assert story.esp_check == (0, "clean")
