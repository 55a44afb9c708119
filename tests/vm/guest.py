#!/usr/bin/python3
"""Runs inside the test machine at every boot: does the step that is due and reports on the second serial port.

Phases, kept in /var: 0 booted the first deployment, an update is staged: edit /etc as an admin would, shut down
(the finalize unit does its work); 1 the update runs: look at it, roll back; 2 back on the first: look, power off.

Where the story asks for it (a file ``faster``) the machine does not go off then, and the firmware is not asked again:
2 seal all objects, soft reboot into the update; 3 it runs with required verity: take the first for a staged update,
prepare a soft reboot into it, edit /etc at the last minute, soft reboot by hand; 4 the first runs again, with that
edit: kexec into the update; 5 look, power off.
"""

import errno
import fcntl
import json
import os
import struct
import subprocess
import sys
import traceback
from pathlib import Path

STATE = Path("/var/lib/bootc-fast-vmtest")
FS_IOC_ENABLE_VERITY = 0x40806685
RESTART_PREPARED = "e05d0ba0f73e42e592d34909c48e81b3"
LAST_PHASE = 5


def report(**facts: object) -> None:
    with open("/dev/ttyS1", "w") as port:
        port.write(json.dumps(facts) + "\n")


def command(*argv: str) -> dict[str, object]:
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    return {"argv": argv, "code": done.returncode, "stdout": done.stdout, "stderr": done.stderr[-4000:]}


def etc_facts() -> dict[str, object]:
    etc = Path("/etc")
    tool = etc / "vmtest-setuid"
    return {
        "motd": (etc / "motd").read_text() if (etc / "motd").exists() else None,
        "issue": (etc / "issue").read_text() if (etc / "issue").exists() else None,
        "os": Path("/usr/lib/os-release").read_text(),
        "new_default": (etc / "vmtest-new-default").exists(),
        "setuid_mode": oct(tool.stat().st_mode) if tool.exists() else None,
        "xattr": os.getxattr(tool, "user.note").decode() if tool.exists() else None,
        "unit_link": os.readlink(etc / "systemd/system/multi-user.target.wants/vmtest-admin.service")
        if (etc / "systemd/system/multi-user.target.wants/vmtest-admin.service").is_symlink()
        else None,
        "debian_version_exists": (etc / "debian_version").exists(),
    }


def seal(path: Path, algorithm_number: int) -> None:
    """Let the kernel build the Merkle tree of a file; it is immutable from then on."""
    with path.open("rb") as file:
        # struct fsverity_enable_arg: version, algorithm, block size, salt size, salt, signature size, …
        argument = struct.pack("=IIIIQIIQ88x", 1, algorithm_number, 4096, 0, 0, 0, 0, 0)
        fcntl.ioctl(file.fileno(), FS_IOC_ENABLE_VERITY, argument)


def seal_images() -> None:
    """Do what bootc does when it writes an image; the disk was made on a machine without fs-verity."""
    for image in Path("/sysroot/composefs/images").iterdir():
        seal(image, 2)


def seal_objects() -> int:
    """Seal every object, so that the kernel lets a ``verity=require`` overlay read it; returns how many."""
    count = 0
    for directory in Path("/sysroot/composefs/objects").iterdir():
        for path in directory.iterdir():
            try:
                seal(path, 2)
            except OSError as error:
                if error.errno != errno.EEXIST:
                    raise
            count += 1
    return count


def apply(*argv: str) -> None:
    """Run a command that ends this boot; what it says is for the next one to report, since it may take us down."""
    with (STATE / "applied").open("w") as out:
        done = subprocess.run(argv, check=False, stdout=out, stderr=subprocess.STDOUT)
        out.write(f"exit code {done.returncode}\n")
    if done.returncode != 0:
        report(error=(STATE / "applied").read_text())
        subprocess.run(["systemctl", "poweroff", "--force"], check=False)


def verity_facts() -> dict[str, object]:
    """Let this kernel seal files with fs-verity, and tell its digests and ours."""
    sys.path.insert(0, "/usr/lib/bootc-fast")
    from bootc_fast import _core

    facts: dict[str, object] = {}
    for algorithm, number in (("sha256", 1), ("sha512", 2)):
        for size_bytes in (1, 4096, 300_000):
            path = Path(f"/sysroot/state/verity-{algorithm}-{size_bytes}")
            path.write_bytes(b"v" * size_bytes)
            seal(path, number)
            with path.open("rb") as file:
                facts[path.name] = {
                    "kernel": _core.measure_fd(file.fileno()),
                    "computed": _core.digest_fd(file.fileno(), algorithm=algorithm),
                }
    repository = Path("/sysroot/state/verity-repository")
    repository.mkdir()
    fd = os.open(repository, os.O_RDONLY | os.O_DIRECTORY)
    content = Path("/sysroot/state/verity-content")
    content.write_bytes(b"o" * 10_000)
    with content.open("rb") as file:
        digest = _core.RepositoryWriter(fd).add_object(file.fileno())
    os.close(fd)
    with (repository / "objects" / digest[:2] / digest[2:]).open("rb") as file:
        facts["object"] = {"kernel": _core.measure_fd(file.fileno()), "computed": digest}
    return facts


