"""``python -m differential.run``: random merges on real directories beside the reference; ``make differential``.

Three trees are made on disk with ACLs, labels, flags, hard links and whatever else a merge carries over; in most merges
one path of the running /etc changes meanwhile, between the plan and the writing or all the time. Without that the
result must be the reference's, to the last attribute. With it every path must be what the reference makes of one of the
states that there really were, never with more access than their content had; and the next merge, undisturbed, must be
the reference's of the last state. What was found is kept by chunks, so that the next call goes on.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from differential.compare import LABEL, compare_with, expected_of
from differential.disk import ACL, DEFAULT_ACL, can_have_flags, make, read, remove, set_flags, walk
from differential.races import Race, flag_some, random_acl, run_changes
from differential.report import WHENS, describe, write_table
from etc_trees import Sides, merge
from unit.etc.trees import make_triple

from bootc_fast.errors import BootcFastError

if TYPE_CHECKING:
    from collections.abc import Callable

    from unit.etc.reference import Node

CHUNK = 100
RESULTS = Path(__file__).parent / "results.json"
QUIET, BETWEEN, DURING = WHENS
_FEATURES = {ACL: "ACLs", DEFAULT_ACL: "default ACLs", LABEL: "labels"}


def add_acls(rng: random.Random, sides: list[Node]) -> bool:
    """Give some files and directories an ACL, on one side, two, or all; the kernel makes the mode's bits its own."""
    if rng.random() < 0.5:
        return False
    found = False
    for side in sides:
        for path, node in walk(side):
            if path and node["kind"] in {"file", "dir"} and node["inode"] is None and rng.random() < 0.3:
                node["attributes"][ACL] = random_acl(rng)
                node["attributes"]["mode"] &= ~0o777
                node["attributes"]["mode"] |= 0o660 if b"\x01\x00\x06\x00" in node["attributes"][ACL] else 0o644
                found = True
                if node["kind"] == "dir" and rng.random() < 0.5:
                    node["attributes"][DEFAULT_ACL] = random_acl(rng)
    return found


def list_features(sides: list[Node]) -> set[str]:
    """What a merge has in its trees, for the table."""
    found = set()
    for side in sides:
        for _path, node in walk(side):
            attributes = node["attributes"]
            found |= {name for key, name in _FEATURES.items() if key in attributes}
            found |= {"hard links"} if node["inode"] is not None else set()
            found |= {"devices, FIFOs or sockets"} if node["kind"] in {"char", "fifo", "socket"} else set()
    return found


def make_start(rng: random.Random, new: Node, path: bytes) -> bool:
    """Make what the destination holds: nothing, a copy of the new tree, or what some other run left; tell of flags."""
    os.mkdir(path)
    kind = rng.randrange(3)
    if kind == 1:
        make(new, path)
    elif kind == 2:
        other = make_triple(rng.randbytes(300)).c
        for _path, node in walk(other):
            # What the kernel puts on new inodes by itself is not taken off again.
            for name in ("security.selinux", "security.ima"):
                node["attributes"].pop(name, None)
        make(other, path)
    return bool(flag_some(rng, path, [found for found, _node in walk(read(path))]))


class Merge:
    """One merge."""

    def __init__(self, seed: str, base: Path) -> None:
        self.rng = rng = random.Random(seed)  # noqa: S311 - to be had again
        triple = make_triple(rng.randbytes(420))
        trees = [triple.p, triple.c, triple.n]
        add_acls(rng, trees)
        self.features = list_features(trees)
        self.when = rng.choice(WHENS)
        self.strategy = rng.choice(("current", "new"))
        self.sides = Sides(*(base / name for name in "PCNR"))
        for node, path in zip(trees, self.sides[:3], strict=True):
            make(node, os.fsencode(path))
        # What the kernel made of it counts: link counts and modes under an ACL among it.
        self.pristine, self.current, self.new = (read(os.fsencode(path)) for path in self.sides[:3])
        if make_start(rng, triple.n, os.fsencode(self.sides.result)):
            self.features.add("flags in the destination")
        self.extra: dict[bytes, set[str]] = {}
        self._look_at_result()
        self.scratch = os.fsencode(base / "scratch")
        self.race: Race | None = None
        self.kinds: list[str] = []

    def _look_at_result(self) -> None:
        """Note which attributes the destination has before a merge: not all of them are taken off again."""
        self.extra = {path: set(node["attributes"]) for path, node in walk(read(os.fsencode(self.sides.result)))}

    def _merge(self, before_apply: Callable[[], object] = lambda: None) -> None:
        merge(self.sides, default=self.strategy, before_apply=before_apply)

    def _choose_victim(self) -> bytes:
        # What has a second name changes there as well: not one path's states any more.
        paths = [
            path
            for path, node in walk(self.current)
            if path and path != b"machine-id" and not any(below["inode"] for _at, below in walk(node))
        ]
        paths = [path for path in paths if path.split(b"/")[0] != b".updated"]
        return self.rng.choice(paths) if paths and self.rng.random() < 0.9 else b"fresh"

    def run(self) -> list[str]:
        """Merge, compare, merge again; return the differences."""
        if self.when == QUIET:
            paths = [path for path, _node in walk(self.current)]
            flagged = flag_some(self.rng, os.fsencode(self.sides.current), paths)
            if flagged:
                self.features.add("flags in the running /etc")
            self._merge()
            for path in flagged:
                where = os.fsencode(self.sides.current) + b"/" + path
                if os.path.lexists(where) and can_have_flags(where):
                    set_flags(where, 0)
            return self._compare([self.current], exact=True)
        self.race = Race(self.rng, os.fsencode(self.sides.current), self._choose_victim(), self.scratch)
        if self.when == BETWEEN:
            race = self.race
            changes = self.rng.randrange(1, 4)
            self._merge(before_apply=lambda: run_changes(race, changes, lambda: None))
        else:
            self._storm(self.race)
        self.kinds = self.race.kinds
        states = [self._with(state) for state in self.race.states]
        problems = self._compare(states, exact=False)
        self._look_at_result()
        self._merge()
        last = read(os.fsencode(self.sides.current))
        return problems + [f"the next merge: {one}" for one in self._compare([last], exact=True)]

    def _storm(self, race: Race) -> None:
        pauses = [self.rng.random() * 0.0015 for _ in range(64)]
        turn = iter(pauses * 100)
        failures: list[BaseException] = []

        def change() -> None:
            try:
                run_changes(race, 8, lambda: time.sleep(next(turn)))
            except BaseException as error:  # noqa: BLE001 - told by who waits for the thread
                failures.append(error)

        thread = threading.Thread(target=change)
        thread.start()
        try:
            while True:
                self._look_at_result()
                self._merge()
                if not thread.is_alive():
                    break
        finally:
            thread.join()
        if failures:
            raise failures[0]

    def _with(self, state: Node | None) -> Node:
        """The running /etc with a state of the victim."""
        assert self.race is not None
        head, _slash, name = self.race.victim.rpartition(b"/")
        root = at = {**self.current, "children": dict(self.current["children"])}
        for part in filter(None, head.split(b"/")):
            at["children"][part] = {**at["children"][part], "children": dict(at["children"][part]["children"])}
            at = at["children"][part]
        at["children"].pop(name, None)
        if state is not None:
            at["children"][name] = state
        return root

    def _compare(self, states: list[Node], *, exact: bool) -> list[str]:
        # The reference is most of the time of a merge: each state is asked about once.
        states = [state for number, state in enumerate(states) if state not in states[:number]]
        outcomes = [expected_of(self.pristine, state, self.new, self.strategy) for state in states]
        found = read(os.fsencode(self.sides.result))
        return compare_with(found, outcomes, states, exact=exact, extra=self.extra)


