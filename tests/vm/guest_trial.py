"""Runs inside the machines whose updates are on trial: says at each boot what the loader did, and does what is due.

``say`` runs before the health checks of each boot, also of those that end in a reboot.
``main`` runs once a boot has come to its end and stays up: the next list of a script in /var says what it does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

from vm.guest import STATE, command, report, seal_images, seal_objects
from vm.guest_loaders import LOADER, read_variable

MARKER = Path("/run/composefs/staged-deployment")
STATES = Path("/sysroot/state/bootc-fast/deployments.json")
GRUBENV = Path("/sysroot/boot/grub2/grubenv")
VARIABLES = ("LoaderInfo", "LoaderEntrySelected", "LoaderBootCountPath", "LoaderEntryOneShot")


def find_root() -> str:
    """Which deployment runs, by its root."""
    rows = (line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines())
    sources = (row[row.index("-") + 2] for row in rows if row[4] == "/")
    return next(one.removeprefix("composefs:") for one in sources if one.startswith("composefs:"))


def read_note(name: str) -> str:
    path = STATE / name
    return path.read_text().strip() if path.exists() else ""


def read_script() -> dict[str, object]:
    found = json.loads((STATE / "script.json").read_text())
    assert isinstance(found, dict)
    return found


def count(name: str) -> int:
    """How often this was asked before."""
    path = STATE / name
    number = int(path.read_text()) if path.exists() else 0
    path.write_text(str(number + 1))
    os.sync()
    return number


def loader_says() -> dict[str, object]:
    texts: dict[str, object] = {}
    for name in VARIABLES:
        raw = read_variable(name, LOADER)
        texts[name] = None if raw is None else raw.decode("utf-16-le").rstrip("\0")
    return texts


def say() -> None:
    root, number = find_root(), count("said")
    grubenv = GRUBENV.read_text() if GRUBENV.exists() else None
    cmdline = Path("/proc/cmdline").read_text()
    report(boot=number, root=root, cmdline=cmdline, loader=loader_says(), grubenv=grubenv, fate=read_note("fate"))
    if root == read_note("second") and read_note("fate") == "cut":
        # As when the power goes: nothing is written back.
        Path("/proc/sysrq-trigger").write_text("o")
        # It is done by another thread of the kernel's.
        signal.pause()


def look() -> dict[str, object]:
    return {
        "status": command("bootc-fast", "status"),
        "json": command("bootc-fast", "status", "--json"),
        "states": json.loads(STATES.read_text()) if STATES.exists() else None,
        "failed": command("systemctl", "--failed", "--plain", "--no-legend"),
        "complete": command("systemctl", "is-active", "boot-complete.target"),
        "journal": command("journalctl", "-b", "-o", "cat", "--no-pager", "-t", "bootc-fast"),
    }


def stage(digest: str | None = None) -> None:
    MARKER.parent.mkdir(parents=True, exist_ok=True)
    marker = json.loads((STATE / "marker").read_text())
    MARKER.write_text(json.dumps({**marker, "depl_id": digest or marker["depl_id"]}))


def stage_sealed() -> None:
    seal_images()
    stage()


def stage_again() -> dict[str, object]:
    stage()
    said = {"finalize": command("bootc-fast", "finalize"), "dry": command("bootc-fast", "status")}
    MARKER.unlink()
    return said


def retry() -> dict[str, object]:
    """What has failed is put on trial again by somebody who insists."""
    return command("bootc-fast", "rollback", "--force", "--to", read_note("second"))


def spoil_old() -> None:
    (STATE / "old-fate").write_text("bad\n")


ACTIONS = {"stage": stage_sealed, "again": stage_again, "look": look, "retry": retry, "old bad": spoil_old}


def do(action: str) -> dict[str, object] | None:
    """Do one thing; returns what there is to report."""
    if action in ACTIONS:
        return ACTIONS[action]()
    if action.startswith("soft "):
        return prepare_soft_reboot(action.removeprefix("soft "))
    report(action=action)
    subprocess.run(action.split(), check=True)
    return None


def prepare_soft_reboot(fate: str) -> dict[str, object]:
    """Let what is staged be what ``systemctl soft-reboot`` leads to; no initramfs reads its fate then."""
    seal_objects()
    (STATE / "fate").write_text(f"{fate}\n")
    return {"prepared": command("bootc-fast", "soft-reboot", "--json")}


def main() -> None:
    number = count("phase")
    late = read_script()["late"]
    assert isinstance(late, list)
    actions = late[number] if number < len(late) else ["look", "systemctl poweroff"]
    for action in actions:
        found = do(action)
        if found is not None:
            report(phase=number, **{action: found})


if __name__ == "__main__":
    try:
        say() if sys.argv[1:] == ["say"] else main()
    except BaseException:  # noqa: BLE001 - the machine must report whatever went wrong, then power off
        report(error=traceback.format_exc())
        subprocess.run(["systemctl", "poweroff", "--force"], check=False)
        sys.exit(1)
