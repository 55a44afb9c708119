"""``python -m powercut.replay FILE…``: cuts the power everywhere in recordings, and judges what is on the disk."""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import itertools
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from powercut.cuts import cut_everywhere
from powercut.judge import States
from powercut.recording import Write, load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from powercut.cuts import Cut
    from powercut.judge import Verdict
    from powercut.recording import Recording

RECORDINGS = Path(__file__).parent / "recordings"
STAGING = "bootc's sequence, staging alone"
_EXAMPLES = 3


@dataclass
class Result:
    """What became of a recording's states.

    Attributes:
        states: How many were judged.
        bad: How many have no default, or one that is not whole, or may not be, or have lost something foreign.
        noted: How many are good, with something beside the default that is not whole.
        reasons: Why they are bad, and how often.
        examples: Names of bad states, by reason.
        mended: Of a repair what boots at its start and at its end: ``old``, ``new``, or ``none``; and what is wrong
            then.
    """

    name: str
    group: str
    states: int = 0
    bad: int = 0
    noted: int = 0
    seconds: float = 0
    reasons: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    mended: tuple[str, str, str] | None = None

    def add(self, cut: Cut, verdict: Verdict) -> None:
        """Count a state."""
        self.states += 1
        self.bad += bool(verdict.problems)
        self.noted += bool(verdict.notes) and not verdict.problems
        self.notes.update(verdict.notes)
        for reason in verdict.problems[:1]:
            self.reasons[reason] += 1
            names = self.examples.setdefault(reason, [])
            if len(names) < _EXAMPLES:
                names.append(cut.name)

    def describe(self) -> str:
        """One line for the recording, and its reasons."""
        lines = [f"{self.name}: {self.states} states, {self.bad} bad, {self.noted} noted, {self.seconds:.1f} s"]
        lines += [f"    {count} {reason}: {'; '.join(self.examples[reason])}" for reason, count in self.reasons.items()]
        return "\n".join(lines)


def judged_states(recording: Recording, *, randoms: int, seed: int, every: int = 1) -> Iterator[tuple[Cut, Verdict]]:
    """Yield the cuts of a recording, all or one of so many, with what they are worth."""
    facts = recording.facts
    rng = random.Random(f"{seed} {facts['name']}")  # noqa: S311 - to be had again
    states = States(recording)
    judge = states.make_judge()
    for cut in itertools.islice(cut_everywhere(recording.events, rng, randoms), 0, None, every):
        yield cut, states.judge(judge, cut)


def is_staging(recording: Recording, cut: Cut) -> bool:
    """Tell whether nothing of ours was flushed yet: bootc stages without a barrier, and what grows then is its own."""
    return recording.facts["steps"][0] == "stage" and cut.epoch == 0


def replay(recording: Recording, *, randoms: int, seed: int, staging: Result | None = None, every: int = 1) -> Result:
    """Judge states of a recording, all or one of so many; those that are bootc's own are counted apart."""
    result = Result(recording.facts["name"], recording.facts["group"])
    other = staging or Result("staging", STAGING)
    started = time.monotonic()
    for cut, verdict in judged_states(recording, randoms=randoms, seed=seed, every=every):
        (other if is_staging(recording, cut) else result).add(cut, verdict)
    result.seconds = time.monotonic() - started
    if "endured" in recording.facts:
        result.mended = judge_end(recording)
    return result


def judge_end(recording: Recording) -> tuple[str, str, str]:
    """Tell what boots before a repair and after it, and what is wrong then; a start that is not whole boots nothing."""
    states = States(recording)
    judge = states.make_judge()
    last = judge.judge_all(states.read({one.sector: one.data for one in recording.events if isinstance(one, Write)}))
    start = "none" if recording.facts["endured"] else recording.facts["start"]
    return start, "none" if last.problems else last.boots or "none", "; ".join(last.problems)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, default=sorted(RECORDINGS.glob("*.xz")))
    parser.add_argument("--randoms", type=int, default=200, help="random subsets of each flush epoch (200)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="what a recording's name begins with")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}, {arguments.randoms} random subsets of each epoch")
    results = []
    for path in arguments.files:
        for name, recording in load(path).items():
            if name.startswith(arguments.only):
                results.append(replay(recording, randoms=arguments.randoms, seed=arguments.seed))
                print(results[-1].describe(), flush=True)
    total = sum(result.states for result in results)
    print(f"{total} states, {sum(result.bad for result in results)} bad")


if __name__ == "__main__":
    main()
