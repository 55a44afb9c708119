"""Triples of small trees out of a few bytes, and their way into and out of the Rust core.

Hypothesis makes the bytes: that is a hundred times faster than letting it make the trees, and shrinks as well, since
zeros mean "absent" and "as in P".
"""

from __future__ import annotations

import copy
import stat
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from hypothesis import strategies as st

from bootc_fast import _core

Node = dict[str, Any]

NAMES = (b"a", b"b", b"\xff-\n")
ROOT_NAMES = (*NAMES, b"a.bootc-saved", b"b.bootc-new", b".updated", b"machine-id", b"a.bootc-saved.1")
KINDS = ("file", "dir", "link", "file", "dir", "fifo", "char", "socket")
TYPE_BITS = {
    "file": stat.S_IFREG,
    "dir": stat.S_IFDIR,
    "link": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "char": stat.S_IFCHR,
    "socket": stat.S_IFSOCK,
}
CONTENTS = (b"", b"one", b"two", b"six")
IDS = (b"", b"uninitialized\n", b"0123456789abcdef" * 2 + b"\n", b"f" * 32, b"no id", b"0" * 32)
MODES = (0o644, 0o600, 0o4755, 0o000)
XATTRS = (
    ("trusted.a", b"1"),
    ("trusted.b", b""),
    ("security.selinux", b"label"),
    ("trusted.a", b"2"),
    ("security.selinux", b"other label"),
    ("security.ima", b"measured"),
)
MAX_DEPTH = 3


@dataclass
class Choices:
    """Small numbers out of bytes; zeros once they are used up."""

    data: bytes
    position: int = 0

    def below(self, limit: int) -> int:
        value = self.data[self.position] if self.position < len(self.data) else 0
        self.position += 1
        return value % limit


@dataclass(frozen=True)
class Triple:
    p: Node
    c: Node
    n: Node


def make_triple(data: bytes, *, special: bool = True) -> Triple:
    choices = Choices(data)
    sides = [_new(choices, "dir", b"") for _ in range(3)]
    _fill(choices, sides, ROOT_NAMES if special else ROOT_NAMES[:5], 1)
    for side in sides:
        _link(choices, side)
    return Triple(*sides)


def _new(choices: Choices, kind: str, name: bytes) -> Node:
    attributes: dict[str, Any] = {"mode": 0o777 if kind == "link" else 0o644, "uid": 0, "gid": 0}
    contents = IDS if name == b"machine-id" else CONTENTS
    content: Any = b""
    if kind in {"file", "link"}:
        content = contents[choices.below(len(contents))]
        if kind == "link":
            content = content or b"t"
    elif kind == "char":
        content = choices.below(2)
    node = {"kind": kind, "content": content, "inode": None, "attributes": attributes}
    if kind == "dir":
        node["children"] = {}
    return node


def _edit(choices: Choices, node: Node, name: bytes) -> None:
    """Changes one thing, or nothing."""
    which = choices.below(6)
    attributes = node["attributes"]
    if which == 0:
        node["content"] = _new(choices, node["kind"], name)["content"]
    elif which == 1 and node["kind"] != "link":
        attributes["mode"] = MODES[choices.below(len(MODES))]
    elif which == 2:
        attributes["uid"] = choices.below(3)
    elif which == 3:
        attributes["gid"] = choices.below(3)
    elif which == 4:
        key, value = XATTRS[choices.below(len(XATTRS))]
        attributes[key] = value
    else:
        attributes.pop("trusted.a", None)


def _derive(choices: Choices, old: Node | None, name: bytes) -> Node | None:
    """An entry of C or N: as in P, changed, deleted, or something else altogether."""
    which = choices.below(5)
    if which == 0 or (which < 3 and old is None):
        return _shell(old)
    if which == 1:
        return None
    if which == 2 or (which == 3 and old is not None):
        new = _shell(old)
        assert new is not None
        for _ in range(which - 1):
            _edit(choices, new, name)
        return new
    return _new(choices, KINDS[choices.below(len(KINDS))], name)


def _shell(node: Node | None) -> Node | None:
    if node is None:
        return None
    new = {**node, "attributes": dict(node["attributes"])}
    if node["kind"] == "dir":
        new["children"] = {}
    return new


