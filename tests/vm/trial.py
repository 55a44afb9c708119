"""What the stories of a trial share: one host that is made once, a disk for each story, and what its boots said."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vm import grub, initramfs, machine, story
from vm.package import REPOSITORY
from vm.secure_boot import add_arguments

from bootc_fast.lab.rootfs import STUB_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

ARGUMENTS = "console=ttyS0 panic=5 quiet systemd.show_status=no"
FOREIGN = "loader/entries/other-system.conf"
FOREIGN_TEXT = "title Another system\nsort-key zzz\nefi /EFI/other.efi\n"
CUSTOM_TEXT = "# an admin's words\n"
TRIES = 2
_HEALTH = "/usr/lib/bootc-fast/health.d/required.d/vmtest"
_STATE = "state/os/default/var/lib/bootc-fast-vmtest"
_ROOT_OFFSET = 201 << 20

# Before anything of the deployment runs: what is written of its next start, and what a bad kernel or a bad init does.
_TRAPS = f"""
echo "vmtest: deployment $digest starts"
notes=/sysroot/{_STATE}
if [ "$digest" = "$(cat $notes/second)" ]; then
  number=$(cat $notes/starts 2>/dev/null || echo 0)
  echo $((number + 1)) > $notes/starts
  sed -n "$((number + 1))p" $notes/fates > $notes/fate
  sync
  case "$(cat $notes/fate)" in
    panic) echo "vmtest: init gives up"; exit 1 ;;
    hang)
      echo "vmtest: init hangs"
      : > /dev/watchdog
      while :; do sleep 1000; done ;;
  esac
fi
"""

# The root says what runs: after a soft reboot the kernel's command line is another's.
_CHECK = r"""#!/bin/sh
notes=/var/lib/bootc-fast-vmtest
digest=$(sed -n 's/^[^ ]* [^ ]* [^ ]* \/ \/ .* composefs:\([0-9a-f]*\) .*/\1/p' /proc/self/mountinfo)
fate=old-fate
[ "$digest" = "$(cat $notes/second)" ] && fate=fate
[ "$(cat $notes/$fate)" != bad ] || { echo "vmtest: bad as asked for"; exit 1; }
"""

# What GRUB itself has after custom.cfg was read.
_GRUB_SAYS = """
echo "vmtest: GRUB has [${bootc_fast_tries}] tries left"
"""

_SAY = """[Unit]
DefaultDependencies=no
RequiresMountsFor=/var
After=local-fs.target
Before=bootc-fast-health.service
# What a soft reboot does not stop is not started again by it.
Conflicts=shutdown.target
Before=shutdown.target
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
class Kind:
    """A kind of host, and whose loader it has.

    Attributes:
        loader: ``systemd-boot`` or ``grub``.
        boot_type: ``bls`` or ``uki``.
        key: What names a UKI in an entry.
        suite: Of Debian, whose loader it is; the image's own where empty.
    """

    loader: str
    boot_type: str
    key: str = "efi"
    suite: str = ""


KINDS = {
    "systemd-boot-bls": Kind("systemd-boot", "bls"),
    "systemd-boot-efi": Kind("systemd-boot", "uki"),
    # 262: of these versions the first one that can be had that counts entries with the key `uki`.
    "systemd-boot-uki": Kind("systemd-boot", "uki", "uki", "sid"),
    "grub-bls": Kind("grub", "bls", suite="forky"),
    "grub-uki": Kind("grub", "uki", suite="trixie"),
}


@dataclass(frozen=True)
class Prepared:
    """A host with a staged update, as a disk that each story copies.

    Attributes:
        kind: What it is.
        disk: The image.
        first: The installed deployment.
        second: The update.
    """

    kind: Kind
    disk: Path
    first: str
    second: str


def prepare(work: Path, kind: Kind) -> Prepared:
    """Make the host."""
    host = story.prepare_host(work, prepare_tree(work), loader=kind.loader, boot_type=kind.boot_type)
    esp, boot = host.lab / "efi", host.lab / "sysroot/boot"
    for entry in [*(esp / "loader").rglob("*.conf"), *(boot / "loader").rglob("*.conf")]:
        text = entry.read_text().replace("\nuki ", f"\n{kind.key} ")
        entry.write_text(text.replace("\noptions ", f"\noptions {ARGUMENTS} "))
    for uki in (esp / "EFI/Linux").rglob("*.efi*"):
        add_arguments(uki, ARGUMENTS, (host.root / STUB_NAME).read_bytes())
    (host.lab / "sysroot" / _STATE / "second").write_text(f"{host.second}\n")
    files: dict[str, Path | str] = {"EFI/BOOT/BOOTX64.EFI": _find_program(work, host, kind)}
    if kind.loader == "grub":
        home = boot / "grub2"
        home.mkdir(exist_ok=True)
        config = grub.UKI_CONFIG if kind.boot_type == "uki" else grub.BLS_CONFIG
        (home / "grub.cfg").write_text(config + _GRUB_SAYS)
        (home / "custom.cfg").write_text(CUSTOM_TEXT)
    else:
        files |= {"loader/loader.conf": "timeout 0\n", "EFI/other.efi": "no program\n", FOREIGN: FOREIGN_TEXT}
    disk = work / "prepared.raw"
    machine.make_disk(host.lab, disk, root_mib=1200, esp_files=files)
    shutil.rmtree(host.root)
    shutil.rmtree(host.lab)
    return Prepared(kind, disk, host.first, host.second)


