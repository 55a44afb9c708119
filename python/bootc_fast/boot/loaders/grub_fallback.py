"""A fallback entry: what GRUB shows, from ``custom.cfg``, where ``user.cfg`` is gone or empty.

It is the one second place for an entry that costs no space and that nobody writes while the entries are replaced. As
long as ``user.cfg`` has something in it the block does nothing: no place in the menu moves, and no name is there twice.

Source:
    bootupd, ``src/grub2``: both files are sourced, ``custom.cfg`` last and after a menuentry for the firmware's own
    setup; what GRUB 2.12 and 2.14 make of it: ``tests/vm/test_grub_fallback.py``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bootc_fast.boot.loaders.grub_trial import quote_name
from bootc_fast.boot.loaders.user_cfg import ESP_HEADER, needs_esp, parse_user_cfg

if TYPE_CHECKING:
    from collections.abc import Collection

    from bootc_fast.boot.loaders.entry import MenuEntry
    from bootc_fast.types import VerityDigest

_BEGIN, _END = b"### BEGIN bootc-fast fallback ###\n", b"### END bootc-fast fallback ###\n"
_BLOCK = re.compile(rb"(?ms)^" + re.escape(_BEGIN) + rb"(.*?)^" + re.escape(_END))
_HEAD = (
    b"# Only where user.cfg is gone; written by bootc-fast: `fallback-entry` in boot.toml (docs/boot-entries.md).\n"
    b'if [ ! -s "${config_directory}/user.cfg" ]; then\n'
)
# What single quotes keep as it is.
_PLAIN = re.compile(rb"[^'\r\n\0]+")


def render_fallback(entry: MenuEntry) -> bytes:
    """Return the block for ``custom.cfg`` that has a copy of a menuentry, and chooses it.

    Raises:
        ValueError: The menuentry's name cannot be chosen.
    """
    name = entry.menu_id or b""
    if not _PLAIN.fullmatch(name):
        raise ValueError("the running deployment's menuentry has a name that cannot be written between quotes")
    header = ESP_HEADER if needs_esp(entry.raw) else b""
    text = entry.raw if entry.raw.endswith(b"\n") else entry.raw + b"\n"
    # The script that counts boots stands aside where a choice for one boot is under way: what it would choose is gone.
    chosen = b"set default='%s'\nset boot_once=true\n" % quote_name(name)
    return b"".join((_BEGIN, _HEAD, header.lstrip(b"\n"), text, chosen, b"fi\n", _END))


def without_fallback(custom: bytes) -> bytes:
    """Return ``custom.cfg`` without a whole fallback entry: what it says counts only where ``user.cfg`` is gone."""
    return _BLOCK.sub(b"", custom)


def remove_fallback(custom: bytes) -> bytes:
    """Return ``custom.cfg`` without the fallback entry.

    Raises:
        ValueError: There is a part of one.
    """
    rest = without_fallback(custom)
    if _BEGIN.strip() in rest or _END.strip() in rest:
        raise ValueError("bootc-fast's fallback entry in it was changed: remove it, from its BEGIN to its END")
    return rest


def find_fallback(custom: bytes, *, known: Collection[VerityDigest]) -> MenuEntry | None:
    """Return the fallback entry of ``custom.cfg``; None where there is none."""
    block = _BLOCK.search(custom)
    chunks = parse_user_cfg(block[1], known=known) if block else ()
    return next((chunk.entry for chunk in chunks if chunk.entry is not None), None)
