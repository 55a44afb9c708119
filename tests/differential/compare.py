"""A result on disk beside what the reference makes of one state of the running /etc, or of each of several."""

from __future__ import annotations

import struct
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from differential.disk import ACL, DEFAULT_ACL, walk
from unit.etc import reference

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from unit.etc.reference import Node

LABEL, IMA = "security.selinux", "security.ima"
_PEOPLE = [(user, groups) for user in (None, 1000) for groups in ((), (0,), (1,), (2,), (27,), (0, 27), (1, 27))]
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32


class Expected(NamedTuple):
    """What the reference makes of one state: nodes by path, and which paths are one file."""

    nodes: dict[bytes, Node]
    links: dict[bytes, frozenset[bytes]]


def expected_of(pristine: Node, current: Node, new: Node, strategy: str) -> Expected:
    """Ask the reference."""
    root = reference.merge(pristine, current, new, strategy).root
    flat = reference.flatten(root)
    return Expected(dict(walk(root)), {path: entry[3] for path, entry in flat.items()})


def _entries(node: Node) -> dict[tuple[int, int], int]:
    """An ACL by tag and id; of a mode alone its three classes."""
    attributes = node["attributes"]
    value, mode = attributes.get(ACL), attributes["mode"]
    if value is None:
        return {(_USER_OBJ, 0): mode >> 6 & 7, (_GROUP_OBJ, 0): mode >> 3 & 7, (_OTHER, 0): mode & 7}
    rows = (struct.unpack_from("<HHI", value, at) for at in range(4, len(value), 8))
    return {(tag, 0 if number == 0xFFFFFFFF else number): bits for tag, bits, number in rows}


def _grants(node: Node, user: int | None, groups: tuple[int, ...]) -> int:
    """As ``posix_acl_permission`` of the kernel does, for somebody who is not the owner."""
    entries = _entries(node)
    mask = entries.get((_MASK, 0), 7)
    if user is not None and (_USER, user) in entries:
        return entries[_USER, user] & mask
    found = [entries[_GROUP, gid] for gid in groups if (_GROUP, gid) in entries]
    if node["attributes"]["gid"] in groups:
        found.append(entries[_GROUP_OBJ, 0])
    if not found:
        return entries[_OTHER, 0]
    granted = 0
    for bits in found:
        granted |= bits
    return granted & mask


def _check_access(found: Node, sides: Sequence[Node | None]) -> Iterator[str]:
    """Class by class what changed, where nobody gets what no side grants; never more than the sides together."""
    p, c, n = (None if side is None else _entries(side) for side in sides)
    present = [side for side in sides if side is not None]
    for user, groups in _PEOPLE:
        most = 0
        for side in present:
            most |= _grants(side, user, groups)
        if _grants(found, user, groups) & ~most:
            yield f"access of user {user}, groups {groups}, is wider than on any side"
    assert c is not None
    assert n is not None
    keys = {*c, *n, *(p or {})}
    picked = {
        key: n.get(key) if c.get(key) == n.get(key) or (p is not None and c.get(key) == p.get(key)) else c.get(key)
        for key in keys
    }
    wanted = {key: bits for key, bits in picked.items() if bits is not None}
    got = _entries(found)
    for key, bits in got.items():
        if key[0] not in {_USER, _GROUP, _MASK} and bits & ~wanted.get(key, 0):
            yield f"class {key} has {bits}, not {wanted.get(key)}"
    if got.get((_USER_OBJ, 0)) != wanted[_USER_OBJ, 0]:
        yield "the owner's bits are others"


