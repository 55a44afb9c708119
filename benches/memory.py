"""``python -m benches.memory [--before PYTHON]``: what some work costs in memory, each in a process of its own.

The highest resident memory of the process over what it had when all was imported and laid out; pages of a mapped file
count. With ``--before`` another installation's interpreter does the same, for a table of both.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bootc_fast import _core

# Runs with any version: nothing but `_core` as it always was.
_MEASURE = """
import os, sys
from bootc_fast import _core
what, path = sys.argv[1:]
def peak():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status") if line.startswith("Vm"))
    return int(lines["VmHWM"].split()[0])
def status(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1])
null = os.open("/dev/null", os.O_WRONLY)
if what == "uki":
    from bootc_fast.boot.efi.pe import parse_pe
    fd = os.open(path, os.O_RDONLY)
    work = lambda: parse_pe(fd).image.hash([(0, os.stat(path).st_size)], ["sha256"])
elif what == "plan":
    fds = [os.open(f"{path}/{side}", os.O_RDONLY) for side in "PCN"]
    work = lambda: _core.plan_etc(*(_core.Side(_core.Tree.scan(fd), dir_fd=fd) for fd in fds), default="new")
else:
    fd = os.open(path, os.O_RDONLY)
    image = _core.Image.open(fd)
    works = {"dump": lambda: image.dump(null), "verify": lambda: image.verify()}
    works["walk"] = lambda: sum(1 for _ in image.walk())
    works["lookup"] = lambda: image.lookup(b"d1/f1")
    work = works[what]
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
kept = work()
print(peak() - before)
"""


def measure(python: str, what: str, path: Path) -> int | None:
    """Return the KiB that some work costs; None where it cannot be done there."""
    done = subprocess.run([python, "-c", _MEASURE, what, path], capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr.strip().splitlines()[-1], file=sys.stderr)
        return None
    return int(done.stdout)


def make_image(base: Path, files: int) -> Path:
    """A composefs image of so many files, in directories of 1,000; nothing but its metadata is made."""
    from types import SimpleNamespace

    def entry(path: bytes, mode: int, **more: object) -> SimpleNamespace:
        fields = {
            "uid": 0, "gid": 0, "nlink": 1, "rdev": 0, "size_bytes": 0, "mtime_ns": 0, "xattrs": {}, "content": "none",
            "data": None, "target": None, "digest": None, "link_group": None,
        }  # fmt: skip
        return SimpleNamespace(path=path, mode=mode, **{**fields, **more})

    entries = [entry(b"", 0o40755)]
    for number in range(files):
        directory, name = divmod(number, 1000)
        if name == 0:
            entries.append(entry(b"d%d" % directory, 0o40755))
        digest = f"{number:0128x}"
        path = b"d%d/f%d" % (directory, name)
        entries.append(entry(path, 0o100644, size_bytes=4096, content="object", digest=digest))
    (base / "repository").mkdir()
    fd = os.open(base / "repository", os.O_RDONLY)
    written = _core.RepositoryWriter(fd).write_image(_core.build_tree(entries))
    os.close(fd)
    return base / "repository/images" / written


def make_etc(base: Path, files: int) -> Path:
    """Three directories of so many files of 1 KiB, of which the second differs in one of a hundred."""
    for side in "PCN":
        for number in range(files):
            path = base / side / f"d{number // 1000}" / f"f{number % 1000}"
            if number % 1000 == 0:
                path.parent.mkdir(parents=True)
            path.write_bytes(b"edited".ljust(1024) if side == "C" and number % 100 == 0 else b"x" * 1024)
    return base


def make_uki(base: Path, mib: int) -> Path:
    """A PE file of so many MiB: systemd's stub, and zeros behind it."""
    path = base / "uki.efi"
    path.write_bytes(Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub").read_bytes())
    with path.open("ab") as file:
        file.write(os.urandom(1 << 20) * mib)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", help="an interpreter of another version's installation")
    parser.add_argument("--image-files", type=int, default=1_000_000)
    parser.add_argument("--etc-files", type=int, default=100_000)
    parser.add_argument("--uki-mib", type=int, default=300)
    arguments = parser.parse_args()
    pythons = [*([arguments.before] if arguments.before else []), sys.executable]
    with tempfile.TemporaryDirectory(prefix="bootc-fast-memory.") as scratch:
        base = Path(scratch)
        image = make_image(base, arguments.image_files)
        uki, etc = make_uki(base, arguments.uki_mib), make_etc(base / "etc", arguments.etc_files)
        size = image.stat().st_size / (1 << 20)
        name = f"image of {arguments.image_files:,} files ({size:,.0f} MiB)"
        rows = [
            (f"UKI of {arguments.uki_mib} MiB, hashed", "uki", uki),
            (f"plan of {arguments.etc_files:,} files", "plan", etc),
            *((f"{name}, {what}", what, image) for what in ("lookup", "dump", "walk", "verify")),
        ]
        print("| | " + " | ".join(["before", "now"][-len(pythons) :]) + " |")
        print("| --- |" + " --: |" * len(pythons))
        for title, what, path in rows:
            costs = [measure(python, what, path) for python in pythons]
            cells = ["cannot be done" if cost is None else f"{cost / 1024:,.1f} MiB" for cost in costs]
            print(f"| {title} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
