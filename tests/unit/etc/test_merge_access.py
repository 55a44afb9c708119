"""Mode and POSIX ACL together, class by class; nobody gets what no side grants, judged as the kernel does."""

from __future__ import annotations

import itertools
import random
import struct
from dataclasses import dataclass
from typing import Any

from unit.etc.trees import to_side

from bootc_fast import _core

ACCESS = "system.posix_acl_access"
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
USERS = (1000, 1001)
GROUPS = (0, 27, 100)


@dataclass(frozen=True)
class Access:
    """The entries of an ACL by (tag, id); a mode alone has three."""

    entries: dict[tuple[int, int], int]
    gid: int

    @property
    def mode(self) -> int:
        group = self.entries.get((MASK, 0), self.entries[GROUP_OBJ, 0])
        return self.entries[USER_OBJ, 0] << 6 | group << 3 | self.entries[OTHER, 0]

    @property
    def acl(self) -> bytes | None:
        if len(self.entries) == 3:
            return None
        rows = [struct.pack("<HHI", tag, bits, i or 0xFFFFFFFF) for (tag, i), bits in sorted(self.entries.items())]
        return struct.pack("<I", 2) + b"".join(rows)

    def grants(self, user: int | None, groups: tuple[int, ...]) -> int:
        """As ``posix_acl_permission`` of the kernel does, for somebody who is not the owner."""
        mask = self.entries.get((MASK, 0), 7)
        if user is not None and (USER, user) in self.entries:
            return self.entries[USER, user] & mask
        found = [self.entries[GROUP, gid] for gid in groups if (GROUP, gid) in self.entries]
        if self.gid in groups:
            found.append(self.entries[GROUP_OBJ, 0])
        if not found:
            return self.entries[OTHER, 0]
        granted = 0
        for bits in found:
            granted |= bits
        return granted & mask


def make_access(rng: random.Random) -> Access:
    def bits() -> int:
        return rng.choice((0, 4, 5, 6, 7))

    entries = {(USER_OBJ, 0): bits(), (GROUP_OBJ, 0): bits(), (OTHER, 0): rng.choice((0, 0, 4, 5))}
    for tag, i in [*((USER, user) for user in USERS), *((GROUP, gid) for gid in GROUPS[1:])]:
        if rng.random() < 0.4:
            entries[tag, i] = bits()
    if len(entries) > 3 or rng.random() < 0.1:
        entries[MASK, 0] = bits()
    return Access(entries, rng.choice((0, 0, 0, 27)))


def edit(rng: random.Random, access: Access) -> Access:
    other = make_access(rng)
    entries = dict(access.entries)
    for key in other.entries.keys() | entries.keys():
        if rng.random() < 0.3 and key[0] in {USER, GROUP, MASK}:
            entries.pop(key, None)
            if key in other.entries:
                entries[key] = other.entries[key]
        elif rng.random() < 0.3 and key in other.entries:
            entries[key] = other.entries[key]
    if {tag for tag, _ in entries} & {USER, GROUP}:
        entries.setdefault((MASK, 0), 7)
    return Access(entries, other.gid if rng.random() < 0.2 else access.gid)


def make_side(access: Access, content: bytes) -> _core.Side:
    attributes: dict[str, Any] = {"mode": access.mode, "uid": 0, "gid": access.gid}
    if access.acl is not None:
        attributes[ACCESS] = access.acl
    leaf = {"kind": "file", "content": content, "inode": None, "attributes": attributes}
    root = {"mode": 0o755, "uid": 0, "gid": 0}
    return to_side({"kind": "dir", "content": b"", "inode": None, "attributes": root, "children": {b"a": leaf}})


def merge(p: Access, c: Access, n: Access) -> tuple[Access, _core.EtcPlan]:
    plan = _core.plan_etc(make_side(p, b"1"), make_side(c, b"1"), make_side(n, b"2"))
    (leaf,) = [entry for entry, _, _ in plan.entries() if entry.path == b"a"]
    return read_access(leaf), plan


def read_access(leaf: _core.TreeEntry) -> Access:
    value = leaf.xattrs.get(ACCESS.encode())
    bits = [leaf.mode >> shift & 7 for shift in (6, 3, 0)]
    entries = dict(zip([(USER_OBJ, 0), (GROUP_OBJ, 0), (OTHER, 0)], bits, strict=True))
    if value is not None:
        rows = [struct.unpack_from("<HHI", value, at) for at in range(4, len(value), 8)]
        assert rows == sorted(rows, key=lambda row: row[0])
        entries = {(tag, 0 if i == 0xFFFFFFFF else i): bits for tag, bits, i in rows}
    found = Access(entries, leaf.gid)
    assert found.mode == leaf.mode & 0o777, "the kernel would change one of the two"
    return found


def test_random_accesses_merge_class_by_class_and_nobody_gets_what_no_side_grants() -> None:
    rng = random.Random(5)  # noqa: S311 - repeatable
    limited = unlimited = 0
    people = [
        (user, groups)
        for user in (None, *USERS)
        for size in range(len(GROUPS) + 1)
        for groups in itertools.combinations(GROUPS, size)
    ]
    for _ in range(4000):
        p = make_access(rng)
        c, n = edit(rng, p), edit(rng, p)
        found, _plan = merge(p, c, n)
        for person in people:
            most = p.grants(*person) | c.grants(*person) | n.grants(*person)
            assert not found.grants(*person) & ~most, (person, p, c, n, found)
        picked = {
            key: n.entries.get(key) if p.entries.get(key) == c.entries.get(key) else c.entries.get(key)
            for key in p.entries.keys() | c.entries.keys() | n.entries.keys()
        }
        wanted = {key: bits for key, bits in picked.items() if bits is not None}
        if found.entries == wanted:
            unlimited += 1
            continue
        limited += 1
        # No class but the named ones, which may need an entry that holds somebody back, has more than was picked.
        for key, bits in found.entries.items():
            assert key[0] in {USER, GROUP, MASK} or not bits & ~wanted[key]
    assert limited > 100
    assert unlimited > 2000