def _find_program(work: Path, host: story.Host, kind: Kind) -> Path:
    """The boot loader, as an EFI program."""
    if kind.loader == "grub":
        return grub.make_image(kind.suite, work / "grub.efi", *(("blsuki",) if kind.boot_type == "bls" else ()))
    if not kind.suite:
        return host.root / story.SYSTEMD_BOOT
    tree = REPOSITORY / "build/rootfs" / f"systemd-boot-{kind.suite}"
    subprocess.run([REPOSITORY / "tools/make-rootfs", "--extract", kind.suite, tree, "systemd-boot-efi"], check=True)
    return tree / story.SYSTEMD_BOOT


@dataclass(frozen=True)
class Script:
    """What is to happen.

    Attributes:
        late: For each start-up that stays up what is done in it: ``guest_trial.do``.
        fates: For each start of the update by the loader: ``good``, ``bad`` (its health check fails), ``cut`` (the
            power goes before the health checks), ``panic`` (its init gives up), ``hang``.
        boots: How often the machine is started.
    """

    late: Sequence[Sequence[str]]
    fates: Sequence[str]
    boots: int


@dataclass(frozen=True)
class Seen:
    """A start-up that came to user space.

    Attributes:
        number: Which deployment runs, by its root: 1 or 2.
        counter: In the entry's name after the loader's rename (``LoaderBootCountPath``), or what GRUB's environment
            block has for tries; empty where there is none.
        selected: ``LoaderEntrySelected``.
    """

    number: int
    counter: str
    selected: str


@dataclass(frozen=True)
class Told:
    """What the boots said.

    Attributes:
        run: All of it.
        prepared: The host.
        foreign: What another system's entry, or the admin's ``custom.cfg`` has in it afterwards.
        esp_check: What ``fsck.fat`` says.
        phases: What was reported by each start-up that stayed up.
    """

    run: machine.Run
    prepared: Prepared
    foreign: str
    esp_check: tuple[int, str]
    phases: Mapping[int, Mapping[str, object]] = field(default_factory=dict)

    def starts(self) -> list[int]:
        """Which deployment the loader started at each boot, by the console alone."""
        numbers = {self.prepared.first: 1, self.prepared.second: 2}
        return [numbers[one] for one in re.findall(r"vmtest: deployment ([0-9a-f]+) starts", self.run.console)]

    def grub_says(self) -> list[str]:
        """How many tries GRUB printed that it has left, at each boot."""
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.run.console)
        return re.findall(r"vmtest: GRUB has \[(\d*)\] tries left", plain)

    def seen(self) -> list[Seen]:
        """What each start-up that came to user space found."""
        found = []
        for row in self.run.reports:
            if "boot" not in row:
                continue
            loader = row["loader"]
            assert isinstance(loader, dict)
            counter = re.search(r"\+[0-9]+-[0-9]+(?=\.conf$)", loader["LoaderBootCountPath"] or "")
            tries = re.search(r"(?m)^bootc_fast_tries=(.*)$", str(row["grubenv"]))
            text = counter[0] if counter else tries[1] if tries else ""
            number = 2 if row["root"] == self.prepared.second else 1
            found.append(Seen(number, text, str(loader["LoaderEntrySelected"])))
        return found

    def look(self, phase: int, action: str = "look") -> dict[str, object]:
        """What an action of a start-up reported."""
        found = self.phases[phase][action]
        assert isinstance(found, dict)
        return found

    def said(self, phase: int, name: str, action: str = "look") -> str:
        """What a command printed that a start-up ran."""
        found = self.look(phase, action)[name]
        assert isinstance(found, dict)
        return str(found["stdout"])

    def record(self, phase: int) -> dict[str, object]:
        """What was noted of the update."""
        states = self.look(phase)["states"]
        assert isinstance(states, dict)
        found = states["deployments"][self.prepared.second]
        assert isinstance(found, dict)
        return found


def _debugfs(disk: Path, *options: str) -> str:
    argv = ["debugfs", *options, f"{disk}?offset={_ROOT_OFFSET}"]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def _write_files(disk: Path, work: Path, files: Mapping[str, str]) -> None:
    """Write files below the root partition's /sysroot without mounting it."""
    commands = []
    for number, (name, text) in enumerate(files.items()):
        own = work / f"file{number}"
        own.write_text(text)
        commands += [f"rm {_STATE}/{name}", f"write {own} {_STATE}/{name}"]
    lines = work / "debugfs"
    lines.write_text("".join(f"{one}\n" for one in commands))
    _debugfs(disk, "-w", "-f", str(lines))


def play(prepared: Prepared, work: Path, script: Script, *, timeout_s: float = 1200) -> Told:
    """Play a story on a copy of the host."""
    disk = work / "disk.raw"
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", prepared.disk, disk], check=True)
    texts = {"fates": "".join(f"{one}\n" for one in script.fates), "fate": "good\n", "old-fate": "good\n"}
    _write_files(disk, work, {**texts, "script.json": json.dumps({"late": script.late})})
    devices = ("-device", "i6300esb", "-action", "watchdog=reset")
    run = machine.run_machine(disk, work, boots=script.boots, boot_timeout_s=timeout_s, devices=devices)
    errors = [row["error"] for row in run.reports if "error" in row]
    assert not errors, errors[0]
    phases: dict[int, dict[str, object]] = {}
    for row in run.reports:
        if "phase" in row:
            phases.setdefault(int(str(row["phase"])), {}).update(row)
    is_grub = prepared.kind.loader == "grub"
    foreign = _debugfs(disk, "-R", "cat /boot/grub2/custom.cfg") if is_grub else machine.read_esp(disk, FOREIGN)
    told = Told(run, prepared, foreign, machine.check_esp(disk), phases)
    disk.unlink()
    return told
