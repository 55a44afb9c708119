"""Tiny EFI programs in the place of kernels: firmware and loader start one, it says which one it is, and QEMU ends."""

from __future__ import annotations

import shutil
import struct
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SYSTEMD_BOOT = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"
"""This machine's own: the package that the tests have the stub from."""

_ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
_XBOOTLDR = "bc13c2ff-59e6-4262-a352-b275fd6f7172"
_PAGE = 0x1000
_PARTITION_MIB = 40
# lea rsi,[rip+17]; next: lodsb; test al,al; jz end; out 0xe9,al; jmp next; end: out 0xf4,al; halt: hlt; jmp halt
_CODE = bytes.fromhex("488d3511000000 ac 84c0 7404 e6e9 ebf7 e6f4 f4 ebfd".replace(" ", ""))
_MESSAGE_AT = 7 + 17


def make_program(text: str, sections: Mapping[str, bytes] | None = None) -> bytes:
    """Make a PE file for x86-64 EFI that writes `text` to port 0xe9 and ends QEMU through port 0xf4."""
    message = text.encode("ascii") + b"\0"
    parts = {".text": _CODE.ljust(_MESSAGE_AT, b"\x90") + message, **(sections or {})}
    head = bytearray(_PAGE)
    head[:2] = b"MZ"
    struct.pack_into("<I", head, 0x3C, 0x80)
    struct.pack_into("<4sHHIIIHH", head, 0x80, b"PE\0\0", 0x8664, len(parts), 0, 0, 0, 0xF0, 0x22E)
    optional, table = 0x98, 0x98 + 0xF0
    struct.pack_into("<HBBIIIII", head, optional, 0x20B, 1, 0, _PAGE, 0, 0, _PAGE, _PAGE)
    struct.pack_into("<QII", head, optional + 24, 0, _PAGE, _PAGE)
    struct.pack_into(
        "<HHHHHHIIIIHH", head, optional + 40, 0, 0, 1, 0, 1, 0, 0, (len(parts) + 1) * _PAGE, _PAGE, 0, 10, 0
    )
    struct.pack_into("<QQQQII", head, optional + 72, 0, 0, 0, 0, 0, 16)
    body = b""
    for number, (name, data) in enumerate(parts.items()):
        place = (number + 1) * _PAGE
        flags = 0x60000020 if name == ".text" else 0x40000040
        row = (name.encode(), len(data), place, _PAGE, place, 0, 0, 0, 0, flags)
        struct.pack_into("<8sIIIIIIHHI", head, table + 40 * number, *row)
        body += data.ljust(_PAGE, b"\0")
    return bytes(head) + body


def make_disk(disk: Path, esp: Path, extended: Path) -> None:
    """Make a disk with an ESP and an XBOOTLDR partition out of two trees."""
    sectors = _PARTITION_MIB * 2048
    lines = [f"start={2048 + sectors * n}, size={sectors}, type={kind}" for n, kind in enumerate((_ESP, _XBOOTLDR))]
    with disk.open("wb") as file:
        file.truncate((2 * _PARTITION_MIB + 4) << 20)
    text = "\n".join(["label: gpt", *lines]) + "\n"
    subprocess.run(["/sbin/sfdisk", "-q", disk], input=text.encode(), check=True)
    for number, tree in enumerate((esp, extended)):
        image = disk.with_suffix(f".{number}")
        with image.open("wb") as file:
            file.truncate(_PARTITION_MIB << 20)
        subprocess.run(["/sbin/mkfs.vfat", "-F", "32", image], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["mcopy", "-s", "-Q", "-i", image, *sorted(tree.iterdir()), "::/"], check=True)
        with disk.open("r+b") as file, image.open("rb") as content:
            file.seek((1 + number * _PARTITION_MIB) << 20)
            shutil.copyfileobj(content, file, 1 << 20)
        image.unlink()


def boot(work: Path, disk: Path, *, timeout_s: float = 300) -> str:
    """Boot the disk; returns what the program that was started wrote, empty where none was."""
    variables, said = work / "vars.fd", work / "said"
    shutil.copy("/usr/share/OVMF/OVMF_VARS_4M.fd", variables)
    said.unlink(missing_ok=True)
    argv = [
        "qemu-system-x86_64", "-nodefaults", "-machine", "q35", "-accel", "tcg,thread=multi,tb-size=256",
        "-cpu", "Nehalem", "-m", "256", "-display", "none", "-nic", "none",
        "-drive", "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
        "-drive", f"if=pflash,format=raw,file={variables}",
        "-drive", f"if=virtio,format=raw,cache=unsafe,file={disk}",
        "-debugcon", f"file:{said}", "-global", "isa-debugcon.iobase=0xe9",
        "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04",
    ]  # fmt: skip
    subprocess.run(argv, check=False, timeout=timeout_s, stdin=subprocess.DEVNULL)
    return said.read_text()
