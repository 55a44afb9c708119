"""A machine in QEMU: a disk made of a lab host, firmware, and what its second serial port said.

Without KVM (spec testing.md, "In a machine"). The disk is made without mounting anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MIB = 1 << 20
_ESP_MIB = 200
# What the lab writes into efiuuid.cfg, by which GRUB finds the ESP.
_ESP_VOLUME_ID = "7B7795E7"
_ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
_EXTENDED_TYPE = "bc13c2ff-59e6-4262-a352-b275fd6f7172"
_ROOT_TYPE = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"

_POLL_S = 2
_STALL_S = 180
_STARTS = 3
# What a kernel says when the emulated timer is late, before it has done anything.
_EMULATION = (b"IO-APIC + timer doesn't work",)
# What says that the disk answers: systemd, which is silent with a quiet kernel, or an initramfs of ours.
_IS_UP = (b"systemd[1]", b"vmtest: deployment")

# Boots that were started again; the summary of the tests tells them, so that no stall of ours can hide among QEMU's.
STALLED_BOOTS: list[str] = []

# What was played: its directory, how many boots, and the seconds from the first power-on; the summary tells them, too.
PLAYED: list[tuple[str, int, float]] = []


def _run(*argv: str | os.PathLike[str]) -> None:
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "MTOOLS_SKIP_CHECK": "1"}
    subprocess.run(argv, check=True, env=environment, stdout=subprocess.DEVNULL)


def make_disk(
    lab: Path, disk: Path, *, root_mib: int, esp_files: Mapping[str, Path | str], extended: Path | None = None
) -> None:
    """Make a GPT disk: an ESP with the lab's ``efi``, an ext4 root (with verity) of the lab's ``sysroot``.

    Args:
        lab: A lab host.
        disk: The image file to make.
        root_mib: Size of the root.
        esp_files: What else the ESP has, by path: a file to copy, or text.
        extended: The tree of a third partition, an XBOOTLDR; None where there is none.
    """
    total_mib = 1 + _ESP_MIB + root_mib + (_ESP_MIB if extended is not None else 0) + 1
    with disk.open("wb") as file:
        file.truncate(total_mib * _MIB)
    table = f"label: gpt\nstart=1MiB, size={_ESP_MIB}MiB, type={_ESP_TYPE}\nsize={root_mib}MiB, type={_ROOT_TYPE}\n"
    if extended is not None:
        table += f"size={_ESP_MIB}MiB, type={_EXTENDED_TYPE}\n"
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    subprocess.run(["sfdisk", "--quiet", disk], input=table.encode(), check=True, env=environment)
    esp, root = disk.with_suffix(".esp"), disk.with_suffix(".root")
    with esp.open("wb") as file:
        file.truncate(_ESP_MIB * _MIB)
    _run("mkfs.vfat", "-F", "32", "-n", "ESP", "-i", _ESP_VOLUME_ID, esp)
    staging = disk.with_suffix(".efi")
    shutil.copytree(lab / "efi", staging)
    for name, content in esp_files.items():
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            (staging / name).write_text(content)
        else:
            shutil.copy(content, staging / name)
    _run("mcopy", "-s", "-i", esp, *sorted(staging.iterdir()), "::")
    _run("mkfs.ext4", "-q", "-O", "verity", "-b", "4096", "-d", lab / "sysroot", root, f"{root_mib}M")
    parts = [(esp, 1), (root, 1 + _ESP_MIB)]
    if extended is not None:
        image = disk.with_suffix(".extended")
        with image.open("wb") as file:
            file.truncate(_ESP_MIB * _MIB)
        _run("mkfs.vfat", "-F", "32", "-n", "XBOOTLDR", image)
        _run("mcopy", "-s", "-i", image, *sorted(extended.iterdir()), "::")
        parts.append((image, 1 + _ESP_MIB + root_mib))
    for part, start_mib in parts:
        _run("dd", f"if={part}", f"of={disk}", "bs=1M", f"seek={start_mib}", "conv=notrunc,sparse", "status=none")
        part.unlink()
    shutil.rmtree(staging)


def check_esp(disk: Path) -> tuple[int, str]:
    """Run ``fsck.fat -n`` on the ESP of a disk; return its exit code and ``"clean"`` or what it said."""
    esp = disk.with_suffix(".esp")
    _run("dd", f"if={disk}", f"of={esp}", "bs=1M", "skip=1", f"count={_ESP_MIB}", "status=none")
    argv = ["fsck.fat", "-n", esp]
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    done = subprocess.run(argv, check=False, capture_output=True, text=True, env=environment)
    esp.unlink()
    return done.returncode, "clean" if done.returncode == 0 else done.stdout


def _mtools(disk: Path, program: str, *argv: str) -> str:
    done = subprocess.run([program, "-i", f"{disk}@@1M", *argv], check=True, capture_output=True, text=True)
    return done.stdout


def list_esp(disk: Path, directory: str) -> tuple[str, ...]:
    """The names in a directory of the ESP."""
    lines = _mtools(disk, "mdir", "-b", f"::/{directory}").splitlines()
    return tuple(sorted(line.rpartition("/")[2] for line in lines))


def read_esp(disk: Path, path: str) -> str:
    """A file of the ESP."""
    return _mtools(disk, "mtype", f"::/{path}")


@dataclass(frozen=True)
class Run:
    """All boots of a machine, from the first power-on to its power-off."""

    reports: list[dict[str, object]]
    console: str
    seconds: float


def _firmware(variables: Path, *, secure_boot: bool) -> list[str]:
    """QEMU's options for machine and firmware; with Secure Boot the variables are writable in SMM only."""
    code, machine = ("OVMF_CODE_4M.secboot.fd", "q35,smm=on") if secure_boot else ("OVMF_CODE_4M.fd", "q35")
    shutil.copy("/usr/share/OVMF/OVMF_VARS_4M.fd", variables)
    options = [
        "-machine", machine,
        "-drive", f"if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/{code}",
        "-drive", f"if=pflash,format=raw,file={variables}",
    ]  # fmt: skip
    if secure_boot:
        options += ["-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1"]
    return options


