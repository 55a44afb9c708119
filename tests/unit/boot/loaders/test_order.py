"""order.py: tables of names and versions with the order of each loader."""

from __future__ import annotations

import pytest
from unit.boot.scenarios import A, B, bls_text

from bootc_fast.boot.loaders.entry import MenuEntry, parse_entry
from bootc_fast.boot.loaders.grub_fedora import split_package
from bootc_fast.boot.loaders.order import find_dropped, sort_entries
from bootc_fast.boot.loaders.record import LoaderRule
from bootc_fast.boot.loaders.systemd_boot import compare_systemd
from bootc_fast.boot.loaders.table import list_rules, record_of
from bootc_fast.types import Loader

SYSTEMD, FEDORA, UPSTREAM = list_rules()


def _make(name: str, **fields: str) -> MenuEntry:
    lines = [f"{key.replace('_', '-')} {value}" for key, value in fields.items()]
    return parse_entry(name.encode(), "\n".join(["linux /k", *lines, ""]).encode(), known=())


def _sorted(entries: list[MenuEntry], rule: LoaderRule) -> list[str]:
    return [entry.label for entry in sort_entries(entries, rule)]


# Each list is in systemd-boot's order.
SYSTEMD_ORDER = [
    [_make("b.conf", sort_key="a"), _make("a.conf", sort_key="b")],
    [_make("a.conf", sort_key="bootc-fedora-0"), _make("z.conf", sort_key="bootc-fedora-1")],
    [_make("a.conf", sort_key="bootc-debian-1"), _make("z.conf", sort_key="bootc-fedora-0")],
    [_make("a.conf", sort_key="0"), _make("b.conf", sort_key="bootc-fedora-0")],
    [_make("a.conf", sort_key="k", machine_id="1"), _make("b.conf", sort_key="k", machine_id="2")],
    [_make("a.conf", sort_key="k"), _make("b.conf", sort_key="k", machine_id="1")],
    [_make("a.conf", sort_key="k", version="10"), _make("b.conf", sort_key="k", version="9")],
    [_make("a.conf", sort_key="k", version="43"), _make("b.conf", sort_key="k", version="43~rc1")],
    # Characters beyond UCS-2, and bytes that are no UTF-8, count as nothing.
    [_make("b.conf", sort_key="t"), _make("a.conf", sort_key="t\U0001f600"), _make("z.conf", sort_key="t a")],
    [_make("a.conf", sort_key="t\u20ac"), _make("b.conf", sort_key="t\uff5e")],
    [_make("b.conf", sort_key="k", version="1"), _make("a.conf", sort_key="k", version="1")],
    [_make("a.conf", sort_key="z"), _make("z.conf")],
    [_make("linux-6.10.conf"), _make("linux-6.9.conf")],
    [_make("a+1.conf", sort_key="z"), _make("b+0-3.conf", sort_key="a")],
    [_make("a+3.conf"), _make("a+2-1.conf")],
    [_make("a+2-1.conf"), _make("a+2-2.conf")],
    # Counters are no part of the id, the suffix is: `.` is newer than `-` there.
    [_make("a.conf"), _make("a-1.conf")],
    [_make("b+1.conf"), _make("a.conf")],
]

# Fedora's GRUB: name, version, release as RPM versions, descending; sort-keys say nothing.
FEDORA_ORDER = [
    ["bootc_fedora-43-0.conf", "bootc_fedora-42-1.conf"],
    ["bootc_fedora-10-0.conf", "bootc_fedora-9-1.conf"],
    ["bootc_fedora-42-1.conf", "bootc_fedora-42-0.conf"],
    ["bootc_fedora-9-1.conf", "bootc_debian-13-1.conf"],
    ["bootc-composefs-1.conf", "bootc-composefs-0.conf"],
    ["bootc_fedora-1-1.conf", "bootc-composefs-1.conf"],
    ["bootc_zz-00000001-99.conf", "bootc_fedora-99-1.conf", "bootc-composefs-1.conf"],
    ["bootc_zz-00000002-99.conf", "bootc_zz-00000001-99.conf", "bootc_zz-00000001-98.conf"],
    ["fedora-6.1-1.conf", "bootc_zz-00000001-99.conf"],
    ["bootc_4mlinux-1-1.conf", "bootc_zz-00000001-99.conf"],
    ["bootd-00000001-99.conf", "bootc_4mlinux-1-1.conf"],
]

