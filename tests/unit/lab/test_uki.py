"""lab.uki: PE files that others read and sign."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bootc_fast.boot.efi.edk2 import find_header_fault
from bootc_fast.boot.efi.pe import parse_pe
from bootc_fast.errors import BootEntryError
from bootc_fast.lab.rootfs import STUB_NAME
from bootc_fast.lab.uki import build_uki

SECTIONS = [
    (".osrel", b"ID=x\n"),
    (".cmdline", b"quiet"),
    (".uname", b"6.1"),
    (".initrd", b"i" * 5000),
    (".linux", b"k"),
]
SECTION_ALIGNMENT = 0x1000
STUBS = [None, Path("/") / STUB_NAME]


def _build(stub: Path | None) -> bytes:
    return build_uki(None if stub is None else stub.read_bytes(), SECTIONS)


@pytest.mark.parametrize("stub", STUBS, ids=["minimal", "systemd's"])
def test_sections_are_read_back(stub: Path | None) -> None:
    pe = parse_pe(_build(stub))
    assert [pe.read_section(name) for name, _ in SECTIONS] == [content for _, content in SECTIONS]
    # The optional header's Subsystem: an EFI application.
    assert pe.image.read(pe.image.header_offset + 24 + 68, 2) == b"\x0a\0"
    assert find_header_fault(pe) is None


@pytest.mark.parametrize("stub", STUBS, ids=["minimal", "systemd's"])
def test_sections_lie_one_after_the_other_in_memory_and_within_the_image(stub: Path | None) -> None:
    pe = parse_pe(_build(stub))
    ends = [section.virtual_address + section.virtual_bytes for section in pe.sections]
    starts = [section.virtual_address for section in pe.sections]
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))
    assert ends[-1] <= pe.image.image_bytes
    assert pe.image.image_bytes % SECTION_ALIGNMENT == 0


@pytest.mark.parametrize("stub", STUBS, ids=["minimal", "systemd's"])
def test_sbsign_signs_it_and_sbverify_accepts_that(tmp_path: Path, stub: Path | None) -> None:
    uki, signed = tmp_path / "uki.efi", tmp_path / "signed.efi"
    uki.write_bytes(_build(stub))
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    new_key = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=lab", "-days", "2"]
    subprocess.run([*new_key, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    done = subprocess.run(
        ["sbsign", "--key", key, "--cert", certificate, "--output", signed, uki],
        check=True,
        capture_output=True,
        text=True,
    )
    # Debian's stub of systemd 252 itself has a gap, of which sbsign warns.
    assert stub is not None or "warning" not in done.stderr
    subprocess.run(["sbverify", "--cert", certificate, signed], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("stub", "words"),
    [(b"MZ", "truncated"), (b"MZ".ljust(0x3C, b"\0") + b"\x40\0\0\0" + bytes(400), "not a PE32")],
)
def test_a_stub_that_is_none_is_refused(stub: bytes, words: str) -> None:
    with pytest.raises(BootEntryError, match=words):
        build_uki(stub, SECTIONS)


def test_more_sections_than_the_header_has_room_for_are_refused() -> None:
    with pytest.raises(BootEntryError, match="no room"):
        build_uki(None, [(f".s{index}", b"x") for index in range(20)])
