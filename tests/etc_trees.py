"""Trees for merge tests: made, merged, and looked at; run as a program, one merge for strace to disturb."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bootc_fast import _core
from bootc_fast.errors import BootcFastError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Entry(NamedTuple):
    """Everything about a file that a merge carries over; `links` are all its names."""

    mode: int
    owner: tuple[int, int]
    rdev: int
    mtime_ns: int
    xattrs: tuple[tuple[str, bytes], ...]
    content: bytes
    links: tuple[bytes, ...]


def listing(root: Path) -> dict[bytes, Entry]:
    """List a directory with everything that a merge carries over; the root is ``b"."``."""
    top = os.fsencode(root)
    paths = [b"."]
    for where, directories, files in os.walk(top):
        paths += [os.path.relpath(os.path.join(where, name), top) for name in (*directories, *files)]
    inodes: dict[tuple[int, int], list[bytes]] = {}
    for path in sorted(paths):
        found = os.lstat(os.path.join(top, path))
        inodes.setdefault((found.st_dev, found.st_ino), []).append(path)
    return {path: _entry(os.path.join(top, path), inodes) for path in sorted(paths)}


def _entry(path: bytes, inodes: dict[tuple[int, int], list[bytes]]) -> Entry:
    found = os.lstat(path)
    content = b""
    if stat.S_ISREG(found.st_mode):
        content = Path(os.fsdecode(path)).read_bytes()
    elif stat.S_ISLNK(found.st_mode):
        content = os.readlink(path)
    names = sorted(name for name in os.listxattr(path, follow_symlinks=False) if name != "security.selinux")
    return Entry(
        mode=found.st_mode,
        owner=(found.st_uid, found.st_gid),
        rdev=found.st_rdev if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode) else 0,
        mtime_ns=found.st_mtime_ns,
        xattrs=tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names),
        content=content,
        links=tuple(inodes[found.st_dev, found.st_ino]),
    )


class Sides(NamedTuple):
    """The directories of one merge."""

    pristine: Path
    current: Path
    new: Path
    result: Path


def make_sides(base: Path) -> Sides:
    """Make four empty directories."""
    sides = Sides(*(base / name for name in "PCNR"))
    for side in sides:
        side.mkdir()
        side.chmod(0o755)
    return sides


def merge(
    sides: Sides,
    *,
    default: str = "fail",
    rules: Sequence[tuple[bytes, str]] = (),
    check: Callable[[], object] | None = None,
    progress: Callable[[int, int], object] | None = None,
    before_apply: Callable[[], object] = lambda: None,
) -> _core.EtcApplied:
    """Plan and write one merge, on this thread; `before_apply` runs in between."""
    with ExitStack() as stack:
        fds = []
        for side in sides:
            fds.append(os.open(side, os.O_RDONLY | os.O_DIRECTORY))
            stack.callback(os.close, fds[-1])
        *inputs, result = fds
        trees = (_core.Side(_core.Tree.scan(fd), dir_fd=fd) for fd in inputs)
        plan = _core.plan_etc(*trees, rules=rules, default=default)
        before_apply()
        return _core.apply_etc(plan, result, progress=progress, check=check)


def copy_into(sides: Sides) -> _core.EtcApplied:
    """Make the result a copy of the new tree: nobody changed anything."""
    return merge(sides._replace(pristine=sides.new, current=sides.new))


def write(path: Path, content: bytes | str = b"", mode: int = 0o644) -> Path:
    """Write a file and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def main() -> int:
    """Merge the directories named on the command line; the exit code is the command line's."""
    # Seen in strace's log: the system calls before this one are the interpreter's.
    os.sched_yield()
    try:
        merge(Sides(*map(Path, sys.argv[1:5])))
    except BootcFastError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 6
    return 0


if __name__ == "__main__":
    sys.exit(main())


def assert_has_all_of_current(sides: Sides) -> None:
    """The root's own attributes are the new image's, since the admin did not change them."""
    wanted, found = listing(sides.current), listing(sides.result)
    del wanted[b"."], found[b"."]
    assert found == wanted
