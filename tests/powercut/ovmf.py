"""OVMF and systemd-boot look at states: which kernel do they try, or none?

Kernels of lab hosts are no programs: the loader says so, with the path, and that is what is read off the serial port.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from powercut.fat import Fat
from powercut.images import LOADER_BYTES, LOADER_PATH
from powercut.machine import ROOTFS
from powercut.recording import load, write_image
from powercut.replay import RECORDINGS, judged_states

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from powercut.recording import Recording

_SYSTEMD_BOOT = ROOTFS / "usr/lib/systemd/boot/efi/systemd-bootx64.efi"
_ESCAPE = re.compile(rb"\x1b\[[0-9;=?]*[A-Za-z]")
_TRIED = re.compile(r"bootc_composefs-([0-9a-f]{64,128})")
_NOTHING = re.compile(r"Reboot Into Firmware|No loader found|BdsDxe: No bootable|Shell>")
_ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"


def add_loader(recording: Recording, changed: Mapping[int, bytes]) -> dict[int, bytes]:
    """Fill in the loader, for which a file of zeros stands in a recording."""
    fat = Fat(recording.base, changed)
    entry = fat.files()[LOADER_PATH]
    program = _SYSTEMD_BOOT.read_bytes().ljust(LOADER_BYTES, b"\0")
    layout, filled = fat.layout, dict(changed)
    step = layout.sectors_per_cluster
    for number, cluster in enumerate(fat.chain(entry.cluster).clusters):
        for at in range(step):
            sector = layout.data_start + (cluster - 2) * step + at
            offset = (number * step + at) * 512
            filled[sector] = program[offset : offset + 512].ljust(512, b"\0")
    return filled


def ask_firmware(recording: Recording, changed: Mapping[int, bytes], work: Path, *, timeout_s: float) -> str | None:
    """Boot a state; return the digest of the kernel that was tried, ``""`` where the loader had none, None in time."""
    fat, disk, console = work / "fat.img", work / "disk.raw", work / "console"
    size = recording.facts["size_mib"] << 20
    write_image(fat, size, recording.base, add_loader(recording, changed))
    with disk.open("wb") as file:
        file.truncate(size + (4 << 20))
    table = f"label: gpt\nstart=2048, size={size // 512}, type={_ESP_TYPE}\n"
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    subprocess.run(["sfdisk", "--quiet", disk], input=table.encode(), check=True, env=environment)
    argv = ["dd", f"if={fat}", f"of={disk}", "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none"]
    subprocess.run(argv, check=True)
    shutil.copy("/usr/share/OVMF/OVMF_VARS_4M.fd", work / "vars.fd")
    console.write_bytes(b"")
    argv = [
        "qemu-system-x86_64", "-nodefaults", "-no-reboot", "-machine", "q35", "-accel", "tcg,thread=multi,tb-size=256",
        "-cpu", "Nehalem", "-smp", "1", "-m", "256", "-display", "none", "-nic", "none",
        "-drive", "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
        "-drive", f"if=pflash,format=raw,file={work}/vars.fd",
        "-drive", f"if=virtio,format=raw,cache=unsafe,file={disk}", "-serial", f"file:{console}",
    ]  # fmt: skip
    machine = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    started = time.monotonic()
    try:
        while machine.poll() is None and time.monotonic() - started < timeout_s:
            time.sleep(1)
            text = re.sub(r"\s+", "", _ESCAPE.sub(b"", console.read_bytes()).decode("latin-1"))
            if found := _TRIED.search(text):
                return found[1]
            if _NOTHING.search(_ESCAPE.sub(b"", console.read_bytes()).decode("latin-1")):
                return ""
    finally:
        machine.kill()
        machine.wait()
    return None


def has_loader(recording: Recording) -> bool:
    """Tell whether there is room for systemd-boot on it, and a kernel of which it says that it is no program.

    A UKI of a lab host is one, and says nothing.
    """
    facts = recording.facts
    is_asked = facts["loader"] == "systemd-boot" and "uki" not in facts["host"]
    return bool(facts["options"]) and is_asked and facts["free"] is None


def ask_samples(recordings: Iterable[Recording], *, each: int, timeout_s: float, seed: int) -> Counter[str]:
    """Boot states of every class of every recording that has a loader; print and count what came out."""
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="bootc-fast-powercut.") as scratch:
        for one in recordings:
            facts = one.facts
            if not has_loader(one):
                continue
            seen: Counter[tuple[object, ...]] = Counter()
            for cut, verdict in judged_states(one, randoms=10, seed=seed):
                kind = (verdict.boots, verdict.notes, verdict.problems)
                seen[kind] += 1
                if seen[kind] > each:
                    continue
                tried = ask_firmware(one, cut.changed, Path(scratch), timeout_s=timeout_s)
                said = {facts["old"]: "old", facts["new"]: "new", "": None}.get(tried or "", tried)
                outcome = "as judged" if said == verdict.boots and tried is not None else "otherwise"
                outcomes[outcome] += 1
                print(f"{facts['name']} {cut.name}: {outcome}: {said}; judged {verdict}", flush=True)
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, default=sorted(RECORDINGS.glob("*.xz")))
    parser.add_argument("--only", nargs="*", default=[""], help="what a recording's name begins with")
    parser.add_argument("--each", type=int, default=1, help="states of each class (1)")
    parser.add_argument("--timeout", type=float, default=120)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    recordings = [
        one for path in arguments.files for name, one in load(path).items() if name.startswith(tuple(arguments.only))
    ]
    print(ask_samples(recordings, each=arguments.each, timeout_s=arguments.timeout, seed=arguments.seed))


if __name__ == "__main__":
    main()
