"""The FAT model behind the interface that publishing uses."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING

from unit.boot.fat_image import FatImage, ImageReader
from unit.boot.fat_model import FREE, ROOT, make_error

from bootc_fast.boot.area.directory import FileKind
from bootc_fast.boot.area.fat_look import FatLook

if TYPE_CHECKING:
    from collections.abc import Generator

    from unit.boot.fat_model import FatModel, Inode


class FatDirectory:
    """A directory of the model, as ``BootDirectory``."""

    def __init__(self, model: FatModel, inode: Inode) -> None:
        self.model, self.inode = model, inode

    def list_names(self) -> list[bytes]:
        return list(self.inode.children)

    def _child(self, name: bytes) -> Inode:
        if name not in self.inode.children:
            raise make_error(errno.ENOENT, name)
        return self.inode.children[name]

    def find_kind(self, name: bytes) -> FileKind | None:
        inode = self.inode.children.get(name)
        if inode is not None and inode.is_dir and not self.model.remembers and self.model.is_broken(inode.start):
            raise make_error(errno.EIO, name)
        return None if inode is None else FileKind.DIRECTORY if inode.is_dir else FileKind.FILE

    def read(self, name: bytes, max_bytes: int) -> bytes:
        inode = self._child(name)
        if inode.is_dir:
            raise make_error(errno.EINVAL, name)
        if inode.size > max_bytes:
            raise make_error(errno.EFBIG, name)
        return self.model.read(inode)

    def write_new(self, name: bytes, data: bytes, like: bytes | None = None) -> None:
        del like
        self.model.fsync(self.model.create(self.inode, name, data))

    def overwrite(self, name: bytes, data: bytes) -> None:
        inode = self._child(name)
        size = self.model.cluster_bytes
        for i, cluster in enumerate(self.model.chain(inode.start)):
            self.model._put(("data", cluster), data[i * size : (i + 1) * size])
        self.model.fsync(inode)

    def rename(self, old: bytes, new: bytes) -> None:
        self.model.rename(self.inode, old, new)

    def hold(self, name: bytes) -> int:
        return self.model.hold(self._child(name))

    def release(self, handle: int) -> None:
        self.model.release(handle)

    def unlink(self, name: bytes) -> None:
        self.model.unlink(self.inode, name)

    def is_immutable(self, name: bytes = b".") -> bool:
        del name
        return False

    def first_block(self, name: bytes) -> int | None:
        return self._child(name).start or None

    def exchange(self, one: bytes, two: bytes) -> None:
        if not self.model.can_exchange:
            raise make_error(errno.EINVAL, one)
        self.model.exchange(self.inode, one, two)

    def capacity_slots(self) -> int | None:
        return len(self.model._directory_slots(self.inode))

    def barrier(self) -> None:
        self.model.syncfs()
        self.model.fsync(self.inode)

    def close(self) -> None:
        return


class FatVolume:
    """The model as ``BootVolume``."""

    is_fat_readable = True
    is_device_writable = True

    def __init__(self, model: FatModel) -> None:
        self.model = model
        self._image: FatImage | None = None
        self._log = model.log

    def open_directory(self, path: bytes) -> FatDirectory | None:
        try:
            inode = self.model.find(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return FatDirectory(self.model, inode) if inode.is_dir else None

    def open_plain_directory(self, path: bytes) -> FatDirectory | None:
        return self.open_directory(path)

    def read_file(self, path: bytes, max_bytes: int) -> bytes | None:
        head, _, name = path.strip(b"/").rpartition(b"/")
        directory = self.open_directory(head)
        if directory is None or directory.find_kind(name) is not FileKind.FILE:
            return None
        return directory.read(name, max_bytes)

    def read_part(self, path: bytes, offset: int, size_bytes: int) -> bytes:
        content = self.read_file(path, 1 << 30) or b""
        return content[offset : offset + size_bytes]

    def make_directory(self, path: bytes) -> None:
        inode = self.model.root
        for name in path.strip(b"/").split(b"/"):
            if name not in inode.children:
                self.model.mkdir(inode, name)
            inode = inode.children[name]
            self.model.syncfs()
            self.model.flush()

    def remove_directory(self, path: bytes) -> None:
        head, _, name = path.strip(b"/").rpartition(b"/")
        if self.model.find(path).children:
            raise make_error(errno.ENOTEMPTY, path)
        handle = self.model.hold(self.model.find(path))
        self.model.unlink(self.model.find(head), name)
        self.model.syncfs()
        self.model.flush()
        self.model.release(handle)
        self.model.syncfs()
        self.model.flush()

    def find_size(self, path: bytes) -> int | None:
        try:
            inode = self.model.find(path)
        except OSError:
            return None
        return None if inode.is_dir else inode.size

    def read_link(self, path: bytes) -> bytes | None:
        """FAT has no links."""
        del path

    def is_alias(self, path: bytes, other: bytes) -> bool:
        try:
            return self.model.find(path) is self.model.find(other)
        except OSError:
            return False

    def is_fat(self) -> bool:
        return True

    @contextmanager
    def look_at_fat(self, *, flush: bool = True) -> Generator[FatLook | None]:
        if not self.is_fat() or not self.is_fat_readable:
            yield None
            return
        if flush:
            self.model.syncfs()
        if self._image is None or self._image.position > len(self.model.log) or self._log is not self.model.log:
            self._image, self._log = FatImage(self.model), self.model.log
        self._image.update()
        yield FatLook(ImageReader(self._image.raw), "/dev/model")

    def detach_name(self, path: bytes) -> bool:
        if not self.is_fat() or not self.is_fat_readable or not self.is_device_writable:
            return False
        self.model.detach(path)
        return True

    def why_not_in_place(self) -> str | None:
        return None

    def free_bytes(self) -> tuple[int, int]:
        free = sum(self.model._fat(c) == FREE for c in range(ROOT, self.model.clusters))
        return free * self.model.cluster_bytes, self.model.cluster_bytes

    def put(self, path: bytes, data: bytes) -> None:
        """Set up a file."""
        head, _, name = path.strip(b"/").rpartition(b"/")
        if self.open_directory(head) is None:
            self.make_directory(head)
        self.model.create(self.model.find(head), name, data)
