"""The merge equals a reference written from the specification, and obeys the laws that follow from it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit.etc import reference
from unit.etc.trees import PLAIN_TRIPLES, TRIPLES, Node, Triple, flatten_entries, to_side

from bootc_fast import _core

LAW = settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck), database=None)
STRATEGIES = st.sampled_from(["current", "new"])


def plan(triple: Triple, strategy: str) -> _core.EtcPlan:
    return _core.plan_etc(to_side(triple.p), to_side(triple.c), to_side(triple.n), default=strategy)


def result_of(plan: _core.EtcPlan) -> dict[bytes, tuple[Any, ...]]:
    return flatten_entries([entry for entry, _, _ in plan.entries()])


def paths(rows: list[tuple[bytes, str]]) -> list[bytes]:
    return [path for path, _ in rows]


def expected_of(root: Node) -> dict[bytes, tuple[Any, ...]]:
    """A tree as R would have it if nothing were merged: no sockets, no stamp."""
    return reference.flatten(reference.merge(root, root, root, "new").root)


@LAW
@given(TRIPLES, STRATEGIES)
def test_result_and_report_equal_the_reference(triple: Triple, strategy: str) -> None:
    expected = reference.merge(triple.p, triple.c, triple.n, strategy)
    found = plan(triple, strategy)
    assert result_of(found) == reference.flatten(expected.root)
    assert paths(found.kept) == sorted(expected.kept)
    assert paths(found.deleted) == sorted(expected.deleted)
    assert paths(found.image_changes_ignored) == sorted(expected.ignored)
    assert paths(found.image_additions_kept) == sorted(expected.additions)
    assert {row[0]: row[4] for row in found.conflicts} == expected.conflicts


@LAW
@given(PLAIN_TRIPLES)
def test_an_admin_who_changed_nothing_gets_the_new_image(triple: Triple) -> None:
    same = Triple(triple.p, triple.p, triple.n)
    found = plan(same, "fail")
    assert result_of(found) == expected_of(triple.n)
    assert (found.kept, found.deleted, found.image_changes_ignored, found.conflicts) == ([], [], [], [])


@LAW
@given(PLAIN_TRIPLES)
def test_an_image_that_changed_nothing_leaves_the_admins_tree(triple: Triple) -> None:
    same = Triple(triple.p, triple.c, triple.p)
    found = plan(same, "fail")
    assert (found.conflicts, found.image_changes_ignored, found.image_additions_kept) == ([], [], [])
    result = result_of(found)
    # Labels are no edits and hard links no attribute; sockets leave what the image has in their place.
    current = reference.flatten(reference.merge(triple.p, triple.c, triple.p, "new").root)
    assert result == current
    assert without_labels(result).items() >= without_labels(leaves(triple.c)).items()
    assert not result.keys() - current.keys() - reference.flatten(_marked(triple.p)).keys()


@LAW
@given(TRIPLES, STRATEGIES)
def test_nothing_that_the_admin_wrote_is_lost(triple: Triple, strategy: str) -> None:
    pristine, current = leaves(triple.p), leaves(triple.c)
    found = plan(triple, strategy)
    result = without_labels(result_of(found))
    moved = {row[0]: row[4] for row in found.conflicts if strategy == "new"}
    for path, (kind, content, attributes) in without_labels(current).items():
        if path == b".updated" or path.startswith(b".updated/"):
            continue
        place = resting_place(path, moved)
        old = without_labels(pristine).get(path)
        if old is None or old[:2] != (kind, content):
            assert result[place][:2] == (kind, content), path
        changed = dict(dict(attributes).items() - (dict(old[2]).items() if old and old[0] == kind else set()))
        mode = changed.pop("mode", None)
        if changed:
            assert changed.items() <= dict(result[place][2]).items(), path
        if mode is not None and kind != "link":
            before = dict(old[2])["mode"] if old and old[0] == kind else ~mode
            assert_bits_kept(before, mode, dict(attributes)["gid"], dict(result[place][2]))


def assert_bits_kept(before: int, mode: int, gid: int, found: dict[str, Any]) -> None:
    """Of each class that the admin changed; fewer only where the image changed the owning group."""
    for shift in (9, 6, 3, 0):
        bits, kept = mode >> shift & 7, found["mode"] >> shift & 7
        if bits != before >> shift & 7:
            assert kept == bits or (shift < 6 and found["gid"] != gid and not kept & ~bits)


@LAW
@given(TRIPLES, STRATEGIES)
def test_merging_the_result_again_changes_nothing(triple: Triple, strategy: str) -> None:
    once = plan(triple, strategy)
    assert result_of(plan(triple, strategy)) == result_of(once)
    new = to_side(triple.n)
    result = _core.build_tree([entry for entry, _, _ in sorted(once.entries(), key=lambda row: row[0].path)])
    again = _core.plan_etc(new, _core.Side(result), new, default="fail")
    assert without_labels(result_of(again)) == without_labels(result_of(once))
    assert again.conflicts == []


@LAW
@given(TRIPLES)
def test_an_unsettled_conflict_is_fatal_and_changes_no_decision(triple: Triple) -> None:
    undecided, decided = plan(triple, "fail"), plan(triple, "current")
    assert undecided.fatal_conflicts == undecided.conflicts
    assert decided.fatal_conflicts == []
    assert result_of(undecided) == result_of(decided)
    assert [row[:3] for row in undecided.conflicts] == [row[:3] for row in decided.conflicts]


@pytest.mark.parametrize("name", ["fail", "current", "new"])
def test_rules_are_asked_before_the_default(name: str) -> None:
    leaf = {"kind": "file", "content": b"1", "inode": None, "attributes": {"mode": 0o644, "uid": 0, "gid": 0}}
    directory = {**leaf, "kind": "dir", "content": b"", "children": {b"x": leaf}}
    empty = {**directory, "children": {}}
    current, new = {**empty, "children": {b"a": leaf}}, {**empty, "children": {b"a": directory}}
    found = _core.plan_etc(
        to_side(empty), to_side(current), to_side(new), rules=[(b"b", "new"), (b"?", name)], default="new"
    )
    assert [row[3] for row in found.conflicts] == [name]


def test_an_unknown_strategy_is_refused() -> None:
    side = to_side({"kind": "dir", "content": b"", "attributes": {"mode": 0o755, "uid": 0, "gid": 0}, "inode": None})
    with pytest.raises(ValueError, match="none of fail, current, new"):
        _core.plan_etc(side, side, side, default="maybe")


def _marked(root: Node) -> Node:
    return reference.merge(root, root, root, "new").root


def leaves(root: Node) -> dict[bytes, tuple[Any, ...]]:
    """Everything but sockets, directories included."""
    found: dict[bytes, tuple[Any, ...]] = {}

    def visit(node: Node, path: bytes) -> None:
        if node["kind"] != "socket":
            found[path] = (node["kind"], node["content"], tuple(sorted(node["attributes"].items())))
        for name, child in node.get("children", {}).items():
            visit(child, path + b"/" + name if path else name)

    visit(root, b"")
    return found


def without_labels(entries: dict[bytes, tuple[Any, ...]]) -> dict[bytes, tuple[Any, ...]]:
    def strip(attributes: tuple[tuple[str, Any], ...]) -> tuple[tuple[str, Any], ...]:
        return tuple(item for item in attributes if item[0] not in reference.IGNORED)

    return {path: (kind, content, strip(attributes)) for path, (kind, content, attributes, *_) in entries.items()}


def resting_place(path: bytes, moved: dict[bytes, bytes | None]) -> bytes:
    for old, new in moved.items():
        if new is not None and (path == old or path.startswith(old + b"/")):
            return new + path[len(old) :]
    return path
