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
from bootc_fast.boot.area.replace import (
    detach_leftover,
    find_unsafe,
    remove_detached,
    remove_files,
    remove_temporaries,
)
from bootc_fast.boot.area.room import FILL_NAMES, has_room_for, look_at
from bootc_fast.boot.entries.naming import find_generation
from bootc_fast.boot.entries.reader import BESIDE_NAMES, ENTRIES, GRUB_DIRECTORY, LOADER_DIRECTORY
from bootc_fast.errors import BootEntryError, FatFormatError
from bootc_fast.text import count, escape_bytes, reason_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bootc_fast.boot.area.directory import BootDirectory, BootVolume

CHECK_HINT = "check the partition, unmounted, with `fsck.fat -a`; `bootc-fast doctor` says what is wrong"

UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
"""What a kernel says that cannot exchange two names on this file system (vfat before Linux 6.0)."""


def check_names_fit(volume: BootVolume, path: bytes, names: Sequence[bytes]) -> None:
    """Refuse new names that could make a live directory grow.

    Raises:
        BootEntryError: They do not fit, or may not.
    """
    if not has_room_for(volume, path, names):
        where = escape_bytes(path)
        more = count(len(names), "more names")
        raise BootEntryError(f"/{where} has no room for {more}: it would grow", hint=describe_room(path))


def describe_room(path: bytes) -> str:
    """Say what makes room in a directory."""
    return (
        f"remove what nobody needs from /{escape_bytes(path)} on the boot partition: a directory that is in use must"
        " not grow, and each name takes a place for every 13 characters and one more"
    )


def choose_beside(volume: BootVolume) -> bytes:
    """Choose the path of a directory beside the live one.

    Raises:
        BootEntryError: ``loader`` would have to grow for it.
    """
    with opened(volume, LOADER_DIRECTORY) as directory:
        names = {name.upper() for name in directory.list_names()}
        # The kernel may remember a name that is not on the disk any more.
        free = (one for one in BESIDE_NAMES if one not in names and directory.find_kind(one) is None)
        name = next(free, None)
    if name is None:
        raise BootEntryError("/loader is full of what power cuts left: BFSET0 to BFSET9", hint=CHECK_HINT)
    check_names_fit(volume, LOADER_DIRECTORY, [name])
    return LOADER_DIRECTORY + b"/" + name


def write_set(volume: BootVolume, path: bytes, files: Mapping[bytes, bytes], fill: int = 0) -> None:
    """Make the directory with all its files, and put it on the disk.

    Args:
        volume: Where.
        path: Its path; nothing is there.
        files: Names and contents.
        fill: So many places of the directory are taken first, and left deleted.

    Raises:
        OSError: A part of it may be there.
    """
    volume.make_directory(path)
    with opened(volume, path) as directory:
        for name in FILL_NAMES[:fill]:
            directory.write_new(name, b"")
        for name, data in files.items():
            directory.write_new(name, data)
        for name in FILL_NAMES[:fill]:
            directory.unlink(name)
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
    with look_at(volume) as look:
        if look is not None:
            try:
                return look.is_same(path, other)
            except (OSError, FatFormatError):
                return True
    return _has_same_files(volume, path, other)


def _has_same_files(volume: BootVolume, path: bytes, other: bytes) -> bool:
    with contextlib.ExitStack() as stack:
        try:
            one, two = (stack.enter_context(opened(volume, place)) for place in (path, other))
        except FileNotFoundError:
            return False
        names, others = one.list_names(), two.list_names()
        try:
            blocks = [(one.first_block(name), two.first_block(name)) for name in set(names) & set(others)]
        except OSError:
            return True
        return names == others or any(here is not None and here == there for here, there in blocks)


