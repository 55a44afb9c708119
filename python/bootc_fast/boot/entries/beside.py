"""A whole set of entries in a directory that no loader reads, and its exchange with the live one.

A live FAT directory must not grow: Linux writes the link to a new cluster and that cluster's end mark unordered, and
firmware takes a directory whose chain runs into a free cluster for empty. So nothing live gets a new name but
``loader``, and there one of a single slot, which any free slot is enough for.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

from bootc_fast.boot.area.directory import opened
from bootc_fast.boot.area.replace import find_linked, remove_files
from bootc_fast.boot.entries.naming import find_generation
from bootc_fast.boot.entries.reader import ENTRIES, LOADER_DIRECTORY
from bootc_fast.errors import BootEntryError
from bootc_fast.text import escape_bytes, reason_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bootc_fast.boot.area.directory import BootDirectory, BootVolume

BESIDE_NAMES = tuple(b"BFSET%d" % number for number in range(10))
"""Upper case and short: Linux's vfat gives such a name one slot. bootc reads none of them."""

UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
"""What a kernel says that cannot exchange two names on this file system (vfat before Linux 6.0)."""

_ROOM_HINT = "remove what nobody needs from loader/ on the boot partition: a directory that is in use must not grow"


def count_slots(name: bytes) -> int:
    """Return how many slots a name takes in a FAT directory, at most."""
    if name in BESIDE_NAMES:
        return 1
    units = len(name.decode("utf-8", "surrogateescape").encode("utf-16-le", "surrogatepass")) // 2
    return 1 + -(-units // 13)


def _count_free(directory: BootDirectory) -> int | None:
    """Count free slots; None where the directory's size says nothing about its room."""
    capacity = directory.capacity_slots()
    if capacity is None:
        return None
    return capacity - 2 - sum(count_slots(name) for name in directory.list_names())


def check_names_fit(volume: BootVolume, path: bytes, names: Sequence[bytes]) -> None:
    """Refuse new names that could make a live directory grow.

    A name needs neighbouring slots, and which are free is not known here: the worst is that the free ones lie
    scattered between the names.

    Raises:
        BootEntryError: They may not fit.
    """
    with contextlib.ExitStack() as stack:
        try:
            directory = stack.enter_context(opened(volume, path))
        except FileNotFoundError:
            return
        free = _count_free(directory)
        if free is None or not names:
            return
        runs = len(directory.list_names()) + 1
        largest = max(map(count_slots, names))
        if free - sum(map(count_slots, names)) < runs * (largest - 1):
            where = escape_bytes(path)
            raise BootEntryError(f"/{where} has no room for {len(names)} more names: it would grow", hint=_ROOM_HINT)


def choose_beside(volume: BootVolume) -> bytes:
    """Choose the path of a directory beside the live one.

    Raises:
        BootEntryError: ``loader`` would have to grow for it.
    """
    with opened(volume, LOADER_DIRECTORY) as directory:
        names = {name.upper() for name in directory.list_names()}
        free = _count_free(directory)
    name = next((name for name in BESIDE_NAMES if name not in names), None)
    if name is None or (free is not None and free < 1):
        raise BootEntryError("/loader has no room for one more name: it would grow", hint=_ROOM_HINT)
    return LOADER_DIRECTORY + b"/" + name


def write_set(volume: BootVolume, path: bytes, files: Mapping[bytes, bytes]) -> None:
    """Make the directory with all its files, and put it on the disk.

    Raises:
        OSError: A part of it may be there.
    """
    volume.make_directory(path)
    with opened(volume, path) as directory:
        for name, data in files.items():
            directory.write_new(name, data)
        directory.barrier()


def exchange_with_live(volume: BootVolume, path: bytes) -> None:
    """Exchange the directory with the live one, and put both names on the disk.

    Raises:
        OSError: It is not known which of the two is live on the disk; both are whole.
    """
    name = path.rpartition(b"/")[2]
    with opened(volume, LOADER_DIRECTORY) as parent:
        parent.exchange(name, ENTRIES.rpartition(b"/")[2])
    flush_both(volume, path)


def flush_both(volume: BootVolume, path: bytes) -> None:
    """Put the inodes of both directories and their parent on the disk."""
    for place in (path, ENTRIES, LOADER_DIRECTORY):
        with opened(volume, place) as directory:
            directory.barrier()


def is_same_directory(volume: BootVolume, path: bytes, other: bytes = ENTRIES) -> bool:
    """Tell whether two names lead to one directory, as a symlink does, or a cut inside an exchange on FAT.

    Emptying one would empty the other. Where they cannot be told apart they count as one.
    """
    if volume.is_alias(path, other):
        return True
    if not volume.is_fat():
        return False
    with contextlib.ExitStack() as stack:
        try:
            one, two = (stack.enter_context(opened(volume, place)) for place in (path, other))
        except FileNotFoundError:
            return False
        names, others = one.list_names(), two.list_names()
        if names == others:
            return True
        try:
            blocks = [(one.first_block(name), two.first_block(name)) for name in set(names) & set(others)]
        except OSError:
            return True
        return any(here is not None and here == there for here, there in blocks)


def remove_set(volume: BootVolume, path: bytes) -> list[str]:
    """Empty and remove a directory that is not live; returns what failed, in words."""
    try:
        directory = volume.open_directory(path)
        if directory is None:
            return []
        if is_same_directory(volume, path):
            where = escape_bytes(path)
            return [f"/{where} is left: it is the same directory as /{ENTRIES.decode()}; run fsck on that partition"]
        with contextlib.closing(directory):
            names = directory.list_names()
            problems = remove_files(directory, names, linked=find_linked(directory, names))
        if not problems:
            volume.remove_directory(path)
    except OSError as error:
        return [f"removing the old boot entries: {reason_of(error)}"]
    return problems


def remove_outdated(volume: BootVolume) -> list[str]:
    """Remove old sets that a cut after the exchange left; returns what is left instead, in words.

    An old set was whole on the disk when it was live, so that its files own their blocks. On FAT that does not hold
    for a set that was being built: its names may have reached the disk without their blocks. Such a one stays.
    """
    problems: list[str] = []
    parent, live = volume.open_directory(LOADER_DIRECTORY), volume.open_directory(ENTRIES)
    with contextlib.ExitStack() as stack:
        for directory in filter(None, (parent, live)):
            stack.callback(directory.close)
        if parent is None or live is None:
            return []
        newest = find_generation(live.list_names())
        for name in [name for name in parent.list_names() if name in BESIDE_NAMES]:
            path = LOADER_DIRECTORY + b"/" + name
            with opened(volume, path) as old:
                names = old.list_names()
            if volume.is_fat() and (not names or find_generation(names) >= newest):
                problems.append(f"/{path.decode()} is left from a run that was cut: run fsck, then remove it")
            else:
                problems += remove_set(volume, path)
    return problems
