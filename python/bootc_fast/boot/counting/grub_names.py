"""What GRUB calls an entry in ``default``, and where it stands in the menu.

Source:
    GRUB ``grub-core/normal/menu.c``, ``get_entry_number`` and ``menuentry_eq``: what begins as a number is a place in
    the menu, ``>`` leads into a submenu and ``>>`` stands for it, and the first item wins whose title or id is equal;
    for a name that there is not the first item boots. Asked of GRUB in ``tests/vm/test_grub_counting.py``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bootc_fast.boot.loaders.grub_words import has_variable
from bootc_fast.boot.loaders.order import sort_entries
from bootc_fast.boot.loaders.user_cfg import parse_user_cfg
from bootc_fast.text import escape_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bootc_fast.boot.entries.menu import BootMenu
    from bootc_fast.boot.entries.plan import MenuPlan
    from bootc_fast.boot.loaders.entry import MenuEntry

_NUMBER = re.compile(rb"\s*[0-9]")
_CONTROL = re.compile(rb"[\0-\x1f\x7f]")
# What makes it uncertain which items a text makes.
_UNCERTAIN = re.compile(rb"\b(?:submenu|menuentry|blscfg|function|for|while|until|source|configfile)\b")
_CONFIGURATION = re.compile(rb"source[ \t]+\S*efiuuid\.cfg")
_IF, _FI = re.compile(rb"\bif\b"), re.compile(rb"\bfi\b")


def find_name(entry: MenuEntry) -> bytes:
    """Return the name by which GRUB finds an entry: a file's without ``.conf``, or a menuentry's title."""
    return entry.grub_id if entry.menu_id is None else entry.title or b""


def find_name_trouble(entry: MenuEntry, shown: Sequence[MenuEntry]) -> str | None:
    """Say why GRUB does not find an entry by its name; None where it does.

    Args:
        entry: Which, one of `shown`.
        shown: All that GRUB shows.
    """
    name = find_name(entry)
    told = f"the name of {entry.label}"
    if entry.menu_id is not None and has_variable(name.decode("utf-8", "surrogateescape")):
        return f"{told} has a variable in it"
    if not name.strip():
        return f"{told} is empty"
    if _CONTROL.search(name):
        return f"{told} has a control character in it"
    if _NUMBER.match(name):
        return f"{told} begins with a digit, and GRUB takes it for a place in the menu"
    if sum(name in (one.title, one.grub_id) for one in shown) > 1:
        return f"{escape_bytes(name)} is the name of more than one item of the menu"
    return None


def find_place(entry: MenuEntry, menu: BootMenu, plan: MenuPlan) -> int | None:
    """Return an entry's place in the planned menu, from 0; None where it is not certain.

    Args:
        entry: Which, one of the plan's `shown`.
        menu: What is there.
        plan: What is to be.
    """
    items = [one for one in plan.shown if one.menu_id is not None]
    files = [one for one in plan.shown if one.menu_id is None]
    places = {(*items, *sort_entries(files, rule)).index(entry) for rule in menu.record.rules}
    if len(places) != 1 or not _is_certain(entry, menu, plan):
        return None
    return places.pop()


def _is_certain(entry: MenuEntry, menu: BootMenu, plan: MenuPlan) -> bool:
    """Say whether the text before an entry in ``user.cfg`` makes no items of its own."""
    text: list[bytes] = []
    cfg = plan.user_cfg if plan.user_cfg is not None else menu.live.user_cfg or b""
    for chunk in parse_user_cfg(cfg, known=menu.known):
        if chunk.entry is None:
            text.append(chunk.raw)
        elif chunk.entry.raw == entry.raw:
            break
    before = _CONFIGURATION.sub(b"", b"\n".join(text))
    return not _UNCERTAIN.search(before) and len(_IF.findall(before)) == len(_FI.findall(before))
