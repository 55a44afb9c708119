"""Volumes whose operations fail or die on demand, and one that keeps every state of a journaled file system."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from unit.boot.fat_model import FatModel
from unit.boot.fat_volume import FatVolume

if TYPE_CHECKING:
    from collections.abc import Callable

    from bootc_fast.boot.area.directory import BootDirectory, BootVolume


class KilledError(BaseException):
    """``kill -9``: no cleanup runs, since everything that it would do dies too."""


# These fail while data is written or flushed, by a call that has a descriptor and no name.
_WRITES = frozenset({"write_new", "overwrite"})
_WRITE_ERRORS = frozenset({errno.ENOSPC, errno.EIO, errno.EDQUOT})


def make_failure(number: int, name: str, args: tuple[Any, ...] = ()) -> OSError:
    """Make what the real operation of that name raises for an errno: the names that its system call has, as bytes.

    test_faults.py compares these with what a real directory and a real volume raise.
    """
    text = os.strerror(number)
    if name in _WRITES and number in _WRITE_ERRORS:
        return OSError(number, text)
    names = [argument for argument in args if isinstance(argument, bytes)][: 2 if name == "rename" else 1]
    if name in ("release", "close") or (not names and name not in ("barrier", "capacity_slots", "list_names")):
        return OSError(number, text)
    if not names:
        # The core and `list_names` say which directory it is.
        names = ["/efi/loader/entries"] if name == "list_names" else [b"/efi/loader/entries"]
    return OSError(number, text, names[0], None, names[1]) if len(names) > 1 else OSError(number, text, names[0])


class Trigger:
    """Counts operations and fails one of them.

    Args:
        at: Which operation, from 0; -1 never.
        error: An errno, or None for ``kill -9``.
    """

    def __init__(self, at: int = -1, error: int | None = None) -> None:
        self.at, self.error = at, error
        self.calls: list[str] = []
        self.is_dead = False

    def pull(self, name: str, args: tuple[Any, ...] = ()) -> None:
        """Count one operation; raises where it is its turn."""
        if self.is_dead:
            raise KilledError
        self.calls.append(name)
        if len(self.calls) - 1 != self.at:
            return
        if self.error is None:
            self.is_dead = True
            raise KilledError
        raise make_failure(self.error, name, args)

    @property
    def has_fired(self) -> bool:
        """The operation came."""
        return self.at < len(self.calls)


class FaultyDirectory:
    """Passes operations on to a directory, or fails."""

    def __init__(self, inner: BootDirectory, trigger: Trigger) -> None:
        self._inner, self._trigger = inner, trigger

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._inner, name)

        def call(*args: Any) -> Any:
            if name == "close":
                return method()
            try:
                self._trigger.pull(name, args)
            except OSError as error:
                self._half(name, args, error)
                raise
            except KilledError:
                if name == "write_new" and self._trigger.calls[-1:] == ["write_new"]:
                    self._write_half(args)
                raise
            return method(*args)

        return call

    def _half(self, name: str, args: tuple[Any, ...], error: OSError) -> None:
        if name == "write_new" and error.errno in (errno.ENOSPC, errno.EIO):
            self._write_half(args)
        elif name == "release":
            # close(2) frees the descriptor whatever it returns.
            self._inner.release(*args)

    def _write_half(self, args: tuple[Any, ...]) -> None:
        file_name, data, *_like = args
        if file_name not in self._inner.list_names():
            self._inner.write_new(file_name, data[: len(data) // 2])


class FaultyVolume:
    """Passes operations on to a volume, or fails."""

    def __init__(self, inner: BootVolume, trigger: Trigger) -> None:
        self._inner, self._trigger = inner, trigger

    def open_directory(self, path: bytes) -> FaultyDirectory | None:
        self._trigger.pull("open_directory", (path,))
        directory = self._inner.open_directory(path)
        return None if directory is None else FaultyDirectory(directory, self._trigger)

    def open_plain_directory(self, path: bytes) -> FaultyDirectory | None:
        self._trigger.pull("open_plain_directory", (path,))
        directory = self._inner.open_plain_directory(path)
        return None if directory is None else FaultyDirectory(directory, self._trigger)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._inner, name)

        def call(*args: Any, **options: Any) -> Any:
            self._trigger.pull(name, args)
            return method(*args, **options)

        return call


class JournalVolume(FatVolume):
    """A journaled file system: the disk has the operations in their order, and a prefix of them after a crash.

    Built on the FAT model's tree for convenience; `states` has the whole tree after each operation.
    """

    def __init__(self) -> None:
        super().__init__(FatModel())
        self.states: list[dict[bytes, bytes]] = []

    def is_fat(self) -> bool:
        return False

    def snapshot(self) -> None:
        """Keep the tree as it is."""
        found: dict[bytes, bytes] = {}
        pending = [(b"", self.model.root)]
        while pending:
            path, inode = pending.pop()
            for name, child in inode.children.items():
                if child.is_dir:
                    pending.append((path + b"/" + name, child))
                else:
                    found[path + b"/" + name] = self.model.read(child)
        self.states.append(found)

    def open_directory(self, path: bytes) -> Any:
        directory = super().open_directory(path)
        return None if directory is None else _JournalDirectory(directory, self)


class _JournalDirectory:
    def __init__(self, inner: Any, volume: JournalVolume) -> None:
        self._inner, self._volume = inner, volume

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._inner, name)

        def call(*args: Any) -> Any:
            result = method(*args)
            if name in ("write_new", "rename", "unlink", "overwrite"):
                self._volume.snapshot()
            return result

        return call


def make_volume(files: dict[bytes, bytes]) -> FatVolume:
    """Put a tree on a fresh volume, to be judged."""
    volume = FatVolume(FatModel())
    for path, data in files.items():
        volume.put(path, data)
    return volume
