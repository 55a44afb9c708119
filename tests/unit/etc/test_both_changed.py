"""Leaves that both sides changed: the admin's wins, but for what programs make and where the policy says otherwise."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest
import trio
from etc_trees import Sides, make_sides, write

from bootc_fast.errors import InvalidStateError
from bootc_fast.etc.merge import DirectorySource, merge_etc
from bootc_fast.etc.policy import parse_policy

if TYPE_CHECKING:
    from pathlib import Path

    from bootc_fast.types import EtcReport


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    return make_sides(tmp_path)


def merge(sides: Sides, policy: str = "") -> EtcReport:
    fds = [os.open(side, os.O_RDONLY | os.O_DIRECTORY) for side in sides]
    try:
        sources = (DirectorySource(fd) for fd in fds[:3])
        parsed = parse_policy(policy, what="the test")
        return trio.run(lambda: merge_etc(*sources, fds[3], policy=parsed)).report
    finally:
        for fd in fds:
            os.close(fd)


def put(sides: Sides, name: str, p: str | None, c: str | None, n: str | None) -> None:
    for side, content in zip(sides, (p, c, n), strict=False):
        if content is not None:
            write(side / name, content)


def content(sides: Sides, name: str) -> str | None:
    path = sides.result / name
    return path.read_text() if path.exists() else None


MADE = [
    "ld.so.cache",
    "udev/hwdb.bin",
    "pki/ca-trust/extracted/java/cacerts",
    "pki/ca-trust/extracted/pem/directory-hash/x.pem",
    "selinux/mls/policy/policy.33",
    "selinux/targeted/contexts/files/file_contexts.homedirs.bin",
    "ssl/certs/ca-certificates.crt",
]


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize(
    ("p", "c", "n", "result"),
    [
        ("1", "2", "3", "3"),
        (None, "2", "3", "3"),
        ("1", None, "3", "3"),
        ("1", "2", None, None),
        # One side only: as everywhere.
        ("1", "2", "1", "2"),
        ("1", "1", "3", "3"),
        ("1", None, "1", None),
        (None, "2", None, "2"),
        ("1", "2", "2", "2"),
    ],
)
def test_what_programs_make_is_the_images_where_both_changed_it(  # noqa: PLR0917
    sides: Sides, name: str, p: str | None, c: str | None, n: str | None, result: str | None
) -> None:
    put(sides, name, p, c, n)
    report = merge(sides)
    assert content(sides, name) == result
    assert [path.name for path in sides.result.rglob("*bootc*")] == []
    is_both = (p, c, n) in {("1", "2", "3"), (None, "2", "3"), ("1", None, "3"), ("1", "2", None)}
    text = f"/etc/{name}: changed here and in the new image; made by a program, so the image's is taken"
    assert [f"/etc/{one.path.decode()}: {one.reason}" for one in report.warnings] == [text] * is_both


@pytest.mark.parametrize(
    "name", ["ld.so.cache.d", "x/ld.so.cache", "selinux/config", "selinux/policy", "udev/hwdb.d/x.bin"]
)
def test_everything_else_stays_the_admins(sides: Sides, name: str) -> None:
    put(sides, name, "1", "2", "3")
    report = merge(sides)
    assert content(sides, name) == "2"
    assert report.warnings == ()


NEW = '[[path]]\npattern = "a/*"\non-both-changed = "new"\n'


@pytest.mark.parametrize(
    ("p", "c", "n", "saved"),
    [("1", "2", "3", "2"), (None, "2", "3", "2"), ("1", "2", None, "2"), ("1", None, "3", None)],
)
def test_the_policy_chooses_the_images_and_nothing_is_lost(
    sides: Sides, p: str | None, c: str | None, n: str | None, saved: str | None
) -> None:
    put(sides, "a/f", p, c, n)
    put(sides, "b/f", "1", "2", "3")
    report = merge(sides, NEW)
    assert (content(sides, "a/f"), content(sides, "a/f.bootc-saved")) == (n, saved)
    assert content(sides, "b/f") == "2"
    assert len(report.warnings) == 1
    assert report.warnings[0].path == b"a/f"
    assert report.warnings[0].reason.startswith("changed here and in the new image; the image's is taken")
    assert ("kept as /etc/a/f.bootc-saved" in report.warnings[0].reason) == (saved is not None)


def test_attribute_by_attribute(sides: Sides) -> None:
    put(sides, "a/mode", "1", "1", "1")
    put(sides, "a/content", "1", "2", "3")
    (sides.current / "a/mode").chmod(0o640)
    (sides.new / "a/mode").chmod(0o600)
    # Only the admin touched this one.
    (sides.current / "a/content").chmod(0o400)
    merge(sides, NEW)
    assert stat.S_IMODE((sides.result / "a/mode").stat().st_mode) == 0o600
    assert stat.S_IMODE((sides.result / "a/content").stat().st_mode) == 0o400
    assert content(sides, "a/content") == "3"
    assert sorted(os.listdir(sides.result / "a")) == ["content", "content.bootc-saved", "mode"]


def test_another_type_counts_as_changed(sides: Sides) -> None:
    put(sides, "a/f", "1", None, "3")
    (sides.current / "a").mkdir()
    (sides.current / "a/f").symlink_to("elsewhere")
    merge(sides, NEW)
    assert content(sides, "a/f") == "3"
    assert os.readlink(sides.result / "a/f.bootc-saved") == "elsewhere"


def test_the_first_entry_counts_and_ones_own_come_before_the_built_in(sides: Sides) -> None:
    put(sides, "ld.so.cache", "1", "2", "3")
    put(sides, "udev/hwdb.bin", "1", "2", "3")
    merge(
        sides,
        '[[path]]\npattern = "/etc/ld.so.*"\non-both-changed = "current"\non-conflict = "new"\n'
        '[[path]]\npattern = "**"\non-both-changed = "new"\n',
    )
    assert content(sides, "ld.so.cache") == "2"
    assert (content(sides, "udev/hwdb.bin"), content(sides, "udev/hwdb.bin.bootc-saved")) == ("3", "2")


@pytest.mark.parametrize(
    "text",
    [
        '[[path]]\npattern = "a"\n',
        '[[path]]\npattern = "a"\non-both-changed = "machine-made"\n',
        '[[path]]\npattern = "a"\non-both-changed = "fail"\n',
        '[[path]]\npattern = "a"\non-both-changed = 1\n',
        '[[path]]\non-both-changed = "new"\n',
        'on-both-changed = "new"\n',
    ],
)
def test_half_understood_policies_are_refused(text: str) -> None:
    with pytest.raises(InvalidStateError):
        parse_policy(text, what="the test")


def test_a_conflict_is_a_conflict_whatever_is_preferred(sides: Sides) -> None:
    put(sides, "a/f", "1", "2", None)
    write(sides.new / "a/f/inside", "3")
    merge(sides, 'default = "current"\n' + NEW)
    assert content(sides, "a/f") == "2"