def _fill(choices: Choices, sides: list[Node | None], names: tuple[bytes, ...], depth: int) -> None:
    for name in names:
        which = choices.below(9)
        old = None
        if which and sides[0] is not None:
            old = _new(choices, KINDS[which - 1], name)
            if choices.below(3) == 0:
                _edit(choices, old, name)
        entries = [old, _derive(choices, old, name), _derive(choices, old, name)]
        entries = [entry if side is not None else None for entry, side in zip(entries, sides, strict=True)]
        for entry, side in zip(entries, sides, strict=True):
            if entry is not None and side is not None:
                side["children"][name] = entry
        directories = [entry if entry is not None and entry["kind"] == "dir" else None for entry in entries]
        if any(directories) and depth < MAX_DEPTH:
            _fill(choices, directories, NAMES, depth + 1)


def _link(choices: Choices, root: Node) -> None:
    """Makes some names of one tree hard links: the same inode, so the same in everything."""
    holders = [root, *(child for child in root["children"].values() if child["kind"] == "dir")]
    files = [(h, name) for h in holders for name, child in h["children"].items() if child["kind"] == "file"]
    files = [(holder, name) for holder, name in files if name not in {b"machine-id", b".updated"}]
    for group in range(1, 1 + min(choices.below(3), len(files) // 2)):
        first = files[choices.below(len(files))]
        second = files[choices.below(len(files))]
        node = first[0]["children"][first[1]]
        if first != second and node["inode"] is None and second[0]["children"][second[1]]["inode"] is None:
            node["inode"] = group
            second[0]["children"][second[1]] = copy.deepcopy(node)


def entries_of(root: Node) -> list[SimpleNamespace]:
    """What ``_core.build_tree`` takes."""
    found: list[SimpleNamespace] = []

    def visit(node: Node, path: bytes) -> None:
        attributes, kind, content = dict(node["attributes"]), node["kind"], node["content"]
        mode, uid, gid = (attributes.pop(name) for name in ("mode", "uid", "gid"))
        found.append(
            SimpleNamespace(
                path=path,
                mode=TYPE_BITS[kind] | mode,
                uid=uid,
                gid=gid,
                nlink=1,
                rdev=content + 259 if kind == "char" else 0,
                size_bytes=len(content) if kind in {"file", "link"} else 0,
                mtime_ns=0,
                xattrs={name.encode(): value for name, value in attributes.items()},
                content={"file": "inline", "link": "target"}.get(kind, "none"),
                data=content if kind == "file" else None,
                target=content if kind == "link" else None,
                digest=None,
                link_group=node["inode"],
            )
        )
        for name, child in node.get("children", {}).items():
            visit(child, path + b"/" + name if path else name)

    visit(root, b"")
    return found


def to_tree(root: Node) -> _core.Tree:
    return _core.build_tree(entries_of(root))


def to_side(root: Node) -> _core.Side:
    return _core.Side(to_tree(root))


def flatten_entries(entries: list[_core.TreeEntry]) -> dict[bytes, tuple[Any, ...]]:
    """The same form as ``reference.flatten``."""
    names = {bits: kind for kind, bits in TYPE_BITS.items()}
    groups: dict[Any, set[bytes]] = {}
    for entry in entries:
        groups.setdefault(entry.link_group or entry.path, set()).add(entry.path)
    same = {path: frozenset(group) for group in groups.values() for path in group}
    found = {}
    for entry in entries:
        kind = names[stat.S_IFMT(entry.mode)]
        attributes: dict[str, Any] = {"mode": stat.S_IMODE(entry.mode), "uid": entry.uid, "gid": entry.gid}
        attributes |= {name.decode(): value for name, value in entry.xattrs.items()}
        content = entry.data if kind == "file" else entry.target if kind == "link" else b""
        if kind == "char":
            content = entry.rdev - 259
        assert kind == "dir" or len(same[entry.path]) == entry.nlink
        found[entry.path] = (kind, content, tuple(sorted(attributes.items())), same[entry.path])
    return found


TRIPLES = st.binary(min_size=250, max_size=500).map(make_triple)
PLAIN_TRIPLES = st.binary(min_size=250, max_size=500).map(lambda data: make_triple(data, special=False))
