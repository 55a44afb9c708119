"""Where the result of a merge may be written: nowhere that is read for it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

from bootc_fast.errors import FileSystemError, UsageError
from bootc_fast.etc.trees import DirectorySource
from bootc_fast.records import dataclass
from bootc_fast.text import reason_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bootc_fast.etc.trees import EtcSource

_Identity: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Place:
    """Which directory one is, whatever it is called and wherever it is mounted.

    Attributes:
        chain: Device and inode of it and of all above it, up to the root.
    """

    chain: tuple[_Identity, ...]

    def overlaps(self, other: Place) -> bool:
        """Whether they are one directory, or one lies inside the other."""
        return self.chain[0] in other.chain or other.chain[0] in self.chain


def find_places(sources: Iterable[EtcSource]) -> tuple[Place, ...]:
    """Find the places of those sources that are directories; images overlap with nothing.

    Raises:
        FileSystemError: They cannot be looked at.
    """
    return tuple(_place(source.dir_fd) for source in sources if isinstance(source, DirectorySource))


def check_destination(dest_fd: int, sources: Iterable[EtcSource] | tuple[Place, ...]) -> None:
    """Refuse a destination that would be read while it is written; every writer of a merge asks this.

    Args:
        dest_fd: The directory.
        sources: What is merged, or the places of it.

    Raises:
        UsageError: It is one of the directories, or inside one, or has one inside.
        FileSystemError: They cannot be looked at.
    """
    parts = tuple(sources)
    places = [part for part in parts if isinstance(part, Place)]
    places += find_places(part for part in parts if not isinstance(part, Place))
    destination = _place(dest_fd)
    if any(destination.overlaps(place) for place in places):
        raise UsageError(
            "merging /etc: the destination is one of the merged directories, or one lies inside the other",
            hint="name a directory of its own with --into",
        )


def _place(fd: int) -> Place:
    try:
        return Place(_chain(fd))
    except OSError as error:
        raise FileSystemError(f"looking at the destination: {reason_of(error)}") from error


def _chain(fd: int) -> tuple[_Identity, ...]:
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    chain: list[_Identity] = []
    at = os.open(".", flags, dir_fd=fd)
    try:
        while (found := _identity(at)) not in chain:
            chain.append(found)
            above = os.open("..", flags, dir_fd=at)
            os.close(at)
            at = above
    finally:
        os.close(at)
    return tuple(chain)


def _identity(fd: int) -> _Identity:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino
