"""``make powercut``: records everything anew, cuts the power everywhere, judges, and writes the counts down."""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
from pathlib import Path

from powercut.configurations import CONFIGURATIONS
from powercut.counts import make_tables, write_document
from powercut.machine import ROOTFS
from powercut.ovmf import ask_samples
from powercut.record import record
from powercut.recording import load, save
from powercut.replay import RECORDINGS, STAGING, Result, replay
from powercut.rerun import can_be_taken_up, take_up

KEPT = RECORDINGS / "all.xz"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kept", action="store_true", help="take the recordings of the repository")
    parser.add_argument("--randoms", type=int, default=200, help="random subsets of each flush epoch (200)")
    parser.add_argument("--states", type=int, default=50, help="states of each that the product takes up (50)")
    parser.add_argument("--repairs", type=int, default=200, help="states of each that fsck.fat -a gets (200)")
    parser.add_argument("--boots", type=int, default=1, help="states of each class that OVMF boots (1)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    if not arguments.kept:
        with tempfile.TemporaryDirectory(prefix="bootc-fast-powercut.") as scratch:
            work = Path(scratch)
            first, second = work / "first", work / "second"
            first.mkdir()
            found = record([one for one in CONFIGURATIONS.values() if not one.cut_of], first)
            second.mkdir()
            (first / "product").rename(second / "product")
            found |= record([one for one in CONFIGURATIONS.values() if one.cut_of], second, found)
            save(KEPT, {name: found[name] for name in CONFIGURATIONS})
    recordings = load(KEPT)
    results, staging = [], Result("staging", STAGING)
    for one in recordings.values():
        results.append(replay(one, randoms=arguments.randoms, seed=arguments.seed, staging=staging))
        print(results[-1].describe(), flush=True)
    own = {name: one for name, one in recordings.items() if can_be_taken_up(one)}
    agains = {}
    if arguments.states or arguments.repairs:
        agains = take_up(
            own, states=arguments.states, repairs=arguments.repairs, randoms=arguments.randoms, seed=arguments.seed
        )
    for name, again in agains.items():
        print(f"{name}: {again.describe()}")
    boots = ask_samples(recordings.values(), each=arguments.boots, timeout_s=120, seed=arguments.seed)
    kernel = next((ROOTFS / "boot").glob("vmlinuz-*")).name.removeprefix("vmlinuz-")
    text = make_tables([*results, staging], agains, randoms=arguments.randoms, seed=arguments.seed, kernel=kernel)
    if boots:
        text += "\nOVMF and systemd-boot: " + ", ".join(f"{count:,} {what}" for what, count in boots.items()) + ".\n"
    write_document(text)
    bad = sum(result.bad for result in results if CONFIGURATIONS[result.name].who == "product")
    wrong = sum(sum(again.wrong.values()) + sum(again.spoiled.values()) for again in agains.values())
    print(re.sub(r"(?m)^", "  ", text))
    return int(bool(bad or wrong or boots["otherwise"]))


if __name__ == "__main__":
    sys.exit(main())
