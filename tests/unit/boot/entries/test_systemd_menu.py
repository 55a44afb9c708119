"""systemd-boot's real menu: what it leaves out, UKIs without an entry, and what only the loader has seen."""

from __future__ import annotations

import os
import struct

import pytest
from unit.boot.fat_model import FatModel
from unit.boot.fat_volume import FatVolume
from unit.boot.scenarios import KNOWN, A, B, bls_text, kernel_directory

from bootc_fast.boot.efi.firmware import LoaderVariables
from bootc_fast.boot.efi.sections import parse_section_table
from bootc_fast.boot.entries.menu import BootMenu, read_volumes
from bootc_fast.boot.entries.plan import plan_menu
from bootc_fast.types import Loader

MACHINE = {"x86_64": "x64", "aarch64": "aa64"}.get(os.uname().machine, "x64")
OTHER = "aa64" if MACHINE == "x64" else "x64"


def make_pe(sections: dict[str, bytes]) -> bytes:
    """A PE file with nothing but these sections."""
    table = 0x40 + 24 + 8
    offset = table + 40 * len(sections)
    head = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40)
    head += b"PE\0\0" + struct.pack("<HHIIIHH", 0x8664, len(sections), 0, 0, 0, 8, 0) + bytes(8)
    body = b""
    for name, data in sections.items():
        place = offset + len(body)
        head += struct.pack("<8sIIIIIIHHI", name.encode(), len(data), 0, len(data) + 3, place, 0, 0, 0, 0, 0)
        body += data + b"\0\0\0"
    return head + body


def _read(
    files: dict[bytes, bytes], variables: LoaderVariables | None = None, loader: Loader = Loader.SYSTEMD_BOOT
) -> BootMenu:
    volume = FatVolume(FatModel())
    for digest in (A, B):
        for name in (b"/vmlinuz", b"/initrd"):
            volume.put(kernel_directory(digest, loader) + name, b"k")
    own = {
        b"/loader/entries/bootc_a-2-1.conf": bls_text(A, "2", "bootc-a-0", loader),
        b"/loader/entries/bootc_a-1-0.conf": bls_text(B, "1", "bootc-a-1", loader),
        b"/other": b"k",
    }
    for path, data in {**own, **files}.items():
        volume.put(path, data)
    return read_volumes(volume, volume, loader=loader, known=KNOWN, variables=variables)


def _first(menu: BootMenu) -> str:
    return "nothing" if menu.default is None else menu.default.label


@pytest.mark.parametrize(
    ("architecture", "is_shown"),
    [
        (MACHINE, True),
        (MACHINE.upper(), True),
        (OTHER, False),
        ("x86-64", False),
        (f"{MACHINE} ", True),
        ("riscv64", False),
    ],
)
def test_an_entry_for_another_machine_is_not_shown(architecture: str, *, is_shown: bool) -> None:
    text = f"sort-key !\narchitecture\t{architecture}\r\nlinux /other\n".encode()
    menu = _read({b"/loader/entries/first.CONF": text})
    assert _first(menu) == ("first.CONF" if is_shown else "bootc_a-2-1.conf")
    own = bls_text(B, "1", "!") + f"architecture {architecture}\n".encode()
    assert (_read({b"/loader/entries/bootc_a-1-0.conf": own}).own_order == (B, A)) is is_shown
    assert _read({b"/loader/entries/zz.conf": text.replace(b"\r", b"")}, loader=Loader.GRUB).default is not None


@pytest.mark.parametrize(
    ("path", "told", "is_shown"),
    [
        ("/EFI/systemd/systemd-boot{}.efi", None, False),
        ("\\efi\\boot\\BOOT{}.efi", None, False),
        ("/EFI/BOOT/other.efi", None, True),
        ("/EFI/BOOT/BOOT{}.EFI", "\\EFI\\systemd\\systemd-boot{}.efi", True),
        ("EFI/SYSTEMD/systemd-boot{}.EFI", "\\EFI\\systemd\\systemd-boot{}.efi", False),
        ("/EFI/my/loader.efi", "\\EFI\\my\\loader.efi", False),
    ],
)
def test_an_entry_that_starts_the_loader_itself_is_not_shown(path: str, told: str | None, *, is_shown: bool) -> None:
    path = path.format(MACHINE)
    variables = LoaderVariables(image_path=told.format(MACHINE) if told else None)
    files = {
        b"/loader/entries/self.conf": f"sort-key !\nefi {path}\n".encode(),
        b"/" + path.replace("\\", "/").strip("/").encode(): b"MZ",
    }
    assert _first(_read(files, variables)) == ("self.conf" if is_shown else "bootc_a-2-1.conf")


