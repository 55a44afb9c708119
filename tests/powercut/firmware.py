"""The boot loader's own writes: OVMF starts it again and again, under a log of every write and every flush.

systemd-boot renames what it counts, through the firmware's FAT driver; GRUB writes over its environment block. Kernels
of lab hosts are no programs: what is tried is counted before that is found out, and each start is a power cycle.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from powercut.fat import Fat
from powercut.images import LOADER_BYTES, LOADER_PATH
from powercut.machine import ROOTFS
from powercut.recording import Flush, Mark, Recording, Write, read_image, read_log, write_image
from vm.grub import make_image

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SYSTEMD_BOOT = ROOTFS / "usr/lib/systemd/boot/efi/systemd-bootx64.efi"
_ESCAPE = re.compile(rb"\x1b\[[0-9;=?]*[A-Za-z]|\x1b[=>()][0-9A-B]?")
# What systemd-boot says of a kernel that is no program, and GRUB of the entry that it has chosen.
_TRIED = re.compile(r"bootc_composefs-([0-9a-f]{64,128})|Booting`[^']*\(([0-9a-f]{64,128})\)'")
NOTHING = re.compile(r"Reboot Into Firmware|No loader found|BdsDxe: No bootable|Shell>")
_ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
_PART_START = 2048
_LOG_BYTES = 1 << 30
_LOG_OPTIONS = "log-sector-size=512,log-super-update-interval=1"
_TIMEOUT_S = 300
# GRUB itself lies on another disk, where it looks for this: the recorded partition has no room for a loader of a MiB.
_GRUB_DISK_MIB = 40
_GRUB_CONFIG = """\
serial --unit=0 --speed=115200
terminfo -g 200x60 serial vt100
terminal_input serial
terminal_output serial
function blscfg { true; }
search --no-floppy --set=root --fs-uuid 7B77-95E7
set prefix=($root)/grub2
configfile $prefix/grub.cfg
"""


def _run(*argv: str | os.PathLike[str], text: str = "") -> None:
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "MTOOLS_SKIP_CHECK": "1"}
    subprocess.run(argv, check=True, input=text.encode(), env=environment, stdout=subprocess.DEVNULL)


def add_loader(base: Mapping[int, bytes], changed: Mapping[int, bytes]) -> dict[int, bytes]:
    """Fill in systemd-boot, for which a file of zeros stands in a recording."""
    fat = Fat(base, changed)
    entry = fat.files()[LOADER_PATH]
    program = SYSTEMD_BOOT.read_bytes().ljust(LOADER_BYTES, b"\0")
    layout, filled = fat.layout, dict(changed)
    step = layout.sectors_per_cluster
    for number, cluster in enumerate(fat.chain(entry.cluster).clusters):
        for at in range(step):
            sector = layout.data_start + (cluster - 2) * step + at
            offset = (number * step + at) * 512
            filled[sector] = program[offset : offset + 512].ljust(512, b"\0")
    return filled


def put_on_disk(image: Path, disk: Path, *, number: int = 1) -> None:
    """Make a disk whose only partition is an image."""
    size = image.stat().st_size
    with disk.open("wb") as file:
        file.truncate(size + (4 << 20))
    table = f"label: gpt\n{number}: start={_PART_START}, size={size // 512}, type={_ESP_TYPE}\n"
    _run("sfdisk", "--quiet", disk, text=table)
    _run("dd", f"if={image}", f"of={disk}", "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none")


@dataclass(frozen=True)
class Ovmf:
    """A machine with nothing but disks and a console."""

    work: Path

    def start(self, drives: Sequence[str], *, timeout_s: float) -> str | None:
        """Start it once; return the digest of what was tried, ``""`` where the loader had none, None in time."""
        console = self.work / "console"
        shutil.copy("/usr/share/OVMF/OVMF_VARS_4M.fd", self.work / "vars.fd")
        console.write_bytes(b"")
        argv = [
            "qemu-system-x86_64", "-nodefaults", "-no-reboot", "-machine", "q35",
            "-accel", "tcg,thread=multi,tb-size=256",
            "-cpu", "Nehalem", "-smp", "1", "-m", "256", "-display", "none", "-nic", "none",
            "-drive", "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
            "-drive", f"if=pflash,format=raw,file={self.work}/vars.fd", *drives, "-serial", f"file:{console}",
        ]  # fmt: skip
        machine = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        started = time.monotonic()
        try:
            while machine.poll() is None and time.monotonic() - started < timeout_s:
                time.sleep(1)
                plain = _ESCAPE.sub(b"", console.read_bytes()).decode("latin-1")
                if found := _TRIED.search(re.sub(r"\s+", "", plain)):
                    return found[1] or found[2]
                if NOTHING.search(plain):
                    return ""
        finally:
            machine.terminate()  # not killed: QEMU then ends its log
            machine.wait()
        return None


def record_firmware(facts: dict[str, Any], image: Path, work: Path) -> Recording:
    """Start the loader of an image as often as there are steps; what it tried is in ``facts["tried"]``."""
    base, disk = read_image(image), work / "firmware.raw"
    drives = []
    if facts["loader"] == "grub":
        drives = _make_grub_disk(work)
    else:
        write_image(image, image.stat().st_size, base, add_loader(base, {}))
    put_on_disk(image, disk)
    found = Recording({**facts, "tried": {}}, base, [Mark("start")])
    log = work / "firmware.log"
    for step in facts["steps"]:
        with log.open("wb") as file:
            file.truncate(_LOG_BYTES)
        logged = [
            "-blockdev", f"node-name=file,driver=file,filename={disk}",
            "-blockdev", f"node-name=log,driver=file,filename={log}",
            "-blockdev", f"node-name=boot,driver=blklogwrites,file=file,log=log,{_LOG_OPTIONS}",
            "-device", f"virtio-blk-pci,drive=boot,bootindex={2 if drives else 1}",
        ]  # fmt: skip
        tried = Ovmf(work).start([*drives, *logged], timeout_s=_TIMEOUT_S)
        if not tried:
            raise AssertionError(f"{facts['name']} {step}: nothing was tried; {(work / 'console').read_bytes()!r}")
        found.facts["tried"][step] = tried
        for event in read_log(log):
            if isinstance(event, Flush):
                found.events.append(event)
                continue
            sector = event.sector - _PART_START
            if not 0 <= sector < image.stat().st_size // 512:
                raise AssertionError(f"{facts['name']} {step}: the firmware wrote outside of the partition")
            found.events.append(Write(sector, event.data))
        found.events.append(Mark(step))
    return found


def _make_grub_disk(work: Path) -> list[str]:
    """Debian's GRUB, on a disk of its own: the partition's number is where that image looks."""
    esp, disk = work / "grub-esp.img", work / "grub.raw"
    program = make_image("trixie", work / "grub.efi")
    config = work / "grub.cfg"
    config.write_text(_GRUB_CONFIG)
    with esp.open("wb") as file:
        file.truncate(_GRUB_DISK_MIB << 20)
    _run("mkfs.vfat", "-F32", esp)
    _run("mmd", "-i", esp, "::EFI", "::EFI/BOOT", "::boot", "::boot/grub2")
    _run("mcopy", "-i", esp, program, "::EFI/BOOT/BOOTX64.EFI")
    _run("mcopy", "-i", esp, config, "::boot/grub2/grub.cfg")
    put_on_disk(esp, disk, number=2)
    return [
        "-drive", f"if=none,id=grub,format=raw,cache=unsafe,file={disk}",
        "-device", "virtio-blk-pci,drive=grub,bootindex=1",
    ]  # fmt: skip
