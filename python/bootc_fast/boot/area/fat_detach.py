"""Making a name lead to nothing, on the device: where its clusters are free, or another's, the kernel cannot.

It does not even look up a directory whose first cluster is free, and with a name it frees the clusters, whosever they
are. So the name's 32 bytes are written over: an empty file, which has no cluster. They lie in one sector, which is
written whole or not at all; what the clusters belong to else is not touched, and what belongs to nothing is lost until
``fsck.fat -a`` gives it back.

The place is not marked as free on purpose: the kernel keeps files in memory by their place, and would take a new name
there for the file that it remembers. The pages of a block device and the buffers of the file system on it are the same
memory.

Source:
    Linux ``fs/fat/inode.c``, ``fat_iget``, ``fat_calc_dir_size``; ``fs/fat/fatent.c``, ``fat_free_clusters``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bootc_fast.boot.area.fat import FatReader
from bootc_fast.boot.area.fat_slots import SLOT_BYTES, detached_slot

if TYPE_CHECKING:
    from bootc_fast.boot.area.fat import FatDirectory


def find_slot_offset(reader: FatReader, path: str) -> int | None:
    """Return where on the device the 32 bytes are that say where a name leads; None where there is no such name."""
    head, _slash, name = path.strip("/").rpartition("/")
    directory = reader.find_directory(head)
    entry = directory.find(name) if directory is not None else None
    if directory is None or entry is None:
        return None
    return _offset_in(reader, directory, entry.slot_index * SLOT_BYTES)


def _offset_in(reader: FatReader, directory: FatDirectory, inside: int) -> int:
    geometry = reader.geometry
    if not directory.chain.clusters:
        return geometry.root_offset_bytes + inside
    number, rest = divmod(inside, geometry.cluster_bytes)
    return geometry.offset_of(directory.chain.clusters[number]) + rest


def detach_name(fd: int, path: str) -> bool:
    """Make a name lead to nothing, flushed; False where there is no such name.

    Args:
        fd: The device, opened for reading and writing; the file system on it is flushed.
        path: From the volume's root.

    Raises:
        FatFormatError: It is no FAT.
        OSError: The device cannot be read or written.
    """
    offset = find_slot_offset(FatReader(fd), path)
    if offset is None:
        return False
    slot = os.pread(fd, SLOT_BYTES, offset)
    os.pwrite(fd, detached_slot(slot), offset)
    os.fsync(fd)
    return True
