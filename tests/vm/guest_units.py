"""Runs inside the machine that is there for the units: isolated targets, expired automounts, the sandboxes.

Phases, kept in /var: 0 the first deployment, an update is staged, the ESP is an automount at /efi that has expired:
isolate rescue.target, edit /etc, go down; 1 the update: every command runs under the finalize unit's sandbox, two boot
entries for one deployment are made one by boot-complete's unit; the first is staged, the ESP is an expired automount at
/boot: isolate emergency.target, edit, go down; 2 the first again.
"""

import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable
from pathlib import Path

from vm.guest import STATE, command, report, seal_images
from vm.guest_loaders import EFIVARS, ESP, LOADER, mounted_esp, read_variable

FINALIZE = "bootc-fast-finalize-staged.service"
BOOT_COMPLETE = "bootc-fast-boot-complete.service"
MARKER = Path("/run/composefs/staged-deployment")
LAST_PHASE = 2
WAIT_S = 240
PROPERTIES = "NoNewPrivileges,MemoryDenyWriteExecute,ProtectProc,IPAddressDeny,Result,ExecMainStatus,ActiveState"

# Of a unit's [Service] section: what makes its sandbox, the part of which systemd-run takes as properties.
_NO_SANDBOX = ("Type", "RemainAfterExit", "ExecStart", "ExecStop", "Timeout", "NotifyAccess")


def wait_for(what: str, is_so: object) -> None:
    """Wait until something is so; the machine has no event for it."""
    assert callable(is_so)
    end = time.monotonic() + WAIT_S
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.5)


def mounts_at(point: str) -> list[str]:
    """File systems at a mount point, from below."""
    rows = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [row[row.index("-") + 1] for row in rows if row[4] == point]


def expire_automount(point: str) -> dict[str, object]:
    """Make the ESP an automount, look into it, wait until it is unmounted again."""
    options = "noauto,x-systemd.automount,x-systemd.idle-timeout=1s"
    Path("/etc/fstab").write_text(f"/dev/vda1 {point} vfat {options} 0 0\n")
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    subprocess.run(["systemctl", "start", f"{point.strip('/')}.automount"], check=True)
    names = sorted(os.listdir(point))
    inside = mounts_at(point)
    wait_for("the automount to expire", lambda: mounts_at(point) == ["autofs"])
    return {"names": names, "inside": inside, "after": mounts_at(point)}


def other_jobs() -> list[str]:
    """What systemd is still about, besides starting the unit that this runs in."""
    lines = str(command("systemctl", "list-jobs", "--no-legend", "--plain")["stdout"]).splitlines()
    return [line for line in lines if "bootc-fast-vmtest.service" not in line and "No jobs" not in line]


def isolate(target: str) -> dict[str, object]:
    """Isolate a target; the system stays up. Returns what the finalize's unit is then."""
    subprocess.run(["systemctl", "isolate", "--no-block", target], check=True)
    wait_for(target, lambda: command("systemctl", "is-active", target)["stdout"] == "active\n")
    wait_for("other units to stop", lambda: not other_jobs())
    return {
        "multi_user": command("systemctl", "is-active", "multi-user.target"),
        "unit": command("systemctl", "is-active", FINALIZE),
        "marker_is_there": MARKER.exists(),
        "status": command("bootc-fast", "status"),
    }


def read_sandbox(unit: str) -> list[str]:
    text = Path("/usr/lib/systemd/system", unit).read_text().partition("[Service]")[2].partition("\n[")[0]
    rows = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    # In a file several lines are one set; as properties, the last one counts.
    bounding = "CapabilityBoundingSet="
    capabilities = " ".join(row.removeprefix(bounding) for row in rows if row.startswith(bounding))
    return [bounding + capabilities, *(row for row in rows if not row.startswith((bounding, *_NO_SANDBOX)))]


def in_sandbox(sandbox: Iterable[str], *argv: str) -> dict[str, object]:
    """Run a command as a unit with these properties would."""
    return command("systemd-run", "--quiet", "--wait", "--pipe", *(f"--property={row}" for row in sandbox), *argv)


# While nothing is staged yet, and while the deployment before is. Not with --soft-reboot: a kexec, which is tried,
# wants CAP_SYS_BOOT and a system call that no unit of ours makes.
BEFORE_STAGING = (("status", "-v"), ("rollback", "--dry-run", "--json"))
WHILE_STAGED = (
    ("status", "--json"),
    ("finalize", "--dry-run", "--json"),
    ("doctor", "--json"),
    ("etc", "diff", "--json"),
    ("etc", "merge", "--dry-run", "--json"),
)


