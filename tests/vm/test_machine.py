"""A whole update in a machine: firmware, systemd-boot, vfat, fs-verity, shutdown by systemd — and back again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from vm import initramfs, machine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]

# Slow under emulation, and nothing here needs them.
_MASKED = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "ldconfig.service",
    "proc-sys-fs-binfmt_misc.automount",
    "systemd-hwdb-update.service",
    "systemd-logind.service",
    "systemd-networkd.service",
    "systemd-networkd.socket",
    "systemd-resolved.service",
    "systemd-timesyncd.service",
)

REPOSITORY = Path(__file__).parents[2]
ROOTFS = REPOSITORY / "build/rootfs/trixie"


def _install_program(root: Path) -> None:
    """Install bootc-fast as a package would, and enable its units as the preset says."""
    python = next((root / "usr/lib").glob("python3.*")).name.removeprefix("python")
    subprocess.run([REPOSITORY / "tools/install", root, python], check=True)
    wants = root / "usr/lib/systemd/system/multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    for line in (root / "usr/lib/systemd/system-preset/80-bootc-fast.preset").read_text().splitlines():
        unit = line.removeprefix("enable ")
        (wants / unit).symlink_to(f"../{unit}")


def _install_guest(root: Path) -> None:
    script = root / "usr/lib/bootc-fast-vmtest/guest.py"
    script.parent.mkdir()
    shutil.copy(Path(__file__).with_name("guest.py"), script)
    unit = root / "usr/lib/systemd/system/bootc-fast-vmtest.service"
    unit.write_text(
        "[Unit]\nAfter=multi-user.target bootc-fast-finalize-staged.service\n"
        "[Service]\nType=oneshot\nExecStart=/usr/bin/python3 /usr/lib/bootc-fast-vmtest/guest.py\n"
    )
    (unit.parent / "multi-user.target.wants" / unit.name).symlink_to(f"../{unit.name}")


def _prepare_tree(work: Path) -> Path:
    root = work / "root"
    subprocess.run(["cp", "-a", "--reflink=auto", ROOTFS, root], check=True)
    for name in ("sysroot", "efi"):
        (root / name).mkdir(exist_ok=True)
    (root / "etc/fstab").write_text("")
    (root / "etc/machine-id").write_text("uninitialized\n")
    for unit in _MASKED:
        (root / "usr/lib/systemd/system" / unit).unlink(missing_ok=True)
        (root / "usr/lib/systemd/system" / unit).symlink_to("/dev/null")
    _install_program(root)
    _install_guest(root)
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    initrd = root / "boot" / kernel.name.replace("vmlinuz", "initrd.img")
    initrd.write_bytes(initramfs.make_initramfs(root, work).read_bytes())
    return root


def _change_image(root: Path) -> None:
    """What the new version of the image brings."""
    (root / "etc/issue").write_text("the image's second version\n")
    (root / "etc/motd").write_text("the image's second words\n")
    (root / "etc/vmtest-new-default").write_text("new\n")
    release = root / "usr/lib/os-release"
    release.write_text(release.read_text() + 'IMAGE_VERSION="2"\n')


def _lab(*argv: str | os.PathLike[str]) -> None:
    subprocess.run([sys.executable, "-m", "bootc_fast", "lab", *argv], check=True, stdout=subprocess.DEVNULL)


@dataclass(frozen=True)
class Story:
    first: str
    second: str
    run: machine.Run
    esp_check: tuple[int, str]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Update and roll back once in the machine; the tests below look at what it reported."""
    work = tmp_path_factory.mktemp("machine")
    subprocess.run([REPOSITORY / "tools/make-rootfs", "trixie", ROOTFS], check=True)
    root = _prepare_tree(work)
    lab = work / "host"
    _lab("create", lab, "--from", root, "--loader", "systemd-boot", "--boot-type", "bls")
    (first,) = (path.name for path in (lab / "sysroot/state/deploy").iterdir())
    _change_image(root)
    _lab("stage", lab, "--from", root)
    marker = (lab / "run/composefs/staged-deployment").read_text()
    (second,) = (path.name for path in (lab / "sysroot/state/deploy").iterdir() if path.name != first)
    note = lab / "sysroot/state/os/default/var/lib/bootc-fast-vmtest"
    note.mkdir(parents=True)
    (note / "marker").write_text(marker)
    for entry in (lab / "efi/loader").rglob("*.conf"):
        entry.write_text(entry.read_text().replace("\noptions ", "\noptions console=ttyS0 "))
    disk = work / "disk.raw"
    loader = root / "usr/lib/systemd/boot/efi/systemd-bootx64.efi"
    machine.make_disk(lab, disk, root_mib=1200, loader=loader)
    run = machine.run_machine(disk, work, boots=3, boot_timeout_s=500)
    check = machine.check_esp(disk)
    shutil.rmtree(root)
    disk.unlink()
    return Story(first, second, run, check)


def _phase(story: Story, number: int) -> dict[str, object]:
    errors = [report["error"] for report in story.run.reports if "error" in report]
    assert not errors, errors[0]
    assert len(story.run.reports) > number, story.run.console[-4000:]
    return story.run.reports[number]


def _command(story: Story, number: int, name: str) -> dict[str, object]:
    found = _phase(story, number)[name]
    assert isinstance(found, dict)
    return found


def test_first_boot_runs_the_installed_deployment_and_knows_what_is_staged(story: Story) -> None:
    assert story.first in str(_phase(story, 0)["cmdline"])
    staged = _command(story, 0, "staged")
    assert staged["code"] == 0, staged
    assert story.second[:12] in str(staged["stdout"])
    assert _command(story, 0, "unit")["stdout"] == "active\n"


def test_dry_run_on_the_machine_changes_nothing_and_succeeds(story: Story) -> None:
    assert _command(story, 0, "dry_run")["code"] == 0, _command(story, 0, "dry_run")


def test_kernel_fs_verity_measures_what_we_compute(story: Story) -> None:
    facts = _phase(story, 0)["verity"]
    assert isinstance(facts, dict)
    assert len(facts) == 7  # three sizes of both hashes, and an object that the repository writer sealed
    for name, pair in facts.items():
        assert pair["kernel"] == pair["computed"], name


def test_shutdown_makes_the_staged_deployment_the_next_boot(story: Story) -> None:
    assert story.second in str(_phase(story, 1)["cmdline"]), _command(story, 1, "journal")
    assert 'IMAGE_VERSION="2"' in str(_command(story, 1, "etc")["os"])


def test_admins_edits_and_the_images_changes_are_both_there_after_the_update(story: Story) -> None:
    etc = _command(story, 1, "etc")
    assert etc["motd"] == "the admin's words\n"
    assert etc["issue"] == "the image's second version\n"
    assert etc["new_default"] is True
    assert etc["debian_version_exists"] is False
    assert etc["setuid_mode"] == "0o104755"
    assert etc["xattr"] == "n" * 200
    assert etc["unit_link"] == "/etc/systemd/system/vmtest-admin.service"


def test_rollback_boots_the_first_deployment_again(story: Story) -> None:
    rollback = _command(story, 1, "rollback")
    assert rollback["code"] == 0, rollback
    assert "Next boot: rollback deployment" in str(rollback["stdout"])
    assert story.first in str(_phase(story, 2)["cmdline"])


def test_no_unit_of_ours_failed_at_any_boot(story: Story) -> None:
    for number in range(3):
        assert "bootc-fast" not in str(_command(story, number, "failed")["stdout"])


def test_esp_is_a_clean_fat_afterwards(story: Story) -> None:
    assert story.esp_check == (0, "clean")