def edit_etc() -> None:
    etc = Path("/etc")
    (etc / "motd").write_text("the admin's words\n")
    (etc / "debian_version").unlink()
    (etc / "systemd/system/vmtest-admin.service").write_text("[Service]\nType=oneshot\nExecStart=/bin/true\n")
    wants = etc / "systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (wants / "vmtest-admin.service").symlink_to("/etc/systemd/system/vmtest-admin.service")
    tool = etc / "vmtest-setuid"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o4755)
    os.setxattr(tool, "user.note", b"n" * 200)


def main() -> None:
    STATE.mkdir(parents=True, exist_ok=True)
    counter = STATE / "phase"
    phase = int(counter.read_text()) if counter.exists() else 0
    counter.write_text(str(phase + 1))
    os.sync()
    common = {
        "phase": phase,
        "cmdline": Path("/proc/cmdline").read_text(),
        "kernel": os.uname().release,
        "status": command("bootc-fast", "status"),
        "json": command("bootc-fast", "status", "--json"),
        "unit": command("systemctl", "is-active", "bootc-fast-finalize-staged.service"),
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "failed": command("systemctl", "--failed", "--plain", "--no-legend"),
    }
    if phase == 0:
        seal_images()
        marker = Path("/run/composefs/staged-deployment")
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(
            Path("/usr/lib/bootc-fast-vmtest/marker").read_text() if False else (STATE / "marker").read_text()
        )
        edit_etc()
        report(
            **common,
            etc=etc_facts(),
            verity=verity_facts(),
            staged=command("bootc-fast", "status"),
            dry_run=command("bootc-fast", "finalize", "--dry-run"),
        )
        subprocess.run(["systemctl", "reboot"], check=True)
    elif phase == 1:
        report(
            **common,
            etc=etc_facts(),
            rollback=command("bootc-fast", "rollback"),
            journal=command("journalctl", "-b", "-1", "-u", "bootc-fast-finalize-staged.service", "--no-pager"),
        )
        subprocess.run(["systemctl", "reboot"], check=True)
    elif (STATE / "faster").exists() and phase < LAST_PHASE:
        go_faster(phase, common)
    else:
        report(**common, etc=etc_facts(), applied=read_applied())
        subprocess.run(["systemctl", "poweroff"], check=True)


def read_applied() -> str | None:
    path = STATE / "applied"
    return path.read_text() if path.exists() else None


def go_faster(phase: int, common: dict[str, object]) -> None:
    """Restart without the firmware."""
    facts = {
        **common,
        "etc": etc_facts(),
        "last_minute": (Path("/etc") / "vmtest-last-minute").exists(),
        "applied": read_applied(),
        "running": command("systemctl", "is-system-running"),
        "init": os.readlink("/proc/1/exe"),
        "journal": command("journalctl", "-o", "cat", f"MESSAGE_ID={RESTART_PREPARED}"),
        "reboot_required": Path("/run/reboot-required").exists(),
    }
    if phase == 2:
        facts["unsealed"] = command("bootc-fast", "rollback", "--dry-run", "--soft-reboot=required")
        facts["objects"] = seal_objects()
        facts["dry_run"] = command("bootc-fast", "rollback", "--apply", "--dry-run", "--soft-reboot=required")
        facts["dry_kexec"] = command("bootc-fast", "rollback", "--apply", "--dry-run", "--soft-reboot=kexec")
        facts["mounts_after"] = Path("/proc/self/mountinfo").read_text()
        report(**facts)
        apply("bootc-fast", "rollback", "--apply", "--soft-reboot=required")
    elif phase == 3:
        first = next(word for word in Path("/proc/cmdline").read_text().split() if word.startswith("composefs="))
        marker = {"depl_id": first.removeprefix("composefs=").removeprefix("?"), "finalization_locked": False}
        Path("/run/composefs").mkdir(exist_ok=True)
        Path("/run/composefs/staged-deployment").write_text(json.dumps(marker))
        facts["staged"] = command("bootc-fast", "status")
        facts["prepared"] = command("bootc-fast", "soft-reboot", "--json")
        facts["prepared_mounts"] = Path("/proc/self/mountinfo").read_text()
        (Path("/etc") / "vmtest-last-minute").write_text("edited after the next root was prepared\n")
        report(**facts)
        apply("systemctl", "soft-reboot")
    else:
        report(**facts)
        apply("bootc-fast", "rollback", "--apply", "--soft-reboot=kexec")


if __name__ == "__main__":
    try:
        main()
    except BaseException:  # noqa: BLE001 - the machine must report whatever went wrong, then power off
        report(error=traceback.format_exc())
        subprocess.run(["systemctl", "poweroff", "--force"], check=False)
        sys.exit(1)
