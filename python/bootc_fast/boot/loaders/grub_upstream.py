"""GRUB 2.14 as it is released, with its own ``blscfg``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.boot.loaders.grubenv import GRUBENV, collect_grub_overrides, explain_grub_first, find_grub_match
from bootc_fast.boot.loaders.record import LoaderRule
from bootc_fast.boot.loaders.version import compare_file_names

if TYPE_CHECKING:
    from bootc_fast.boot.loaders.entry import MenuEntry


def compare_grub_upstream(left: MenuEntry, right: MenuEntry) -> int:
    """Compare as GRUB 2.14 does; negative where `left` is shown first, 0 where it stops reading."""
    return -compare_file_names(left.file_name, right.file_name)


def _shows(entry: MenuEntry) -> bool:
    """It looks for a kernel in the text, also in names that start with ``.``, and knows no UKIs in entries.

    Source:
        GRUB 2.14 ``blsuki.c``, ``blsuki_read_entry``, and its menu in a machine (``tests/vm/test_grub_order.py``).
    """
    return entry.file_name.endswith(b".conf") and entry.is_grub_linux


RULE = LoaderRule(
    name="GRUB (upstream blscfg)",
    home=b"grub",
    settings=GRUBENV,
    compare=compare_grub_upstream,
    shows=_shows,
    identify=lambda entry: entry.grub_id,
    collect_overrides=collect_grub_overrides,
    find_match=find_grub_match,
    explain_first=explain_grub_first,
    choose_command="grub-set-default {}",
    fate_of_equals="stops reading entries at",
)
