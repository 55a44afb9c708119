"""Everything that may take longer than two seconds says how far it is: percentage, count, and that it is done."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from terminals import play

import bootc_fast
from bootc_fast import _core, lab
from bootc_fast.events import Event, StepDone, StepProgress, StepStarted

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = [sys.executable, "-m", "bootc_fast"]
FILES = 20_000
ETC_FILES = 5000
INITRD_BYTES = 16 << 20


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file tree with many files."""
    made = tmp_path_factory.mktemp("rootfs") / "root"
    modules = made / "usr/lib/modules/6.9"
    modules.mkdir(parents=True)
    (modules / "vmlinuz").write_bytes(b"kernel")
    (modules / "initramfs.img").write_bytes(b"initrd")
    (made / "usr/lib/os-release").write_text("ID=lab\nVERSION_ID=1\n")
    (made / "etc").mkdir()
    for directory in range(FILES // 500):
        below = made / f"usr/share/{directory}"
        below.mkdir(parents=True)
        for number in range(500):
            (below / f"{number}").write_text(f"{directory} {number}\n" * 9)
    return made


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, rootfs: Path) -> lab.LabHost:
    return lab.create(tmp_path_factory.mktemp("lab") / "host", source=rootfs)


def _check(events: list[Event], step: str, at_least: int) -> None:
    """The step counted, upwards and never above its total, more than once."""
    told = [(one.done, one.total) for one in events if isinstance(one, StepProgress) and one.step == step]
    # What is found first, as long as nobody knows how much that is; then what is done of it.
    found, counts = [one for one in told if not one[1]], [one for one in told if one[1]]
    assert told == [*found, *counts]
    assert found == sorted(found)
    assert len(counts) > 1, (step, events)
    assert counts == sorted(counts)
    assert all(0 <= done <= total for done, total in counts if total)
    assert counts[-1][1] >= at_least
    assert any(isinstance(one, StepStarted) and one.step == step for one in events)
    assert any(isinstance(one, StepDone) and one.step == step for one in events)


def test_making_a_host_counts_the_files_that_are_stored(tmp_path: Path, rootfs: Path) -> None:
    events: list[Event] = []
    made = lab.create(tmp_path / "host", source=rootfs, on_event=events.append)
    _check(events, "store", FILES)
    assert {one.step for one in events} == {"source", "store", "image", "deploy"}
    (rootfs / "etc/new").write_text("2")
    events.clear()
    lab.stage(made.root, source=rootfs, on_event=events.append)
    (rootfs / "etc/new").unlink()
    _check(events, "store", FILES)


