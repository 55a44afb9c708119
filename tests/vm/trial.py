"""What the stories of a trial share: one host that is made once, a disk for each story, and what its boots said."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vm import initramfs, machine, story
from vm.secure_boot import add_arguments

from bootc_fast.lab.rootfs import STUB_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

ARGUMENTS = "console=ttyS0 panic=5 quiet systemd.show_status=no"
FOREIGN = "loader/entries/other-system.conf"
FOREIGN_TEXT = "title Another system\nsort-key zzz\nefi /EFI/other.efi\n"
TRIES = 2
_HEALTH = "/usr/lib/bootc-fast/health.d/required.d/vmtest"
_STATE = "state/os/default/var/lib/bootc-fast-vmtest"
_ROOT_OFFSET = 201 << 20

# Before anything of the deployment runs: what a bad kernel or a bad init does.
_TRAPS = f"""
trap_dir=/sysroot/{_STATE}
grep -q "$digest" $trap_dir/panic 2>/dev/null && {{ echo "vmtest: init gives up"; exit 1; }}
grep -q "$digest" $trap_dir/hang 2>/dev/null && {{
  echo "vmtest: init hangs"
  : > /dev/watchdog
  while :; do sleep 1000; done
}}
"""

_CHECK = """#!/bin/sh
# Fails where the deployment that runs is among the bad ones.
digest=$(sed -n 's/.*composefs=?\\?\\([0-9a-f]*\\).*/\\1/p' /proc/cmdline)
! grep -q "$digest" /var/lib/bootc-fast-vmtest/bad || { echo "vmtest: bad as asked for"; exit 1; }
"""

_SAY = """[Unit]
DefaultDependencies=no
RequiresMountsFor=/var
After=local-fs.target
Before=bootc-fast-health.service
[Service]
Type=oneshot
RemainAfterExit=yes
WorkingDirectory=/usr/lib/bootc-fast-vmtest
ExecStart=/usr/bin/python3 -m vm.guest_trial say
"""
_MAIN = """[Unit]
After=multi-user.target bootc-fast-finalize-staged.service bootc-fast-boot-complete.service
[Service]
Type=oneshot
WorkingDirectory=/usr/lib/bootc-fast-vmtest
ExecStart=/usr/bin/python3 -m vm.guest_trial
"""


def prepare_tree(work: Path) -> Path:
    """Debian 13 with the program, its units, a health check, traps in the initramfs, and the guest."""
    root = story.prepare_tree(work, guest="guest_trial")
    units = root / "usr/lib/systemd/system"
    for name in ("bootc-fast-vmtest.service", "bootc-fast-vmtest-stage.service"):
        (units / name).unlink()
        (units / "multi-user.target.wants" / name).unlink()
    for name, text in (("vmtest-say.service", _SAY), ("vmtest-main.service", _MAIN)):
        (units / name).write_text(text)
        (units / "multi-user.target.wants" / name).symlink_to(f"../{name}")
    required = units / "boot-complete.target.requires"
    required.mkdir(exist_ok=True)
    if not (required / "bootc-fast-health.service").is_symlink():
        (required / "bootc-fast-health.service").symlink_to("../bootc-fast-health.service")
    check = root / _HEALTH.lstrip("/")
    check.parent.mkdir(parents=True, exist_ok=True)
    check.write_text(_CHECK)
    check.chmod(0o755)
    (root / "usr/lib/bootc-fast/trial.toml").write_text(f"[trial]\ntries = {TRIES}\n")
    shutil.rmtree(work / "initramfs")
    before = "mount -t erofs -o ro"
    init = initramfs.INIT.replace(before, _TRAPS + before, 1)
    archive = initramfs.make_initramfs(root, work, init=init, modules=("i6300esb",))
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    (root / "boot" / kernel.name.replace("vmlinuz", "initrd.img")).write_bytes(archive.read_bytes())
    return root


@dataclass(frozen=True)
class Prepared:
    """A host with a staged update, as a disk that each story copies.

    Attributes:
        disk: The image.
        first: The installed deployment.
        second: The update.
    """

    disk: Path
    first: str
    second: str


def prepare(work: Path, *, boot_type: str, uki_key: str = "efi", loader: Path | None = None) -> Prepared:
    """Make the host; `loader` is the systemd-boot on its ESP, the image's own where None."""
    host = story.prepare_host(work, prepare_tree(work), loader="systemd-boot", boot_type=boot_type)
    esp = host.lab / "efi"
    for entry in (esp / "loader").rglob("*.conf"):
        text = entry.read_text().replace("\nuki ", f"\n{uki_key} ")
        entry.write_text(text.replace("\noptions ", f"\noptions {ARGUMENTS} "))
    for uki in (esp / "EFI/Linux").rglob("*.efi"):
        add_arguments(uki, ARGUMENTS, (host.root / STUB_NAME).read_bytes())
    files: dict[str, Path | str] = {
        "EFI/BOOT/BOOTX64.EFI": loader or host.root / story.SYSTEMD_BOOT,
        "loader/loader.conf": "timeout 0\n",
        "EFI/other.efi": "no program\n",
        FOREIGN: FOREIGN_TEXT,
    }
    disk = work / "prepared.raw"
    machine.make_disk(host.lab, disk, root_mib=1200, esp_files=files)
    shutil.rmtree(host.root)
    shutil.rmtree(host.lab)
    return Prepared(disk, host.first, host.second)


