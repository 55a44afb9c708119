"""Numbers of accounts that differ from the new image's are told by name, where this host's files stay."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import trio
from etc_trees import Sides, make_sides, write

from bootc_fast.etc.merge import DirectorySource, diff_etc, plan_etc_merge

if TYPE_CHECKING:
    from pathlib import Path

ROOT = "root:x:0:0:root:/root:/bin/sh\n"


def warnings(sides: Sides) -> list[str]:
    fds = [os.open(side, os.O_RDONLY | os.O_DIRECTORY) for side in sides]
    try:
        plan = trio.run(plan_etc_merge, *(DirectorySource(fd) for fd in fds[:3]))
        return [f"/etc/{one.path.decode()}: {one.reason}" for one in plan.report.warnings]
    finally:
        for fd in fds:
            os.close(fd)


def user(name: str, number: int) -> str:
    return f"{name}:x:{number}:{number}::/:/sbin/nologin\n"


def put(sides: Sides, p: str, c: str, n: str, name: str = "passwd") -> None:
    for side, text in zip(sides, (p, c, n), strict=False):
        write(side / name, text)


@pytest.mark.root
def test_a_number_that_differs_is_told_with_what_it_owns(tmp_path: Path) -> None:
    sides = make_sides(tmp_path)
    put(sides, ROOT, ROOT + user("polkitd", 114), ROOT + user("polkitd", 998) + user("sssd", 997) + user("a\x1b", 9))
    for name in ("polkit-1/rules.d/a", "polkit-1/rules.d/b"):
        os.chown(write(sides.new / name, "x"), 998, 0)
    assert warnings(sides) == [
        "/etc/passwd: polkitd is 114 here and 998 in the new image, which owns 2 files of /etc by that number",
        "/etc/passwd: accounts of the new image are missing here: a\\x1b (9), sssd (997)",
    ]


def test_groups_as_well_and_one_that_owns_nothing(tmp_path: Path) -> None:
    sides = make_sides(tmp_path)
    put(sides, ROOT, ROOT, ROOT)
    group = "root:x:0:\n"
    put(sides, group, f"{group}ssh_keys:x:101:\n", f"{group}ssh_keys:x:999:a,b\n", "group")
    assert warnings(sides) == ["/etc/group: ssh_keys is 101 here and 999 in the new image"]


@pytest.mark.parametrize(
    ("p", "c", "n"),
    [
        # The image's file is what the result has.
        (ROOT, ROOT, ROOT + user("new", 5)),
        (ROOT, ROOT + user("mine", 1000), ROOT),
        # NIS, comments, garbage, a number that is none.
        (ROOT, "+::::::\n" + ROOT, f"#x:x:1\n+y:x:2\n-z:x:3\nq\n:x:4\nw:x:\nv:x:-1\nu:x:{'9' * 5000}\n{ROOT}"),
    ],
)
def test_nothing_is_told_where_nothing_differs(tmp_path: Path, p: str, c: str, n: str) -> None:
    sides = make_sides(tmp_path)
    put(sides, p, c, n)
    assert warnings(sides) == []


def test_many_missing_ones_are_one_line(tmp_path: Path) -> None:
    sides = make_sides(tmp_path)
    put(sides, ROOT, ROOT + user("mine", 7), ROOT + "".join(user(f"s{number:02}", number) for number in range(30)))
    (line,) = warnings(sides)
    assert line.endswith("s06 (6), s07 (7) and 22 more")


def test_a_diff_of_this_host_alone_has_no_new_image(tmp_path: Path) -> None:
    sides = make_sides(tmp_path)
    put(sides, ROOT + user("gone", 5), ROOT, ROOT)
    fds = [os.open(side, os.O_RDONLY | os.O_DIRECTORY) for side in sides[:2]]
    try:
        diff = trio.run(diff_etc, *(DirectorySource(fd) for fd in fds))
    finally:
        for fd in fds:
            os.close(fd)
    assert diff.warnings == ()
