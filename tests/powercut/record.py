"""``python -m powercut.record OUT [NAME…]``: boots a machine and records what is written to boot partitions.

One boot, one disk with a partition a configuration, one log of all its writes and flushes (QEMU's ``blklogwrites``).
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from powercut.configurations import CONFIGURATIONS
from powercut.firmware import record_firmware
from powercut.hosts import Maker, strip
from powercut.images import lay_out, make_image
from powercut.judge import States
from powercut.machine import Guest, make_disk, run_guest
from powercut.recording import Flush, Mark, Recording, Write, load, read_image, read_log, save, write_image
from powercut.rerun import choose, repair_image

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from powercut.configurations import Configuration
    from powercut.cuts import Cut
    from powercut.judge import Verdict

_LOG_BYTES = 8 << 30
_MARK_FROM_END = 64
_CHECKS = 3


def describe(one: Configuration, host: Path, tree: Path) -> dict[str, Any]:
    """Tell what the judge must know: every file with its digest, the texts, which deployments there are."""
    files = {str(path.relative_to(tree)): path.read_bytes() for path in sorted(tree.rglob("*")) if path.is_file()}
    marker = host / "run/composefs/staged-deployment"
    booted = next(word for word in (host / "proc/cmdline").read_text().split() if word.startswith("composefs="))
    return {
        **asdict(one),
        "loader": one.loader,
        "files": {path: hashlib.sha256(raw).hexdigest() for path, raw in files.items()},
        "texts": {path: raw.decode("latin-1") for path, raw in files.items() if path.startswith(("loader/", "grub2/"))},
        "old": booted.partition("=")[2].lstrip("?"),
        "new": json.loads(marker.read_text())["depl_id"] if marker.exists() else None,
        "known": sorted(path.name for path in (host / "sysroot/state/deploy").iterdir()),
    }


def start_from_cut(one: Configuration, kept: Mapping[str, Recording], image: Path) -> dict[str, Any]:
    """Make the image that a cut left of another recording; return what the judge must know of it."""
    assert one.cut_of is not None
    source, boots, number = one.cut_of
    first = kept[source]
    is_wanted = is_bad if first.facts["who"] == "bootc" else is_first
    states = [
        (cut, verdict)
        for cut, verdict in choose(first, 1000, randoms=40, seed=1)
        if (verdict.boots or "none") == boots and is_wanted(cut, verdict)
    ]
    cut, _verdict = states[number]
    changed = cut.changed
    if one.is_checked:
        # It takes two: a directory whose first cluster is free gets none by the first, and is removed by the second.
        for _boot in range(_CHECKS):
            changed = repair_image(first, changed, image)
    write_image(image, one.size_mib << 20, first.base, changed)
    facts = {**first.facts, **asdict(one), "said": {}, "start": boots, "cut": cut.name}
    if first.facts["who"] == "bootc":
        facts |= {"loader": one.loader, "endured": judge_start(first, changed)}
    return facts


def is_first(cut: Cut, _verdict: Verdict) -> bool:
    """A cut in the first command."""
    return cut.step == "start" and not cut.is_done


def is_bad(cut: Cut, verdict: Verdict) -> bool:
    """A cut after which the machine does not boot as it should."""
    return bool(verdict.problems) and not cut.is_done


def judge_start(first: Recording, changed: Mapping[int, bytes]) -> list[str]:
    """Tell what was wrong before anything of ours ran: a start that boots nothing may stay one."""
    states = States(first)
    return list(states.make_judge().judge(states.read(changed)).problems)


def start_after(one: Configuration, kept: Mapping[str, Recording], image: Path) -> dict[str, Any]:
    """Make the image that a step of another recording left; return what the judge must know of it."""
    assert one.after is not None
    source, step = one.after
    first = kept[source]
    at = next(number for number, event in enumerate(first.events) if event == Mark(step))
    changed = {event.sector: event.data for event in first.events[:at] if isinstance(event, Write)}
    write_image(image, one.size_mib << 20, first.base, changed)
    states = States(first)
    boots = states.make_judge().judge(states.read(changed)).boots
    own = {key: value for key, value in first.facts.items() if key != "tried"}
    return {**own, **asdict(one), "said": {}, "start": boots}


def record(
    chosen: Sequence[Configuration], work: Path, kept: Mapping[str, Recording] | None = None
) -> dict[str, Recording]:
    """Record configurations in one boot.

    Args:
        chosen: Which.
        work: A directory that is empty, or has the product in ``product`` as `tools/install` lays it out.
        kept: Recordings that second cuts start from.
    """
    maker = Maker(work)
    guest = Guest(work)
    facts, images = {}, []
    stripped = work / "stripped"
    stripped.mkdir()
    for one in chosen:
        host, tree, image = maker.make(one.host), work / "tree", work / f"{one.name}.img"
        if not (stripped / one.host).exists():
            strip(host, stripped / one.host)
        images.append(image)
        if one.source:
            facts[one.name] = (start_from_cut if one.cut_of else start_after)(one, kept or {}, image)
            continue
        shutil.rmtree(tree, ignore_errors=True)
        lay_out(one, host, tree)
        make_image(one, tree, image)
        facts[one.name] = describe(one, host, tree)
    plan = {"recordings": [{**asdict(one), "ext4": one.is_ext4} for one in chosen]}
    archive = guest.build(plan, {"hosts": stripped, "tree": maker.trees[1]}, maker.make("bls"))
    disk, log, console = work / "disk.raw", work / "log.raw", work / "console.log"
    starts = make_disk(disk, images)
    bases = [read_image(image) for image in images]
    with log.open("wb") as file:
        file.truncate(_LOG_BYTES)
    drives = [
        "-blockdev", f"node-name=file,driver=file,filename={disk}",
        "-blockdev", f"node-name=log,driver=file,filename={log}",
        "-blockdev", "node-name=boot,driver=blklogwrites,file=file,log=log,log-sector-size=512",
        "-device", "virtio-blk-pci,drive=boot,serial=boot",
    ]  # fmt: skip
    print(f"{len(chosen)} configurations, initramfs {archive.stat().st_size >> 20} MiB", file=sys.stderr, flush=True)
    text = run_guest(guest.kernel, archive, drives, console, timeout_s=300 + 120 * len(chosen))
    failed = [line for line in text.splitlines() if "FAILED" in line]
    if failed:
        raise AssertionError(text[-4000:])
    parts = {
        one.name: (start, image.stat().st_size // 512) for one, start, image in zip(chosen, starts, images, strict=True)
    }
    found = {one.name: Recording(facts[one.name], base) for one, base in zip(chosen, bases, strict=True)}
    split_log(log, disk.stat().st_size // 512 - _MARK_FROM_END, parts, found)
    for name, step, said in re.findall(r"\] (\S+) (\S+) [0-9.]+ s (.+)", text):
        done = json.loads(said)
        if done is not None:
            found[name].facts.setdefault("said", {})[step] = done
    return found


def split_log(log: Path, mark: int, parts: dict[str, tuple[int, int]], found: dict[str, Recording]) -> None:
    """Give each configuration its events; what a mount writes before the first mark belongs to its first image."""
    active: Recording | None = None
    for event in read_log(log):
        if isinstance(event, Flush):
            if active is not None:
                active.events.append(event)
        elif event.sector == mark:
            name, step = event.data.rstrip(b"\0").decode().split(" ")[1:]
            if step == "start":
                active = found[name]
            assert active is not None
            active.events.append(Mark(step))
            if step == "unmount":
                active = None
        else:
            name, start = next(
                (key, first) for key, (first, size) in parts.items() if first <= event.sector < first + size
            )
            write = Write(event.sector - start, event.data)
            if active is found[name]:
                active.events.append(write)
            elif not found[name].events:
                found[name].base[write.sector] = write.data


def record_in_order(
    chosen: Sequence[Configuration], work: Path, kept: Mapping[str, Recording] | None = None
) -> dict[str, Recording]:
    """Record configurations, what others start from first: a boot of the machine for each generation.

    Args:
        chosen: Which.
        work: An empty directory.
        kept: Recordings from which those may start whose source is not among the chosen.
    """
    found: dict[str, Recording] = {}
    todo, number = list(chosen), 0
    while todo:
        names = {one.name for one in todo}
        ready = [one for one in todo if one.source not in names]
        todo = [one for one in todo if one.source in names]
        started = {**(kept or {}), **found}
        place, number = work / f"boot{number}", number + 1
        place.mkdir()
        for one in ready:
            if one.who == "firmware":
                image = place / f"{one.name}.img"
                found[one.name] = record_firmware(start_after(one, started, image), image, place)
        if inside := [one for one in ready if one.who != "firmware"]:
            if (work / "product").exists():
                (work / "product").rename(place / "product")
            found |= record(inside, place, started)
            (place / "product").rename(work / "product")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="a file; recordings of other names in it stay")
    parser.add_argument(
        "names", nargs="*", help="configurations, or what their names begin with; all where none is given"
    )
    parser.add_argument("--keep", type=Path, help="an empty directory to work in, which stays")
    arguments = parser.parse_args()
    wanted = tuple(arguments.names)
    chosen = [one for one in CONFIGURATIONS.values() if not wanted or one.name.startswith(wanted)]
    started = time.monotonic()
    kept = load(arguments.out) if arguments.out.exists() else {}
    with tempfile.TemporaryDirectory(prefix="bootc-fast-powercut.") as scratch:
        found = record_in_order(chosen, arguments.keep or Path(scratch), kept)
    merged = {**kept, **found}
    save(arguments.out, {name: merged[name] for name in CONFIGURATIONS if name in merged})
    writes = sum(isinstance(event, Write) for one in found.values() for event in one.events)
    print(f"{len(found)} recordings, {writes} sectors written, {arguments.out.stat().st_size} bytes, "
          f"{time.monotonic() - started:.0f} s")  # fmt: skip


if __name__ == "__main__":
    main()
