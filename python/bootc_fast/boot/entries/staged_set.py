"""Taking away what bootc staged beside the live set: its entries, and GRUB's menuentries."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from bootc_fast.boot.area.replace import find_unsafe, remove_files
from bootc_fast.boot.area.room import TEMPORARY_NAMES
from bootc_fast.boot.entries.beside import is_same_directory
from bootc_fast.boot.entries.mentions import read_mentions
from bootc_fast.boot.entries.menu import BootMenu, StagedMenu
from bootc_fast.boot.entries.reader import GRUB_DIRECTORY, STAGED_ENTRIES, USER_CFG, USER_CFG_STAGED

if TYPE_CHECKING:
    from bootc_fast.boot.area.directory import BootDirectory, BootVolume
    from bootc_fast.types import VerityDigest


def list_user_cfgs(directory: BootDirectory) -> list[bytes]:
    """List ``user.cfg`` in its forms, and what a cut left of replacing it."""
    return [name for name in directory.list_names() if name.startswith((USER_CFG, *TEMPORARY_NAMES))]


def remove_staged_set(boot: BootVolume) -> list[str]:
    """Remove ``entries.staged`` and ``user.cfg.staged``, so that a power cut leaves each file whole or absent.

    What shares its clusters with something else stays, and so does the directory then. An absent set is fine.

    Args:
        boot: The boot partition.

    Returns:
        What is left, in words.

    Raises:
        OSError: Of the first operation that failed; nothing that is live has changed.

    Source:
        Spec boot.md, "Replacing the set".
    """
    problems = _remove_entries(boot)
    directory = boot.open_directory(GRUB_DIRECTORY)
    if directory is not None:
        with contextlib.closing(directory):
            names = list_user_cfgs(directory)
            if USER_CFG_STAGED in names:
                unsafe = find_unsafe(boot, GRUB_DIRECTORY, directory, names)
                problems += remove_files(directory, [USER_CFG_STAGED], linked=unsafe)
    return problems


def _remove_entries(boot: BootVolume) -> list[str]:
    if is_same_directory(boot, STAGED_ENTRIES):
        return ["entries.staged is the same directory as entries, and is left"]
    directory = boot.open_plain_directory(STAGED_ENTRIES)
    if directory is None:
        return []
    with contextlib.closing(directory):
        names = directory.list_names()
        unsafe = find_unsafe(boot, STAGED_ENTRIES, directory, names)
        problems = remove_files(directory, names, linked=unsafe)
        left = directory.list_names()
    if not left:
        boot.remove_directory(STAGED_ENTRIES)
    return problems


def find_naming(
    boot: BootVolume, esp: BootVolume | None, menu: BootMenu, digest: VerityDigest, *, with_staged: bool = True
) -> str | None:
    """Find what names a deployment on the boot partition: an entry, live or staged, ours or not, or any other text.

    Args:
        boot: The boot partition.
        esp: The ESP.
        menu: What is there.
        digest: The deployment. A kernel's directory in which it occurs does not name it: kernels are shared, and lie
            in a directory that is called after one of those who share it.
        with_staged: The staged set counts, too.

    Returns:
        What it is, for people; None where nothing does.

    Raises:
        OSError: It cannot be told.
    """
    staged = menu.staged if with_staged else StagedMenu()
    chunks = [chunk.entry for chunk in (*menu.live.chunks, *staged.chunks) if chunk.entry is not None]
    live = (*menu.live.files, *menu.live.entries, *menu.live.elsewhere)
    wanted = re.compile(re.escape(digest.encode("ascii")) + rb"(?![/\\])", re.IGNORECASE)
    for entry in (*live, *staged.files, *staged.entries, *chunks):
        if entry.digest == digest or wanted.search(entry.raw):
            return f"the boot entry {entry.label}"
    is_mentioned = wanted.search(read_mentions(boot, esp, with_staged=with_staged)) is not None
    return "a text on the boot partition" if is_mentioned else None
