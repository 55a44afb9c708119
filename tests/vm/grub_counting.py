"""A GRUB host of tiny programs: what real GRUB does with the script, the block and the environment block of ours.

One disk with an ESP and a boot partition on which ``/boot`` is a directory; ``grub.cfg`` is laid out as bootupd's: the
environment block, ``user.cfg``, ``blscfg``, ``custom.cfg``. Every start of QEMU is a power cycle.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vm.grub import PREFIX, make_image
from vm.tiny import make_program

from bootc_fast.boot.counting.grub_script import CUSTOM, SCRIPT, add_block, render_script
from bootc_fast.boot.loaders.grub_trial import ALLOWED, FALLBACK, PLACE, TRIAL, TRIES
from bootc_fast.boot.loaders.grubenv import change_grubenv, parse_grubenv

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ESP_MIB, BOOT_MIB = 40, 48
_MIB = 1 << 20
# GRUB's limit of configurations inside of configurations is a little higher.
_NESTED = 24
_ENVIRONMENT = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "MTOOLS_SKIP_CHECK": "1"}
GRUB = "boot/grub2"
ENTRIES = "boot/loader/entries"

OLD_TITLE, NEW_TITLE = "Example: (bbbb)", "Example: (aaaa)"
OLD_FILE, NEW_FILE = "bootc_zz-00000002-01", "bootc_zz-00000002-02"

_BEFORE = """\
serial --unit=0 --speed=115200
terminfo -g 200x60 serial vt100
terminal_input serial
terminal_output serial
set timeout=0
if [ -s $prefix/grubenv ]; then
  load_env
fi
"""
# As grub-mkconfig's 00_header has it, and bootupd's configuration has not.
HEEDS_NEXT = """\
if [ "${next_entry}" ]; then
  set default="${next_entry}"
  set next_entry=
  save_env next_entry
  set boot_once=true
fi
"""
USER = "if [ -f ${prefix}/user.cfg ]; then\n  source ${prefix}/user.cfg\nfi\n"
BLSCFG = "blscfg --path (hd0,gpt2)/boot/loader/entries\n"
AFTER = "if [ -f $prefix/custom.cfg ]; then\n  source $prefix/custom.cfg\nfi\n"
_BOOTS_OLD = "set root=hd0,gpt1\nchainloader /EFI/Linux/old.efi\nboot\n"

_CODE_AT, _CODE_BYTES = 0x1000, 28
# lea rsi,[rip+21]; next: lodsb; test al,al; jz end; out 0xe9,al; jmp next;
# end: mov al,6; mov dx,0xcf9; out dx,al; jmp .
_RESETS = bytes.fromhex("488d3515000000 ac 84c0 7404 e6e9 ebf7 b006 66baf90c ee ebfe 909090".replace(" ", ""))
# The same, and then it returns an error to the loader: mov rax,0x8000000000000001; ret.
_RETURNS = bytes.fromhex("488d3515000000 ac 84c0 7404 e6e9 ebf7 48b80100000000000080 c3 90".replace(" ", ""))

# The same, and then: hlt; jmp.
_HANGS = bytes.fromhex("488d3515000000 ac 84c0 7404 e6e9 ebf7 f4 ebfd 9090909090909090 90".replace(" ", ""))


def make_kernel(text: str, code: bytes | None = None) -> bytes:
    """Make a program that GRUB's ``linux`` takes for a kernel with an EFI stub, and ``chainloader`` for a program.

    Args:
        text: What it writes to port 0xe9, before it ends QEMU.
        code: What it does instead, `_CODE_BYTES` long.
    """
    # What is loaded of the section is as long as this text and the usual code.
    program = bytearray(make_program(text + "\n" + "-" * (_CODE_BYTES if code is not None else 0)))
    if code is not None:
        assert len(code) == _CODE_BYTES, len(code)
        own = code + text.encode() + b"\n\0"
        program[_CODE_AT : _CODE_AT + len(own)] = own
    struct.pack_into("<B", program, 0x1F1, 1)
    struct.pack_into("<I", program, 0x1F4, 0x100)
    struct.pack_into("<H", program, 0x1FE, 0xAA55)
    program[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", program, 0x206, 0x020F)
    struct.pack_into("<B", program, 0x211, 1)
    struct.pack_into("<I", program, 0x22C, 0x7FFFFFFF)
    struct.pack_into("<I", program, 0x230, 0x200000)
    struct.pack_into("<B", program, 0x234, 1)
    struct.pack_into("<H", program, 0x236, 0xB)
    struct.pack_into("<I", program, 0x238, 2047)
    struct.pack_into("<I", program, 0x260, 0x100000)
    return bytes(program)


def make_hanging(text: str) -> bytes:
    """Make a program that writes `text` and hangs."""
    return make_kernel(text, _HANGS)


def make_resetting(text: str) -> bytes:
    """Make a program that writes `text` and resets the machine."""
    return make_kernel(text, _RESETS)


def make_returning(text: str) -> bytes:
    """Make a program that writes `text` and returns an error to GRUB."""
    return make_kernel(text, _RETURNS)


def quote_title(title: str) -> str:
    """Write a title as a word of GRUB's script."""
    return '"' + re.sub(r'([\\"$])', r"\\\1", title) + '"'


