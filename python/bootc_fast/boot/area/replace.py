"""Two building blocks of publishing that are safe on FAT: taking names away, and replacing one file."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from bootc_fast.text import escape_bytes, reason_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from bootc_fast.boot.area.directory import BootDirectory

GONE_SUFFIX = b".gone"
NEW_SUFFIX = b".new"


def find_linked(directory: BootDirectory, names: Collection[bytes]) -> frozenset[bytes]:
    """Find names whose first block is another name's too, which a power cut inside a FAT rename leaves.

    Removing one of the two names would free the other's blocks, so both have to stay. A name whose block cannot be
    told for an error counts as such.
    """
    by_block: dict[int, list[bytes]] = {}
    found: set[bytes] = set()
    for name in names:
        try:
            block = directory.first_block(name)
        except OSError:
            found.add(name)
            continue
        if block is not None:
            by_block.setdefault(block, []).append(name)
    found.update(name for group in by_block.values() if len(group) > 1 for name in group)
    return frozenset(found)


def _retire(directory: BootDirectory, name: bytes) -> None:
    """Take a name that shares its blocks out of the loader's sight."""
    if not name.endswith((GONE_SUFFIX, NEW_SUFFIX)):
        directory.rename(name, name + GONE_SUFFIX)


def remove_files(directory: BootDirectory, names: Iterable[bytes], *, linked: Collection[bytes]) -> list[str]:
    """Remove files so that a power cut leaves each of them whole or absent.

    While a descriptor is open its blocks are not freed: the names are on the disk as gone before that happens.
    All names go in one epoch, so whoever minds the order calls this once for each.

    Args:
        directory: Where.
        names: What; absent ones are passed over.
        linked: Names that share their blocks with another one: these are only taken out of the loader's sight.

    Returns:
        What failed, in words; the files in question are still there.

    Raises:
        OSError: From the first barrier; nothing is sure then, but no block is freed.
    """
    problems: list[str] = []
    held: list[int] = []
    try:
        for name in names:
            try:
                if name in linked:
                    _retire(directory, name)
                    continue
                held.append(directory.hold(name))
                directory.unlink(name)
            except FileNotFoundError:
                continue
            except OSError as error:
                problems.append(f"{escape_bytes(name)} cannot be removed: {reason_of(error)}")
        directory.barrier()
    finally:
        for handle in held:
            with contextlib.suppress(OSError):
                directory.release(handle)
    try:
        directory.barrier()
    except OSError as error:
        problems.append(f"flushing after removing files: {reason_of(error)}")
    return problems


def _unused_name(directory: BootDirectory, name: bytes) -> bytes:
    """Choose a temporary name; one that a cut left may share the live file's blocks and is left alone."""
    names = frozenset(directory.list_names())
    number = 0
    while (candidate := b"%s.bootc-fast-%d%s" % (name, number, NEW_SUFFIX)) in names:
        number += 1
    return candidate


def replace_file(directory: BootDirectory, name: bytes, data: bytes) -> None:
    """Put a new file in a file's place; at every moment the name leads to the old or the new content, whole.

    On FAT the name keeps the old file's blocks until the new file's inode is written; the old file stays open until
    then, so that these blocks are not free yet.

    Raises:
        OSError: The old file is in place, or the new one where only the last flush failed.
    """
    temporary = _unused_name(directory, name)
    held: int | None = None
    try:
        directory.write_new(temporary, data)
        directory.barrier()
        with contextlib.suppress(FileNotFoundError):
            held = directory.hold(name)
        directory.rename(temporary, name)
        directory.barrier()
    except OSError:
        if held is not None:
            with contextlib.suppress(OSError):
                directory.release(held)
        with contextlib.suppress(OSError):
            remove_files(directory, [temporary], linked=find_linked(directory, (temporary, name)))
        raise
    if held is not None:
        directory.release(held)
        directory.barrier()
