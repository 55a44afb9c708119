"""``make powercut``: records everything anew, cuts the power everywhere, judges, and writes the counts down.

What was found out is kept for each recording (`parts.py`): ``--part`` and ``--only`` do some of it, ``--minutes`` as
much as there is time for, and the next call goes on. The tables are made of all that is there.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from powercut.configurations import CONFIGURATIONS
from powercut.counts import make_tables, write_document
from powercut.machine import ROOTFS, install_product
from powercut.ovmf import ask_samples, has_loader
from powercut.parts import BOOTS, CUTS, REPAIRS, RUNS, Results
from powercut.record import record_in_order
from powercut.recording import load, save
from powercut.replay import RECORDINGS, STAGING, Result, replay
from powercut.rerun import can_be_repaired, can_be_taken_up, take_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from powercut.recording import Recording

KEPT = RECORDINGS / "all.xz"
TABLE = "table"


def record_all() -> None:
    """Make all recordings anew."""
    with tempfile.TemporaryDirectory(prefix="bootc-fast-powercut.") as scratch:
        found = record_in_order(list(CONFIGURATIONS.values()), Path(scratch))
        save(KEPT, {name: found[name] for name in CONFIGURATIONS})


def find_kernel() -> str:
    """The kernel that the machine runs."""
    return next((ROOTFS / "boot").glob("vmlinuz-*")).name.removeprefix("vmlinuz-")


class Work:
    """The parts, each as far as time allows."""

    def __init__(self, arguments: argparse.Namespace, recordings: dict[str, Recording], scratch: Path) -> None:
        self.arguments, self.recordings, self.scratch = arguments, recordings, scratch
        self.results = Results(recordings)
        only = tuple(arguments.only)
        self.names = [name for name in recordings if name.startswith(only)]
        self.taken_up = [name for name in self.names if can_be_taken_up(recordings[name])]
        self.repaired = [name for name in self.names if can_be_repaired(recordings[name])]
        self.until = time.monotonic() + arguments.minutes * 60 if arguments.minutes else None

    def is_late(self) -> bool:
        """No time is left for another one."""
        return self.until is not None and time.monotonic() > self.until

    def cut(self) -> None:
        """Every cut of every recording."""
        randoms, seed = self.arguments.randoms, self.arguments.seed
        for name in self.results.lacking(CUTS, randoms, self.names):
            if self.is_late():
                return
            staging = Result(name, STAGING)
            result = replay(self.recordings[name], randoms=randoms, seed=seed, staging=staging)
            self.results.put_cuts(result, staging, randoms=randoms, seed=seed, kernel=find_kernel())
            print(result.describe(), flush=True)

    def _take_up(self, names: list[str], *, states: int = 0, repairs: int = 0) -> None:
        chosen = {name: self.recordings[name] for name in names}
        seed = self.arguments.seed
        found = take_up(
            chosen,
            states=states,
            repairs=repairs,
            randoms=40,
            seed=seed,
            product=self._product(states),
            is_user_mode=not self.arguments.emulated,
        )
        for name, again in found.items():
            self.results.put_again(name, again, states=states, repairs=repairs, seed=seed)
            print(f"{name}: {again.describe()}", flush=True)

    def _product(self, states: int) -> Path | None:
        if not states:
            return None
        product = self.scratch / "product"
        if not product.exists():
            install_product(product)
        return product

    def repair(self) -> None:
        """States that ``fsck.fat -a`` gets."""
        for name in self.results.lacking(REPAIRS, self.arguments.repairs, self.repaired):
            if self.is_late():
                return
            self._take_up([name], repairs=self.arguments.repairs)

    def run(self) -> None:
        """States that the product gets, some configurations in each boot of the machine."""
        names, each = self.results.lacking(RUNS, self.arguments.states, self.taken_up), self.arguments.at_once
        while names and not self.is_late():
            self._take_up(names[:each], states=self.arguments.states)
            names = names[each:]

    def boot(self) -> None:
        """States that OVMF boots."""
        each = self.arguments.boots
        able = [name for name in self.names if has_loader(self.recordings[name])]
        for name in self.results.lacking(BOOTS, each, able):
            if self.is_late():
                return
            outcomes = ask_samples([self.recordings[name]], each=each, timeout_s=180, seed=self.arguments.seed)
            self.results.put(name, **{BOOTS: {"asked": each, "outcomes": dict(outcomes)}})


def write_tables(results: Results) -> int:
    """Write the tables of all that is there; return 1 where anything of ours is bad."""
    found, agains, boots = results.results(), results.agains(), results.boots()
    text = make_tables(found, agains, boots, how=results.how())
    write_document(text)
    print(text)
    bad = sum(one.bad for one in found if one.group != STAGING and CONFIGURATIONS[one.name].who != "bootc")
    wrong = sum(again.failed + sum(again.spoiled.values()) for again in agains.values())
    return int(bool(bad or wrong or boots["otherwise"]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kept", action="store_true", help="take the recordings of the repository")
    parser.add_argument("--part", nargs="*", default=[CUTS, REPAIRS, RUNS, BOOTS], help="cuts, repairs, runs, boots")
    parser.add_argument("--only", nargs="*", default=[""], help="what a recording's name begins with")
    parser.add_argument("--minutes", type=float, help="begin nothing new after that time")
    parser.add_argument("--randoms", type=int, default=200, help="random subsets of each flush epoch (200)")
    parser.add_argument("--states", type=int, default=50, help="states of each that the product takes up (50)")
    parser.add_argument("--at-once", type=int, default=12, help="recordings whose states one machine takes up (12)")
    parser.add_argument(
        "--emulated", action="store_true", help="the product runs in QEMU, which takes ten times as long"
    )
    parser.add_argument("--repairs", type=int, default=200, help="states of each that fsck.fat -a gets (200)")
    parser.add_argument("--boots", type=int, default=1, help="states of each class that OVMF boots (1)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    arguments = parser.parse_args()
    if not arguments.kept:
        record_all()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="bootc-fast-powercut.") as scratch:
        work = Work(arguments, load(KEPT), Path(scratch))
        parts: dict[str, Callable[[], None]] = {CUTS: work.cut, REPAIRS: work.repair, RUNS: work.run, BOOTS: work.boot}
        for part in arguments.part:
            parts[part]()
    return write_tables(work.results)


if __name__ == "__main__":
    raise SystemExit(main())
