"""Runs inside the machines that are there for their boot loader: update, roll back, and say what the loader sees.

Phases, kept in /var: 0 the first deployment, an update is staged; 1 the update, which rolls back; 2 the first again,
which a file ``kexec`` sends into the update without the firmware: 3.
A file ``rogue.efi`` in /var is a UKI that the firmware would refuse: it takes the staged one's place for a while.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from vm.guest import STATE, apply, command, report, seal_images

ESP = Path("/run/vmtest-esp")
GRUB = Path("/sysroot/boot/grub2")
EFIVARS = Path("/sys/firmware/efi/efivars")
LOADER = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
LAST_FIRMWARE_PHASE = 2
GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"


@contextlib.contextmanager
def mounted_esp(options: str) -> Iterator[None]:
    """The ESP at `ESP`; unmounted before the program looks for it."""
    ESP.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "vfat", "-o", options, "/dev/vda1", ESP], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", ESP], check=True)


def read_variable(name: str, vendor: str) -> bytes | None:
    """An EFI variable without its attributes."""
    path = EFIVARS / f"{name}-{vendor}"
    return path.read_bytes()[4:] if path.exists() else None


def loader_facts() -> dict[str, object]:
    """What the loader said about itself and its menu, and what systemd's tool makes of the same files."""
    texts = {}
    for name in ("LoaderInfo", "LoaderEntries", "LoaderEntrySelected", "LoaderDevicePartUUID"):
        raw = read_variable(name, LOADER)
        texts[name] = None if raw is None else raw.decode("utf-16-le").split("\0")[:-1]
    secure = read_variable("SecureBoot", GLOBAL)
    facts: dict[str, object] = {**texts, "secure_boot": secure == b"\1"}
    if "systemd-boot" in str(texts["LoaderInfo"]):
        with mounted_esp("ro"):
            facts["bootctl"] = command("bootctl", f"--esp-path={ESP}", "list", "--json=short", "--no-pager")
    return facts


def refusal() -> dict[str, object] | None:
    """What finalize says to a staged UKI that another key has signed; the good one is back afterwards."""
    rogue = STATE / "rogue.efi"
    if not rogue.exists():
        return None
    digest = json.loads((STATE / "marker").read_text())["depl_id"]
    with mounted_esp("rw"):
        (staged,) = (ESP / "EFI/Linux/bootc").glob(f"*{digest}*")
        shutil.copy(staged, STATE / "good.efi")
        shutil.copy(rogue, staged)
    before = command("bootc-fast", "finalize")
    with mounted_esp("rw"):
        shutil.copy(STATE / "good.efi", staged)
    return before


def play(phase: int) -> None:
    """Do what is due at this boot."""
    facts: dict[str, object] = {
        "phase": phase,
        "cmdline": Path("/proc/cmdline").read_text(),
        "etc": {"motd": Path("/etc/motd").read_text(), "os": Path("/usr/lib/os-release").read_text()},
        "status": command("bootc-fast", "status"),
        "json": command("bootc-fast", "status", "--json"),
        "failed": command("systemctl", "--failed", "--plain", "--no-legend"),
        "loader": loader_facts(),
        "grub": {path.name: path.read_text() for path in GRUB.glob("*") if path.name in ("grubenv", "custom.cfg")},
    }
    if phase == 0:
        seal_images()
        marker = Path("/run/composefs/staged-deployment")
        marker.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(STATE / "marker", marker)
        Path("/etc/motd").write_text("the admin's words\n")
        facts["refusal"] = refusal()
        facts["dry_run"] = command("bootc-fast", "finalize", "--dry-run")
    elif phase == 1:
        facts["journal"] = command("journalctl", "-b", "-1", "-u", "bootc-fast-finalize-staged.service", "--no-pager")
        facts["rollback"] = command("bootc-fast", "rollback")
        facts["status_after"] = command("bootc-fast", "status", "--json")
        facts["loader_after"] = loader_facts()
    report(**facts)


def main() -> None:
    STATE.mkdir(parents=True, exist_ok=True)
    counter = STATE / "phase"
    phase = int(counter.read_text()) if counter.exists() else 0
    counter.write_text(str(phase + 1))
    os.sync()
    play(phase)
    if phase == LAST_FIRMWARE_PHASE and (STATE / "kexec").exists():
        apply("bootc-fast", "rollback", "--apply", "--soft-reboot=kexec")
    else:
        subprocess.run(["systemctl", "reboot" if phase < LAST_FIRMWARE_PHASE else "poweroff"], check=True)


if __name__ == "__main__":
    try:
        main()
    except BaseException:  # noqa: BLE001 - the machine must report whatever went wrong, then power off
        report(error=traceback.format_exc())
        subprocess.run(["systemctl", "poweroff", "--force"], check=False)
        sys.exit(1)
