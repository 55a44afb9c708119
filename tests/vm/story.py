"""What the stories of the test machine share: the tree, the host made of it, the disk, and what was reported.

A story is one host that is updated and rolled back in QEMU. Its fixture plays it once; its tests look at the reports.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vm import initramfs, machine
from vm.package import make_installed_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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

SYSTEMD_BOOT = "usr/lib/systemd/boot/efi/systemd-bootx64.efi"


def _install_guest(root: Path, guest: str) -> None:
    """Install what runs inside: all guests, of which `guest` is started."""
    package = root / "usr/lib/bootc-fast-vmtest/vm"
    package.mkdir(parents=True)
    for script in Path(__file__).parent.glob("guest*.py"):
        shutil.copy(script, package)
    unit = root / "usr/lib/systemd/system/bootc-fast-vmtest.service"
    unit.write_text(
        "[Unit]\nAfter=multi-user.target bootc-fast-finalize-staged.service bootc-fast-boot-complete.service\n"
        # A guest that isolates a target goes on, also in emergency.target, which has no sysinit.target.
        "IgnoreOnIsolate=yes\nDefaultDependencies=no\n"
        "[Service]\nType=oneshot\nWorkingDirectory=/usr/lib/bootc-fast-vmtest\n"
        f"ExecStart=/usr/bin/python3 -m vm.{guest}\n"
    )
    # What is staged is staged when the boot is complete: else it was missed.
    marker = unit.with_name("bootc-fast-vmtest-stage.service")
    marker.write_text(
        "[Unit]\nBefore=bootc-fast-boot-complete.service\nRequiresMountsFor=/var\n"
        "ConditionPathExists=/var/lib/bootc-fast-vmtest/marker\nConditionPathExists=!/var/lib/bootc-fast-vmtest/phase\n"
        "[Service]\nType=oneshot\n"
        "ExecStart=/bin/mkdir -p /run/composefs\n"
        "ExecStart=/bin/cp /var/lib/bootc-fast-vmtest/marker /run/composefs/staged-deployment\n"
    )
    for one in (unit, marker):
        (unit.parent / "multi-user.target.wants" / one.name).symlink_to(f"../{one.name}")


def prepare_tree(work: Path, *, guest: str = "guest") -> Path:
    """Make the image's first version in `work`: Debian 13 with our package, a guest and an initramfs.

    Args:
        work: An empty directory.
        guest: The module in this directory whose ``main`` runs at every boot.
    """
    root = work / "root"
    subprocess.run(["cp", "-a", "--reflink=auto", make_installed_tree(), root], check=True)
    for name in ("sysroot", "efi"):
        (root / name).mkdir(exist_ok=True)
    (root / "etc/fstab").write_text("")
    (root / "etc/machine-id").write_text("uninitialized\n")
    for unit in _MASKED:
        (root / "usr/lib/systemd/system" / unit).unlink(missing_ok=True)
        (root / "usr/lib/systemd/system" / unit).symlink_to("/dev/null")
    _install_guest(root, guest)
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    initrd = root / "boot" / kernel.name.replace("vmlinuz", "initrd.img")
    initrd.write_bytes(initramfs.make_initramfs(root, work).read_bytes())
    return root


def change_image(root: Path) -> None:
    """What the new version of the image brings."""
    (root / "etc/issue").write_text("the image's second version\n")
    (root / "etc/motd").write_text("the image's second words\n")
    (root / "etc/vmtest-new-default").write_text("new\n")
    release = root / "usr/lib/os-release"
    release.write_text(release.read_text() + 'IMAGE_VERSION="2"\n')


def run_lab(*argv: str | os.PathLike[str]) -> None:
    """Run ``bootc-fast lab``."""
    subprocess.run([sys.executable, "-m", "bootc_fast", "lab", *argv], check=True, stdout=subprocess.DEVNULL)


@dataclass(frozen=True)
class Host:
    """A lab host with a staged update, ready to become a disk.

    Attributes:
        root: The image's tree, second version.
        lab: The lab's directory.
        first: The installed deployment.
        second: The staged one.
    """

    root: Path
    lab: Path
    first: str
    second: str


def prepare_host(
    work: Path, root: Path, *, loader: str, boot_type: str, change: Callable[[Path], None] = change_image
) -> Host:
    """Install the tree at `root`, change it, stage it; `root` is then the second version.

    The marker lies in /run, which no disk has: the guest finds it in /var and writes it.
    """
    lab = work / "host"
    run_lab("create", lab, "--from", root, "--loader", loader, "--boot-type", boot_type)
    (first,) = (path.name for path in (lab / "sysroot/state/deploy").iterdir())
    change(root)
    run_lab("stage", lab, "--from", root)
    (second,) = (path.name for path in (lab / "sysroot/state/deploy").iterdir() if path.name != first)
    note = lab / "sysroot/state/os/default/var/lib/bootc-fast-vmtest"
    note.mkdir(parents=True)
    shutil.copy(lab / "run/composefs/staged-deployment", note / "marker")
    return Host(root, lab, first, second)


def add_console(entries: Path) -> None:
    """Let the kernels of all BLS entries below a directory write to the first serial port."""
    for entry in entries.rglob("*.conf"):
        entry.write_text(entry.read_text().replace("\noptions ", "\noptions console=ttyS0 "))


@dataclass(frozen=True)
class Story:
    """What happened to a host.

    Attributes:
        first: The installed deployment.
        second: The update.
        run: What the machine said.
        esp_check: What ``fsck.fat`` says afterwards.
    """

    first: str
    second: str
    run: machine.Run
    esp_check: tuple[int, str]

    def phase(self, number: int) -> dict[str, object]:
        """The report of a boot, counted from 0."""
        errors = [report["error"] for report in self.run.reports if "error" in report]
        assert not errors, errors[0]
        assert len(self.run.reports) > number, self.run.console[-4000:]
        return self.run.reports[number]

    def facts(self, number: int, name: str) -> dict[str, object]:
        """One object of a boot's report: a command with its code and output, or a group of facts."""
        found = self.phase(number)[name]
        assert isinstance(found, dict)
        return found


def play(
    host: Host,
    work: Path,
    *,
    esp_files: Mapping[str, Path | str],
    boots: int,
    boot_timeout_s: float = 1200,
    secure_boot: bool = False,
    extended: Path | None = None,
) -> Story:
    """Boot the host `boots` times; the tree and the disk are gone afterwards.

    Args:
        host: What becomes the disk.
        work: For the disk and the machine's files.
        esp_files: What the ESP has besides what the lab wrote: the loader and its settings.
        boots: How many.
        boot_timeout_s: For each, all that happens before the machine resets or goes off.
        secure_boot: With a firmware that knows Secure Boot, no keys yet.
        extended: The tree of an XBOOTLDR partition; None where there is none.
    """
    disk = work / "disk.raw"
    machine.make_disk(host.lab, disk, root_mib=1200, esp_files=esp_files, extended=extended)
    run = machine.run_machine(disk, work, boots=boots, boot_timeout_s=boot_timeout_s, secure_boot=secure_boot)
    check = machine.check_esp(disk)
    shutil.rmtree(host.root)
    disk.unlink()
    return Story(host.first, host.second, run, check)
