"""Writing man(7): sections, paragraphs, lists, examples; what roff would act on is escaped."""

from __future__ import annotations

import re
import textwrap

_MARKED = re.compile(r"`([^`]+)`|(?<![\w-])(--?[a-z][\w-]*)|\b((?:[\w.-]+)\(\d\))")


def escape(text: str) -> str:
    """Escape a text; every hyphen is one that can be typed."""
    return text.replace("\\", r"\(rs").replace("-", r"\-").replace("~", r"\(ti").replace("^", r"\(ha")


def mark(text: str) -> str:
    """Escape a text; what stands in backquotes, options and names of pages are bold."""
    made, at = [], 0
    for found in _MARKED.finditer(text):
        made.append(escape(text[at : found.start()]))
        bold = found[1] or found[2] or found[3]
        page = re.fullmatch(r"(.+)(\(\d\))", bold)
        made.append(rf"\fB{escape(page[1] if page else bold)}\fR{page[2] if page else ''}")
        at = found.end()
    return "".join((*made, escape(text[at:])))


class Page:
    """One page.

    Args:
        name: ``bootc-fast-rollback``.
        section: 5 or 8.
        date: As ``2026-11-30``.
        version: Of the program.
    """

    def __init__(self, name: str, section: int, *, date: str, version: str) -> None:
        # What stands between the two titles has no room where they are long.
        middle = r"bootc\-fast" if len(name) < 30 else r"\&"  # noqa: PLR2004 of 80 columns
        self._lines = [f'.TH "{escape(name.upper())}" "{section}" "{date}" "bootc\\-fast {version}" "{middle}"']
        # No word is split, and lines are not stretched: names are copied from here.
        self._lines += [".nr HY 0", ".nh", ".ad l"]

    def section(self, title: str) -> None:
        """Begin a section."""
        self._lines.append(f".SH {title}")

    def subsection(self, title: str) -> None:
        """Begin a part of a section."""
        self._lines.append(f'.SS "{escape(title)}"')

    def name(self, names: list[str], summary: str) -> None:
        """Write the NAME section, in the form that mandb reads."""
        self.section("NAME")
        line = f"{', '.join(map(escape, names))} \\- {escape(summary)}"
        self._lines += textwrap.wrap(line, 76, break_long_words=False, break_on_hyphens=False)

    def text(self, text: str) -> None:
        """Write paragraphs, that blank lines separate."""
        for number, paragraph in enumerate(part for part in text.split("\n\n") if part.strip()):
            if number or not self._lines[-1].startswith((".SH", ".SS", ".TP")):
                self._lines.append(".PP")
            self.fill(paragraph)

    def fill(self, paragraph: str) -> None:
        """Write the lines of one paragraph; a sentence begins a line."""
        for sentence in re.split(r"(?<=[.:]) (?=[A-Z])", " ".join(paragraph.split())):
            wrapped = textwrap.wrap(mark(sentence), 76, break_long_words=False, break_on_hyphens=False)
            self._lines += [rf"\&{line}" if line.startswith((".", "'")) else line for line in wrapped]

    def item(self, tag: str, text: str) -> None:
        """Write one item of a list; the tag is roff already."""
        self._lines += [".TP", tag]
        self.fill(text)

    def example(self, lines: list[str]) -> None:
        """Write lines that stay as they are."""
        if not self._lines[-1].startswith((".SH", ".SS")):
            self._lines.append(".PP")
        self._lines.append(".EX")
        self._lines += [rf"\&{escape(line)}" if line.startswith((".", "'")) else escape(line) for line in lines]
        self._lines.append(".EE")

    def raw(self, line: str) -> None:
        """Write a line of roff."""
        self._lines.append(line)

    def __str__(self) -> str:
        """The whole page."""
        return "\n".join(self._lines) + "\n"