def run_everything(commands: Iterable[tuple[str, ...]]) -> list[dict[str, object]]:
    """Run commands that only look, as they are and under the finalize unit's sandbox."""
    sandbox = read_sandbox(FINALIZE)
    return [
        {
            "argv": argv,
            "bare": command("bootc-fast", *argv),
            "inside": in_sandbox(sandbox, "/usr/bin/bootc-fast", *argv),
        }
        for argv in commands
    ]


def set_default_entry(name: str) -> None:
    path = EFIVARS / f"LoaderEntryDefault-{LOADER}"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(fd, b"\7\0\0\0" + (name + "\0").encode("utf-16-le"))
    os.close(fd)


def entries_on_esp() -> dict[str, str]:
    with mounted_esp("ro"):
        return {path.name: path.read_text() for path in sorted((ESP / "loader/entries").iterdir())}


def booted_word() -> str:
    return next(word for word in Path("/proc/cmdline").read_text().split() if word.startswith("composefs="))


def make_duplicate() -> dict[str, object]:
    """Leave two entries for the booted deployment, as a cut does, the second one the default; have them made one."""
    digest = booted_word()
    with mounted_esp("rw"):
        path = next(one for one in sorted((ESP / "loader/entries").iterdir()) if digest in one.read_text())
        twin = path.with_name("bootc_twin-1-0.conf")
        shutil.copy(path, twin)
    set_default_entry(twin.name)
    before = entries_on_esp()
    restarted = command("systemctl", "restart", BOOT_COMPLETE)
    default = read_variable("LoaderEntryDefault", LOADER)
    return {
        "before": before,
        "restart": restarted,
        "after": entries_on_esp(),
        "default": None if default is None else default.decode("utf-16-le").rstrip("\0"),
        "journal": command("journalctl", "-b", "-u", BOOT_COMPLETE, "--no-pager", "-o", "cat"),
        "unit": command("systemctl", "show", f"--property={PROPERTIES}", BOOT_COMPLETE),
        "json": command("bootc-fast", "status", "--json"),
    }


def play(phase: int) -> str:
    """Do what is due at this boot; returns how the machine goes down."""
    facts: dict[str, object] = {
        "phase": phase,
        "cmdline": Path("/proc/cmdline").read_text(),
        "motd": Path("/etc/motd").read_text(),
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "failed": command("systemctl", "--failed", "--plain", "--no-legend"),
        "json": command("bootc-fast", "status", "--json"),
        "finalize": command("systemctl", "show", f"--property={PROPERTIES}", FINALIZE),
        "boot_complete": command("systemctl", "show", f"--property={PROPERTIES}", BOOT_COMPLETE),
        "journal": command("journalctl", "-b", "-1", "-u", FINALIZE, "--no-pager", "-o", "cat") if phase else None,
        "labels": Path(f"/proc/{os.getpid()}/status").read_text(),
    }
    if phase == 0:
        seal_images()
        MARKER.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(STATE / "marker", MARKER)
        facts["automount"] = expire_automount("/efi")
        facts["isolated"] = isolate("rescue.target")
        Path("/etc/motd").write_text("edited in rescue.target\n")
    elif phase == 1:
        # The kernel's own path may have the other one's digest: two deployments with one kernel share its files.
        image = Path("/sysroot/composefs/images", booted_word().removeprefix("composefs=").removeprefix("?"))
        first = next(one.name for one in image.parent.iterdir() if one != image)
        facts["duplicate"] = make_duplicate()
        before = run_everything(BEFORE_STAGING)
        MARKER.parent.mkdir(parents=True, exist_ok=True)
        MARKER.write_text(f'{{"depl_id": "{first}", "finalization_locked": false}}')
        facts["everything"] = [*before, *run_everything((*WHILE_STAGED, ("image", "ls", str(image))))]
        facts["process"] = {
            unit: in_sandbox(read_sandbox(unit), "/bin/cat", "/proc/self/status") for unit in (FINALIZE, BOOT_COMPLETE)
        }
        facts["automount"] = expire_automount("/boot")
        facts["isolated"] = isolate("emergency.target")
        Path("/etc/motd").write_text("edited in emergency.target\n")
    report(**facts)
    return "poweroff" if phase == LAST_PHASE else "reboot"


def main() -> None:
    STATE.mkdir(parents=True, exist_ok=True)
    counter = STATE / "phase"
    phase = int(counter.read_text()) if counter.exists() else 0
    counter.write_text(str(phase + 1))
    os.sync()
    subprocess.run(["systemctl", play(phase)], check=True)


if __name__ == "__main__":
    try:
        main()
    except BaseException:  # noqa: BLE001 - the machine must report whatever went wrong, then power off
        report(error=traceback.format_exc())
        subprocess.run(["systemctl", "poweroff", "--force"], check=False)
        sys.exit(1)