def menuentry(title: str, program: str) -> str:
    """A menuentry as bootc writes it, for a program on the ESP."""
    body = f"insmod chain\nset root=hd0,gpt1\nchainloader /EFI/Linux/{program}.efi\n"
    return f"menuentry {quote_title(title)} {{\n{body}}}\n"


@dataclass
class GrubHost:
    """A host, before it becomes a disk.

    Attributes:
        suite: Of Debian, whose GRUB it is: ``trixie`` has 2.12 without ``blscfg``, ``forky`` 2.14 with it.
        kind: ``uki``: the entries are menuentries of ``user.cfg``; ``bls``: files that ``blscfg`` reads.
        file_system: Of the boot partition, ``ext4`` or ``fat``.
        programs: What each entry starts, by its name.
        titles: New and old in the menu's order, where they are menuentries.
        files: On the boot partition, by path; what is set here wins. None: the file is not there.
        links: Symlinks on the boot partition.
        header: What ``grub.cfg`` does before the entries are read.
        custom: How it reads ``custom.cfg``.
        footer: What it does at last.
    """

    suite: str
    kind: str
    file_system: str
    programs: dict[str, bytes | None] = field(
        default_factory=lambda: {"new": make_kernel("new"), "old": make_kernel("old")}
    )
    titles: tuple[str, str] = (NEW_TITLE, OLD_TITLE)
    files: dict[str, bytes | None] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    header: str = ""
    custom: str = AFTER
    footer: str = ""

    @property
    def names(self) -> tuple[bytes, bytes]:
        """What GRUB calls the new entry and the old one."""
        if self.kind == "bls":
            return NEW_FILE.encode(), OLD_FILE.encode()
        return self.titles[0].encode(), self.titles[1].encode()

    def put_on_trial(self, tries: int | bytes = 3, *, allowed: int = 3, **more: bytes | None) -> None:
        """Put the new entry on trial, with the product's own texts."""
        value = tries if isinstance(tries, bytes) else b"%d" % tries
        new, old = (name.replace(b">", b">>") for name in self.names)
        variables = {TRIAL: new, FALLBACK: old, PLACE: b"1", TRIES: value, ALLOWED: b"%d" % allowed}
        variables |= {key.encode(): word for key, word in more.items()}  # type: ignore[misc]
        self.files[f"{GRUB}/grubenv"] = change_grubenv(b"# GRUB Environment Block\nother=kept\n", variables)
        self.files[f"{GRUB}/{CUSTOM.decode()}"] = add_block(b"# an admin's\nset timeout_style=menu\n")
        self.files[f"{GRUB}/{SCRIPT.decode()}"] = render_script(allowed)

    def render(self) -> dict[str, bytes]:
        """All files of the boot partition."""
        reads = USER + (BLSCFG if self.kind == "bls" else "")
        files: dict[str, bytes | None] = {
            f"{GRUB}/grub.cfg": (_BEFORE + self.header + reads + self.custom + self.footer).encode()
        }
        if self.kind == "bls":
            for name, program, title in ((NEW_FILE, "new", NEW_TITLE), (OLD_FILE, "old", OLD_TITLE)):
                text = f"title {title}\nversion 1\nlinux /boot/{program}.efi\noptions quiet\n"
                files[f"{ENTRIES}/{name}.conf"] = text.encode()
                files[f"boot/{program}.efi"] = self.programs[program]
        else:
            items = [menuentry(title, name) for title, name in zip(self.titles, ("new", "old"), strict=True)]
            files[f"{GRUB}/user.cfg"] = "".join(items).encode()
        return {path: data for path, data in {**files, **self.files}.items() if data is not None}

    def make_disk(self, work: Path, image: Path, *, tune: str = "") -> Path:
        """Make the disk; `tune` is a command of ``debugfs`` for the boot partition, ext4 only."""
        stage, esp_tree = work / "stage", work / "esp-tree"
        for directory in (stage, esp_tree):
            shutil.rmtree(directory, ignore_errors=True)
        for path, data in self.render().items():
            (stage / path).parent.mkdir(parents=True, exist_ok=True)
            (stage / path).write_bytes(data)
        for path, target in self.links.items():
            (stage / path).symlink_to(target)
        for path in ("EFI/BOOT", "EFI/Linux"):
            (esp_tree / path).mkdir(parents=True)
        shutil.copy(image, esp_tree / "EFI/BOOT/BOOTX64.EFI")
        for name, program in self.programs.items():
            if program is not None:
                (esp_tree / f"EFI/Linux/{name}.efi").write_bytes(program)
        disk, esp, boot = work / "disk.raw", work / "esp.raw", work / "boot.raw"
        _make_fat(esp, ESP_MIB, esp_tree)
        if self.file_system == "fat":
            _make_fat(boot, BOOT_MIB, stage)
        else:
            boot.unlink(missing_ok=True)
            _run("mkfs.ext4", "-q", "-b", "4096", "-d", stage, boot, f"{BOOT_MIB}M")
            if tune:
                _run("debugfs", "-w", "-R", tune, boot, stderr=subprocess.DEVNULL)
        disk.unlink(missing_ok=True)
        with disk.open("wb") as file:
            file.truncate((1 + ESP_MIB + BOOT_MIB + 1) * _MIB)
        table = f"label: gpt\nstart=1MiB, size={ESP_MIB}MiB, type=U\nsize={BOOT_MIB}MiB, type=L\n"
        _run("sfdisk", "--quiet", disk, input=table.encode())
        for part, at in ((esp, 1), (boot, 1 + ESP_MIB)):
            _run("dd", f"if={part}", f"of={disk}", "bs=1M", f"seek={at}", "conv=notrunc,sparse", "status=none")
            part.unlink()
        return disk


