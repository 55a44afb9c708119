"""A merge writes the staged deployment's own /etc, or nothing: whatever its `etc` leads to stays as it is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import flowkit
import pytest
import trio
from etc_trees import listing

from bootc_fast.errors import UsageError
from bootc_fast.etc.merge import DirectorySource, plan_etc_merge

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flowkit import Case


def state(case: Case, digest: str) -> Path:
    return case.root / "sysroot/state/deploy" / digest


def to_running(case: Case) -> None:
    replace(state(case, case.staged) / "etc", "../../../../../etc")


def to_running_absolute(case: Case) -> None:
    replace(state(case, case.staged) / "etc", "/etc")


def to_the_rollback_targets(case: Case) -> None:
    replace(state(case, case.staged) / "etc", f"../{case.booted}/etc")


def to_a_directory_of_its_own(case: Case) -> None:
    (state(case, case.staged) / "etc").rename(state(case, case.staged) / "other")
    (state(case, case.staged) / "etc").symlink_to("other")


def the_whole_state(case: Case) -> None:
    replace(state(case, case.staged), case.booted)


def replace(path: Path, target: str) -> None:
    path.rename(path.with_name(path.name + ".aside"))
    path.symlink_to(target)


LINKS = [to_running, to_running_absolute, to_the_rollback_targets, to_a_directory_of_its_own, the_whole_state]
COMMANDS = {
    "finalize": ("composefs-finalize-staged",),
    "dry run": ("composefs-finalize-staged", "--dry-run"),
    "merge": ("etc", "merge"),
    "merge dry run": ("etc", "merge", "--dry-run"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("link", LINKS)
def test_a_symlink_in_its_place_is_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], link: Callable[[Case], None], command: str
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    link(case)
    places = [case.root / "etc", state(case, case.booted)]
    before = [listing(place) for place in places]
    code, _out, err = flowkit.run(capsys, *COMMANDS[command], "--root", case.root)
    assert code == 10, err
    assert "is a symlink" in err
    assert "stage the update again" in err
    assert [listing(place) for place in places] == before


@pytest.mark.parametrize("link", LINKS)
def test_status_tells_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], link: Callable[[Case], None]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    link(case)
    code, out, err = flowkit.run(capsys, "status", "--root", case.root)
    assert (code, "is a symlink" in " ".join((out + err).split())) == (0, True), out + err


@pytest.mark.parametrize("into", ["c", "c/inside", ".", "p", "n/inside"])
def test_every_writer_of_a_plan_refuses_what_is_read_for_it(tmp_path: Path, into: str) -> None:
    for name in ("p", "c/inside", "n/inside"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "c/mine").write_text("x")
    before = listing(tmp_path)
    fds = [os.open(tmp_path / name, os.O_RDONLY | os.O_DIRECTORY) for name in ("p", "c", "n", into)]

    async def main() -> None:
        plan = await plan_etc_merge(*(DirectorySource(fd) for fd in fds[:3]))
        for write in (plan.apply, plan.apply_listing, plan.list_operations):
            with pytest.raises(UsageError, match="one of the merged directories"):
                await write(fds[3])

    try:
        trio.run(main)
    finally:
        for fd in fds:
            os.close(fd)
    assert listing(tmp_path) == before
