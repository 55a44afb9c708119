"""Content and attributes of a file come from one look, whatever happens to it while it is merged."""

from __future__ import annotations

import os
import random
import stat
import threading
import time
from typing import TYPE_CHECKING

import pytest
from etc_trees import Sides, listing, make_sides, merge, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PUBLIC, SECRET = b"public\n", b"secret\n"


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    return make_sides(tmp_path)


def replace(path: Path, content: bytes, mode: int) -> None:
    """Never under the name with another mode than its own."""
    fresh = path.with_name(f".{path.name}.fresh")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(fd, content)
    os.fchmod(fd, mode)
    os.close(fd)
    fresh.rename(path)


def look(path: Path) -> tuple[bytes, int]:
    return path.read_bytes(), stat.S_IMODE(path.stat().st_mode)


# Equal sizes, and times put back: nothing but the inode and its ctime tells.
def same_times(path: Path) -> None:
    found = path.stat()
    replace(path, SECRET, 0o600)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def rewritten_in_place(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(SECRET)


@pytest.mark.parametrize("change", [lambda path: replace(path, SECRET, 0o600), same_times, rewritten_in_place])
@pytest.mark.parametrize("is_edited", [True, False])
def test_what_came_in_between_comes_with_its_own_mode(
    sides: Sides, change: Callable[[Path], None], *, is_edited: bool
) -> None:
    for side in (sides.pristine, sides.new):
        write(side / "d/f", "old\n")
    write(sides.current / "d/f", PUBLIC if is_edited else "old\n")
    merge(sides, before_apply=lambda: change(sides.current / "d/f"))
    if is_edited:
        assert look(sides.result / "d/f") == (SECRET, 0o600)
    else:
        # The image's file: nothing of what came later was read.
        assert look(sides.result / "d/f") == (b"old\n", 0o644)


def test_a_wider_mode_that_came_in_between_counts_as_well(sides: Sides) -> None:
    write(sides.current / "f", SECRET, 0o600)
    merge(sides, before_apply=lambda: replace(sides.current / "f", PUBLIC, 0o664))
    assert look(sides.result / "f") == (PUBLIC, 0o664)


def test_what_an_earlier_run_wrote_does_not_stay_under_the_mode_of_an_earlier_look(sides: Sides) -> None:
    write(sides.current / "f", PUBLIC)
    write(sides.result / "f", SECRET, 0o600)
    merge(sides, before_apply=lambda: replace(sides.current / "f", SECRET, 0o600))
    assert look(sides.result / "f") == (SECRET, 0o600)


def become_symlink(path: Path) -> None:
    path.unlink()
    path.symlink_to("elsewhere")


def become_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o640)


def become_directory(path: Path) -> None:
    path.unlink()
    write(path / "inside/deep", SECRET, 0o600)


def become_hard_link(path: Path) -> None:
    path.unlink()
    os.link(path.with_name("other"), path)


