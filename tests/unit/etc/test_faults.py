"""Every system call of a merge fails once, and the process is killed at every one: the next run completes the result.

strace makes the kernel fail the n-th call of a kind; nothing is mocked (spec testing.md, "Truth from elsewhere").
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import etc_trees
import pytest
from etc_trees import Entry, Sides, listing, make_sides, merge, write

ERRORS = ("EIO", "ENOSPC", "EROFS", "ENOENT", "EINTR")

WRITING = (
    *("openat2", "mkdirat", "symlinkat", "linkat", "mknodat", "unlinkat", "renameat", "renameat2"),
    *("ftruncate", "pwrite64", "copy_file_range", "fchown", "fchownat", "fchmod", "fchmodat"),
    *("setxattr", "fsetxattr", "removexattr", "fremovexattr", "utimensat", "syncfs"),
)
READING = (
    "statx",
    "fstat",
    "getdents64",
    "readlinkat",
    "llistxattr",
    "lgetxattr",
    "flistxattr",
    "listxattr",
    "pread64",
    "ioctl",
)

MARK = "sched_yield"
"""Made by the program right before the merge."""

MOST_READS = 16
"""Reads that fail, of one kind: they are alike, and 200 processes under strace take their time."""

IN_PLACE = {b"d/attributes"}
"""Keeps its content and gets other attributes one by one; every other file is the old or the new one, whole."""

HARMLESS = {
    ("unlinkat", "ENOENT"): "says that the file is gone, which the file contradicts: no kernel does",
    ("getdents64", "ENOENT"): "says that the directory was removed, with everything that was read of it",
}
"""Left out, and why."""


def make_trees(base: Path) -> Sides:
    """Make a merge that needs every kind of operation, on a destination that an interrupted run left."""
    sides = make_sides(base)
    for side in (sides.pristine, sides.current, sides.new):
        write(side / "kept", "old")
        write(side / "same", "text" * 2000)
        write(side / "d/attributes", "text")
        (side / "link").symlink_to("target")
    write(sides.current / "kept", "mine")
    write(sides.current / "tool", "#!", 0o755)
    os.link(sides.current / "tool", sides.current / "d/tool-too")
    os.mkfifo(sides.current / "fifo")
    (sides.current / "d/attributes").chmod(0o600)
    os.setxattr(sides.current / "d/attributes", "user.mark", b"mine")
    write(sides.new / "was-a-directory", "new")
    write(sides.new / "was-a-file/inside", "new")
    write(sides.result / "was-a-directory/with/things", "old")
    write(sides.result / "was-a-file", "old")
    write(sides.result / "kept", "old")
    write(sides.result / "same", "text" * 2000)
    write(sides.result / "d/attributes", "text", 0o444)
    os.setxattr(sides.result / "kept", "user.stale", b"1")
    write(sides.result / ".bootc-fast-0", "half of a f")
    write(sides.result / "stale", "1")
    (sides.result / "link").symlink_to("/etc")
    for path in (sides.result, sides.result / "d"):
        os.setxattr(path, "user.stale", b"1")
    return sides


class Bench:
    """The trees, what the result must be, and copies of the destination to spoil."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.sides = make_trees(base)
        self.before = listing(self.sides.result)
        self.number = itertools.count()
        done = self.fresh()
        merge(done)
        self.expected = self.look(done)

    def fresh(self) -> Sides:
        """Copy the destination as the interrupted run left it."""
        copy = self.base / f"R{next(self.number)}"
        shutil.copytree(self.sides.result, copy, symlinks=True)
        return self.sides._replace(result=copy)

    @staticmethod
    def look(sides: Sides) -> dict[bytes, Entry]:
        return listing(sides.result)

    def run(self, sides: Sides, *inject: str) -> subprocess.CompletedProcess[str]:
        """Merge in a process of its own, under strace."""
        python = [sys.executable, "-S", "-B", etc_trees.__file__, *map(str, sides)]
        environment = {**os.environ, "PYTHONPATH": "python"}
        options = [argument for each in inject for argument in ("-e", each)]
        # With a filter in the kernel only the named calls are slowed down, but strace's signals get lost.
        fast = [] if any(":signal=" in each for each in inject) else ["--seccomp-bpf"]
        command = ["strace", "-f", *fast, "-qq", "-o", str(self.base / "log"), *options, *python]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    def check_and_complete(self, sides: Sides, what: str) -> None:
        """Check that every file is whole, and that the next run makes the result."""
        for path, entry in self.look(sides).items():
            if stat.S_ISREG(entry.mode) and b".bootc-fast-" not in path and path not in IN_PLACE:
                allowed = [trees[path]._replace(links=()) for trees in (self.before, self.expected) if path in trees]
                assert entry._replace(links=()) in allowed, f"{what}: {path!r} is torn"
        merge(sides)
        assert self.look(sides) == self.expected, what
        assert merge(sides).operations == [], what
        shutil.rmtree(sides.result)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("faults"))


@cache
def find_calls(bench: Bench) -> dict[str, range]:
    """Number the calls that the merge makes of each kind, in the thread that makes most of them."""
    ran = bench.run(bench.fresh(), f"trace={','.join((*WRITING, *READING, MARK))}")
    assert ran.returncode == 0, ran.stderr
    lines = (bench.base / "log").read_text().splitlines()
    calls = [match.groups() for line in lines if (match := re.match(r"(\d+)\s+(\w+)\(", line))]
    start = next(index for index, (_, name) in enumerate(calls) if name == MARK)
    before, total = Counter(calls[:start]), Counter(calls)
    found: dict[str, range] = {}
    for (thread, name), count in total.items():
        numbers = range(before[thread, name] + 1, count + 1)
        found[name] = max(found.get(name, range(0)), numbers, key=len)
    return found