@pytest.mark.parametrize("compression", ["", "z"])
def test_an_archive_counts_its_bytes_and_its_etc_the_files_that_are_copied(
    tmp_path: Path, rootfs: Path, compression: str
) -> None:
    etc = rootfs / "etc/many"
    etc.mkdir()
    for number in range(FILES // 4):
        (etc / f"{number}").write_text(str(number))
    archive = tmp_path / "archive"
    subprocess.run(["tar", f"-c{compression}f", archive, "-C", rootfs, "."], check=True)
    shutil.rmtree(etc)
    events: list[Event] = []
    lab.create(tmp_path / "host", source=archive, on_event=events.append)
    _check(events, "source", archive.stat().st_size)
    counts = [one for one in events if isinstance(one, StepProgress) and one.step == "source"]
    assert {one.unit for one in counts} == {"bytes"}
    # Both are told by the clock: the end always, and what comes before it on a machine that is not too fast.
    copied = [(one.done, one.total) for one in events if isinstance(one, StepProgress) and one.step == "deploy"]
    assert copied[-1] >= (FILES // 4, FILES // 4) or (FILES // 4 + 1, FILES // 4 + 1) in copied, copied
    assert all(done <= total for done, total in copied)


@pytest.mark.parametrize("call", ["dump", "verify"])
def test_reading_an_image_counts_its_entries(host: lab.LabHost, call: str) -> None:
    counts: list[tuple[int, int]] = []

    def tell(done: int, total: int) -> None:
        counts.append((done, total))

    image_fd = os.open(host.repository / "images" / host.booted, os.O_RDONLY)
    null = os.open(os.devnull, os.O_WRONLY)
    image = _core.Image.open(image_fd)
    image.dump(null, progress=tell) if call == "dump" else image.verify(progress=tell)
    os.close(image_fd)
    os.close(null)
    # What comes before the end is told by the clock: nothing of it, where the whole takes a few milliseconds.
    assert counts[-1] == (image.inode_count, image.inode_count)
    assert counts == sorted(counts)
    assert all(0 < done <= image.inode_count == total for done, total in counts)


def test_what_progress_raises_ends_the_work(tmp_path: Path) -> None:
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(1 << 30)

    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with path.open("rb") as file, pytest.raises(KeyboardInterrupt):
        _core.digest_fd(file.fileno(), progress=stop)


def test_a_digest_counts_the_bytes_of_all_files(tmp_path: Path) -> None:
    sizes = [6 << 30, 1000, 2 << 30]
    for number, size in enumerate(sizes):
        with (tmp_path / str(number)).open("wb") as file:
            file.truncate(size)
    paths = [str(tmp_path / str(number)) for number in range(3)]
    # One processor: several have hashed such holes before it is time for a bar.
    one = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))]
    played = play([*one, *COMMAND, "digest", *paths], stdout="pipe", columns=80)
    assert played.code == 0
    assert len(played.stdout.splitlines()) == 3
    bars = [line for line in played.screen.drawn if "%" in line]
    assert bars, played.raw
    assert all(re.search(r"Computing digests  \[[#-]+\] +\d+%  [\d.]+ [KMG]iB/8\.0 GiB  0:\d\d", one) for one in bars)
    # One bar over all files, which goes on and not back.
    percents = [int(re.findall(r"(\d+)%", one)[0]) for one in bars]
    assert percents == sorted(percents)
    assert played.screen.lines == [""]