def _run(*argv: str | os.PathLike[str], input: bytes | None = None, stderr: int | None = None) -> bytes:  # noqa: A002
    return subprocess.run(argv, check=True, env=_ENVIRONMENT, input=input, stdout=subprocess.PIPE, stderr=stderr).stdout


def _make_fat(image: Path, size_mib: int, tree: Path) -> None:
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(size_mib * _MIB)
    _run("mkfs.vfat", "-F", "32", image)
    _run("mcopy", "-s", "-i", image, *sorted(tree.iterdir()), "::")


@dataclass
class Machine:
    """The host's disk in QEMU."""

    host: GrubHost
    work: Path
    disk: Path
    console: str = ""

    def boot(self, *, read_only: bool = False, until: str = "", timeout_s: float = 90) -> list[str]:
        """Switch the machine on; return what the programs wrote until QEMU ended, or `until` was written.

        Args:
            read_only: The disk takes no writes.
            until: Where to take the power away: what the programs write, or GRUB on its console.
            timeout_s: After which the power is taken away too.
        """
        said, console = self.work / "said", self.work / "console"
        for path in (said, console):
            path.write_bytes(b"")
        variables = self.work / "vars.fd"
        if not variables.exists():
            shutil.copy("/usr/share/OVMF/OVMF_VARS_4M.fd", variables)
        drive = f"if=virtio,format=raw,cache=unsafe,file={self.disk}" + (",readonly=on" if read_only else "")
        argv = [
            "qemu-system-x86_64", "-nodefaults", "-machine", "q35", "-accel", "tcg,thread=multi,tb-size=256",
            "-cpu", "Nehalem", "-m", "256", "-display", "none", "-nic", "none",
            "-drive", "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
            "-drive", f"if=pflash,format=raw,file={variables}", "-drive", drive,
            "-chardev", f"file,id=console,path={console}", "-serial", "chardev:console",
            "-debugcon", f"file:{said}", "-global", "isa-debugcon.iobase=0xe9",
            "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04",
        ]  # fmt: skip
        machine = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        end = time.monotonic() + timeout_s
        try:
            while machine.poll() is None and time.monotonic() < end:
                if until and until.encode() in said.read_bytes() + console.read_bytes():
                    break
                time.sleep(0.1)
        finally:
            machine.kill()
            machine.wait()
        self.console = _plain(console.read_text(errors="replace"))
        return said.read_text().split()

    def read(self, path: str) -> bytes:
        """A file of the boot partition as it is on the disk now."""
        with self.boot_partition() as image:
            if self.host.file_system == "fat":
                return _run("mtype", "-i", image, f"::{path}")
            return _run("debugfs", "-R", f"cat /{path}", image, stderr=subprocess.DEVNULL)

    def variables(self) -> dict[bytes, bytes]:
        """GRUB's variables on the disk."""
        return parse_grubenv(self.read(f"{GRUB}/grubenv"))

    def check(self) -> None:
        """Assert that the file system is whole."""
        with self.boot_partition() as image:
            tool = ("fsck.fat", "-n") if self.host.file_system == "fat" else ("e2fsck", "-fn")
            _run(*tool, image, stderr=subprocess.DEVNULL)

    def boot_partition(self) -> _Part:
        """The boot partition as a file of its own."""
        return _Part(self.disk, self.work / "part.raw")


