"""entry.py: every form of entry that bootc, systemd or an admin wrote."""

from __future__ import annotations

import pytest
from unit.boot.scenarios import KNOWN, A, B, bls_text, uki_text

from bootc_fast.boot.loaders.entry import (
    MenuEntry,
    parse_artifact_digest,
    parse_counters,
    parse_entry,
    parse_text,
    replace_sort_key,
)
from bootc_fast.types import BootType

LONG = "a1" * 64


def _parse(raw: bytes, name: bytes = b"x.conf") -> MenuEntry:
    return parse_entry(name, raw, known=KNOWN)


def test_reads_what_bootc_writes() -> None:
    entry = _parse(bls_text(A, "42", "bootc-fedora-0"))
    assert (entry.digest, entry.is_own, entry.boot_type) == (A, True, BootType.BLS)
    assert (entry.version, entry.sort_key) == (b"42", b"bootc-fedora-0")
    assert entry.linux == f"/EFI/Linux/bootc_composefs-{A}/vmlinuz".encode()
    assert entry.is_bootable
    assert entry.is_grub_bootable


@pytest.mark.parametrize("word", ["uki", "efi"])
def test_reads_both_keys_of_a_uki(word: str) -> None:
    entry = _parse(uki_text(A, "42", "bootc-fedora-0", word=word))
    assert (entry.digest, entry.boot_type) == (A, BootType.UKI)


def test_reads_tabs_comments_crlf_and_unknown_keys() -> None:
    lines = ["# note", "title\tA  title ", "\tversion\t 7", "linux\t/k", f"options\tcomposefs={A}", "grub_class x", ""]
    raw = "\r\n".join(lines).encode()
    entry = _parse(raw)
    assert (entry.title, entry.version, entry.linux, entry.digest) == (b"A  title", b"7", b"/k", A)


def test_reads_several_options_and_initrd_lines() -> None:
    entry = _parse(f"linux /k\ninitrd /one\noptions root=x\ninitrd /two\noptions quiet composefs={A} rw\n".encode())
    assert entry.initrd == (b"/one", b"/two")
    assert entry.digest == A


@pytest.mark.parametrize(
    "option",
    [f"composefs={A}", f"composefs=?{A}", f"composefs.digest=v1-sha256-12:{A}", f"composefs.digest=?v2-sha256-12:{A}"],
)
def test_finds_the_digest_in_every_form_of_the_option(option: str) -> None:
    assert _parse(f"linux /k\noptions root=x {option} rw\n".encode()).digest == A


def test_the_digest_is_that_of_the_options_not_of_the_shared_kernel_directory() -> None:
    raw = f"linux /EFI/Linux/bootc_composefs-{B}/vmlinuz\noptions composefs={A}\n".encode()
    assert _parse(raw).digest == A


def test_of_several_digests_the_known_one_counts() -> None:
    stranger = "f" * 64
    raw = f"linux /k\noptions composefs.digest=v2-sha256-12:{stranger} composefs={A}\n".encode()
    assert _parse(raw).digest == A


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"/EFI/Linux/bootc/bootc_composefs-{A}.efi", A),
        (f"/EFI/Linux/bootc/{A}.efi", A),
        (f"/EFI/Linux/{LONG}.efi.staged", LONG),
        (f"\\EFI\\Linux\\{A}.efi", A),
        ("/EFI/Linux/other.efi", None),
        (f"/EFI/Linux/{A}", None),
        (f"/EFI/Linux/{A.upper()}.efi", None),
    ],
)
def test_a_ukis_name_carries_the_digest_with_and_without_prefix(path: str, expected: str | None) -> None:
    assert parse_artifact_digest(path.encode()) == expected


@pytest.mark.parametrize("option", ["composefs=zz", "composefs=../../etc", "root=x", "composefs"])
def test_a_malformed_digest_makes_an_entry_foreign(option: str) -> None:
    entry = _parse(f"linux /k\noptions {option}\n".encode())
    assert entry.digest is None
    assert not entry.is_own


def test_an_entry_of_another_host_with_composefs_is_foreign() -> None:
    entry = _parse(bls_text("f" * 64, "1", None))
    assert entry.digest == "f" * 64
    assert not entry.is_own


@pytest.mark.parametrize(
    "raw", [b"", b"\0" * 512, b"title x\n", b"\xff\xfe\x00", b"linux /k\nefi /e\n", b"linux /k\n\0\0"]
)
def test_an_empty_torn_or_contradictory_entry_is_not_bootable(raw: bytes) -> None:
    assert not _parse(raw).is_bootable


def test_grub_stops_at_a_blank_line_and_systemd_boot_does_not() -> None:
    text = parse_text(b"title x\n\nlinux /k\n")
    assert len(text.fields) == 2
    assert text.grub_fields == 1
    entry = _parse(b"title x\n\nlinux /k\n")
    assert entry.is_bootable
    assert not entry.is_grub_bootable


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"a+3.conf", (3, 0)),
        (b"a+2-1.conf", (2, 1)),
        (b"a+0-3.conf", (0, 3)),
        (b"a+b+1.conf", (1, 0)),
        (b"a.conf", None),
        (b"a+3-.conf", None),
        (b"a+99999999999.conf", None),
        (b"a+3.conf.bak", None),
    ],
)
def test_boot_counters_are_read_from_the_name(name: bytes, expected: tuple[int, int] | None) -> None:
    assert parse_counters(name) == expected


def test_the_id_has_no_counters_and_is_in_lower_case() -> None:
    entry = parse_entry(b"Fedora+3-1.conf", b"linux /k\n", known=())
    assert entry.loader_id == b"fedora.conf"
    assert (entry.tries_left, entry.tries_done) == (3, 1)


def test_a_name_that_is_not_utf8_is_kept_as_it_is() -> None:
    entry = parse_entry(b"\xff\xfe.conf", b"linux /k\n", known=())
    assert entry.file_name == b"\xff\xfe.conf"
    assert entry.label == "\\xff\\xfe.conf"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"title x\nsort-key old\nlinux /k\n", b"title x\nsort-key new\nlinux /k\n"),
        (b"title x\r\n\tsort-key \t old\r\nlinux /k\r\n", b"title x\r\n\tsort-key \t new\r\nlinux /k\r\n"),
        (b"sort-key old", b"sort-key new"),
        (b"linux /k\n", b"linux /k\nsort-key new\n"),
        (b"linux /k", b"linux /k\nsort-key new\n"),
        (b"linux /k\r\n", b"linux /k\r\nsort-key new\r\n"),
        (b"# sort-key old\nsort-keys x\n", b"# sort-key old\nsort-keys x\nsort-key new\n"),
        (b"\xff\xfe \x01\nsort-key o\n\n# end", b"\xff\xfe \x01\nsort-key new\n\n# end"),
    ],
)
def test_changing_the_rank_changes_the_sort_key_and_no_other_byte(raw: bytes, expected: bytes) -> None:
    assert replace_sort_key(raw, b"new") == expected
