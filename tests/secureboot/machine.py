"""One boot in QEMU, in which the firmware, or shim, judges files; nothing is enrolled by hand: the variables are
written into the firmware's store before it starts."""

from __future__ import annotations

import os
import struct
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from secureboot import files
from secureboot.files import CERT_X509, attach, entry, pkcs7, signature_list

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from secureboot.suite import Suite

CODE, VARIABLES = Path("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
SHIM = Path("/usr/lib/shim/shimx64.efi")
_PROGRAM = Path(__file__).with_name("program.c")
_GLOBAL = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
_SECURITY = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
_SHIM = uuid.UUID("605dab50-e046-4300-abb6-3dd810dd8b23")
# Firmware volume header, then the variable store's.
_STORE_START = 0x48 + 28
_AUTHENTICATED, _PRIVATE = 0x27, 0x03
_SBAT = b"sbat,1,SBAT Version,sbat,1,https://example.org\ntest,1,test,test,1,https://example.org\n"
_TIMEOUT_S = 900
ANSWERS = {0: "accept"} | dict.fromkeys(
    (0x8000000000000002, 0x8000000000000003, 0x800000000000000F, 0x800000000000001A), "refuse"
)
"""INVALID_PARAMETER and UNSUPPORTED are said of torn files, ACCESS_DENIED by the firmware, SECURITY_VIOLATION by
shim."""


def _encode_variable(name: str, vendor: uuid.UUID, attributes: int, data: bytes) -> bytes:
    text = name.encode("utf-16-le") + b"\0\0"
    time = struct.pack("<HBBBBBxIhBx", 2025, 1, 1, 0, 0, 0, 0, 0, 0) if attributes == _AUTHENTICATED else bytes(16)
    header = struct.pack("<HBxIQ16sIII", 0x55AA, 0x3F, attributes, 0, time, 0, len(text), len(data))
    whole = header + vendor.bytes_le + text + data
    return whole + b"\xff" * (-len(whole) % 4)


def write_variables(store: Path, suite: Suite) -> None:
    """Write a firmware's variables: its lists, and Secure Boot switched on.

    Source:
        EDK II ``MdeModulePkg/Include/Guid/VariableFormat.h``, ``AUTHENTICATED_VARIABLE_HEADER``.
    """
    owner = signature_list(CERT_X509, suite.owner.der)
    rows = [
        ("PK", _GLOBAL, _AUTHENTICATED, owner),
        ("KEK", _GLOBAL, _AUTHENTICATED, owner),
        ("db", _SECURITY, _AUTHENTICATED, suite.db),
        ("dbx", _SECURITY, _AUTHENTICATED, suite.dbx),
        ("SecureBootEnable", uuid.UUID("f0a30bc7-af08-4556-99c4-001009c93a44"), _PRIVATE, b"\1"),
        ("CustomMode", uuid.UUID("c076ec0c-7028-4399-a072-71ee5c448b9f"), _PRIVATE, b"\0"),
        ("MokList", _SHIM, _PRIVATE, suite.mok),
        ("MokListX", _SHIM, _PRIVATE, suite.mokx),
    ]
    put_variables(store, [row for row in rows if row[3]])


def put_variables(store: Path, rows: Iterable[tuple[str, uuid.UUID, int, bytes]]) -> None:
    """Write a firmware's store with these variables: name, vendor, attributes, content."""
    content = bytearray(VARIABLES.read_bytes())
    variables = b"".join(_encode_variable(*row) for row in rows)
    content[_STORE_START : _STORE_START + len(variables)] = variables
    store.write_bytes(content)


def build_flat(source: Path, work: Path, *options: str) -> bytes:
    """Compile an EFI program as code that needs no relocation: for `files.build_pe`."""
    script, out = work / "program.ld", work / "program.bin"
    script.write_text(
        "SECTIONS { . = 0; all : { *(.text.first) *(.text*) *(.rodata*) *(.data*) *(.bss*) } "
        "/DISCARD/ : { *(.eh_frame*) *(.note*) *(.comment*) } }\n"
    )
    flags = ["-Os", "-ffreestanding", "-fno-stack-protector", "-fpie", "-mno-red-zone", "-mno-sse", "-nostdlib"]
    linking = ["-static", "-Wl,--build-id=none", "-Wl,--oformat=binary", f"-Wl,-T,{script}"]
    subprocess.run(["gcc", *flags, *linking, *options, "-o", out, source], check=True)
    return out.read_bytes()


def build_program(work: Path) -> bytes:
    """Compile the program and wrap it in a PE file that shim starts too."""
    return files.build_pe(build_flat(_PROGRAM, work), (".sbat", _SBAT))


def _sign(data: bytes, suite: Suite) -> bytes:
    data += bytes(-len(data) % 8)
    return attach(data, entry(pkcs7(data, suite.owner)))


def _run(*argv: str | os.PathLike[str]) -> None:
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "MTOOLS_SKIP_CHECK": "1"}
    subprocess.run(argv, check=True, env=environment, stdout=subprocess.DEVNULL)