@dataclass(frozen=True)
class Script:
    """What is to happen.

    Attributes:
        late: For each boot that stays up what is done in it: ``guest_trial.do``.
        bad: Deployments, 1 or 2, whose health check fails.
        panic: Whose init gives up.
        hang: Whose init hangs.
        cut: Boots, from 0, in which the power goes before the health checks.
        boots: How often the machine is started.
    """

    late: Sequence[Sequence[str]]
    boots: int
    bad: Sequence[int] = ()
    panic: Sequence[int] = ()
    hang: Sequence[int] = ()
    cut: Sequence[int] = ()


@dataclass(frozen=True)
class Told:
    """What the boots said.

    Attributes:
        run: All of it.
        prepared: The host.
        names: What is in ``loader/entries`` afterwards.
        foreign: What another system's entry has in it afterwards.
        esp_check: What ``fsck.fat`` says.
        phases: What was reported by each boot that stayed up.
    """

    run: machine.Run
    prepared: Prepared
    names: tuple[str, ...]
    foreign: str
    esp_check: tuple[int, str]
    phases: Mapping[int, Mapping[str, object]] = field(default_factory=dict)

    def boots(self) -> list[tuple[int, str, str]]:
        """For each boot that came to user space: which deployment, its counter after the rename, what was selected."""
        found = []
        for row in self.run.reports:
            if "boot" not in row:
                continue
            # The initrd's path may have the other one's digest: two deployments with one kernel share its files.
            number = 1 if f"composefs={self.prepared.first}" in str(row["cmdline"]).replace("=?", "=") else 2
            loader = row["loader"]
            assert isinstance(loader, dict)
            path = loader["LoaderBootCountPath"] or ""
            counter = re.search(r"\+[0-9]+-[0-9]+(?=\.conf$)", path)
            found.append((number, counter[0] if counter else "", str(loader["LoaderEntrySelected"])))
        return found

    def said(self, phase: int, action: str, name: str) -> str:
        """What a command printed that a boot ran."""
        found = self.phases[phase][action]
        assert isinstance(found, dict)
        return str(found[name]["stdout"])


def _write_files(disk: Path, work: Path, files: Mapping[str, str]) -> None:
    """Write files below the root partition's /sysroot without mounting it."""
    commands = []
    for number, (name, text) in enumerate(files.items()):
        own = work / f"file{number}"
        own.write_text(text)
        commands += [f"rm {_STATE}/{name}", f"write {own} {_STATE}/{name}"]
    lines = work / "debugfs"
    lines.write_text("".join(f"{one}\n" for one in commands))
    argv = ["debugfs", "-w", "-f", lines, f"{disk}?offset={_ROOT_OFFSET}"]
    subprocess.run(argv, check=True, capture_output=True)


def play(prepared: Prepared, work: Path, script: Script, *, timeout_s: float = 600) -> Told:
    """Play a story on a copy of the host."""
    disk = work / "disk.raw"
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", prepared.disk, disk], check=True)

    def name(numbers: Sequence[int]) -> str:
        return "".join(f"{(prepared.first, prepared.second)[one - 1]}\n" for one in numbers)

    lists = {"bad": script.bad, "panic": script.panic, "hang": script.hang}
    texts = {key: name(numbers) for key, numbers in lists.items()}
    texts["script.json"] = json.dumps({"late": script.late, "cut": list(script.cut)})
    _write_files(disk, work, texts)
    devices = ("-device", "i6300esb", "-action", "watchdog=reset")
    run = machine.run_machine(disk, work, boots=script.boots, boot_timeout_s=timeout_s, devices=devices)
    errors = [row["error"] for row in run.reports if "error" in row]
    assert not errors, errors[0]
    phases: dict[int, dict[str, object]] = {}
    for row in run.reports:
        if "phase" in row:
            phases.setdefault(int(str(row["phase"])), {}).update(row)
    names, foreign = machine.list_esp(disk, "loader/entries"), machine.read_esp(disk, FOREIGN)
    told = Told(run, prepared, names, foreign, machine.check_esp(disk), phases)
    disk.unlink()
    return told
