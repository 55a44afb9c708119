"""The trees of a merge: where they come from, opened, and how their files are read."""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import TYPE_CHECKING

import anyio

from bootc_fast import _core
from bootc_fast.errors import BootcFastError, FileSystemError, UsageError
from bootc_fast.events import ignore_event
from bootc_fast.machine.native import run_blocking, run_native, tally_step
from bootc_fast.records import dataclass
from bootc_fast.text import describe_error, escape_bytes, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from bootc_fast._core import Image, Tree, TreeEntry
    from bootc_fast.events import EventSink
    from bootc_fast.machine.native import Tally

SCAN_STEP = "etc.scan"
"""Name of the step in progress events."""

_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})


@dataclass(frozen=True, slots=True)
class ImageSource:
    """A directory of an EROFS image.

    Attributes:
        image_fd: The image, open for reading; whoever opened it has verified it.
        objects_fd: ``composefs/objects``, for contents that are not in the image; None where there are none.
        subdir: The directory in the image, without slashes around it; ``b""`` for its root.
    """

    image_fd: int
    objects_fd: int | None
    subdir: bytes = b"etc"


@dataclass(frozen=True, slots=True)
class DirectorySource:
    """A live directory.

    Attributes:
        dir_fd: Open, ``O_PATH`` is enough; must stay open as long as what was made from it is used.
    """

    dir_fd: int


EtcSource = ImageSource | DirectorySource


@dataclass(frozen=True, slots=True)
class OpenTree:
    """A tree with what is needed to read its files.

    Attributes:
        tree: What is there.
        source: Where.
    """

    tree: Tree
    source: EtcSource


async def open_source(source: EtcSource, *, progress: Callable[[int, int], None] | None = None) -> OpenTree:
    """Walk an image or scan a directory.

    Cancellation: within 50 ms; nothing is left behind.

    Args:
        source: Which.
        progress: Told how many entries a scan has found; nobody knows how many there are.

    Raises:
        ImageFormatError: The image is malformed, or of a kind that cannot be walked.
        FileSystemError: Reading failed.
        InvalidStateError: The image has no such directory.
    """
    if isinstance(source, DirectorySource):
        return OpenTree(await run_native(_core.Tree.scan, source.dir_fd, progress=progress), source)
    with await run_blocking(_core.Image.open, source.image_fd) as image:
        return OpenTree(await run_native(image.tree, source.subdir), source)


@dataclass(slots=True)
class OpenTrees:
    """The three trees of a merge, by name: ``pristine``, ``current``, ``new``.

    Attributes:
        trees: Open.
        scan_s: How long that took, in seconds.
        clone_fd: The clone of the current one's mount where there had to be one, else -1; closed by ``close``.
    """

    trees: dict[str, OpenTree]
    scan_s: float = 0.0
    clone_fd: int = -1

    def close(self) -> None:
        """Close what was opened for them; the sources' own descriptors stay open."""
        if self.clone_fd >= 0:
            os.close(self.clone_fd)
            self.clone_fd = -1


async def open_trees(
    pristine: EtcSource, current: DirectorySource, new: EtcSource, *, on_event: EventSink = ignore_event
) -> OpenTrees:
    """Open three trees at the same time, in worker threads; the current one below what is mounted in it.

    Cancellation: within 50 ms; nothing is left behind.

    Args:
        pristine: /etc of the booted image.
        current: The running /etc.
        new: /etc of the staged image.
        on_event: Gets the step ``etc.scan``: how many entries were found in directories.

    Returns:
        The trees; the caller closes them.

    Raises:
        As ``open_source``.
    """
    opened = OpenTrees({})
    start = time.monotonic()

    async def load(name: str, source: EtcSource, tally: Tally) -> None:
        progress = tally.add() if isinstance(source, DirectorySource) else None
        try:
            opened.trees[name] = await open_source(source, progress=progress)
        except OSError as error:
            raise FileSystemError(f"reading the {name} /etc: {describe_error(error)}") from error
        except BootcFastError as error:
            # Of three trees it is one, and what an image's error says fits all.
            error.args = (f"reading the {name} /etc: {error}", *error.args[1:])
            raise

    try:
        with tally_step(on_event, SCAN_STEP, "Reading /etc") as tally:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(load, "pristine", pristine, tally)
                tasks.start_soon(load, "current", current, tally)
                if new != pristine:
                    tasks.start_soon(load, "new", new, tally)
    except BaseExceptionGroup as group:
        # One failure is enough to say what is wrong; the others are mostly the cancellation that it caused.
        first = group.exceptions[0]
        raise first from first.__cause__
    opened.trees.setdefault("new", opened.trees["pristine"])
    if opened.trees["current"].tree.mounts:
        await _look_below_mounts(opened, current.dir_fd)
    opened.scan_s = time.monotonic() - start
    return opened


async def _look_below_mounts(opened: OpenTrees, dir_fd: int) -> None:
    """Scan the current tree again, without what is mounted on it, where cloning its mount is allowed."""
    try:
        opened.clone_fd = await run_blocking(_core.clone_mount, dir_fd, recursive=False, read_only=None)
    except OSError:
        return
    try:
        opened.trees["current"] = await open_source(DirectorySource(opened.clone_fd))
    except BaseException:
        opened.close()
        raise


async def open_whole_image(source: EtcSource) -> Image | None:
    """Open the whole image that a source is a part of; None for a directory.

    Symlinks in /etc lead out of it more often than not; whether they lead anywhere is looked up in this, without
    walking it. The caller closes it.
    """
    if isinstance(source, DirectorySource):
        return None
    return await run_blocking(_core.Image.open, source.image_fd)


def read_content(side: OpenTree, path: bytes, *, max_bytes: int) -> bytes | None:
    """Read up to `max_bytes` and one byte of a regular file.

    Returns:
        None where the path is no regular file, or has vanished.

    Raises:
        FileSystemError: The object is missing or reading failed.
        UsageError: The content is an object and no object directory was given.
    """
    entry = side.tree.find(path)
    if entry is None or not stat.S_ISREG(entry.mode):
        return None
    if entry.content == "inline":
        return entry.data
    try:
        fd = _open_content(side.source, entry)
    except OSError as error:
        if entry.content == "on-disk" and error.errno in _GONE:
            return None
        raise FileSystemError(f"reading {escape_bytes(path)}: {reason_of(error)}") from error
    with os.fdopen(fd, "rb") as file:
        return file.read(max_bytes + 1) if stat.S_ISREG(os.fstat(fd).st_mode) else None


def _open_content(source: EtcSource, entry: TreeEntry) -> int:
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
    if isinstance(source, DirectorySource):
        return _core.open_in_root(source.dir_fd, entry.path, flags)
    if source.objects_fd is None or entry.digest is None:
        raise missing_objects(entry.path)
    return _core.open_in_root(source.objects_fd, f"{entry.digest[:2]}/{entry.digest[2:]}".encode(), flags)


def missing_objects(path: bytes) -> UsageError:
    """Make the error for an image whose contents lie outside it, where nobody said where."""
    return UsageError(
        f"reading {escape_bytes(path)}: its content is not in the image",
        hint="name its object directory: --objects DIR",
    )