def choose_faults(name: str, numbers: range) -> list[tuple[int, str]]:
    """Pair each of the calls with an error in turn, and the first one with every error."""
    every = [(numbers[0], error) for error in ERRORS] if numbers else []
    turns = [(number, error) for number, error in zip(numbers[1:], itertools.cycle(ERRORS), strict=False)]
    chosen = every + (turns if name in WRITING else turns[:MOST_READS])
    return [(number, error) for number, error in chosen if (name, error) not in HARMLESS]


def test_the_merge_makes_every_kind_of_system_call_that_is_made_to_fail(bench: Bench) -> None:
    """So that a change of the calls does not silently take the tests below their subject."""
    expected = {
        *("openat2", "mkdirat", "symlinkat", "linkat", "mknodat", "unlinkat", "renameat2", "copy_file_range", "fchmod"),
        *("fsetxattr", "fremovexattr", "utimensat", "syncfs", "statx", "getdents64", "flistxattr", "pread64", "ioctl"),
    }
    assert expected <= {name for name, numbers in find_calls(bench).items() if numbers}


@pytest.mark.parametrize("name", [*WRITING, *READING])
def test_a_failing_system_call_is_reported_or_handled_and_the_next_run_completes_the_result(
    bench: Bench, name: str
) -> None:
    """Each call of this kind fails once, and the first of them with every error."""
    for number, error in choose_faults(name, find_calls(bench).get(name, range(0))):
        what = f"{name} {number} {error}"
        sides = bench.fresh()
        ran = bench.run(sides, f"trace={name}", f"inject={name}:error={error}:when={number}")
        assert "(INJECTED)" in (bench.base / "log").read_text(), what
        assert ran.returncode in {0, 6}, f"{what}: {ran.returncode} {ran.stderr}"
        if ran.returncode == 0:
            assert bench.look(sides) == bench.expected, what
        else:
            assert ran.stderr.strip(), what
        bench.check_and_complete(sides, what)


@pytest.mark.parametrize("name", WRITING)
def test_a_process_killed_at_a_system_call_leaves_what_the_next_run_completes(bench: Bench, name: str) -> None:
    for number in find_calls(bench).get(name, ()):
        sides = bench.fresh()
        ran = bench.run(sides, f"trace={name}", f"inject={name}:signal=SIGKILL:when={number}")
        assert ran.returncode == -signal.SIGKILL, f"{name} {number}: {ran.stderr}"
        bench.check_and_complete(sides, f"{name} {number} SIGKILL")


def test_a_failing_sync_is_an_error_of_the_merge(bench: Bench) -> None:
    sides = bench.fresh()
    ran = bench.run(sides, "trace=syncfs", "inject=syncfs:error=EIO")
    assert ran.returncode == 6
    assert "sync the file system of .: Input/output error" in ran.stderr
    bench.check_and_complete(sides, "syncfs")


def test_a_full_file_system_is_an_error_that_names_the_file_and_leaves_no_part_of_it(bench: Bench) -> None:
    sides = bench.fresh()
    ran = bench.run(sides, "trace=copy_file_range,pwrite64", "inject=copy_file_range,pwrite64:error=ENOSPC")
    assert ran.returncode == 6
    assert re.search(r"write \S+: No space left on device", ran.stderr)
    assert not list(sides.result.rglob(".bootc-fast-*"))
    bench.check_and_complete(sides, "ENOSPC")


def test_a_destination_without_exchange_is_written_in_two_steps(bench: Bench) -> None:
    """RENAME_EXCHANGE is missing on some file systems, and so are in-kernel copies and reflinks."""
    sides = bench.fresh()
    ran = bench.run(
        sides,
        "trace=renameat2,copy_file_range,ioctl",
        "inject=renameat2:error=EINVAL",
        "inject=copy_file_range:error=EXDEV",
        f"inject=ioctl:error=EOPNOTSUPP:when={find_calls(bench)['ioctl'][0]}+",
    )
    assert ran.returncode == 0, ran.stderr
    assert bench.look(sides) == bench.expected
    shutil.rmtree(sides.result)


def test_a_destination_without_hard_links_gets_copies(bench: Bench) -> None:
    sides = bench.fresh()
    ran = bench.run(sides, "trace=linkat", "inject=linkat:error=EPERM")
    assert ran.returncode == 0, ran.stderr
    found = bench.look(sides)
    assert found[b"d/tool-too"].links == (b"d/tool-too",)
    assert found[b"d/tool-too"].content == bench.expected[b"d/tool-too"].content
    bench.check_and_complete(sides, "EPERM")


def test_an_attribute_that_cannot_be_stored_is_an_error_unless_it_is_the_securitys(bench: Bench) -> None:
    sides = bench.fresh()
    ran = bench.run(sides, "trace=fsetxattr", "inject=fsetxattr:error=EOPNOTSUPP")
    assert ran.returncode == 6
    assert "set attribute of d/attributes: Operation not supported" in ran.stderr
    bench.check_and_complete(sides, "EOPNOTSUPP")