def _tail(console: Path) -> str:
    return console.read_text(errors="replace")[-4000:]


def _boot(argv: list[str], console: Path, number: int, *, timeout_s: float) -> bool:
    """Start QEMU and wait until it ends; False where the machine stalled before it did anything of ours.

    QEMU 7.2 now and then loses the first request to the disk (seen once in some twenty boots): the kernel then waits
    for it for ever, with nothing mounted yet. On a machine with other work its clocks drift apart: the kernel panics.
    """
    before = size = console.stat().st_size
    started = grown = time.monotonic()
    machine = subprocess.Popen(argv)
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                machine.wait(_POLL_S)
                return True
            now = time.monotonic()
            if console.stat().st_size != size:
                size, grown = console.stat().st_size, now
            said = console.read_bytes()[before:]
            is_stalled = now - grown > _STALL_S or any(words in said for words in _EMULATION)
            if is_stalled and not any(words in said for words in _IS_UP):
                return False
            if now - started > timeout_s:
                raise AssertionError(f"boot {number} did not end in {timeout_s:.0f} s; console:\n{_tail(console)}")
    finally:
        machine.kill()
        machine.wait()


def run_machine(
    disk: Path,
    work: Path,
    *,
    boots: int,
    boot_timeout_s: float,
    secure_boot: bool = False,
    devices: Sequence[str] = (),
) -> Run:
    """Boot the disk `boots` times; return what it reported on its second serial port, one JSON object a line.

    Every reset ends QEMU and the next boot starts it anew: a boot that hangs is then one that can be named, and
    the firmware finds its variables as after a power cycle.
    """
    console, report = work / "console.log", work / "report.log"
    for path in (console, report):
        path.touch()
    argv = [
        "qemu-system-x86_64", "-nodefaults", "-no-reboot", "-accel", "tcg,thread=multi,tb-size=512",
        *_firmware(work / "vars.fd", secure_boot=secure_boot),
        "-cpu", "Nehalem", "-smp", "1", "-m", "2048", "-display", "none", "-nic", "none",
        "-drive", f"if=virtio,format=raw,cache=unsafe,file={disk}", "-global", "virtio-blk-pci.ioeventfd=off",
        "-chardev", f"file,id=console,append=on,path={console}", "-serial", "chardev:console",
        "-chardev", f"file,id=report,append=on,path={report}", "-serial", "chardev:report",
        *devices,
    ]  # fmt: skip
    started = time.monotonic()
    for number in range(boots):
        for _ in range(_STARTS):
            if _boot(argv, console, number, timeout_s=boot_timeout_s):
                break
            STALLED_BOOTS.append(f"{work.name} boot {number}: …{_tail(console)[-200:]!r}")
        else:
            raise AssertionError(f"boot {number} stalled {_STARTS} times before systemd; console:\n{_tail(console)}")
    lines = report.read_text(errors="replace").splitlines()
    reports = [json.loads(line) for line in lines if line.startswith('{"')]
    seconds = time.monotonic() - started
    PLAYED.append((work.name, boots, seconds))
    return Run(reports, console.read_text(errors="replace"), seconds)