def become_absent(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("what", [become_symlink, become_fifo, become_directory, become_hard_link, become_absent])
def test_what_became_something_else_is_carried_over_as_that(sides: Sides, what: Callable[[Path], None]) -> None:
    write(sides.current / "f", PUBLIC)
    write(sides.current / "other", "text", 0o640)
    write(sides.result / "f", "left by an interrupted run")
    applied = merge(sides, before_apply=lambda: what(sides.current / "f"))
    wanted, found = listing(sides.current), listing(sides.result)
    del wanted[b"."], found[b"."]
    assert found == wanted
    assert applied.warnings == []
    assert applied.plan is not None
    assert (b"f" in dict(applied.plan.kept)) == (what is not become_absent)


def test_attributes_merge_anew_with_those_of_the_image(sides: Sides) -> None:
    write(sides.pristine / "f", "old", 0o644)
    write(sides.current / "f", PUBLIC, 0o644)
    write(sides.new / "f", "old", 0o640)

    def change() -> None:
        replace(sides.current / "f", SECRET, 0o644)
        os.setxattr(sides.current / "f", "user.mark", b"yes")

    merge(sides, before_apply=change)
    assert look(sides.result / "f") == (SECRET, 0o640)
    assert os.getxattr(sides.result / "f", "user.mark") == b"yes"


def test_under_a_storm_of_renames_nothing_secret_is_ever_wider(sides: Sides) -> None:
    """Every file is replaced all the time; the merge looks twice, then takes what it finds."""
    names = [f"f{number}" for number in range(8)]
    for name in names:
        replace(sides.current / name, PUBLIC, 0o644)
    stop = threading.Event()

    def storm() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            for number, name in enumerate(names):
                content, mode = (SECRET, 0o600) if (turn + number) % 2 else (PUBLIC, 0o644)
                replace(sides.current / name, content, mode)

    thread = threading.Thread(target=storm)
    thread.start()
    until = time.monotonic() + 4
    found = set()
    runs = anew = 0
    try:
        while time.monotonic() < until:
            applied = merge(sides)
            runs += 1
            anew += any("taken as it was found last" in reason for _path, reason in applied.warnings)
            found |= {look(sides.result / name) for name in names if (sides.result / name).exists()}
    finally:
        stop.set()
        thread.join()
    assert runs > 20
    assert anew, "the way without a third plan was never taken"
    assert found <= {(SECRET, 0o600), (PUBLIC, 0o644), (PUBLIC, 0o600)}
    assert {(SECRET, 0o600), (PUBLIC, 0o644)} <= found


def change_at_random(rng: random.Random, root: Path, looks: dict[bytes, set[int]], names: list[str]) -> None:
    """Change one file in one of the ways in which programs do; `looks` learns which content had which mode."""
    name, other = rng.sample(names, 2)
    path, mode = root / name, rng.choice((0o600, 0o640, 0o644, 0o660))
    content = b"%d" % rng.getrandbits(40)
    what = rng.choice(("replace", "rewrite", "chmod", "swap", "unlink", "link", "symlink", "grow"))
    if what == "replace" or not path.is_file() or path.is_symlink():
        if path.is_dir() and not path.is_symlink():
            return
        looks.setdefault(content, set()).add(mode)
        replace(path, content, mode)
    elif what == "rewrite":
        # The mode first: a program that keeps secrets does so.
        path.chmod(mode)
        looks.setdefault(path.read_bytes(), set()).add(mode)
        looks.setdefault(content, set()).add(mode)
        path.write_bytes(content)
    elif what == "chmod":
        path.chmod(mode)
        looks.setdefault(path.read_bytes(), set()).add(mode)
    elif what == "swap" and os.path.lexists(root / other):
        (root / other).rename(root / "swap")
        path.rename(root / other)
        (root / "swap").rename(path)
    elif what == "unlink":
        path.unlink()
    elif what == "link" and not os.path.lexists(root / other):
        os.link(path, root / other)
    elif what == "symlink":
        path.unlink()
        path.symlink_to(other)
    elif what == "grow":
        with path.open("ab") as file:
            file.write(b"more")
        looks.setdefault(path.read_bytes(), set()).add(stat.S_IMODE(path.stat().st_mode))


@pytest.mark.parametrize("seed", range(30))
def test_no_content_ever_has_a_mode_that_it_never_had(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311
    names = [f"f{number}" for number in range(6)]
    looks: dict[bytes, set[int]] = {}
    for turn in range(4):
        base = tmp_path / f"{turn}"
        base.mkdir()
        sides = make_sides(base)
        for _ in range(12):
            change_at_random(rng, sides.current, looks, names)
        for _ in range(rng.randrange(3)):
            merge(sides)
            change_at_random(rng, sides.current, looks, names)

        def meanwhile(root: Path = sides.current) -> None:
            for _ in range(rng.randrange(1, 6)):
                change_at_random(rng, root, looks, names)

        merge(sides, before_apply=meanwhile)
        for path in sides.result.iterdir():
            if path.is_file() and not path.is_symlink():
                content, mode = look(path)
                assert mode in looks[content], (path, content, oct(mode))
        merge(sides)
        wanted, found = listing(sides.current), listing(sides.result)
        del wanted[b"."], found[b"."]
        assert found == wanted
