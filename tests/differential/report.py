"""The table of what was merged, for people, and its place in a document."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

WHENS = ("undisturbed", "changed before the writing", "changed all the time")
BEGIN, END = "<!-- made by make differential -->\n", "<!-- end -->\n"


def describe(results: dict[str, Any], merges_per_chunk: int) -> str:
    """The table of all chunks."""
    total: Counter[str] = Counter()
    for chunk in results["chunks"].values():
        total.update(chunk["counts"])
    by_count = sorted(total, key=lambda name: (-total[name], name))
    rows = [
        "merges",
        *WHENS,
        *(name for name in by_count if name.startswith("with ")),
        *(name for name in by_count if name.startswith("change: ")),
        "disagreements",
    ]
    lines = [f"| seed {results['seed']}, chunks of {merges_per_chunk} | |", "| --- | --: |"]
    return "\n".join([*lines, *(f"| {name} | {total[name]:,} |" for name in rows)]) + "\n"


def write_table(document: Path, table: str) -> None:
    """Put the table between the two marks of a document.

    Raises:
        ValueError: There are no such marks.
    """
    head, begin, rest = document.read_text().partition(BEGIN)
    _old, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{document} has no place for the table: {BEGIN!r} and {END!r}")
    document.write_text(f"{head}{BEGIN}\n{table}\n{END}{tail}")