OSREL = b'NAME=Other\nID=other\nVERSION_ID="12"\n'


def test_ukis_without_an_entry_have_their_place_by_os_release() -> None:
    for osrel, is_first in [
        (b"ID=arch\nPRETTY_NAME='Arch Linux'\n", True),
        (b"# a note\r\n IMAGE_ID=!me\r\nID=zz\r\nNAME=x\r\n", True),
        (b"ID=zz\nNAME=x\nVERSION=99\n", False),
        (b"NAME=no-id\n", False),
        (b"VERSION=1\n", False),
        (b"", False),
        (b"\xff\xfe\0", False),
    ]:
        menu = _read({b"/EFI/Linux/Foo.EFI": make_pe({".text": b"x" * 99, ".osrel": osrel})})
        assert _first(menu) == ("Foo.EFI" if is_first else "bootc_a-2-1.conf"), osrel
        assert menu.own_order == (A, B)
    # The same system as ours: by version, whatever LoaderEntries said before it was there.
    variables = LoaderVariables(shown=("bootc_a-2-1.conf", "bootc_a-1-0.conf"))
    for version, is_first in [("3", True), ("1.9", False)]:
        osrel = f'ID=bootc-a-0\nNAME="A B"\nIMAGE_VERSION={version}\nVERSION=999\n'.encode()
        menu = _read({b"/EFI/Linux/z.efi": make_pe({".osrel": osrel})}, variables)
        assert _first(menu) == ("z.efi" if is_first else "bootc_a-2-1.conf"), version


@pytest.mark.parametrize("name", [b".hidden.efi", b"auto-x.efi", b"x.efi.staged", b"x+0-3.efi", b"no.txt"])
def test_what_it_does_not_look_at_or_has_given_up_on_is_not_first(name: bytes) -> None:
    assert _first(_read({b"/EFI/Linux/" + name: make_pe({".osrel": b"ID=!\nNAME=x\n"})})) == "bootc_a-2-1.conf"


def test_a_uki_named_after_a_deployment_is_outranked_and_does_not_keep_itself() -> None:
    """As older versions of bootc left them: the loader shows them beside their entries."""
    osrel = b"ID=aaa\nNAME=x\n"
    menu = _read({f"/EFI/Linux/{B}.efi".encode(): make_pe({".osrel": osrel})})
    assert menu.default is not None
    assert menu.default.digest == B
    plan = plan_menu(menu, order=(A, B), staged=None)
    assert plan.boots_instead is None
    assert not plan.warnings
    assert all(not entry.paths for entry in menu.live.elsewhere)


def test_broken_files_are_no_ukis() -> None:
    whole = make_pe({".osrel": b"ID=!\nNAME=x\n"})
    for data in (b"", b"MZ", whole[:60], whole[:70], whole[:100], b"PE" + whole, whole.replace(b"PE\0\0", b"NE\0\0")):
        assert _first(_read({b"/EFI/Linux/a.efi": data})) == "bootc_a-2-1.conf"
    huge = bytearray(whole)
    huge[0x3C:0x40] = b"\xff\xff\xff\xff"
    assert parse_section_table(bytes(huge)) == ()


def test_an_entry_that_only_the_loader_knows_counts_for_order_and_overrides() -> None:
    shown = ("elsewhere.conf", "bootc_a-2-1.conf", "bootc_a-1-0.conf", "below.conf", "auto-windows")
    assert _first(_read({}, LoaderVariables(shown=shown))) == "elsewhere.conf"
    assert _first(_read({}, LoaderVariables(shown=shown[1:]))) == "bootc_a-2-1.conf"
    assert _first(_read({}, LoaderVariables(shown=("auto-windows", *shown[1:])))) == "auto-windows"
    assert _first(_read({}, LoaderVariables(shown=shown[1:], entry_default="BELOW*"))) == "below.conf"
    here = {b"/loader/entries/elsewhere+2-1.conf": b"linux /other\nsort-key zz\n"}
    told = LoaderVariables(shown=("elsewhere+3-0.conf", *shown[1:]))
    assert _first(_read(here, told)) == "bootc_a-2-1.conf", "what is here is ranked by what it is"
