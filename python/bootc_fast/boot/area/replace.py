"""Two building blocks of publishing that are safe on FAT: taking names away, and replacing one file."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from bootc_fast.boot.area.directory import FileKind, opened
from bootc_fast.boot.area.room import TEMPORARY_NAMES, look_at, require_room
from bootc_fast.errors import FatFormatError
from bootc_fast.text import escape_bytes, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bootc_fast.boot.area.directory import BootDirectory, BootVolume

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


def remove_files(directory: BootDirectory, names: Iterable[bytes], *, linked: Collection[bytes]) -> list[str]:
    """Remove files so that a power cut leaves each of them whole or absent.

    While a descriptor is open its blocks are not freed: the names are on the disk as gone before that happens.
    All names go in one epoch, so whoever minds the order calls this once for each.

    Args:
        directory: Where.
        names: What; absent ones are passed over.
        linked: Names that must stay, since their blocks are not theirs alone; reasons where it is a mapping.

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
                    reason = linked[name] if isinstance(linked, Mapping) else "it shares its blocks with another name"
                    problems.append(f"{escape_bytes(name)} is left: {reason}")
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


def find_unsafe(
    volume: BootVolume, path: bytes, directory: BootDirectory, names: Collection[bytes]
) -> Mapping[bytes, str]:
    """Say which names of a directory must not be removed, and why: by the FAT, or where it cannot be read by blocks."""
    if volume.is_fat():
        with look_at(volume) as look:
            try:
                found = look.find_unsafe(path) if look is not None else None
            except (OSError, FatFormatError):
                found = None
        if found is not None:
            return found
    shared = "it shares its blocks with another name"
    return dict.fromkeys(find_linked(directory, names), shared)


def find_shared(volume: BootVolume, path: bytes) -> str | None:
    """Say with what a file, or a directory with all below it, has a cluster in common; None also where none can tell.

    A new file gets what the FAT has as free: that may be what a name already leads to which a power cut left.
    """
    if not volume.is_fat():
        return None
    with look_at(volume) as look:
        try:
            return look.find_shared(path) if look is not None else None
        except (OSError, FatFormatError):
            return None


def detach_leftover(volume: BootVolume, directory: BootDirectory, path: bytes, name: bytes) -> bool:
    """Take away a name that a power cut left and that the kernel must not remove: its clusters stay as they are.

    It goes at once where the kernel has not looked at it before, and with the next boot's first run where it has.

    Args:
        volume: The boot partition.
        directory: Where the name is.
        path: The same, from the volume's root.
        name: One of our own that no loader reads.

    Returns:
        False where it could not be done.

    Raises:
        OSError: A write failed.
    """
    where = path + b"/" + name
    if not volume.detach_name(where):
        return False
    remove_detached(volume, directory, where)
    return True


def remove_detached(volume: BootVolume, directory: BootDirectory, path: bytes) -> list[str]:
    """Remove a name that leads to nothing, if the kernel takes it for that: else it would free what it remembers."""
    name = path.rpartition(b"/")[2]
    if directory.find_kind(name) is not FileKind.FILE or volume.find_size(path) != 0:
        return []
    return remove_files(directory, [name], linked=())


def _choose_temporary(volume: BootVolume, path: bytes, directory: BootDirectory) -> bytes:
    """Choose a temporary name. What a cut left goes; where that cannot be done it keeps its name."""
    remove_temporaries(volume, path, directory)
    return _next_temporary(path, directory)


def remove_temporaries(volume: BootVolume, path: bytes, directory: BootDirectory) -> list[tuple[bytes, str, bool]]:
    """Remove the files that a cut left in a directory before they replaced others.

    Returns:
        Names whose clusters are not their own, why, and whether they were taken away.

    Raises:
        OSError: A write failed.
    """
    names = frozenset(directory.list_names())
    left = [name for name in TEMPORARY_NAMES if name in names]
    if not left:
        return []
    unsafe, nowhere = find_unsafe(volume, path, directory, [*names]), _find_detached(volume, path, left)
    remove_files(directory, [name for name in left if name not in unsafe and name not in nowhere], linked=())
    for name in nowhere:
        remove_detached(volume, directory, path + b"/" + name)
    strange = [name for name in left if name in unsafe]
    return [(name, unsafe[name], detach_leftover(volume, directory, path, name)) for name in strange]


def _find_detached(volume: BootVolume, path: bytes, names: Collection[bytes]) -> list[bytes]:
    if not volume.is_fat():
        return []
    with look_at(volume) as look:
        try:
            return [name for name in names if look is not None and look.leads_nowhere(path + b"/" + name)]
        except (OSError, FatFormatError):
            return []


def _next_temporary(path: bytes, directory: BootDirectory) -> bytes:
    names = frozenset(directory.list_names())
    free = next((name for name in TEMPORARY_NAMES if name not in names), None)
    if free is None:
        raise OSError(errno.ENOSPC, f"{escape_bytes(path)} is full of what power cuts left: check the file system")
    return free


def list_new_names(directory: BootDirectory, name: bytes) -> list[bytes]:
    """Return the names that replacing a file makes: a temporary one, and its own where it is not there yet."""
    return [TEMPORARY_NAMES[0], *([] if name in directory.list_names() else [name])]


def replace_file(volume: BootVolume, path: bytes, name: bytes, data: bytes) -> None:
    """Put a new file in a file's place; at every moment the name leads to the old or the new content, whole.

    Mode and owner stay.

    On FAT the name keeps the old file's blocks until the new file's inode is written; the old file stays open until
    then, so that these blocks are not free yet. Its directory does not grow.

    Args:
        volume: Where.
        path: The directory, which is there.
        name: The file in it.
        data: Its new content.

    Raises:
        OSError: The old file is in place, or the new one where only the last flush failed; ``ENOSPC`` too where the
            directory would have to grow.
    """
    with opened(volume, path) as directory:
        require_room(volume, path, list_new_names(directory, name))
        _replace_in(volume, path, directory, name, data)


def _write_temporary(volume: BootVolume, path: bytes, directory: BootDirectory, name: bytes, data: bytes) -> bytes:
    """Write a file that is to replace `name`, of which no cluster is another's too, flushed; return its name."""
    temporary = _choose_temporary(volume, path, directory)
    while True:
        try:
            directory.write_new(temporary, data, name)
            directory.barrier()
            if find_shared(volume, path + b"/" + temporary) is None:
                return temporary
        except OSError:
            with contextlib.suppress(OSError):
                remove_files(directory, [temporary], linked=find_unsafe(volume, path, directory, [temporary]))
            raise
        # It keeps its clusters, so that the next one gets others.
        detach_leftover(volume, directory, path, temporary)
        temporary = _next_temporary(path, directory)
        require_room(volume, path, [temporary])


def _replace_in(volume: BootVolume, path: bytes, directory: BootDirectory, name: bytes, data: bytes) -> None:
    temporary = _write_temporary(volume, path, directory, name, data)
    held: int | None = None
    try:
        with contextlib.suppress(FileNotFoundError):
            held = directory.hold(name)
        directory.rename(temporary, name)
        directory.barrier()
    except OSError:
        if held is not None:
            with contextlib.suppress(OSError):
                directory.release(held)
        with contextlib.suppress(OSError):
            remove_files(directory, [temporary], linked=find_unsafe(volume, path, directory, (temporary, name)))
        raise
    if held is not None:
        directory.release(held)
        directory.barrier()
