"""The order in which each boot loader shows the entries; the first one boots unless something overrides it."""

from __future__ import annotations

import enum
from functools import cmp_to_key
from typing import TYPE_CHECKING

from bootc_fast.boot.loaders.version import compare_file_names, compare_rpm, compare_uapi
from bootc_fast.types import Loader

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bootc_fast.boot.loaders.entry import MenuEntry


class OrderRule(enum.StrEnum):
    """Whose rule it is."""

    SYSTEMD_BOOT = "systemd-boot"
    GRUB_FEDORA = "GRUB (Fedora blscfg)"
    GRUB_UPSTREAM = "GRUB (upstream blscfg)"


def rules_of(loader: Loader) -> tuple[OrderRule, ...]:
    """Return the rules that a loader of this kind may follow; which GRUB it is can not be told from outside.

    GRUB CC is built from Fedora's sources.
    """
    if loader is Loader.SYSTEMD_BOOT:
        return (OrderRule.SYSTEMD_BOOT,)
    if loader is Loader.GRUB_CC:
        return (OrderRule.GRUB_FEDORA,)
    return (OrderRule.GRUB_FEDORA, OrderRule.GRUB_UPSTREAM)


def _sign(left: bool | int, right: bool | int) -> int:  # noqa: FBT001 - both are compared as numbers
    return (left > right) - (left < right)


_ASCII = range(0x80)
_CONTINUATION = range(0x80, 0xC0)
_SURROGATES = range(0xD800, 0xE000)
_UCS2 = range(0x10000)


def _sequence_length(first: int) -> int:
    """Length of the UTF-8 sequence that a byte begins, in the old form with up to 6 bytes; 1 where it begins none."""
    leading_ones = 8 - (first ^ 0xFF).bit_length()
    return leading_ones if leading_ones in range(2, 7) else 1


def _ucs2(value: bytes | None) -> list[int]:
    """What systemd-boot compares: UCS-2. It skips what is no UTF-8, and all characters that UCS-2 does not have.

    Source:
        systemd ``src/boot/efi-string.c``, ``xstrn8_to_16``; its menu in a machine (``tests/vm/test_uki_story.py``).
    """
    data, at, units = value or b"", 0, []
    while at < len(data):
        length = _sequence_length(data[at])
        rest = data[at + 1 : at + length]
        is_whole = len(rest) == length - 1 and all(byte in _CONTINUATION for byte in rest)
        unit = data[at] if length == 1 else data[at] & (0x7F >> length)
        for byte in rest:
            unit = unit << 6 | byte & 0x3F
        is_garbage = length == 1 and unit not in _ASCII
        if is_whole and not is_garbage and unit in _UCS2 and unit not in _SURROGATES:
            units.append(unit)
        at += length
    return units


def _compare_text(left: bytes | None, right: bytes | None) -> int:
    first, second = (left is not None, _ucs2(left)), (right is not None, _ucs2(right))
    return (first > second) - (first < second)


def compare_systemd(left: MenuEntry, right: MenuEntry) -> int:
    """Compare as systemd-boot does; negative where `left` is shown first.

    The id that is compared last has ``.conf`` at its end and no counters.

    Source:
        systemd ``src/boot/boot.c``, ``boot_entry_compare``; the same name in ``src/shared/bootspec.c``.
    """
    order = _sign(left.tries_left == 0, right.tries_left == 0)
    order = order or _sign(left.sort_key is None, right.sort_key is None)
    if not order and left.sort_key is not None:
        order = _compare_text(left.sort_key, right.sort_key)
        order = order or _compare_text(left.machine_id, right.machine_id)
        order = order or -compare_uapi(left.version, right.version)
    order = order or -compare_uapi(left.loader_id, right.loader_id)
    if order or left.tries_left is None or right.tries_left is None:
        return order
    order = -_sign(left.tries_left, right.tries_left)
    return order or _sign(left.tries_done or 0, right.tries_done or 0)