def make_volume(volume: Path, suite: Suite, cases: Iterable[bytes], *, with_shim: bool) -> None:
    """Make the FAT volume from which the firmware starts shim or the program, with the files."""
    work = volume.with_suffix(".files")
    (work / "EFI/BOOT").mkdir(parents=True)
    (work / "t").mkdir()
    program = _sign(build_program(volume.parent), suite)
    first, second = work / "EFI/BOOT/BOOTX64.EFI", work / "EFI/BOOT/grubx64.efi"
    if with_shim:
        first.write_bytes(_sign(SHIM.read_bytes(), suite))
        second.write_bytes(program)
    else:
        first.write_bytes(program)
    for index, data in enumerate(cases):
        (work / f"t/c{index:03}.efi").write_bytes(data)
    with volume.open("wb") as file:
        file.truncate(64 << 20)
    _run("mkfs.vfat", "-F", "32", volume)
    _run("mcopy", "-s", "-i", volume, work / "EFI", work / "t", "::")


def ask(suite: Suite, cases: Mapping[str, bytes], work: Path, *, with_shim: bool) -> dict[str, str]:
    """Boot once and ask about all files.

    Args:
        suite: The lists, and who owns the platform.
        cases: Files by name.
        work: For the machine's files; has to be empty.
        with_shim: Ask shim, which the firmware starts; else the firmware itself.

    Returns:
        ``accept`` or ``refuse`` by name, or a status in hex that is neither.
    """
    variables, volume, said = work / "variables.fd", work / "volume.img", work / "said.txt"
    write_variables(variables, suite)
    make_volume(volume, suite, cases.values(), with_shim=with_shim)
    argv = [
        *("qemu-system-x86_64", "-nodefaults", "-no-reboot", "-accel", "tcg,thread=multi", "-m", "512", "-cpu", "max"),
        *("-machine", "q35,smm=on", "-display", "none", "-global", "driver=cfi.pflash01,property=secure,value=on"),
        *("-global", "ICH9-LPC.disable_s3=1", "-drive", f"if=pflash,format=raw,readonly=on,file={CODE}"),
        *("-drive", f"if=pflash,format=raw,file={variables}", "-drive", f"if=none,id=d,format=raw,file={volume}"),
        *("-device", "virtio-blk-pci,drive=d,bootindex=0", "-chardev", f"file,id=said,path={said}"),
        *("-device", "isa-debugcon,iobase=0xe9,chardev=said"),
    ]
    subprocess.run(argv, check=True, timeout=_TIMEOUT_S)
    return _read_answers(said.read_text(), list(cases), with_shim=with_shim)


def _read_answers(said: str, names: list[str], *, with_shim: bool) -> dict[str, str]:
    rows = [line.split() for line in said.splitlines()]
    facts = {row[0]: int(row[1], 16) for row in rows if row and row[0] in {"SECURE", "SHIM"}}
    assert facts == {"SECURE": 1, "SHIM": int(with_shim)}, said[:500]
    answers = {int(row[1]): int(row[2], 16) for row in rows if row and row[0] == "FILE"}
    assert len(answers) == len(names), f"{len(answers)} answers for {len(names)} files"
    return {name: ANSWERS.get(answers[index], f"{answers[index]:x}") for index, name in enumerate(names)}
