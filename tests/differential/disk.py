"""Trees of the reference (``unit.etc.reference``) as real directories, and back: all that a merge carries over."""

from __future__ import annotations

import array
import fcntl
import os
import shutil
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unit.etc.trees import TYPE_BITS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unit.etc.reference import Node

ACL, DEFAULT_ACL = "system.posix_acl_access", "system.posix_acl_default"
_KINDS = {bits: kind for kind, bits in TYPE_BITS.items()}
_GETFLAGS, _SETFLAGS = 0x80086601, 0x40086602
IMMUTABLE, APPEND = 0x10, 0x20
_FIRST_DEVICE = 259


def get_flags(path: bytes) -> int:
    """What ``lsattr`` shows of a file or directory."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        numbers = array.array("l", [0])
        fcntl.ioctl(fd, _GETFLAGS, numbers)
        return numbers[0]
    finally:
        os.close(fd)


def set_flags(path: bytes, flags: int) -> None:
    """Make it immutable or append-only, or neither."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        fcntl.ioctl(fd, _SETFLAGS, array.array("l", [get_flags(path) & ~(IMMUTABLE | APPEND) | flags]))
    finally:
        os.close(fd)


def can_have_flags(path: bytes) -> bool:
    """Tell whether there is a file or a directory to be opened."""
    mode = os.lstat(path).st_mode
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def pack_acl(entries: dict[tuple[int, int], int]) -> bytes:
    """As the kernel keeps an ACL: entries by tag and id; the id 0 of a tag without one stands for none."""
    rows = [struct.pack("<HHI", tag, bits, number or 0xFFFFFFFF) for (tag, number), bits in sorted(entries.items())]
    return struct.pack("<I", 2) + b"".join(rows)


def make(node: Node, path: bytes) -> None:
    """Make what a node says under a name that is not in use; a directory may be there already."""
    first: dict[Any, bytes] = {}
    _make(node, path, first)


def _make(node: Node, path: bytes, first: dict[Any, bytes]) -> None:
    kind, inode = node["kind"], node.get("inode")
    if inode is not None and kind == "file":
        if inode in first:
            os.link(first[inode], path)
            return
        first[inode] = path
    if kind == "file":
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, node["content"])
        os.close(fd)
    elif kind == "dir":
        if not os.path.isdir(path):
            os.mkdir(path, 0o700)
        for name, child in node["children"].items():
            _make(child, path + b"/" + name, first)
    elif kind == "link":
        os.symlink(node["content"], path)
    else:
        number = node["content"] + _FIRST_DEVICE if kind == "char" else 0
        os.mknod(path, TYPE_BITS[kind] | 0o600, number)
    set_attributes(node, path)


def set_attributes(node: Node, path: bytes) -> None:
    """Owner, mode, extended attributes, in an order in which none undoes another."""
    attributes = dict(node["attributes"])
    mode, uid, gid = (attributes.pop(name) for name in ("mode", "uid", "gid"))
    os.chown(path, uid, gid, follow_symlinks=False)
    if node["kind"] != "link":
        os.chmod(path, mode)
    for name, value in attributes.items():
        os.setxattr(path, name, value, follow_symlinks=False)


def read(path: bytes) -> Node:
    """Read a directory, or anything else, as a node; ``inode`` is the real one's number where it has several names."""
    found = os.lstat(path)
    kind = _KINDS[stat.S_IFMT(found.st_mode)]
    attributes: dict[str, Any] = {"mode": stat.S_IMODE(found.st_mode), "uid": found.st_uid, "gid": found.st_gid}
    for name in os.listxattr(path, follow_symlinks=False):
        attributes[name] = os.getxattr(path, name, follow_symlinks=False)
    content: Any = b""
    if kind == "file":
        content = Path(os.fsdecode(path)).read_bytes()
    elif kind == "link":
        content = os.readlink(path)
    elif kind == "char":
        content = found.st_rdev - _FIRST_DEVICE
    node = {"kind": kind, "content": content, "inode": None, "attributes": attributes}
    if kind == "dir":
        node["children"] = {name: read(path + b"/" + name) for name in sorted(os.listdir(path))}
    elif found.st_nlink > 1:
        node["inode"] = found.st_ino
    return node


def walk(node: Node, path: bytes = b"") -> Iterator[tuple[bytes, Node]]:
    """Yield every node with its path, the root's is empty."""
    yield path, node
    for name, child in node.get("children", {}).items():
        yield from walk(child, path + b"/" + name if path else name)


def remove(path: bytes) -> None:
    """Remove a tree, whatever flags are in it."""
    for where, directories, files in os.walk(path, topdown=True):
        for entry in (where, *(os.path.join(where, name) for name in (*directories, *files))):
            if can_have_flags(entry):
                set_flags(entry, 0)
    shutil.rmtree(path)
