"""Updates and rollbacks over and over in one process, with random edits: nothing grows; and a very large /etc once.

A few cycles here; ``make soak`` (``BOOTC_FAST_SOAK=200``) plays 200 of each form, and a /etc of a million files.
"""

from __future__ import annotations

import gc
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import flowkit
import pytest
import trio

from bootc_fast import finalize_staged, get_status, lab, rollback
from bootc_fast.types import BootType, Loader, Result

CYCLES = int(os.environ.get("BOOTC_FAST_SOAK", "0"))
LARGE_ETC_FILES = 1_000_000 if CYCLES else 2_000
SEED = int(os.environ.get("BOOTC_FAST_SOAK_SEED", "20261130"))
WARM_CYCLES = 10
"""Until imports, caches and the allocator have what they want."""
SLACK_BYTES = 8 << 20


@dataclass(frozen=True)
class Figures:
    """What must not grow."""

    memory_bytes: int
    descriptors: int
    threads: int
    esp_bytes: int
    esp_files: int

    def __str__(self) -> str:
        return (
            f"resident {self.memory_bytes / 1e6:.1f} MB, {self.descriptors} descriptors, {self.threads} threads, "
            f"boot partition {self.esp_bytes} bytes in {self.esp_files} files"
        )


def _measure(host: lab.LabHost) -> Figures:
    gc.collect()
    status = Path("/proc/self/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    sizes = [len(data) for area in {host.esp, host.boot_dir} for data in flowkit.read_tree(area).values()]
    return Figures(
        memory_bytes=int(fields["VmRSS"].split()[0]) * 1024,
        descriptors=len(os.listdir("/proc/self/fd")),
        threads=int(fields["Threads"]),
        esp_bytes=sum(sizes),
        esp_files=len(sizes),
    )


def _edit(etc: Path, chance: random.Random) -> None:
    """What an admin does between two updates; never the files that the images change."""
    for _ in range(chance.randrange(1, 6)):
        path = etc / f"admin.d/{chance.randrange(12)}.conf"
        path.parent.mkdir(exist_ok=True)
        deed = chance.randrange(4)
        if deed == 0 and path.exists():
            path.unlink()
        elif deed == 1 and path.exists():
            path.chmod(chance.choice([0o600, 0o640, 0o644]))
        elif deed == 2 and not path.exists():
            path.symlink_to("../keep")
        elif not path.is_symlink():
            path.write_bytes(chance.randbytes(chance.randrange(5_000)))


def _forget(host: lab.LabHost, wanted: set[str]) -> None:
    """What bootc's garbage collection does: state and image of what has no boot entry go."""
    for digest in set(host.deployments) - wanted:
        shutil.rmtree(host.state_dir(digest))
        (host.repository / "images" / digest).unlink(missing_ok=True)


async def _cycle(host: lab.LabHost, number: int, chance: random.Random) -> None:
    """An update that is booted, a rollback that is booted, and back again."""
    before = host.booted
    _edit(host.etc, chance)
    new = lab.stage_files(host, {**flowkit.NEW, "number": f"{number}\n"}, version=str(number % 7 + 2))
    outcome = await finalize_staged(host.root)
    assert outcome.result is Result.DONE, outcome
    assert lab.boot(host).digest == new
    assert (await rollback(host.root)).next_boot == before
    assert lab.boot(host).digest == before
    _edit(host.etc, chance)
    assert (await rollback(host.root)).next_boot == new
    assert lab.boot(host).digest == new
    status = await get_status(host.root)
    assert status.staged is None
    _forget(host, {before, new})


@pytest.mark.timeout(0)
@pytest.mark.parametrize(
    ("loader", "boot_type"),
    [(Loader.SYSTEMD_BOOT, BootType.BLS), (Loader.GRUB, BootType.UKI)],
    ids=["systemd-boot BLS", "GRUB user.cfg"],
)
def test_nothing_grows_over_many_updates_and_rollbacks(tmp_path: Path, loader: Loader, boot_type: BootType) -> None:
    chance = random.Random(SEED)  # noqa: S311 no secret
    host = lab.make_host(tmp_path / "h", files=flowkit.OLD, loader=loader, boot_type=boot_type)
    seen: list[Figures] = []
    started = time.monotonic()
    for number in range(max(CYCLES, 3)):
        trio.run(_cycle, host, number, chance)
        seen.append(_measure(host))
        if CYCLES and number % 20 == 19:
            print(f"{loader} {boot_type}, after {number + 1} cycles: {seen[-1]}", flush=True)  # noqa: T201
    spent = time.monotonic() - started
    print(f"{loader} {boot_type}: {len(seen)} cycles, seed {SEED}, {spent:.0f} s; at first {seen[0]}")  # noqa: T201
    print(f"{loader} {boot_type}: in the end {seen[-1]}")  # noqa: T201
    # Kernels of the lab have one length for all versions; an entry's generation has a fixed width.
    assert len({one.esp_files for one in seen[1:]}) == 1
    esp = [one.esp_bytes for one in seen[1:]]
    assert max(esp) - min(esp) < 4096
    assert {one.descriptors for one in seen[1:]} == {seen[1].descriptors}
    if CYCLES > WARM_CYCLES:
        settled = seen[WARM_CYCLES:]
        assert settled[-1].memory_bytes < settled[0].memory_bytes + SLACK_BYTES
        assert max(one.threads for one in settled) <= settled[0].threads + 4


@pytest.fixture
def large() -> Iterator[Path]:
    """In memory: a million files twice over are no test of a disk."""
    with tempfile.TemporaryDirectory(prefix="bootc-fast-soak.", dir="/dev/shm" if CYCLES else None) as name:
        yield Path(name)


@pytest.mark.timeout(0)
def test_a_very_large_etc_is_finalized(large: Path) -> None:
    case = flowkit.make_case(large / "h")
    for number in range(LARGE_ETC_FILES // 1_000):
        directory = case.host.etc / f"large/{number}"
        directory.mkdir(parents=True)
        for name in range(1_000):
            (directory / f"{name}.conf").write_bytes(b"%d\n" % name)
    started = time.monotonic()
    command = [sys.executable, "-m", "bootc_fast", "finalize", "--timeout", "3000", "--root", str(case.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    spent = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"/etc of {LARGE_ETC_FILES} files: finalized in {spent:.1f} s, peak {peak / 1e6:.0f} MB")  # noqa: T201
    assert (done.returncode, done.stderr) == (0, "")
    merged = case.host.state_dir(case.staged) / "etc/large"
    assert sum(len(files) for _where, _names, files in os.walk(merged)) == LARGE_ETC_FILES
    assert lab.boot(case.host).digest == case.staged
