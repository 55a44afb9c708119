"""systemd-boot in QEMU with programs in the place of kernels: which one starts, and what does the loader write?

Seconds a boot. Disk and EFI variables stay from one boot of a question to the next, as on a machine.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from powercut.fat import Fat
from secureboot.files import build_pe
from secureboot.machine import VARIABLES, build_flat, put_variables

if TYPE_CHECKING:
    from collections.abc import Mapping

LOADER = uuid.UUID("4a67b082-0a4c-41cf-b6c7-440b29bb8c4f")
_PROGRAM = Path(__file__).with_name("program.c")
_ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
_MIB = 1 << 20
_ESP_MIB = 40
_STARTED, _RESET = 3, 0
# What QEMU exits with: the program's own word to its exit port, and a reset.
_ENDS = {_STARTED: "program", _RESET: "reset"}
_GIVEN_BACK = re.compile(
    rb"Shell>|BdsDxe: No bootable|Press any key to enter the Boot Manager|Please select boot device"
)
_POLL_S = 0.2
_TIMEOUT_S = 180


@dataclass(frozen=True)
class Setup:
    """What a disk and a firmware have before the first boot.

    Attributes:
        entries: ``loader/entries``, by name.
        files: What else is on the ESP, by path.
        settings: ``loader.conf`` besides ``timeout 0``.
        variables: EFI variables of the boot loader interface.
    """

    entries: Mapping[str, str]
    files: Mapping[str, bytes] = field(default_factory=dict)
    settings: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)


def _flat(name: str, work: Path) -> bytes:
    return build_flat(_PROGRAM, work, f'-DNAME="{name}"')


def make_program(name: str, work: Path, *sections: tuple[str, bytes]) -> bytes:
    """A kernel's stand-in that calls itself `name`."""
    return build_pe(_flat(name, work), *sections)


def _run(*argv: str | os.PathLike[str], **options: object) -> bytes:
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "MTOOLS_SKIP_CHECK": "1"}
    done = subprocess.run(argv, check=True, env=environment, stdout=subprocess.PIPE, **options)  # type: ignore[call-overload]
    assert isinstance(done.stdout, bytes)
    return done.stdout


@dataclass(frozen=True)
class Boot:
    """One boot.

    Attributes:
        ended: ``program`` (one of ours was started), ``reset``, or ``firmware``: it was given back to it.
        said: What the program said: its name as ``BOOTED``, and the loader's variables.
        entries: The names in ``loader/entries`` and ``EFI/Linux`` afterwards.
        slots: How many 32-byte slots ``loader/entries`` has before its end mark, deleted ones included.
    """

    ended: str
    said: Mapping[str, str]
    entries: tuple[str, ...]
    slots: int


class Machine:
    """A disk with one systemd-boot, and a firmware's variables."""

    def __init__(self, work: Path, loader: Path, setup: Setup) -> None:
        self._work = work
        self._disk, self._variables = work / "disk.raw", work / "vars.fd"
        tree = work / "esp"
        shutil.rmtree(tree, ignore_errors=True)
        (tree / "EFI/BOOT").mkdir(parents=True)
        (tree / "loader/entries").mkdir(parents=True)
        shutil.copy(loader, tree / "EFI/BOOT/BOOTX64.EFI")
        (tree / "loader/loader.conf").write_text(f"timeout 0\n{setup.settings}\n")
        for name, text in setup.entries.items():
            (tree / "loader/entries" / name).write_text(text)
        for name, content in setup.files.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes(content)
        with self._disk.open("wb") as file:
            file.truncate((_ESP_MIB + 2) * _MIB)
        table = f"label: gpt\nstart=2048, size={_ESP_MIB}MiB, type={_ESP}\n"
        _run("sfdisk", "--quiet", self._disk, input=table.encode())
        _run("mkfs.vfat", "-F", "32", "--offset=2048", self._disk, str(_ESP_MIB * 1024), stderr=subprocess.DEVNULL)
        _run("mcopy", "-s", "-i", f"{self._disk}@@1M", *sorted(tree.iterdir()), "::")
        rows = [(name, LOADER, 7, (value + "\0").encode("utf-16-le")) for name, value in setup.variables.items()]
        put_variables(self._variables, rows) if rows else shutil.copy(VARIABLES, self._variables)

    def boot(self) -> Boot:
        """Boot once."""
        said, console = self._work / "said", self._work / "console"
        for path in (said, console):
            path.write_bytes(b"")
        argv = [
            "qemu-system-x86_64", "-nodefaults", "-no-reboot", "-machine", "q35",
            "-accel", "tcg,thread=multi,tb-size=256", "-cpu", "Nehalem", "-m", "256",
            "-display", "none", "-nic", "none", "-drive",
            "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
            "-drive", f"if=pflash,format=raw,file={self._variables}",
            "-drive", f"if=virtio,format=raw,cache=unsafe,file={self._disk}", "-serial", f"file:{console}",
            "-debugcon", f"file:{said}", "-global", "isa-debugcon.iobase=0xe9",
            "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04",
        ]  # fmt: skip
        machine = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        started, ended = time.monotonic(), ""
        try:
            while not ended:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    ended = _ENDS[machine.wait(_POLL_S)]
                    break
                if _GIVEN_BACK.search(console.read_bytes()):
                    ended = "firmware"
                if time.monotonic() - started > _TIMEOUT_S:
                    raise AssertionError(f"it did not end in {_TIMEOUT_S} s: {console.read_bytes()[-2000:]!r}")
        finally:
            machine.kill()
            machine.wait()
        lines = (line.partition("=") for line in said.read_text(errors="replace").splitlines())
        texts = {name: value.strip() for name, mark, value in lines if mark}
        return Boot(ended, texts, *self.look())

    def look(self) -> tuple[tuple[str, ...], int]:
        """What `Boot` has as ``entries`` and ``slots``, now."""
        with self._disk.open("rb") as file:
            file.seek(_MIB)
            fat = Fat(file.read(_ESP_MIB * _MIB))
        homes = ("loader/entries/", "EFI/Linux/")
        names = sorted(path.rpartition("/")[2] for path in fat.files() if path.startswith(homes))
        directory = next(one.entry for one in fat.walk() if one.path == "loader/entries")
        return tuple(names), fat.count_slots(directory)