def _differences(found: Node, wanted: Node, extra: set[str]) -> Iterator[str]:
    """How a node on disk differs from the reference's; `extra`: attributes that were there before."""
    if found["kind"] != wanted["kind"]:
        yield f"is a {found['kind']}, not a {wanted['kind']}"
        return
    if found["content"] != wanted["content"]:
        # Of a device it is a number.
        got_text, wanted_text = (repr(node["content"])[:60] for node in (found, wanted))
        yield f"content {got_text}, not {wanted_text}"
    got, want = dict(found["attributes"]), dict(wanted["attributes"])
    if wanted["kind"] == "link":
        got.pop("mode")
        want.pop("mode")
    for name in (LABEL, IMA):
        if name in extra and name not in want:
            got.pop(name, None)
    if "access" in wanted:
        for side in (got, want):
            side.pop(ACL, None)
            side["mode"] &= 0o7000
        yield from _check_access(found, wanted["access"])
    if "default access" in wanted:
        sides = [found, *wanted["default access"]]
        judged, *judges = (None if side is None else _of_default(side, found) for side in sides)
        assert judged is not None
        yield from (f"default ACL: {one}" for one in _check_access(judged, judges))
        for side in (got, want):
            side.pop(DEFAULT_ACL, None)
    for name in sorted(got.keys() | want.keys()):
        if got.get(name) != want.get(name):
            yield f"{name} {_show(got.get(name))}, not {_show(want.get(name))}"


def _computed_in(found: Node, wanted: Sequence[Node | None]) -> set[str]:
    """What the first of several writings gave to a directory that stayed, and is not taken off again."""
    return {
        name
        for name in (LABEL, IMA)
        for one in wanted
        if one is not None and one["attributes"].get(name, b"") == found["attributes"].get(name)
    }


def _of_default(node: Node, owner: Node) -> Node:
    """What would be made in a directory, by a member of the group that another node has."""
    attributes = {"mode": 0, "gid": owner["attributes"]["gid"]}
    if DEFAULT_ACL in node["attributes"]:
        attributes[ACL] = node["attributes"][DEFAULT_ACL]
    return {"attributes": attributes}


def _show(value: Any) -> str:
    return oct(value) if isinstance(value, int) else repr(value)


def _links_of(root: Node) -> dict[bytes, frozenset[bytes]]:
    groups: dict[Any, set[bytes]] = defaultdict(set)
    for path, node in walk(root):
        groups[node["inode"] or path].add(path)
    return {path: frozenset(group) for group in groups.values() for path in group}


def _is_narrower(path: bytes, found: Node, states: Sequence[Node]) -> bool:
    """Taken as it was found last, since it changed again and again: content of a state, with no more access."""
    if found["kind"] != "file":
        return False
    modes = [
        node["attributes"]["mode"]
        for state in states
        for at, node in walk(state)
        if (at == path or b".bootc-saved" in path) and node["kind"] == "file" and node["content"] == found["content"]
    ]
    most = 0
    for mode in modes:
        most |= mode
    return bool(modes) and not found["attributes"]["mode"] & 0o777 & ~most


def compare_with(
    root: Node,
    outcomes: Sequence[Expected],
    states: Sequence[Node],
    *,
    exact: bool,
    extra: Mapping[bytes, set[str]],
) -> list[str]:
    """List the differences between a result and what the reference makes of one state, path by path.

    Args:
        root: The result.
        outcomes: Of each state that the running /etc was in.
        states: They themselves.
        exact: There was one.
        extra: Names of attributes that the destination had before, by path.
    """
    problems = []
    found = dict(walk(root))
    for path in sorted({*found, *(path for outcome in outcomes for path in outcome.nodes)}):
        node = found.get(path)
        wanted = [outcome.nodes.get(path) for outcome in outcomes]
        if node is None:
            if None not in wanted:
                problems.append(f"{path!r} is missing")
            continue
        before = extra.get(path, set()) | (set() if exact else _computed_in(node, wanted))
        reasons = [["is there"] if one is None else list(_differences(node, one, before)) for one in wanted]
        if all(reasons) and not (not exact and _is_narrower(path, node, states)):
            texts = dict.fromkeys("; ".join(one) for one in reasons)
            problems.append(f"{path!r}: " + " | ".join(texts))
    if exact and not problems:
        links, nodes = _links_of(root), outcomes[0].nodes
        problems += [
            f"{path!r} is one file with {sorted(links[path])}, not {sorted(group)}"
            for path, group in outcomes[0].links.items()
            # Names whose ACLs were merged are one file where these came out alike, which the reference does not know.
            if links.get(path) != group and not any("access" in nodes[one] for one in group | links[path])
        ]
    return problems
