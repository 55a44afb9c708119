"""Make ``docs/benchmarks.md`` and its plot of what was measured: ``python -m benches.report RESULTS DOCUMENT``."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

HEAD = """\
# Benchmarks

Made by `make bench`; nothing here is written by hand. Sizes: `make bench BENCH="--etc-files=1000 --digest-mib=64"`.

All contestants of a table did the same work on the same files in the same run, in turns: first each once for its
result to be checked, then {rounds} measured rounds. *least* is the least elapsed time of a round, *median* the median,
*CPU* the least processor time (user and system; of all threads, so it can exceed the elapsed time). On a machine that
does other things as well, *CPU* says most and *median* least. The last column is the processor time relative to the
first row's: above 1 is more than bootc-fast needs. Rows in bold are bootc-fast. Caches are warm; files are in memory.

Measured {date}: {machine}.

![Least times](benchmarks.svg)
"""
BAR_LEFT, BAR_WIDTH, ROW, TITLE = 330, 420, 18, 34
MILLISECOND = 1e-3


def describe_machine() -> str:
    """Processor, number of them, kernel, Python, and what else was running."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), platform.machine())
    load = os.getloadavg()[2]
    python = platform.python_version()
    return (
        f"{model}, {os.cpu_count()} CPUs, Linux {platform.release()}, Python {python}; load average over the last "
        f"15 minutes {load:.1f}"
    )


def describe_time(seconds: float) -> str:
    """A time with three digits."""
    for unit, name in ((1, "s"), (MILLISECOND, "ms")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1e6:.3g} µs"


def make_table(contest: dict[str, Any]) -> list[str]:
    """One contest as Markdown."""
    base = contest["results"][0]["cpu_s"]
    lines = [f"## {contest['title']}", ""]
    lines += [contest["note"], ""] if contest["note"] else []
    lines += ["| | least | median | CPU | relative |", "|---|---:|---:|---:|---:|"]
    for one in contest["results"]:
        name = f"**{one['name']}**" if one["is_ours"] else one["name"]
        times = " | ".join(describe_time(one[key]) for key in ("least_s", "median_s", "cpu_s"))
        lines.append(f"| {name} | {times} | {one['cpu_s'] / base:.2f} |")
    return [*lines, ""]


def make_plot(contests: list[dict[str, Any]]) -> str:
    """All contests as bars, each contest on a scale of its own."""
    y = 0
    parts: list[str] = []
    for contest in contests:
        y += TITLE
        parts.append(f'<text class="t" x="4" y="{y - 8}">{escape(contest["title"])}</text>')
        longest = max(one["least_s"] for one in contest["results"])
        for one in contest["results"]:
            width = max(one["least_s"] / longest * BAR_WIDTH, 1)
            kind = "o" if one["is_ours"] else "p"
            name = escape(one["name"].replace("`", ""))
            parts.append(
                f'<text x="{BAR_LEFT - 6}" y="{y + 12}" text-anchor="end">{name}</text>'
                f'<rect class="{kind}" x="{BAR_LEFT}" y="{y + 2}" width="{width:.1f}" height="{ROW - 5}"/>'
                f'<text x="{BAR_LEFT + width + 5:.1f}" y="{y + 12}">{describe_time(one["least_s"])}</text>'
            )
            y += ROW
    style = "text{font:11px sans-serif;fill:#222}.t{font-weight:bold;font-size:12px}.o{fill:#1b6ca8}.p{fill:#b0b0b0}"
    size = f'width="{BAR_LEFT + BAR_WIDTH + 80}" height="{y + 8}"'
    background = '<rect width="100%" height="100%" fill="#fff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{style}</style>{background}{"".join(parts)}</svg>\n'


def main() -> None:
    """Write the document and the plot."""
    results, document = Path(sys.argv[1]), Path(sys.argv[2])
    contests = json.loads(results.read_text())
    rounds = contests[0]["results"][0]["rounds"]
    head = HEAD.format(rounds=rounds, date=datetime.now(UTC).date().isoformat(), machine=describe_machine())
    lines = [head, *(line for contest in contests for line in make_table(contest))]
    document.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    document.with_suffix(".svg").write_text(make_plot(contests), encoding="utf-8")
    subprocess.run(["git", "--no-pager", "diff", "--stat", "--", str(document)], check=False)


if __name__ == "__main__":
    main()