def test_a_merge_of_many_edits_counts_them(tmp_path: Path) -> None:
    for side in ("pristine", "current", "new", "result"):
        (tmp_path / side).mkdir()
    for number in range(FILES):
        (tmp_path / f"current/{number}").write_text(str(number))
    sides = [f"--{side}={tmp_path / side}" for side in ("pristine", "current", "new")]
    played = play([*COMMAND, "etc", "merge", *sides, f"--into={tmp_path / 'result'}", "--json"], stdout="pipe")
    assert played.code == 0
    assert len(os.listdir(tmp_path / "result")) == FILES
    bars = [line for line in played.screen.drawn if "%" in line]
    assert any(re.search(rf"Writing /etc  \[[#-]+\] +\d+%  [\d,]+/{FILES + 1:,}  0:\d\d", one) for one in bars), bars
    assert played.screen.lines == [""]


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> tuple[lab.LabHost, str]:
    """A host with many files in /etc, a large initrd, and an update to be finalized."""
    work = tmp_path_factory.mktemp("staged")
    root = work / "root"
    modules = root / "usr/lib/modules/6.9"
    modules.mkdir(parents=True)
    (modules / "vmlinuz").write_bytes(b"kernel")
    (modules / "initramfs.img").write_bytes(os.urandom(1 << 16) * (INITRD_BYTES >> 16))
    (root / "usr/lib/os-release").write_text("ID=lab\nVERSION_ID=1\n")
    for directory in range(ETC_FILES // 500):
        below = root / f"etc/{directory}"
        below.mkdir(parents=True)
        # Too long to be in the image itself.
        for number in range(500):
            (below / f"{number}").write_text(f"{directory} {number}\n" * 99)
    made = lab.create(work / "host", source=root)
    (root / "usr/lib/os-release").write_text("ID=lab\nVERSION_ID=2\n")
    return made, lab.stage(made.root, source=root)


def _progress(events: list[Event], step: str) -> list[StepProgress]:
    """What a step told: upwards, and at most every 50 ms; it has begun and ended."""
    told = [one for one in events if isinstance(one, StepProgress) and one.step == step]
    # What is found first, with no end known; then what is done of it.
    assert told == sorted(told, key=lambda one: (one.total > 0, one.done))
    kinds = [type(one) for one in events if one.step == step]
    assert (kinds[0], kinds[-1]) == (StepStarted, StepDone)
    return told


async def test_a_finalize_counts_what_it_reads(staged: tuple[lab.LabHost, str]) -> None:
    host, update = staged
    events: list[Event] = []
    await bootc_fast.finalize_staged(host.root, dry_run=True, on_event=events.append)
    scanned = _progress(events, "etc.scan")
    assert scanned
    # How many entries there are shows when all are found; each file of /etc then has to be read.
    assert {one.total for one in scanned} == {0}
    assert scanned[-1].done == ETC_FILES + ETC_FILES // 500 + 1
    for step, unit, total in [("etc.plan", "items", ETC_FILES), ("look.boot", "bytes", INITRD_BYTES + len(b"kernel"))]:
        told = _progress(events, step)
        assert {(one.unit, one.total) for one in told} == {(unit, total)}
        assert told[-1].done == total
    sizes = [(host.repository / "images" / name).stat().st_size for name in (host.booted, update)]
    told = _progress(events, "look.images")
    assert told[-1] == StepProgress("look.images", sum(sizes), sum(sizes), "bytes")
    # What is in the new /etc already is read as well, all of it.
    told = _progress(events, "decide.etc")
    assert told[-1] == StepProgress("decide.etc", ETC_FILES, ETC_FILES)


async def test_a_rollback_counts_the_bytes_of_what_it_boots(staged: tuple[lab.LabHost, str]) -> None:
    host, _ = staged
    await bootc_fast.finalize_staged(host.root)
    lab.boot(host)
    events: list[Event] = []
    await bootc_fast.rollback(host.root, dry_run=True, on_event=events.append)
    size = INITRD_BYTES + len(b"kernel")
    assert _progress(events, "check")[-1] == StepProgress("check", size, size, "bytes")
    assert _progress(events, "etc.plan")[-1] == StepProgress("etc.plan", ETC_FILES, ETC_FILES)


async def test_a_repair_counts_the_bytes_of_the_kernels_that_it_puts_back(staged: tuple[lab.LabHost, str]) -> None:
    host, _ = staged
    await bootc_fast.finalize_staged(host.root)
    area, _prefix = host.kernel_area()
    kernels = sorted(area.glob("*/vmlinuz"))
    for kernel in kernels:
        shutil.rmtree(kernel.parent)
    events: list[Event] = []
    outcome = await bootc_fast.doctor(host.root, repair=True, on_event=events.append)
    assert not outcome.remaining
    assert sorted(area.glob("*/vmlinuz")) == kernels
    told = _progress(events, "repair")
    size = (INITRD_BYTES + len(b"kernel")) * len(kernels)
    assert {(one.unit, one.total) for one in told} == {("bytes", size)}
    assert told[-1].done == size
    assert len(told) > 1


@pytest.mark.parametrize("side", ["image", "directory"])
async def test_a_comparison_of_etc_counts_files_that_must_be_read_or_entries(
    tmp_path: Path, staged: tuple[lab.LabHost, str], side: str
) -> None:
    host, _ = staged
    shutil.copytree(host.root / "etc", tmp_path / "etc", symlinks=True)
    events: list[Event] = []
    with ExitStack() as stack:
        fds = [
            os.open(path, os.O_RDONLY) for path in (host.root / "etc", tmp_path / "etc", host.repository / "objects")
        ]
        fds.append(os.open(host.repository / "images" / host.booted, os.O_RDONLY))
        for fd in fds:
            stack.callback(os.close, fd)
        current, copy, objects, image = fds
        pristine = bootc_fast.ImageSource(image, objects) if side == "image" else bootc_fast.DirectorySource(copy)
        await bootc_fast.diff_etc(pristine, bootc_fast.DirectorySource(current), on_event=events.append)
    assert {one.total for one in _progress(events, "etc.scan")} == {0}
    told = _progress(events, "etc.plan")
    # An image says which files must be read; of two directories each entry is looked at.
    entries = ETC_FILES if side == "image" else sum(1 for _ in (tmp_path / "etc").rglob("*")) + 1
    assert {one.total for one in told} == {entries}
    assert told[-1].done == entries


@pytest.mark.parametrize("words", [["image", "dump"], ["image", "ls", "-R"], ["image", "verify"]])
def test_without_a_terminal_nothing_is_drawn(host: lab.LabHost, words: list[str]) -> None:
    image = host.repository / "images" / host.booted
    done = subprocess.run([*COMMAND, *words, str(image)], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