def remove_set(volume: BootVolume, path: bytes) -> list[str]:
    """Empty and remove a directory that is not live; returns what failed, in words.

    What has clusters that are free, or another's too, stays, and so does the directory: no loader reads it.
    """
    where = escape_bytes(path)
    try:
        directory = volume.open_plain_directory(path)
        if directory is None:
            return [f"/{where} is left: it is no directory"] if volume.is_alias(path, ENTRIES) else []
        with contextlib.closing(directory):
            if is_same_directory(volume, path):
                return [f"/{where} is left: it is the same directory as /{ENTRIES.decode()}; {CHECK_HINT}"]
            names = directory.list_names()
            unsafe = find_unsafe(volume, path, directory, names)
            problems = remove_files(directory, names, linked=unsafe)
        if not problems:
            volume.remove_directory(path)
    except OSError as error:
        return [f"removing the old boot entries: {reason_of(error)}"]
    return [f"/{where}: {problem}; {CHECK_HINT}" for problem in problems]


def remove_outdated(volume: BootVolume) -> list[str]:
    """Remove sets that a cut left, old ones and half-made ones; returns what is left instead, in words.

    An old set was whole on the disk when it was live. The names of one that was being built, and its own, may have
    reached the disk without their clusters, which are free then, or another's: the FAT tells. Such a one is detached
    before anything is written, since Linux would give its free clusters to what is written next; where the device
    cannot be written it stays, and where the FAT cannot be read too. Files that were to replace others go likewise.
    """
    problems: list[str] = []
    for place in (LOADER_DIRECTORY, GRUB_DIRECTORY):
        problems += _remove_temporaries(volume, place)
    parent, live = volume.open_plain_directory(LOADER_DIRECTORY), volume.open_directory(ENTRIES)
    with contextlib.ExitStack() as stack:
        for directory in filter(None, (parent, live)):
            stack.callback(directory.close)
        if parent is None or live is None:
            return problems
        newest = find_generation(live.list_names())
        for name in [name for name in parent.list_names() if name in BESIDE_NAMES]:
            path = LOADER_DIRECTORY + b"/" + name
            problems += _remove_leftover(volume, parent, path, newest)
    return problems


def _remove_leftover(volume: BootVolume, parent: BootDirectory, path: bytes, newest: int) -> list[str]:
    with look_at(volume) as look:
        try:
            if look is not None and look.leads_nowhere(path):
                return remove_detached(volume, parent, path)
            trouble, is_known = (look.why_left(path), True) if look is not None else (None, not volume.is_fat())
        except (OSError, FatFormatError):
            trouble, is_known = None, False
    if trouble is not None:
        return [detach_path(volume, path, trouble)]
    if is_known or _was_live(volume, path, newest):
        return remove_set(volume, path)
    return [f"/{path.decode()} is left from a run that was cut; {CHECK_HINT}"]


def _remove_temporaries(volume: BootVolume, place: bytes) -> list[str]:
    try:
        directory = volume.open_plain_directory(place)
        if directory is None:
            return []
        with contextlib.closing(directory):
            found = remove_temporaries(volume, place, directory)
    except OSError as error:
        return [f"removing what a cut left in /{escape_bytes(place)}: {reason_of(error)}"]
    return [_tell_detached(_describe_strange(place + b"/" + name, why), is_gone=gone) for name, why, gone in found]


def _describe_strange(path: bytes, trouble: str) -> str:
    return f"/{escape_bytes(path)}, whose clusters are not its own ({trouble}),"


def _tell_detached(what: str, *, is_gone: bool) -> str:
    return f"{what} is taken away and they are left alone" if is_gone else f"{what} stays; {CHECK_HINT}"


def detach_path(volume: BootVolume, path: bytes, trouble: str) -> str:
    """Take away a name of ours that nobody needs, without its clusters, which are not its own; say what came of it."""
    what = _describe_strange(path, trouble)
    head, _slash, name = path.rpartition(b"/")
    try:
        with opened(volume, head) as parent:
            is_gone = detach_leftover(volume, parent, head, name)
    except OSError as error:
        return f"{what} stays: {reason_of(error)}; {CHECK_HINT}"
    return _tell_detached(what, is_gone=is_gone)


def _was_live(volume: BootVolume, path: bytes, newest: int) -> bool:
    with opened(volume, path) as old:
        names = old.list_names()
    return bool(names) and find_generation(names) < newest