def test_an_admins_named_user_stays_and_the_image_closes_group_and_others() -> None:
    p = Access({(USER_OBJ, 0): 6, (GROUP_OBJ, 0): 4, (OTHER, 0): 4}, 0)
    c = Access({**p.entries, (USER, 1000): 6, (MASK, 0): 6}, 0)
    n = Access({(USER_OBJ, 0): 6, (GROUP_OBJ, 0): 0, (OTHER, 0): 0}, 0)
    found, plan = merge(p, c, n)
    assert found.entries == {**n.entries, (USER, 1000): 6, (MASK, 0): 6}
    assert plan.kept == [(b"a", "ACL")]


def test_an_acl_that_the_admin_removed_opens_nothing_to_the_owning_group() -> None:
    p = Access({(USER_OBJ, 0): 6, (USER, 1000): 6, (GROUP_OBJ, 0): 4, (MASK, 0): 4, (OTHER, 0): 0}, 0)
    c = Access({(USER_OBJ, 0): 6, (GROUP_OBJ, 0): 4, (OTHER, 0): 0}, 0)
    n = Access({**p.entries, (MASK, 0): 6}, 0)
    found, plan = merge(p, c, n)
    assert found.entries == c.entries
    assert plan.image_changes_ignored == [(b"a", "ACL")]


def test_taking_back_is_reported() -> None:
    # The image takes away the entry that held a user back, the admin opens the file to others.
    p = Access({(USER_OBJ, 0): 6, (USER, 1000): 0, (GROUP_OBJ, 0): 4, (MASK, 0): 4, (OTHER, 0): 0}, 0)
    c = Access({**p.entries, (OTHER, 0): 4}, 0)
    n = Access({(USER_OBJ, 0): 6, (GROUP_OBJ, 0): 4, (OTHER, 0): 0}, 0)
    found, plan = merge(p, c, n)
    assert found.grants(1000, ()) == 0
    assert found.grants(None, ()) == 4
    assert plan.image_changes_ignored == [(b"a", "mode")]


DEFAULT = "system.posix_acl_default"


def merge_defaults(sides: list[Access | None]) -> Access | None:
    """A directory whose default ACL is these; each side has one, or none."""
    roots = []
    for side in sides:
        attributes: dict[str, Any] = {"mode": 0o755, "uid": 0, "gid": 0}
        if side is not None:
            rows = [struct.pack("<HHI", tag, bits, i or 0xFFFFFFFF) for (tag, i), bits in sorted(side.entries.items())]
            attributes[DEFAULT] = struct.pack("<I", 2) + b"".join(rows)
        top = {"mode": 0o755, "uid": 0, "gid": 0}
        child = {"kind": "dir", "content": b"", "inode": None, "attributes": attributes, "children": {}}
        roots.append({"kind": "dir", "content": b"", "inode": None, "attributes": top, "children": {b"d": child}})
    plan = _core.plan_etc(*map(to_side, roots))
    (entry,) = (entry for entry, _side, _path in plan.entries() if entry.path == b"d")
    value = entry.xattrs.get(DEFAULT.encode())
    if value is None:
        return None
    rows = (struct.unpack_from("<HHI", value, at) for at in range(4, len(value), 8))
    return Access({(tag, 0 if i == 0xFFFFFFFF else i): bits for tag, bits, i in rows}, 0)


def test_a_default_acl_that_both_changed_is_merged_class_by_class() -> None:
    old = Access({(USER_OBJ, 0): 7, (GROUP_OBJ, 0): 5, (OTHER, 0): 5}, 0)
    mine = Access({**old.entries, (USER, 1000): 7, (MASK, 0): 7}, 0)
    tightened = Access({**old.entries, (OTHER, 0): 0}, 0)
    merged = merge_defaults([old, mine, tightened])
    assert merged is not None
    assert merged.entries == {**mine.entries, (OTHER, 0): 0}
    assert merge_defaults([old, old, tightened]) == tightened
    assert merge_defaults([old, mine, old]) == mine
    assert merge_defaults([old, None, tightened]) is None
    assert merge_defaults([None, None, mine]) == mine


def test_no_default_acl_grants_what_none_of_the_sides_grants() -> None:
    rng = random.Random(11)  # noqa: S311
    merged_by_classes = 0
    for _ in range(400):
        old = make_access(rng)
        old = Access(old.entries, 0)
        sides = [old, *(Access(edit(rng, old).entries, 0) for _ in range(2))]
        found = merge_defaults(list(sides))
        assert found is not None
        merged_by_classes += found not in sides
        for user in (None, *USERS):
            for count in range(len(GROUPS) + 1):
                for groups in itertools.combinations(GROUPS, count):
                    most = 0
                    for side in sides:
                        most |= side.grants(user, groups)
                    assert not found.grants(user, groups) & ~most
    assert merged_by_classes > 40
