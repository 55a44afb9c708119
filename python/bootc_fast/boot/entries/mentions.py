"""Every text from which a loader may take a file's name, as bytes: what is mentioned there is not garbage.

Our parsers know the keys that matter for booting; an admin's ``submenu``, a script in ``custom.cfg`` or a key of
tomorrow names files too. So nothing is removed whose name or digest stands anywhere in these bytes.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from bootc_fast.boot.area.directory import FileKind
from bootc_fast.boot.entries.reader import ENTRIES, STAGED_ENTRIES, USER_CFG, USER_CFG_STAGED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bootc_fast.boot.area.directory import BootDirectory, BootVolume

MAX_TEXT_BYTES = 4 << 20
"""Of one file: the largest grub.cfg seen have some 100 KiB. Where one is longer, nothing is removed."""

_CONFIGS = (USER_CFG, USER_CFG_STAGED, b"custom.cfg", b"grub.cfg")
GRUB_DIRECTORIES = (b"grub2", b"grub")
"""Where distributions have GRUB's files, on the boot partition or on the ESP."""


def read_mentions(boot: BootVolume, esp: BootVolume | None, *, with_staged: bool = True) -> bytes:
    """Read all of them, in lower case as FAT and EFI compare names.

    Args:
        boot: The boot partition.
        esp: The ESP.
        with_staged: The staged set, too.

    Raises:
        OSError: One cannot be read, so that nothing may be removed.
    """
    parts: list[bytes] = []
    configs = [name for name in _CONFIGS if with_staged or name != USER_CFG_STAGED]
    for path in (ENTRIES, STAGED_ENTRIES) if with_staged else (ENTRIES,):
        parts += _read_directory(boot, path)
    for volume in (boot, esp):
        if volume is not None:
            for directory in (*GRUB_DIRECTORIES, *_vendor_directories(volume)):
                parts += filter(None, (volume.read_file(directory + b"/" + name, MAX_TEXT_BYTES) for name in configs))
    return b"\0".join(parts).lower()


def _read_directory(volume: BootVolume, path: bytes) -> Iterator[bytes]:
    for name in _list_names(volume, path, FileKind.FILE, FileKind.LINK):
        raw = volume.read_file(path + b"/" + name, MAX_TEXT_BYTES)
        if raw is not None:
            yield raw


def _vendor_directories(volume: BootVolume) -> list[bytes]:
    """``EFI/fedora`` and its like, where distributions put the first grub.cfg."""
    return [b"EFI/" + name for name in _list_names(volume, b"EFI", FileKind.DIRECTORY)]


def _list_names(volume: BootVolume, path: bytes, *kinds: FileKind) -> list[bytes]:
    directory: BootDirectory | None = volume.open_directory(path)
    if directory is None:
        return []
    with contextlib.closing(directory):
        return [name for name in directory.list_names() if directory.find_kind(name) in kinds]
