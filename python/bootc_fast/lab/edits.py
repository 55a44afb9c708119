"""What an administrator does to /etc between two updates: one edit of every kind that a merge has to carry over."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from bootc_fast.errors import UsageError
from bootc_fast.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

UNIT = b"""[Unit]
Description=A unit that the administrator added

[Service]
Type=oneshot
ExecStart=/bin/true

[Install]
WantedBy=multi-user.target
"""
XATTR_NAME = "user.lab.note"
XATTR_VALUE = b"An administrator's note. ".ljust(64, b".")
HARD_XATTR_VALUE = b"An administrator's note. ".ljust(200, b".")
"""Longer than the 128 bytes that bootc's own finalize has room for: it ends there."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit.

    Attributes:
        path: Below /etc.
        what: What was done, for people.
    """

    path: bytes
    what: str


def apply_edits(etc: Path, *, hard: bool = False) -> list[Edit]:
    """Edit /etc as an admin would; without `hard` nothing that bootc's own finalize cannot carry over.

    A changed file, a new unit with its enablement link, a deleted file, a changed mode, an extended attribute, a
    setuid file. What is edited depends
    on what is there: the generated OS's own files, else files that Debian has, else the first that fit.
    An edit that the file system refuses (no ``user.*`` attributes) is left out, and said so.

    Args:
        etc: The directory to edit.
        hard: The extended attribute has 200 bytes, and a directory is replaced by a symlink (to where its content now
            is): bootc's own finalize ends at either.

    Returns:
        What was done, in this order.

    Raises:
        UsageError: The directory has too few files to edit, or was edited before.
    """
    top = os.fsencode(etc)
    if os.path.lexists(os.path.join(top, b"systemd/system/lab-hello.service")):
        raise UsageError(f"{etc} was edited already")
    choose = _Chooser(top)
    steps: Sequence[Callable[[bytes, _Chooser], Iterator[Edit]]] = (
        _change_file,
        _add_unit,
        _delete_file,
        _change_mode,
        *((_replace_directory, _set_hard_xattr) if hard else (_set_xattr,)),
        _add_setuid,
    )
    return [edit for step in steps for edit in step(top, choose)]


class _Chooser:
    """Hands out each path once."""

    def __init__(self, top: bytes) -> None:
        self.top = top
        # Holds the unit that is added.
        self.taken = {b"systemd"}

    def file(self, *wanted: bytes) -> bytes:
        return self._first(wanted, stat.S_ISREG)

    def directory(self, *wanted: bytes) -> bytes:
        return self._first(wanted, stat.S_ISDIR)

    def _first(self, wanted: tuple[bytes, ...], is_kind: Callable[[int], bool]) -> bytes:
        for name in (*wanted, *sorted(os.listdir(self.top))):
            try:
                mode = os.lstat(os.path.join(self.top, name)).st_mode
            except OSError:
                continue
            if name not in self.taken and is_kind(mode):
                self.taken.add(name)
                return name
        raise UsageError(f"{os.fsdecode(self.top)} has nothing left to edit")


def _change_file(top: bytes, choose: _Chooser) -> Iterator[Edit]:
    name = choose.file(b"lab/app.conf", b"adduser.conf", b"login.defs", b"profile")
    path = os.path.join(top, name)
    with open(path, "ab") as file:
        file.write(b"# changed by the administrator\n")
    yield Edit(name, "a line added")


def _add_unit(top: bytes, _choose: _Chooser) -> Iterator[Edit]:
    system = os.path.join(top, b"systemd/system")
    wants = os.path.join(system, b"multi-user.target.wants")
    os.makedirs(wants, exist_ok=True)
    with open(os.path.join(system, b"lab-hello.service"), "wb") as file:
        file.write(UNIT)
    yield Edit(b"systemd/system/lab-hello.service", "a unit added")
    os.symlink(b"/etc/systemd/system/lab-hello.service", os.path.join(wants, b"lab-hello.service"))
    yield Edit(b"systemd/system/multi-user.target.wants/lab-hello.service", "and enabled")


def _delete_file(top: bytes, choose: _Chooser) -> Iterator[Edit]:
    name = choose.file(b"lab/unwanted.conf", b"issue.net", b"rmt", b"rpc")
    os.unlink(os.path.join(top, name))
    yield Edit(name, "deleted")


def _change_mode(top: bytes, choose: _Chooser) -> Iterator[Edit]:
    name = choose.file(b"lab/secret.conf", b"fstab", b"networks", b"host.conf")
    path = os.path.join(top, name)
    mode = 0o600 if stat.S_IMODE(os.stat(path).st_mode) != 0o600 else 0o640  # noqa: PLR2004 - a mode is its digits
    os.chmod(path, mode)
    yield Edit(name, f"mode {mode:04o}")


def _replace_directory(top: bytes, choose: _Chooser) -> Iterator[Edit]:
    name = choose.directory(b"lab/plugins.d", b"update-motd.d", b"opt", b"skel")
    path = os.path.join(top, name)
    os.rename(path, path + b".local")
    target = os.path.basename(name) + b".local"
    os.symlink(target, path)
    yield Edit(name, f"directory replaced by a symlink to {os.fsdecode(target)}")
    yield Edit(name + b".local", "where the directory is now")


def _set_hard_xattr(top: bytes, choose: _Chooser) -> Iterator[Edit]:
    return _set_xattr(top, choose, HARD_XATTR_VALUE)


def _set_xattr(top: bytes, choose: _Chooser, value: bytes = XATTR_VALUE) -> Iterator[Edit]:
    from xattr import xattr

    name = choose.file(b"lab/tagged.conf", b"shells", b"services", b"protocols")
    try:
        xattr(os.path.join(top, name)).set(XATTR_NAME, value)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        yield Edit(name, "extended attribute left out: this file system has none")
        return
    yield Edit(name, f"extended attribute {XATTR_NAME} of {len(value)} bytes")


def _add_setuid(top: bytes, _choose: _Chooser) -> Iterator[Edit]:
    path = os.path.join(top, b"lab-helper")
    with open(path, "wb") as file:
        file.write(b"#!/bin/true\n")
    os.chmod(path, 0o4755)  # noqa: S103 - the point of this edit
    yield Edit(b"lab-helper", "a setuid file added")
