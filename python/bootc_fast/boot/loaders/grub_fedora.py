"""The GRUB of Fedora and its kin, with ``blscfg``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.boot.loaders.grubenv import GRUBENV, collect_grub_overrides, explain_grub_first, find_grub_match
from bootc_fast.boot.loaders.record import LoaderRule
from bootc_fast.boot.loaders.version import compare_rpm

if TYPE_CHECKING:
    from bootc_fast.boot.loaders.entry import MenuEntry


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


def _shows(entry: MenuEntry) -> bool:
    """It looks for a kernel or an EFI program in the text, and not at names that start with ``.``.

    Source:
        Fedora's GRUB ``blscfg.c``, ``read_entry``.
    """
    name = entry.file_name
    return name.endswith(b".conf") and not name.startswith(b".") and entry.is_grub_bootable


RULE = LoaderRule(
    name="GRUB (Fedora blscfg)",
    home=b"grub2",
    settings=GRUBENV,
    compare=compare_grub_fedora,
    shows=_shows,
    identify=lambda entry: entry.grub_id,
    collect_overrides=collect_grub_overrides,
    find_match=find_grub_match,
    explain_first=explain_grub_first,
    choose_command="grub2-set-default {}",
    fate_of_equals="drops",
)
