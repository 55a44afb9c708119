"""The tables of docs/power-cuts.md, made of what was judged."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from powercut.replay import Result
    from powercut.rerun import Again

DOCUMENT = Path(__file__).parents[2] / "docs/power-cuts.md"
_BLOCK = re.compile(r"(?s)(<!-- counts: begin -->\n).*?(<!-- counts: end -->)")


@dataclass
class Row:
    """A line of the table."""

    recordings: int = 0
    states: int = 0
    bad: int = 0
    noted: int = 0
    taken_up: int = 0
    runs: int = 0
    wrong: int = 0
    repaired: int = 0
    repairs: int = 0
    spoiled: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    mended: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    after: Counter[str] = field(default_factory=Counter)

    def add(self, result: Result, again: Again | None) -> None:
        """Add a recording's numbers."""
        self.recordings += 1
        self.states += result.states
        self.bad += result.bad
        self.noted += result.noted
        self.reasons.update(result.reasons)
        if result.mended:
            self.mended[result.mended] += 1
        if again is not None:
            self.taken_up += bool(again.runs)
            self.repaired += bool(again.repairs)
            self.runs += again.runs
            self.wrong += again.failed
            self.after.update(again.wrong + again.spoiled)
            self.repairs += again.repairs
            self.spoiled += sum(again.spoiled.values())


def _number(value: int) -> str:
    return f"{value:,}"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---", *["--:"] * (len(head) - 1)], *lines]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def _describe_how(how: tuple[set[str], set[int], set[int]]) -> str:
    kernels, seeds, randoms = how
    which = f"Linux {', '.join(sorted(kernels))}; seed {', '.join(map(str, sorted(seeds)))}"
    return f"{which}; {min(randoms, default=0)} random subsets of each flush epoch with more than 8 writes.\n\n"


def _describe_mended(mended: Counter[tuple[str, str, str]]) -> str:
    """Say how many starts a repair made boot, and what is wrong with the others."""
    dead = Counter({key: count for key, count in mended.items() if key[0] == "none"})
    booted = sum(count for (_start, end, _why), count in dead.items() if end != "none")
    text = f"of {dead.total()} that did not boot {booted} boot after it"
    others = mended.total() - dead.total()
    if others:
        still = sum(count for (start, end, _why), count in mended.items() if start != "none" and end != "none")
        text += f", of {others} that did {still}"
    left = Counter[str]()
    for (_start, end, why), count in mended.items():
        if end == "none":
            left[why] += count
    return text + "".join(f"; left: {why} ({count})" for why, count in left.most_common()) + "."


def make_tables(
    results: Sequence[Result],
    agains: dict[str, Again],
    boots: Counter[str],
    *,
    how: tuple[set[str], set[int], set[int]],
) -> str:
    """Make the text between the marks of the document."""
    rows: dict[str, Row] = {}
    for result in results:
        rows.setdefault(result.group, Row()).add(result, agains.get(result.name))
    is_peer = {group: group.startswith("bootc's sequence") for group in rows}
    total = Row()
    for result in results:
        if not is_peer[result.group]:
            total.add(result, agains.get(result.name))
    head = ["boot partition", "recordings", "states", "bad", "good, something beside not whole"]

    def line(name: str, row: Row) -> list[str]:
        return [name, *map(_number, (row.recordings, row.states, row.bad, row.noted))]

    own = [line(group, row) for group, row in rows.items() if not is_peer[group]]
    peer = [line(group, row) for group, row in rows.items() if is_peer[group]]
    text = _describe_how(how) + _table(head, [*own, line("**all**", total), *peer])
    reasons = {group: row.reasons for group, row in rows.items() if row.reasons}
    for group, found in reasons.items():
        text += (
            f"\n{group}: " + "; ".join(f"{reason} ({_number(count)})" for reason, count in found.most_common(4)) + ".\n"
        )
    for group, row in rows.items():
        if row.mended:
            text += f"\n{group}: {_describe_mended(row.mended)}\n"
    if agains:
        again = [
            [name, *map(_number, (row.taken_up, row.runs, row.wrong, row.repaired, row.repairs, row.spoiled))]
            for name, row in [*rows.items(), ("**all**", total)]
            if row.runs or row.repairs
        ]
        head = [
            "boot partition",
            "recordings",
            "taken up",
            "wrong after it",
            "recordings",
            "repaired",
            "no longer good",
        ]
        text += "\nWhat the product makes of states that a cut left, and what `fsck.fat -a` does:\n\n"
        text += _table(head, again)
        if total.after:
            found = (f"{reason} ({_number(count)})" for reason, count in total.after.most_common())
            text += "\nWrong: " + "; ".join(found) + ".\n"
    if boots:
        text += "\nOVMF and systemd-boot: " + ", ".join(f"{count:,} {what}" for what, count in boots.items()) + ".\n"
    return text


def write_document(text: str) -> None:
    """Put the tables into the document."""
    whole = DOCUMENT.read_text()
    if not _BLOCK.search(whole):
        raise ValueError(f"{DOCUMENT} has no marks for the counts")
    DOCUMENT.write_text(_BLOCK.sub(lambda found: found[1] + text + found[2], whole))
