"""Make ``docs/benchmarks.md`` and its plot of what was measured: ``python -m benches.report RESULTS DOCUMENT``.

With ``--only`` behind it the tables of these results take the places of those with the same titles (the whole title, or
as far as a comma), with what they were measured on; the other tables and the plot stay, and what is new comes last.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

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
OURS, PEER = "#1b6ca8", "#b0b0b0"
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


def make_plot(contests: list[dict[str, Any]], path: Path) -> None:
    """All contests as bars, each contest on a scale of its own."""
    rows = [len(contest["results"]) for contest in contests]
    size_inches = (9, 0.26 * sum(rows) + 0.5 * len(rows))
    # Equal results give equal files.
    settings = {"svg.hashsalt": "bootc-fast", "svg.fonttype": "none", "font.size": 9}
    with mpl.rc_context(settings):
        figure, axes = plt.subplots(
            len(rows), figsize=size_inches, height_ratios=[n + 1 for n in rows], layout="constrained", squeeze=False
        )
        for axis, contest in zip(axes.flat, contests, strict=True):
            results = contest["results"]
            names = [one["name"].replace("`", "") for one in results]
            colours = [OURS if one["is_ours"] else PEER for one in results]
            bars = axis.barh(names, [one["least_s"] for one in results], color=colours)
            axis.bar_label(bars, [describe_time(one["least_s"]) for one in results], padding=3)
            axis.set_title(contest["title"], loc="left", fontweight="bold", fontsize=10)
            axis.invert_yaxis()
            axis.margins(x=0.15)
            axis.set_xticks([])
            axis.spines[:].set_visible(False)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def replace_tables(text: str, contests: list[dict[str, Any]]) -> str:
    """Put tables in the places of older ones."""
    head, *sections = text.split("\n## ")
    for contest in contests:
        measured = f"Measured apart, {datetime.now(UTC).date().isoformat()}: {describe_machine()}."
        lines = make_table({**contest, "note": f"{contest['note'] or ''}\n\n{measured}".strip()})
        topic, text = contest["title"].partition(",")[0], "\n".join(lines).removeprefix("## ")
        same = [number for number, one in enumerate(sections) if one.startswith(f"{contest['title']}\n")]
        index = next(iter(same or [number for number, one in enumerate(sections) if one.startswith(topic)]), None)
        if index is None:
            sections.append(text)
        else:
            sections[index] = text
    return "\n## ".join((head, *sections)).rstrip() + "\n"


def main() -> None:
    """Write the document and the plot."""
    results, document = Path(sys.argv[1]), Path(sys.argv[2])
    contests = json.loads(results.read_text())
    if sys.argv[3:] == ["--only"]:
        document.write_text(replace_tables(document.read_text(encoding="utf-8"), contests), encoding="utf-8")
        return
    rounds = contests[0]["results"][0]["rounds"]
    head = HEAD.format(rounds=rounds, date=datetime.now(UTC).date().isoformat(), machine=describe_machine())
    lines = [head, *(line for contest in contests for line in make_table(contest))]
    document.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    make_plot(contests, document.with_suffix(".svg"))
    subprocess.run(["git", "--no-pager", "diff", "--stat", "--", str(document)], check=False)


if __name__ == "__main__":
    main()