@dataclass
class _Part:
    disk: Path
    path: Path

    def __enter__(self) -> Path:
        _run(
            "dd",
            f"if={self.disk}",
            f"of={self.path}",
            "bs=1M",
            f"skip={1 + ESP_MIB}",
            f"count={BOOT_MIB}",
            "status=none",
        )
        return self.path

    def __exit__(self, *_error: object) -> None:
        self.path.unlink()


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>()][0-9A-B]?", "", text)


def start(work: Path, host: GrubHost, image: Path, *, tune: str = "") -> Machine:
    """Make a host's disk and the machine for it."""
    work.mkdir(parents=True, exist_ok=True)
    return Machine(host, work, host.make_disk(work, image, tune=tune))


def ask_save_env(work: Path, image: Path, host: GrubHost, names: list[str]) -> list[bool | None]:
    """Ask GRUB for which files of its directory ``save_env`` succeeds; one boot.

    Args:
        work: For the disk.
        image: GRUB.
        host: Which has these files; its ``grub.cfg`` is replaced.
        names: The files.

    Returns:
        None where the boot did not come to it.
    """
    text = "".join(
        f"set x=2\nif save_env -f {PREFIX}/{name} x; then\n echo 'ANSWER {number} 1.'\nelse\n"
        f" echo 'ANSWER {number} 0.'\nfi\n"
        for number, name in enumerate(names)
    )
    host.files[f"{GRUB}/grub.cfg"] = (_BEFORE + text + _BOOTS_OLD).encode()
    machine = start(work, host, image)
    assert machine.boot(timeout_s=200) == ["old"], machine.console[-3000:]
    found = dict(re.findall(r"ANSWER (\d+) (\d)\.", machine.console))
    return [found[str(number)] == "1" if str(number) in found else None for number in range(len(names))]


def make_images(work: Path) -> Mapping[str, Path]:
    """Both GRUBs as EFI programs, by suite."""
    return {
        "trixie": make_image("trixie", work / "grub-trixie.efi"),
        "forky": make_image("forky", work / "grub-forky.efi", "blsuki"),
    }


def ask_names(
    work: Path, image: Path, suite: str, questions: list[tuple[list[str], bytes]], *, variable: str = "default"
) -> list[int | None]:
    """Ask GRUB which item of a menu boots for a name; one boot for some questions.

    Args:
        work: For the disk.
        image: GRUB.
        suite: Whose it is.
        questions: Titles in the menu's order, as they stand in the script with their quotes, and the value of
            `default`, which comes out of an environment block.
        variable: What is set to the name.

    Returns:
        The place of the item, from 0; None where nothing was booted.
    """
    if len(questions) > _NESTED:
        rest = ask_names(work, image, suite, questions[_NESTED:], variable=variable)
        return [*ask_names(work, image, suite, questions[:_NESTED], variable=variable), *rest]
    host = GrubHost(suite, "uki", "ext4")
    for number, (titles, name) in enumerate(questions):
        items = [
            f'menuentry {title} {{\n echo "ANSWER {number} {place}."\n configfile {PREFIX}/q{number + 1}.cfg\n}}\n'
            for place, title in enumerate(titles)
        ]
        ends = f'load_env -f {PREFIX}/q{number}.env asked\nset timeout=0\nset {variable}="${{asked}}"\n'
        host.files[f"{GRUB}/q{number}.cfg"] = ("unset default\nunset fallback\n" + "".join(items) + ends).encode()
        host.files[f"{GRUB}/q{number}.env"] = change_grubenv(None, {b"asked": name})
    host.files[f"{GRUB}/q{len(questions)}.cfg"] = _BOOTS_OLD.encode()
    host.files[f"{GRUB}/grub.cfg"] = (_BEFORE + f"configfile {PREFIX}/q0.cfg\n").encode()
    machine = start(work, host, image)
    assert machine.boot(timeout_s=200) == ["old"], machine.console[-3000:]
    found = dict(re.findall(r"ANSWER (\d+) (\d+)\.", machine.console))
    return [int(found[str(number)]) if str(number) in found else None for number in range(len(questions))]