UPSTREAM_ORDER = [
    ["bootc_fedora-43-0.conf", "bootc_fedora-42-1.conf"],
    ["bootc_fedora-10-0.conf", "bootc_fedora-9-1.conf"],
    ["bootc_zz-00000001-99.conf", "bootc_fedora-99-1.conf", "bootc_4mlinux-1-1.conf", "bootc-composefs-1.conf"],
    ["bootc_zz-00000002-99.conf", "bootc_zz-00000001-99.conf", "bootc_zz-00000001-98.conf"],
]


@pytest.mark.parametrize("entries", SYSTEMD_ORDER, ids=lambda entries: entries[0].label + "…")
def test_systemd_boot_order(entries: list[MenuEntry]) -> None:
    expected = [entry.label for entry in entries]
    assert _sorted(entries, SYSTEMD) == expected
    assert _sorted(entries[::-1], SYSTEMD) == expected


@pytest.mark.parametrize(
    ("key", "same_as"),
    [
        (b"t\xff", b"t"),
        (b"t\xc3", b"t"),
        (b"t\xc3z", b"t"),
        (b"\xe2\x82a", b""),
        (b"\xed\xa0\x80b", b"b"),
        (b"\xf8\x80\x80\x80\x81b", b"\x01b"),
        (b"\xc1\xa1", b"a"),
    ],
)
def test_systemd_boot_skips_what_is_no_utf8_in_a_sort_key(key: bytes, same_as: bytes) -> None:
    entries = [parse_entry(b"x.conf", b"linux /k\nsort-key x" + text + b"\n", known=()) for text in (key, same_as)]
    assert compare_systemd(entries[0], entries[1]) == 0


@pytest.mark.parametrize("names", FEDORA_ORDER, ids=lambda names: names[0])
def test_fedora_grub_order(names: list[str]) -> None:
    assert _sorted([_make(name, sort_key="0") for name in reversed(names)], FEDORA) == names


@pytest.mark.parametrize("names", UPSTREAM_ORDER, ids=lambda names: names[0])
def test_upstream_grub_order(names: list[str]) -> None:
    assert _sorted([_make(name) for name in reversed(names)], UPSTREAM) == names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"bootc_fedora-42-1.conf", (b"bootc_fedora", b"42", b"1")),
        (b"kernel-a-5.14.0-362.fc38.conf", (b"kernel-a", b"5.14.0", b"362.fc38")),
        (b"a-b.conf", (b"a", b"b", b"")),
        (b"a.conf", (b"a", b"", b"")),
    ],
)
def test_fedora_grub_splits_a_name_at_its_last_two_dashes(name: bytes, expected: tuple[bytes, ...]) -> None:
    assert split_package(name) == expected


def test_grub_drops_one_of_two_names_that_compare_equal_and_it_is_told() -> None:
    entries = [_make("a-01-1.conf"), _make("a-1-1.conf")]
    assert len(sort_entries(entries, FEDORA)) == 1
    assert len(find_dropped(entries, FEDORA)) == 1
    assert not find_dropped(entries, SYSTEMD)


def test_systemd_boot_hides_what_it_cannot_start() -> None:
    entry = parse_entry(b"x.conf", bls_text(A, "1", None), known={A})
    assert SYSTEMD.shows(entry)
    for name in ("auto-x.conf", ".x.conf", "x.txt"):
        assert not SYSTEMD.shows(_make(name))
    assert FEDORA.shows(_make("auto-x.conf"))


def test_upstream_grub_shows_hidden_names_and_no_efi_programs() -> None:
    assert UPSTREAM.shows(_make(".x.conf"))
    assert not FEDORA.shows(_make(".x.conf"))
    program = parse_entry(b"x.conf", b"title x\nefi /x.efi\n", known=())
    assert FEDORA.shows(program)
    assert not UPSTREAM.shows(program)
    both = parse_entry(b"x.conf", b"linux /x\nefi /x.efi\n", known=())
    assert UPSTREAM.shows(both)


def test_each_loader_has_its_rules() -> None:
    assert record_of(Loader.SYSTEMD_BOOT).rules == (SYSTEMD,)
    assert record_of(Loader.GRUB).rules == (FEDORA, UPSTREAM)
    assert record_of(Loader.GRUB_CC).rules == (FEDORA,)
    assert A != B