def split_package(file_name: bytes) -> tuple[bytes, bytes, bytes]:
    """Split a file name into name, version and release as Fedora's GRUB does.

    With one ``-`` there is a name and a version; a missing part counts as empty.

    Source:
        Fedora's GRUB ``blscfg.c``, ``split_package_string``; spec boot.md, "The order is the loader's".
    """
    stem = file_name.removesuffix(b".conf")
    head, dash, release = stem.rpartition(b"-")
    if not dash:
        return stem, b"", b""
    name, dash, version = head.rpartition(b"-")
    return (name, version, release) if dash else (head, release, b"")


def compare_grub_fedora(left: MenuEntry, right: MenuEntry) -> int:
    """Compare as Fedora's GRUB does; negative where `left` is shown first, 0 where it drops one of them."""
    for one, two in zip(split_package(left.file_name), split_package(right.file_name), strict=True):
        order = -compare_rpm(one, two)
        if order:
            return order
    return 0


def compare_grub_upstream(left: MenuEntry, right: MenuEntry) -> int:
    """Compare as GRUB 2.14 does; negative where `left` is shown first, 0 where it stops reading."""
    return -compare_file_names(left.file_name, right.file_name)


_COMPARE = {
    OrderRule.SYSTEMD_BOOT: compare_systemd,
    OrderRule.GRUB_FEDORA: compare_grub_fedora,
    OrderRule.GRUB_UPSTREAM: compare_grub_upstream,
}


def compare_entries(left: MenuEntry, right: MenuEntry, rule: OrderRule) -> int:
    """Compare by `rule`; negative where `left` is shown first."""
    return _COMPARE[rule](left, right)


def is_shown(entry: MenuEntry, rule: OrderRule) -> bool:
    """Say whether the loader shows the entry at all.

    systemd-boot leaves out what has no loader file and names that start with ``.`` or ``auto-``; GRUB looks at the
    text only: Fedora's for a kernel or an EFI program, upstream's for a kernel, also in names that start with ``.``.

    Source:
        systemd ``src/boot/boot.c``; Fedora's GRUB ``blscfg.c``, ``read_entry``; GRUB 2.14 ``blsuki.c``,
        ``blsuki_read_entry``, and its menu in a machine (``tests/vm/test_grub_order.py``).
    """
    name = entry.file_name
    if rule is OrderRule.GRUB_UPSTREAM:
        return name.endswith(b".conf") and entry.is_grub_linux
    if rule is OrderRule.GRUB_FEDORA:
        return name.endswith(b".conf") and not name.startswith(b".") and entry.is_grub_bootable
    if not name.lower().endswith(b".conf") or name.lower().startswith((b".", b"auto-")):
        return False
    program = entry.linux if entry.linux is not None else entry.uki
    return entry.is_bootable and (program is None or program not in entry.missing)


def sort_entries(entries: Iterable[MenuEntry], rule: OrderRule) -> tuple[MenuEntry, ...]:
    """Return what the loader shows, in its order.

    Of entries that compare equal GRUB keeps the one that it reads first, which depends on the directory: here the
    one that `entries` has first. Upstream's (2.14) then reads no more: what the directory has behind the second one is
    not shown either, which cannot be told from here.
    """
    shown = sorted((entry for entry in entries if is_shown(entry, rule)), key=cmp_to_key(_COMPARE[rule]))
    if rule is OrderRule.SYSTEMD_BOOT:
        return tuple(shown)
    return tuple(entry for i, entry in enumerate(shown) if i == 0 or compare_entries(shown[i - 1], entry, rule) != 0)


def find_dropped(entries: Sequence[MenuEntry], rule: OrderRule) -> tuple[MenuEntry, ...]:
    """Return the entries that GRUB silently leaves out because another one compares equal.

    Upstream's (2.14) stops at such an entry, and whatever the directory has behind it is left out too.
    """
    kept = {id(entry) for entry in sort_entries(entries, rule)}
    return tuple(entry for entry in entries if is_shown(entry, rule) and id(entry) not in kept)
