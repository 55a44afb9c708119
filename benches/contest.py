"""Contests: the same work done by several contestants in turns, so that what disturbs the machine disturbs them all.

Every contestant runs once before anything is measured; its result is checked then. After that each round runs every
contestant once. The table gives the least time of all rounds, which is what is left when nothing else runs, the median,
and the least processor time (user and system, of this process and the processes that it waited for).
"""

from __future__ import annotations

import json
import resource
import statistics
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass
class Contestant:
    """Who takes part.

    Attributes:
        name: As the table shows it.
        run: The work; what it returns is checked once.
        check: Raises unless the result is right.
        prepare: Called before every round, not measured.
        is_ours: Not a peer.
    """

    name: str
    run: Callable[[], object]
    check: Callable[[object], None] | None = None
    prepare: Callable[[], None] | None = None
    is_ours: bool = False


@dataclass
class Timing:
    name: str
    is_ours: bool
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, object]:
        return {
            "name": self.name,
            "is_ours": self.is_ours,
            "least_s": min(self.wall_s),
            "median_s": statistics.median(self.wall_s),
            "cpu_s": min(self.cpu_s),
            "rounds": len(self.wall_s),
        }


@dataclass
class Contest:
    title: str
    note: str
    results: list[dict[str, object]]


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def run_contest(title: str, contestants: list[Contestant], *, rounds: int, note: str = "") -> Contest:
    """Let everyone run once for the check, then so many rounds in turns."""
    timings = [Timing(one.name, one.is_ours) for one in contestants]
    for number in range(rounds + 1):
        for one, timing in zip(contestants, timings, strict=True):
            if one.prepare is not None:
                one.prepare()
            cpu, start = _cpu_s(), time.perf_counter()
            result = one.run()
            wall, cpu = time.perf_counter() - start, _cpu_s() - cpu
            if number == 0:
                if one.check is not None:
                    one.check(result)
                continue
            timing.wall_s.append(wall)
            timing.cpu_s.append(cpu)
    return Contest(title, note, [timing.summary() for timing in timings])


def write_contests(contests: list[Contest], path: Path) -> None:
    """Write what the report is made of."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(contest) for contest in contests], indent=1))
