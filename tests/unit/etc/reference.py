"""The /etc merge once more, written from the specification as one recursive function over dictionaries.

Shares no code and no structure with the Rust core: slow, whole trees in memory, every attribute a dictionary item.
A node is a dictionary: ``kind`` ("file", "dir", "link", "fifo", "char", "socket"), ``content`` (bytes; a char device's
number), ``inode`` (what tells one hard-linked file from another, or None), ``attributes`` (a dictionary) and, for a
directory, ``children`` (names to nodes).

Source:
    Spec etc-merge.md; where it is silent, the decisions listed in ``rust/core/src/etc/rules/mod.rs``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

Node: TypeAlias = dict[str, Any]

LABEL = "security.selinux"
ACL, DEFAULT_ACL = "system.posix_acl_access", "system.posix_acl_default"
IGNORED = (LABEL, "security.evm", "security.ima")
BLANK_IDS = (b"", b"uninitialized")


@dataclass
class Outcome:
    """The result and the report of a merge; lists as sets of paths."""

    root: Node
    strategy: str
    kept: set[bytes] = field(default_factory=set)
    deleted: set[bytes] = field(default_factory=set)
    ignored: set[bytes] = field(default_factory=set)
    additions: set[bytes] = field(default_factory=set)
    conflicts: dict[bytes, bytes | None] = field(default_factory=dict)


def merge(p: Node, c: Node, n: Node, strategy: str) -> Outcome:
    """Merge three directories; every conflict gets `strategy` ("current" or "new")."""
    p, c, n = copied(p), copied(c), copied(n)
    for tree, side in ((p, "p"), (c, "c"), (n, "n")):
        _mark(tree, side)
        tree["children"].pop(b".updated", None)
    _drop_sockets(p)
    _drop_sockets(n)
    _replace_sockets(c, p)
    out = Outcome(c, strategy)
    (entry,) = _merge((p, c, n), b"", out, set()).values()
    out.root = entry
    _keep_machine_id(c, n, out)
    _drop_ghosts(out.root)
    return out


def copied(node: Node) -> Node:
    """Copy a tree; ``copy.deepcopy``, which knows nothing about nodes, was most of the time of a random merge."""
    fresh = {**node, "attributes": {**node["attributes"]}}
    if "children" in node:
        fresh["children"] = {name: copied(child) for name, child in node["children"].items()}
    return fresh


def _mark(node: Node, side: str) -> None:
    node["side"] = side
    # A saved version keeps clear of all names, those of sockets too.
    node["names"] = set(node.get("children", {}))
    for child in node.get("children", {}).values():
        _mark(child, side)


def _drop_sockets(node: Node) -> None:
    children = node.get("children", {})
    for name in [name for name, child in children.items() if child["kind"] == "socket"]:
        del children[name]
    for child in children.values():
        _drop_sockets(child)


def _replace_sockets(c: Node, p: Node | None) -> None:
    """A socket counts as what the pristine tree has there; it is marked, since it is never carried over."""
    old = (p or {}).get("children", {})
    children = c.get("children", {})
    for name in list(children):
        if children[name]["kind"] == "socket":
            del children[name]
            if name in old:
                children[name] = copied(old[name])
                children[name]["ghost"] = True
        else:
            _replace_sockets(children[name], old.get(name))


def _drop_ghosts(node: Node) -> None:
    children = node.get("children", {})
    for name in [name for name, child in children.items() if child.get("ghost")]:
        del children[name]
    for child in children.values():
        _drop_ghosts(child)


def _counting(node: Node) -> dict[str, Any]:
    found = {key: value for key, value in node["attributes"].items() if key not in IGNORED}
    if node["kind"] == "link":
        found.pop("mode")
    return found


def _same_leaf(one: Node, two: Node) -> bool:
    return _same_thing(one, two) and _counting(one) == _counting(two)


def _same_thing(one: Node, two: Node) -> bool:
    return bool((one["kind"], one["content"]) == (two["kind"], two["content"]))


def _same_all(one: Node, two: Node) -> bool:
    if not _same_leaf(one, two) or one.get("children", {}).keys() != two.get("children", {}).keys():
        return False
    return all(_same_all(child, two["children"][name]) for name, child in one.get("children", {}).items())


def _walk(node: Node, path: bytes) -> list[bytes]:
    below = [_walk(child, path + b"/" + name) for name, child in node.get("children", {}).items()]
    return [path, *(item for items in below for item in items)]


def _divergence(p: Node, c: Node) -> int:
    """0: unchanged, 1: things were only deleted, 2: changed."""
    if not _same_leaf(p, c):
        return 2
    old, now = p.get("children", {}), c.get("children", {})
    if now.keys() - old.keys():
        return 2
    below = [_divergence(old[name], now[name]) for name in now]
    return max([int(bool(old.keys() - now.keys())), *below])


# One function on purpose: the table from top to bottom.
def _merge(  # noqa: PLR0911, PLR0912
    nodes: tuple[Node | None, Node | None, Node | None], path: bytes, out: Outcome, taken: set[bytes]
) -> dict[bytes, Node]:
    """What becomes of one path: names (the path's own as b"", saved ones as suffixes) and nodes.

    `taken`: full paths of the same directory that a saved version must keep clear of.
    """
    p, c, n = nodes
    p_dir, c_dir, n_dir = (node is not None and node["kind"] == "dir" for node in (p, c, n))
    if c is None:
        return _merge_deleted(p, n, path, out)
    if c_dir and n_dir:
        assert n is not None
        base = p if p_dir else None
        node = _merge_attributes(base, c, n, path, out)
        node["children"] = {}
        _merge_children((base, c, n), path, out, node)
        return {b"": node}
    if p is not None and not p_dir and not c_dir and _same_leaf(p, c):
        return {b"": _relabelled(p, c, n)} if n is not None else {}
    if p_dir and c_dir:
        assert p is not None
        if n is None:
            node = {**c, "children": {}}
            _merge_children((p, c, None), path, out, node)
            if not node["children"] and _counting(p) == _counting(c):
                return {}
            out.kept.add(path)
            return {b"": node}
        divergence = _divergence(p, c)
        if divergence < 2:
            if divergence:
                out.deleted.add(path)
            return {b"": n}
        return _conflict(c, n, path, out, taken)
    if n is not None and c_dir != n_dir and (p is None or p_dir != n_dir):
        return _conflict(c, n, path, out, taken)
    if n is not None and not c_dir and not n_dir:
        if p is not None and p["kind"] == c["kind"] == n["kind"]:
            return {b"": _merge_attributes(p, c, n, path, out)}
        if _same_leaf(c, n):
            return {b"": n}
    if n is not None and (p is None or not _same_all(p, n)):
        out.ignored.add(path)
    out.kept.update(_walk_alive(c, path))
    return {b"": c}


def _walk_alive(node: Node, path: bytes) -> list[bytes]:
    below = [
        _walk_alive(child, path + b"/" + name)
        for name, child in node.get("children", {}).items()
        if not child.get("ghost")
    ]
    return [path, *(item for items in below for item in items)]


def _merge_children(nodes: tuple[Node | None, Node, Node | None], path: bytes, out: Outcome, into: Node) -> None:
    sides = [(side or {}).get("children", {}) for side in nodes]
    names = set().union(*(side["names"] for side in nodes[1:] if side is not None))
    prefix = path + b"/" if path else b""
    for name in sorted(set().union(*sides)):
        taken = {prefix + other for other in names | into["children"].keys()}
        decided = _merge((sides[0].get(name), sides[1].get(name), sides[2].get(name)), prefix + name, out, taken)
        for suffix, node in decided.items():
            into["children"][name + suffix] = node


def _merge_deleted(p: Node | None, n: Node | None, path: bytes, out: Outcome) -> dict[bytes, Node]:
    if n is None:
        return {}
    if p is None:
        return {b"": n}
    out.deleted.add(path)
    if p["kind"] == "dir" and n["kind"] == "dir":
        children: dict[bytes, Node] = {}
        for name in p["children"].keys() | n["children"].keys():
            below = path + b"/" + name
            if name not in p["children"]:
                out.additions.add(below)
            children |= {
                name + suffix: node
                for suffix, node in _merge_deleted(p["children"].get(name), n["children"].get(name), below, out).items()
            }
        if children:
            return {b"": {**n, "children": children}}
        if _counting(p) != _counting(n):
            out.ignored.add(path)
        return {}
    if p["kind"] == "dir":
        out.additions.add(path)
        return {b"": n}
    if not _same_leaf(p, n) or n["kind"] == "dir":
        out.ignored.add(path)
    return {}


def _conflict(c: Node, n: Node, path: bytes, out: Outcome, taken: set[bytes]) -> dict[bytes, Node]:
    suffix = b".bootc-new" if out.strategy == "current" else b".bootc-saved"
    numbered = [suffix, *(suffix + b".%d" % number for number in range(1, 10))]
    free = next(name for name in numbered if path + name not in taken)
    if out.strategy == "new":
        out.conflicts[path] = path + free
        return {b"": n, free: c}
    if n["kind"] == "dir":
        out.conflicts[path] = None
        out.ignored.add(path)
        return {b"": c}
    out.conflicts[path] = path + free
    return {b"": c, free: n}


def _merge_attributes(p: Node | None, c: Node, n: Node, path: bytes, out: Outcome) -> Node:
    """Same type on all sides: content and each attribute on its own; without P, C's where they differ."""

    def pick(old: Any, current: Any, new: Any) -> Any:
        if current == new or (p is not None and current == old):
            return new
        out.kept.add(path)
        if p is None or new != old:
            out.ignored.add(path)
        return current

    content = pick((p or c)["content"], c["content"], n["content"])
    source = n if content == n["content"] else c
    merged = {key: value for key, value in source["attributes"].items() if key in IGNORED and key != LABEL}
    labels = [None if side is None else side["attributes"].get(LABEL) for side in (p, c, n)]
    label = labels[2] if None in labels[:2] or labels[0] == labels[1] else labels[1]
    if label is not None:
        merged[LABEL] = label
    if c["kind"] == "link":
        merged["mode"] = source["attributes"]["mode"]
    sides = [{} if side is None else _counting(side) for side in (p, c, n)]
    modes = [side.pop("mode", 0) for side in sides]
    acls = [side.pop(ACL, None) for side in sides]
    defaults = [side.get(DEFAULT_ACL) for side in sides]
    for key in set().union(*sides):
        value = pick(*(side.get(key) for side in sides))
        if value is not None:
            merged[key] = value
    if c["kind"] != "link":
        bits = [pick(*(mode >> shift & 7 for mode in modes)) for shift in (9, 6, 3, 0)]
        present = [(side["gid"], mode) for side, mode in zip(sides, modes, strict=True) if side]
        limited = _limit(bits, merged["gid"], present)
        if limited != bits:
            out.ignored.add(path)
        merged["mode"] = sum(value << shift for value, shift in zip(limited, (9, 6, 3, 0), strict=True))
    # Whoever compares merges the classes of an ACL: what the three sides had is kept for that.
    access = {"access": (p, c, n)} if any(acls) else {}
    if all(defaults[1:]) and len({*defaults[1:], *(defaults[:1] if p is not None else ())}) == len(defaults[not p :]):
        # Both have one, and each another than all others.
        access["default access"] = (p if defaults[0] else None, c, n)
    return {**source, "attributes": merged, **access}


def _relabelled(p: Node, c: Node, n: Node) -> Node:
    """N's leaf, but for a label that the admin gave to what N still has."""
    old, label = p["attributes"].get(LABEL), c["attributes"].get(LABEL)
    if n["kind"] != c["kind"] or None in {old, label} or old == label:
        return n
    return {**n, "attributes": {**n["attributes"], LABEL: label}}


def _limit(bits: list[int], gid: int, sides: list[tuple[int, int]]) -> list[int]:
    """Take from the owning group and from the others what no side grants to a member of some of the groups."""
    special, owner, group, other = bits
    groups = {gid for gid, _ in sides}
    for number in range(1 << len(groups)):
        person = {name for place, name in enumerate(sorted(groups)) if number >> place & 1}
        granted = 0
        for owning, mode in sides:
            granted |= mode >> 3 & 7 if owning in person else mode & 7
        if gid in person:
            group &= granted
        else:
            other &= granted
    return [special, owner, group, other]


def _keep_machine_id(c: Node, n: Node, out: Outcome) -> None:
    own, image = c["children"].get(b"machine-id"), n["children"].get(b"machine-id")
    if own is None or own.get("ghost") or own["kind"] != "file":
        return
    text = own["content"].strip()
    is_real = len(text) == 32 and not text.strip(b"0123456789abcdefABCDEF") and bool(text.strip(b"0"))
    if not is_real or (image and (image["kind"] != "file" or image["content"].strip() not in BLANK_IDS)):
        return
    result = out.root["children"].get(b"machine-id")
    if result is None:
        out.root["children"][b"machine-id"] = own
        out.kept.add(b"machine-id")
    elif result["side"] == "n" and result["kind"] == "file":
        judged = {key: result[key] for key in ("access", "default access") if key in result}
        out.root["children"][b"machine-id"] = {**own, "attributes": result["attributes"], **judged}
        out.kept.add(b"machine-id")


def flatten(root: Node) -> dict[bytes, tuple[Any, ...]]:
    """Path to kind, content, attributes and the set of paths that are the same inode."""
    found: dict[bytes, Node] = {}

    def visit(node: Node, path: bytes) -> None:
        found[path] = node
        for name, child in node.get("children", {}).items():
            visit(child, path + b"/" + name if path else name)

    visit(root, b"")
    groups: dict[Any, set[bytes]] = {}
    for path, node in found.items():
        attributes = tuple(sorted(node["attributes"].items()))
        key = (node["side"], node["inode"], attributes) if node.get("inode") else path
        groups.setdefault(key, set()).add(path)
    same = {path: frozenset(group) for group in groups.values() for path in group}
    return {
        path: (node["kind"], node["content"], tuple(sorted(node["attributes"].items())), same[path])
        for path, node in found.items()
    }