def run_one(seed: str, directory: Path) -> tuple[Merge, list[str]]:
    """Run one merge in a directory of its own, which is gone afterwards."""
    base = Path(tempfile.mkdtemp(prefix="m.", dir=directory))
    try:
        one = Merge(seed, base)
        try:
            return one, one.run()
        except (BootcFastError, OSError) as error:
            return one, [f"{type(error).__name__}: {error}"]
    finally:
        remove(os.fsencode(base))


def run_chunk(seed: int, chunk: int, directory: Path) -> dict[str, Any]:
    """Run a chunk of merges; return its counts."""
    counts: Counter[str] = Counter()
    examples = []
    for number in range(CHUNK):
        name = f"{seed} {chunk} {number}"
        one, problems = run_one(name, directory)
        counts["merges"] += 1
        counts[one.when] += 1
        counts.update(f"with {feature}" for feature in one.features)
        counts.update(f"change: {kind}" for kind in one.kinds)
        counts["disagreements"] += bool(problems)
        if problems:
            examples.append({"seed": name, "when": one.when, "kinds": one.kinds, "problems": problems[:5]})
    return {"counts": dict(counts), "examples": examples}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--merges", type=int, default=20_000)
    parser.add_argument("--minutes", type=float, help="begin no new chunk after that time")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes; a merge mostly waits")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--seed", type=int, help="of a new run; one that has begun keeps its own")
    parser.add_argument("--table", type=Path, help="a document that has the table, between two marks: it is renewed")
    parser.add_argument("--only", help="one merge, by its whole seed as the results have it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bootc-fast-differential.", dir="/dev/shm") as scratch:
        if arguments.only:
            _one, problems = run_one(arguments.only, Path(scratch))
            print("\n".join(problems) or "no difference")
            return bool(problems)
        results = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
        if not results:
            seed = random.SystemRandom().randrange(1 << 31) if arguments.seed is None else arguments.seed
            results = {"seed": seed, "chunks": {}}
        print(f"seed {results['seed']}", flush=True)
        until = time.monotonic() + arguments.minutes * 60 if arguments.minutes else float("inf")
        todo = [chunk for chunk in range(-(-arguments.merges // CHUNK)) if str(chunk) not in results["chunks"]]
        with ProcessPoolExecutor(arguments.jobs) as pool:
            running: dict[Future[dict[str, Any]], int] = {}
            while running or (todo and time.monotonic() < until):
                while todo and len(running) < arguments.jobs and time.monotonic() < until:
                    chunk = todo.pop(0)
                    running[pool.submit(run_chunk, results["seed"], chunk, Path(scratch))] = chunk
                done, _others = wait(running, return_when=FIRST_COMPLETED)
                for one in done:
                    results["chunks"][str(running.pop(one))] = one.result()
                arguments.results.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
                count = len(results["chunks"]) * CHUNK
                bad = sum(one["counts"].get("disagreements", 0) for one in results["chunks"].values())
                print(f"{count} of {arguments.merges} merges, {bad} disagreements", file=sys.stderr, flush=True)
    print(describe(results, CHUNK))
    if arguments.table:
        write_table(arguments.table, describe(results, CHUNK))
    return any(chunk["examples"] for chunk in results["chunks"].values())


if __name__ == "__main__":
    raise SystemExit(main())
