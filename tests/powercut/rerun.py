"""``python -m powercut.rerun``: the product runs again, in the machine, on states that a cut left.

Then come the judge and ``fsck.fat -n``; and the judge once more, on what ``fsck.fat -a`` makes of such states.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from powercut.configurations import CONFIGURATIONS
from powercut.hosts import Maker, strip
from powercut.judge import States
from powercut.machine import Guest, run_guest, run_user_mode
from powercut.recording import Flush, Mark, Recording, Write, load, read_image, save, write_image
from powercut.replay import RECORDINGS, is_staging, judged_states

if TYPE_CHECKING:
    from collections.abc import Mapping

    from powercut.cuts import Cut
    from powercut.judge import Verdict

_RESULT_BYTES = 1 << 30
# What fsck.fat says of every file system that was not unmounted, or counts.
_HARMLESS = re.compile(
    r"^fsck\.fat|files, \d+/|[Dd]irty bit|not properly unmounted|Automatically removing|Leaving filesystem|unchanged"
    r"|Reclaimed|differences between boot|mostly harmless|Not automatically fixing|Free cluster summary|^\s+\d+:\d"
    # The FAT's copy, and parts of a long name that no file follows, are nobody's; what is corrected is said before.
    # So are parts that have lost their first: firmware and Linux go back from the short name, and fsck.fat leaves them
    # (`test_firmware_reader.py`, test_parts_of_a_name_that_is_gone_hide_nothing).
    r"|FATs differ but appear to be intact|Using first FAT|Orphaned long file name part|Auto-(?:correcting|deleting)"
    r"|Long filename fragment|Maybe the start bit is missing|Not auto-correcting this"
    r"|^\s*$"
)
# An entry with a counter: what is good has none.
_COUNTED = re.compile(r"^loader/entries/bootc_.*\+\d")


@dataclass
class Again:
    """What became of a recording's states when they were taken up.

    Attributes:
        runs: How many states the product ran on.
        wrong: What was not as it should be afterwards: the default, a foreign file, a name that shares clusters,
            what ``fsck.fat -n`` finds.
        repairs: How many states ``fsck.fat -a`` was given.
        spoiled: Those that booted before it and do not after.
        failed: On how many states something was wrong after the product's run.
        unmountable: States that the kernel does not mount, which are not the product's to judge.
    """

    runs: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    repairs: int = 0
    spoiled: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    failed: int = 0
    unmountable: int = 0

    def describe(self) -> str:
        """One line, and an example of each reason."""
        runs = f"{self.runs} taken up, {self.failed} wrong, {dict(self.wrong)}, {self.unmountable} not mounted"
        lines = [f"{runs}; {self.repairs} repaired, {dict(self.spoiled)}"]
        return "\n".join([*lines, *(f"    {reason}: {example}" for reason, example in self.examples.items())])


def read_staged(recording: Recording, states: States) -> dict[str, bytes | None]:
    """Return the files that bootc's staging within a recording made, once all of them are on the disk; else nothing.

    It flushes nothing: what it wrote reaches the disk with the first flushes of the finalize.
    """
    staged: dict[str, bytes | None] = {}
    if recording.facts["steps"][0] != "stage":
        return staged
    flushed: dict[int, bytes] = {}
    before = states.read({}).files
    for event in recording.events:
        if isinstance(event, Write):
            flushed[event.sector] = event.data
        elif isinstance(event, Flush):
            made = {path: raw for path, raw in states.read(flushed).files.items() if path not in before}
            if not any("/bootc_zz-" in path for path in made) and len(made) > len(staged):
                staged = made
    return staged


def choose(recording: Recording, count: int, *, randoms: int, seed: int) -> list[tuple[Cut, Verdict]]:
    """Choose states: of every class (step, notes, problems) in turn, until there are enough."""
    classes: dict[tuple[object, ...], list[tuple[Cut, Verdict]]] = defaultdict(list)
    states = States(recording)
    staged = read_staged(recording, states)
    for cut, verdict in judged_states(recording, randoms=randoms, seed=seed):
        # What bootc staged without a barrier is on its way to the disk for some flushes of ours. Where a cut lost some
        # of it nothing is staged any more, since the marker was in memory; here it would be put back.
        if is_staging(recording, cut) or (staged and cut.step == "start"):
            continue
        if staged and verdict.boots == "old" and not staged.items() <= states.read(cut.changed).files.items():
            continue
        classes[cut.step, cut.is_done, verdict.boots, verdict.notes, verdict.problems].append((cut, verdict))
    rng = random.Random(f"{seed} choose {recording.facts['name']}")  # noqa: S311 - to be had again
    for states in classes.values():
        rng.shuffle(states)
    ordered = sorted(classes.values(), key=lambda states: (not states[-1][1].notes, len(states)))
    chosen: list[tuple[Cut, Verdict]] = []
    while len(chosen) < count and any(ordered):
        for states in ordered:
            if states and len(chosen) < count:
                chosen.append(states.pop())
    return chosen


def plan_run(recording: Recording, cut: Cut, verdict: Verdict) -> tuple[str, list[str], str]:
    """Tell which host takes a state up, with which command after ``boot-complete``, and what must boot then."""
    if recording.facts.get("again"):
        # What boots is complete: a trial ends, and what has failed stays behind. A second start has nothing to do.
        assert verdict.boots in {"old", "new"}, verdict
        return verdict.boots, ["boot-complete"], verdict.boots
    if cut.step in {"start", "finalize", "finalize-idle", "stage"} and verdict.boots != "new":
        return "old", ["composefs-finalize-staged"], "new"
    return "new", ["rollback", "--to", "previous"], "old"


def check_image(recording: Recording, changed: Mapping[int, bytes], image: Path) -> list[str]:
    """Return what ``fsck.fat -n`` finds but lost clusters, free counts and the dirty mark; ``e2fsck -n`` on ext4."""
    write_image(image, recording.facts["size_mib"] << 20, recording.base, changed)
    if not recording.facts["options"]:
        argv = ["e2fsck", "-fn", image]
        done = subprocess.run(argv, check=False, capture_output=True, text=True, env=_environment())
        return [f"exit code {done.returncode}"] if done.returncode else []
    done = subprocess.run(["fsck.fat", "-n", image], check=False, capture_output=True, text=True, env=_environment())
    lines = [line.strip() for line in done.stdout.splitlines() if not _HARMLESS.search(line)]
    return sorted({re.sub(r"[0-9a-fA-F]{64,}|\d+", "#", line) for line in lines})


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}


def repair_image(recording: Recording, changed: Mapping[int, bytes], image: Path) -> dict[int, bytes]:
    """Return what differs from the first image when ``fsck.fat -a`` has run, as systemd-fsck does at the next boot."""
    write_image(image, recording.facts["size_mib"] << 20, recording.base, changed)
    subprocess.run(["fsck.fat", "-a", image], check=False, stdout=subprocess.DEVNULL, env=_environment())
    return {**dict.fromkeys(recording.base, bytes(512)), **read_image(image)}


def judge_repairs(recording: Recording, chosen: list[tuple[Cut, Verdict]], image: Path) -> Again:
    """Let ``fsck.fat -a`` loose on states, and judge what it leaves."""
    again, states = Again(), States(recording)
    judge = states.make_judge()
    for cut, before in chosen:
        after = judge.judge(states.read(repair_image(recording, cut.changed, image)), cut)
        again.repairs += 1
        if after.problems and not before.problems and before.boots:
            again.spoiled[after.problems[0]] += 1
            again.examples.setdefault(after.problems[0], cut.name)
    return again


def run_again(
    recordings: Mapping[str, Recording],
    chosen: Mapping[str, list[tuple[Cut, Verdict]]],
    work: Path,
    *,
    is_user_mode: bool,
) -> dict[str, Recording]:
    """Let the product run in the machine; return what it left, as sectors and marks."""
    jobs, maker, stripped = {}, Maker(work), work / "stripped"
    stripped.mkdir()
    for name, states in chosen.items():
        one = CONFIGURATIONS[name]
        for host in one.again or (one.host,):
            if not (stripped / host).exists():
                strip(maker.make(host), stripped / host)
        facts: dict[str, Any] = {**recordings[name].facts, "ext4": one.is_ext4, "runs": {}}
        job = Recording(facts, recordings[name].base)
        for number, (cut, verdict) in enumerate(states):
            kind, argv, _wanted = plan_run(recordings[name], cut, verdict)
            facts["runs"][str(number)] = [kind, *argv]
            job.events += [Write(sector, data) for sector, data in cut.changed.items()]
            job.events.append(Mark(str(number)))
        jobs[name] = job
    save(work / "states", jobs, preset=0)
    guest = Guest(work, is_user_mode=is_user_mode)
    archive = guest.build(
        {"recordings": []}, {"hosts": stripped, "states": work / "states", "tree": maker.trees[1]}, maker.make("bls")
    )
    result = work / "result.raw"
    with result.open("wb") as file:
        file.truncate(_RESULT_BYTES)
    timeout_s = 600.0 + 30 * sum(map(len, chosen.values()))
    if is_user_mode:
        text = run_user_mode(archive, result, work / "console.log", timeout_s=timeout_s)
    else:
        drives = ["-drive", f"if=none,id=boot,format=raw,cache=unsafe,file={result}"]
        drives += ["-device", "virtio-blk-pci,drive=boot,serial=boot"]
        text = run_guest(guest.kernel, archive, drives, work / "console.log", timeout_s=timeout_s)
    for name in re.findall(r"FAILED (\S+)", text):
        print(f"{name} FAILED:\n{text[-4000:]}", flush=True)
    with result.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        (work / "result").write_bytes(file.read(length))
    return load(work / "result")


def judge_runs(
    recording: Recording, chosen: list[tuple[Cut, Verdict]], left: Recording, again: Again, image: Path
) -> None:
    """Judge what the product left."""
    states = States(recording)
    judge = states.make_judge()
    changed: dict[int, bytes] = {}
    for event in left.events:
        if isinstance(event, Write):
            changed[event.sector] = event.data
        elif isinstance(event, Mark):
            cut, before = chosen[int(event.name)]
            kind, _argv, wanted = plan_run(recording, cut, before)
            said = left.facts["said"][event.name]
            if said is None:
                again.unmountable += 1
                changed = {}
                continue
            code, text = said
            content = states.read(changed)
            after = judge.judge(content)
            wrong = [*after.problems, *(note for note in after.notes if note != "no entry for the old deployment")]
            wrong += [f"boots {after.boots}, not {wanted}"] if after.boots != wanted else []
            wrong += [f"exit code {code}"] if code else []
            if recording.facts.get("again") and kind == "new":
                wrong += [f"counted: {path}" for path in content.files if _COUNTED.search(path)]
            wrong += [f"fsck: {line}" for line in check_image(recording, changed, image)]
            again.runs += 1
            again.failed += bool(wrong)
            for one in wrong:
                again.wrong[one] += 1
                again.examples.setdefault(one, f"{cut.name} {list(cut.chosen)} {before.notes} {text[-600:]}")
            changed = {}


def take_up(
    recordings: Mapping[str, Recording],
    *,
    states: int,
    repairs: int,
    randoms: int,
    seed: int,
    product: Path | None = None,
    is_user_mode: bool = True,
) -> dict[str, Again]:
    """Take up states of recordings: by ``fsck.fat -a``, and by the product.

    Args:
        recordings: By name.
        states: How many of each the product gets.
        repairs: How many of each ``fsck.fat -a`` gets.
        randoms: Random subsets of each epoch to choose from.
        seed: Chooses.
        product: A directory that `tools/install` has filled; None: it is filled now.
        is_user_mode: In the kernel that runs as a process, at this machine's speed; else in an emulated machine.
    """
    with tempfile.TemporaryDirectory(prefix="bootc-fast-powercut.") as scratch:
        work = Path(scratch)
        results: dict[str, Again] = {}
        chosen: dict[str, list[tuple[Cut, Verdict]]] = {}
        for name, one in recordings.items():
            found = choose(one, max(states, repairs), randoms=randoms, seed=seed)
            fixable = found[:repairs] if can_be_repaired(one) else []
            results[name] = judge_repairs(one, fixable, work / "image")
            chosen[name] = found[:states]
        if states:
            if product:
                shutil.copytree(product, work / "product", symlinks=True)
            left = run_again(recordings, chosen, work, is_user_mode=is_user_mode)
            for name, one in recordings.items():
                if name not in left:
                    del results[name]
                    continue
                judge_runs(one, chosen[name], left[name], results[name], work / "image")
    return results


def can_be_taken_up(recording: Recording) -> bool:
    """Tell whether the product wrote it, as a first run."""
    facts = recording.facts
    if not facts.get("again") and any(code for code, _text in facts.get("said", {}).values()):
        return False  # refused before, and again
    return facts["who"] != "bootc" and not facts["cut_of"]


def can_be_repaired(recording: Recording) -> bool:
    """Tell whether ``fsck.fat`` has something to do there: the product wrote it, on FAT."""
    facts = recording.facts
    return facts["who"] != "bootc" and bool(facts["options"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, default=sorted(RECORDINGS.glob("*.xz")))
    parser.add_argument("--states", type=int, default=50, help="of each configuration (50)")
    parser.add_argument("--repairs", type=int, default=200, help="states of each that fsck.fat is given (200)")
    parser.add_argument("--randoms", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[""], help="what a recording's name begins with")
    parser.add_argument("--emulated", action="store_true", help="in QEMU, which takes ten times as long")
    parser.add_argument("--product", type=Path, help="a directory that tools/install has filled")
    arguments = parser.parse_args()
    recordings = {
        name: one
        for path in arguments.files
        for name, one in load(path).items()
        if name.startswith(tuple(arguments.only)) and can_be_taken_up(one)
    }
    results = take_up(
        recordings,
        states=arguments.states,
        repairs=arguments.repairs,
        randoms=arguments.randoms,
        seed=arguments.seed,
        product=arguments.product,
        is_user_mode=not arguments.emulated,
    )
    for name, result in results.items():
        print(f"{name}: {result.describe()}")


if __name__ == "__main__":
    main()
