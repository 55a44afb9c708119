"""The tables of docs/secure-boot.md, made of the record and of what the product says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secureboot import verdicts

if TYPE_CHECKING:
    from pathlib import Path

START, END = "<!-- made by tools/secure-boot-verdicts -->\n", "<!-- end -->\n"


def render() -> str:
    """Render the summary, every disagreement with its reason, and all files."""
    record = verdicts.read_record()
    out: list[str] = []
    for loader, make in verdicts.MAKERS.items():
        answers = {name: one["verdict"] for name, one in record[loader].items()}
        rows = verdicts.compare(make(), answers)
        agreed = sum(row.loader == row.ours for row in rows)
        out.append(f"### {record['of'][loader]}: {len(rows)} files, {agreed} agreements\n")
        differing = [row for row in rows if row.loader != row.ours]
        if differing:
            out.append("| file | loader | bootc-fast | why |\n|---|---|---|---|")
            explained = verdicts.EXPLAINED[loader]
            out += [f"| {row.name} | {row.loader} | {row.ours} | {explained.get(row.name, '?')} |" for row in differing]
            out.append("")
        out.append("| file | loader | bootc-fast | in its words |\n|---|---|---|---|")
        out += [f"| {row.name} | {row.loader} | {row.ours} | {row.reason} |" for row in rows]
        out.append("")
    return "\n".join(out)


def replace(text: str) -> str:
    """Put the tables between their marks."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{render()}\n{END}{after}"


def write(path: Path) -> None:
    """Write the document anew."""
    path.write_text(replace(path.read_text()))
