"""Help for people: as wide as the terminal, cut between words only."""

from __future__ import annotations

import argparse
import os
import re
import sys

# Not from typing: importing that takes a tenth of the whole start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

MIN_COLUMNS = 40
MAX_COLUMNS = 100
"""Longer lines are hard to read, however wide the screen is."""


def find_columns() -> int:
    """How wide help may be; less an import of shutil (and with it every compressor) to ask for the terminal's width."""
    try:
        columns = int(os.environ["COLUMNS"])
    except (KeyError, ValueError):
        try:
            columns = os.get_terminal_size(sys.__stdout__.fileno() if sys.__stdout__ else 1).columns
        except (OSError, ValueError):
            columns = 80
    return min(max(columns, MIN_COLUMNS), MAX_COLUMNS)


class HelpFormatter(argparse.HelpFormatter):
    """argparse's, with paragraphs that are filled, examples that are kept, and no word cut in two."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=find_columns() - 2)

    def _format_usage(
        self, usage: str | None, actions: Iterable[argparse.Action], _groups: object, prefix: str | None
    ) -> str:
        """One line with what has to be given; the options stand below, and in the man page."""
        del usage
        words = [_name_argument(action) for action in actions if not action.option_strings]
        if prefix == "":
            # Not to be shown: what its sub-commands' names begin with.
            return " ".join([str(self._prog), *words]) + "\n"
        text = " ".join([str(self._prog), "[OPTIONS]", *words])
        prefix = "usage: " if prefix is None else prefix
        return "\n".join(wrap(text, self._width, begin=prefix, rest=" " * (len(prefix) + 4))) + "\n\n"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line if line else "" for line in reflow(text, width - len(indent)))

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrap(" ".join(text.split()), width)


def _name_argument(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest)
    if action.nargs == argparse.PARSER:
        return f"{name} ..."
    return {"?": f"[{name}]", "*": f"[{name}...]", "+": f"{name}..."}.get(str(action.nargs), name)


def wrap(text: str, width: int, *, begin: str = "", rest: str = "") -> list[str]:
    """Wrap a paragraph between words; a word that is longer than a line stands alone on one that is too long."""
    import textwrap

    return textwrap.wrap(
        text,
        max(width, 1),
        initial_indent=begin,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def reflow(text: str, width: int) -> list[str]:
    """Fill the paragraphs of a text; a heading (`examples:`) and indented lines are lines of their own.

    What follows the first line of an indented one is indented further: below the second column of a table, which two
    spaces begin, else by four.
    """
    lines: list[str] = []
    paragraph: list[str] = []

    def end_paragraph() -> None:
        lines.extend(wrap(" ".join(paragraph), width))
        paragraph.clear()

    for line in text.strip("\n").split("\n"):
        if line and not line.startswith(" ") and not line.endswith(":"):
            paragraph.append(line)
            continue
        end_paragraph()
        if not line or len(line) <= width:
            lines.append(line)
            continue
        column = re.match(r" *\S+(?: \S+)*  +(?=\S)", line)
        inner = len(line) - len(line.lstrip())
        rest = column.end() if column and column.end() <= width // 2 else inner + 4
        begin = line[:rest] if column and column.end() <= width // 2 else " " * inner
        lines.extend(wrap(line[len(begin) :], width, begin=begin, rest=" " * rest))
    end_paragraph()
    return lines
