"""boot/uki.py and boot/pe.py: sections, the command line inside, the boot digest (spec boot.md, host.md)."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

import pytest
from hosts import SHORT, A, B
from hypothesis import given, settings
from hypothesis import strategies as st
from ukis import build_uki

from bootc_fast.boot.efi import edk2, firmware, shim, uki
from bootc_fast.errors import BootcFastError, BootEntryError
from bootc_fast.lab.uki import build_uki as build_lab_uki
from bootc_fast.machine.cmdline import parse_digest

if TYPE_CHECKING:
    from pathlib import Path

LINUX, INITRD = b"MZ kernel" * 1000, b"initrd" * 777
OSREL = b'NAME=Debian\n# comment\nPRETTY_NAME="Debian GNU/Linux 13"\nID=debian\nBROKEN="x\nnonsense\n'
DIGEST = parse_digest(A, what="test")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cmdline = f"rw composefs={A} quiet\n\0".encode()
    return build_uki(
        tmp_path_factory.mktemp("uki"), cmdline=cmdline, osrel=OSREL, uname=b"6.12.48", linux=LINUX, initrd=INITRD
    )


def lab(cmdline: bytes | None, *, linux: bytes | None = LINUX, extra: list[tuple[str, bytes]] | None = None) -> bytes:
    sections = [(".cmdline", cmdline), (".linux", linux), (".initrd", INITRD)]
    return build_lab_uki(None, [(name, data) for name, data in sections if data is not None] + (extra or []))


def test_reads_all_sections_of_a_uki_made_with_objcopy(image: Path) -> None:
    found = uki.parse_uki(image.read_bytes())
    assert found.cmdline == f"rw composefs={A} quiet"
    assert (found.uname, found.os_release["PRETTY_NAME"]) == ("6.12.48", "Debian GNU/Linux 13")
    assert "BROKEN" not in found.os_release
    assert found.boot_digest == hashlib.sha256(LINUX + INITRD).hexdigest()
    assert found.pe.size_bytes == image.stat().st_size
    with image.open("rb") as file:
        assert uki.parse_uki(file.fileno()).boot_digest == found.boot_digest
    uki.check_uki(found, digest=DIGEST)


def test_the_digest_covers_the_sections_not_their_padding() -> None:
    assert uki.parse_uki(lab(b"x")).boot_digest == hashlib.sha256(LINUX + INITRD).hexdigest()


def test_of_several_sections_with_one_name_the_first_counts() -> None:
    found = uki.parse_uki(lab(f"composefs={A}".encode(), extra=[(".cmdline", f"composefs={B}".encode())]))
    assert uki.list_digests(found) == (A,)


@pytest.mark.parametrize("cmdline", [f"composefs=?{A}", f"composefs.digest=v1-sha256-12:{SHORT} composefs={A}"])
def test_a_uki_for_the_staged_deployment_is_accepted(cmdline: str) -> None:
    uki.check_uki(uki.parse_uki(lab(cmdline.encode())), digest=DIGEST)


@pytest.mark.parametrize(
    ("cmdline", "words"),
    [
        (f"composefs={B}".encode(), "not the deployment"),
        (f"composefs.digest=v1-sha512-12:{B}".encode(), "not the deployment"),
        (b"rw quiet", "names no composefs image"),
        (f"quiet\0composefs={A}".encode(), "names no composefs image"),
        (None, "names no composefs image"),
        (b"composefs=../../x", "digest"),
    ],
)
def test_a_uki_for_anything_else_is_refused(cmdline: bytes | None, words: str) -> None:
    with pytest.raises(BootEntryError, match=words) as caught:
        uki.check_uki(uki.parse_uki(lab(cmdline)), digest=DIGEST)
    assert caught.value.exit_code == 7


def test_an_addon_is_no_kernel() -> None:
    found = uki.parse_uki(lab(f"composefs={A}".encode(), linux=None))
    assert found.boot_digest is None
    with pytest.raises(BootEntryError, match=r"no section \.linux"):
        uki.check_uki(found, digest=DIGEST)


@pytest.mark.parametrize("data", [b"", b"MZ", b"\x7fELF" + bytes(1000), b"MZ" + bytes(1000), b"#!/bin/sh\n" * 100])
def test_what_is_no_pe_file_is_a_boot_entry_error(data: bytes) -> None:
    with pytest.raises(BootEntryError, match="PE file"):
        uki.parse_uki(data)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_uki_is_a_boot_entry_error(keep: float) -> None:
    data = lab(f"composefs={A}".encode())
    with pytest.raises(BootEntryError):
        uki.parse_uki(data[: int(len(data) * keep)])


def test_a_section_larger_than_the_file_is_refused() -> None:
    data = bytearray(lab(b"x"))
    at = data.index(b".initrd\0")
    struct.pack_into("<I", data, at + 8, 0xFFFF_FFFF)
    with pytest.raises(BootEntryError, match=r"\.initrd"):
        uki.parse_uki(bytes(data))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 0x400), st.integers(0, 255)), min_size=1, max_size=8))
def test_no_change_of_the_headers_does_anything_but_parse_or_be_refused(changes: list[tuple[int, int]]) -> None:
    data = bytearray(lab(f"composefs={A}".encode(), linux=b"kernel"))
    for offset, value in changes:
        data[offset] = value
    try:
        found = uki.parse_uki(bytes(data))
        edk2.hash_image(found.pe, "sha256")
        edk2.judge(found.pe, firmware.SecureBootState(enabled=True), known=frozenset())
        shim.judge(found.pe, firmware.SecureBootState(enabled=True), known=frozenset())
        uki.check_uki(found, digest=DIGEST)
    except BootcFastError:
        return
