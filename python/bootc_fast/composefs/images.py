"""EROFS images as files: opened, verified, and their files read, wherever the content is."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from bootc_fast import _core
from bootc_fast.errors import InvalidStateError, UsageError, VerityMismatchError
from bootc_fast.events import ignore_event, run_step
from bootc_fast.machine.files import open_regular
from bootc_fast.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from bootc_fast._core import Image, TreeEntry
    from bootc_fast.events import EventSink

_DIGEST = re.compile(r"[0-9a-f]{64}(?:[0-9a-f]{64})?")
_ALGORITHMS = {64: "sha256", 128: "sha512"}
COPY_BYTES = 1 << 20


def _go_on() -> None:
    """Poll for signals: Python runs their handlers whenever the core calls this."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What a verified image is.

    Args:
        digest: fs-verity digest of the file, hex, computed.
        is_expected: The digest was compared with one that was known before.
        is_sealed: The kernel's fs-verity protects the file, with the same digest.
        composefs_version: 0, 1 or 2; None for an image that is not composefs's.
        block_bytes: Block size.
        entries: Names that a mount of it shows, the root included.
        objects: Number of repository objects that it needs.
        object_bytes: Their sizes, summed.
        objects_verified: They were looked at: all there, sizes and digests right.
    """

    digest: str
    is_expected: bool
    is_sealed: bool
    composefs_version: int | None
    block_bytes: int
    entries: int
    objects: int
    object_bytes: int
    objects_verified: bool


@contextmanager
def open_image(path: Path) -> Generator[Image]:
    """Open an image; nothing but its superblock is read yet.

    Yields:
        The image, closed at the block's end.

    Raises:
        ImageFormatError: It is no EROFS image that can be walked.
        UsageError: It is no regular file.
        OSError: The file cannot be opened or read.
    """
    with ExitStack() as stack:
        fd = open_regular(path)
        stack.callback(os.close, fd)
        yield stack.enter_context(_core.Image.open(fd))


def find_objects(image_path: Path) -> Path | None:
    """Find the ``objects`` directory of the repository that an image file lies in, in ``images`` or ``objects``."""
    # Named by a digest in images/ it is a symlink into objects/.
    for candidate in (image_path.absolute(), image_path.resolve()):
        for parent in candidate.parents:
            if parent.name in {"images", "objects"} and (parent.parent / "objects").is_dir():
                return parent.parent / "objects"
    return None


@contextmanager
def open_object(objects_fd: int, digest: str, *, check: Callable[[], object] = _go_on) -> Generator[int]:
    """Open an object of a repository and verify that it is what its name says.

    Args:
        objects_fd: The ``objects`` directory.
        digest: Hex.
        check: Polled while the file is hashed; what it raises ends the call.

    Yields:
        A descriptor at offset 0.

    Raises:
        InvalidStateError: It is missing.
        VerityMismatchError: It is not what its name says.
    """
    path = f"{digest[:2]}/{digest[2:]}"
    with ExitStack() as stack:
        try:
            # Without waiting, in case somebody put a FIFO there.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = _core.open_in_root(objects_fd, path.encode(), flags)
        except FileNotFoundError as error:
            raise InvalidStateError(f"object {digest} is missing") from error
        stack.callback(os.close, fd)
        found = _core.digest_fd(fd, algorithm=_ALGORITHMS[len(digest)], check=check)
        if found != digest:
            raise VerityMismatchError(
                f"object {path} is not what its name says: its digest is {found}", path, digest, found
            )
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd


def write_file(
    image: Image, path: bytes, out_fd: int, *, objects: Path | None, check: Callable[[], object] = _go_on
) -> None:
    """Write the content of a regular file of an image.

    Args:
        image: An opened image.
        path: Below its root; symlinks are not followed.
        out_fd: Where to.
        objects: The repository's ``objects`` directory, needed for what composefs keeps there.
        check: Polled; what it raises ends the call, with a part written.

    Raises:
        FileNotFoundError: There is no such path.
        UsageError: It is no regular file, or its content is an object and `objects` is None.
        InvalidStateError: The object is missing.
        VerityMismatchError: The object is not what its name says; nothing was written.
    """
    entry = image.lookup(path)
    if entry is None:
        raise FileNotFoundError(2, "No such file in the image", path)
    if entry.digest is None:
        image.copy_file(path, out_fd, check=check)
        return
    if objects is None:
        raise UsageError(
            f"the content of {os.fsdecode(path)!r} is object {entry.digest} of a repository",
            hint="name its objects directory with --objects",
        )
    with ExitStack() as stack:
        objects_fd = os.open(objects, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, objects_fd)
        fd = stack.enter_context(open_object(objects_fd, entry.digest, check=check))
        while data := os.read(fd, COPY_BYTES):
            check()
            _write_all(out_fd, data)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def verify_image(
    path: Path,
    *,
    expected: str | None,
    objects: Path | None,
    check: Callable[[], object] = _go_on,
    on_event: EventSink = ignore_event,
) -> ImageFacts:
    """Verify an image file, then read all of it, then the objects that it needs.

    Args:
        path: The image. If it is named by a digest, that is what its digest must be.
        expected: The digest that it must have; None: the file's name, if that is one.
        objects: Look at the objects in this directory, too.
        check: Polled; what it raises ends the call.
        on_event: Gets steps and progress.

    Raises:
        VerityMismatchError: The image or an object is not what its digest says.
        ImageFormatError: The image is corrupt, or has features that only the kernel knows.
        InvalidStateError: An object is missing or has another size than the image says.
        OSError: A file cannot be read.

    Source:
        Spec host.md, "EROFS image and objects".
    """
    name = path.name
    if expected is None and _DIGEST.fullmatch(name):
        expected = name
    with ExitStack() as stack:
        fd = open_regular(path)
        stack.callback(os.close, fd)
        algorithm = _ALGORITHMS[len(expected)] if expected else "sha512"
        with run_step(on_event, "digest", "Computing the image's digest", unit="bytes") as tell:
            digest = _core.digest_fd(fd, algorithm=algorithm, progress=tell, check=check)
        if expected is not None and digest != expected:
            raise VerityMismatchError(f"{path}: its digest is {digest}, not {expected}", str(path), expected, digest)
        sealed = _core.measure_fd(fd)
        if sealed is not None and len(sealed) == len(digest) and sealed != digest:
            raise VerityMismatchError(f"{path}: fs-verity says {sealed}, not {digest}", str(path), digest, sealed)
        image = stack.enter_context(_core.Image.open(fd))
        with run_step(on_event, "entries", "Reading the image") as tell:
            entries, needed = image.verify(progress=tell, check=check)
        if objects is not None:
            with run_step(on_event, "objects", "Verifying the objects") as tell:
                _verify_objects(objects, needed, check, tell)
    return ImageFacts(
        digest=digest,
        is_expected=expected is not None,
        is_sealed=sealed == digest,
        composefs_version=image.composefs_version,
        block_bytes=image.block_bytes,
        entries=entries,
        objects=len(needed),
        object_bytes=sum(size for _, size in needed),
        objects_verified=objects is not None,
    )


def _verify_objects(
    objects: Path, needed: list[tuple[str, int]], check: Callable[[], object], tell: Callable[[int, int], None]
) -> None:
    with ExitStack() as stack:
        objects_fd = os.open(objects, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, objects_fd)
        for number, (digest, size) in enumerate(needed):
            tell(number, len(needed))
            with open_object(objects_fd, digest, check=check) as fd:
                found = os.fstat(fd).st_size
                if found != size:
                    raise InvalidStateError(f"object {digest} has {found} bytes, the image says {size}")


def describe_kind(entry: TreeEntry) -> str:
    """Name the type of a file: ``file``, ``directory``, ``symlink``, ``char``, ``block``, ``fifo`` or ``socket``."""
    kinds = {0o10: "file", 0o04: "directory", 0o12: "symlink", 0o02: "char", 0o06: "block", 0o01: "fifo"}
    return kinds.get(entry.mode >> 12, "socket")
