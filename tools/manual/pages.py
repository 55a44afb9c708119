"""The pages of section 8: an overview, and one for each verb."""

from __future__ import annotations

import os
import textwrap
import time
from typing import TYPE_CHECKING

from bootc_fast import __version__
from bootc_fast.cli.exit_status import EXIT_STATUS, ExitStatus
from bootc_fast.errors import EXIT_CODES
from manual.facts import ENVIRONMENT, FACTS, FILES, Facts
from manual.roff import Page, escape

if TYPE_CHECKING:
    from collections.abc import Iterable

    from manual.tree import Argument, Verb

# Reproducible builds: a page is as old as its text, not as its build.
_DATE = "2026-11-30"
_MAIN = """\
bootc-fast finishes and undoes updates of hosts that bootc(8) installed. At shutdown it merges the changes made in /etc
into the staged deployment and replaces the boot entries; on request it makes the previous deployment the next boot. It
keeps bootc's verbs and its layout on disk: either of the two may take over from the other at any time.

Each command has a page of its own, and so have the policy files."""


def page_date() -> str:
    """The date in the headers: that of ``SOURCE_DATE_EPOCH`` where a packager sets one."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    return time.strftime("%Y-%m-%d", time.gmtime(int(epoch))) if epoch else _DATE


def make_page(name: str, section: int) -> Page:
    """Begin a page."""
    return Page(name, section, date=page_date(), version=__version__)


def make_main(tree: Verb) -> str:
    """The overview: what there is, and nothing twice."""
    page = make_page("bootc-fast", 8)
    page.name(["bootc-fast"], tree.summary)
    page.section("SYNOPSIS")
    page.raw(".B bootc\\-fast\n.RI [ options ]\n.I command\n.RI [ arguments ]")
    page.section("DESCRIPTION")
    page.text(_MAIN)
    page.section("COMMANDS")
    for verb in tree.verbs:
        page.item(rf"\fB{escape('bootc-fast-' + verb.words[0])}\fR(8)", _sentence(verb.summary))
    page.section("OPTIONS")
    page.text("Before or after the command's name:")
    _write_options(page, tree.arguments)
    _write_codes(page, ExitStatus(tuple(EXIT_CODES)))
    page.section("FILES")
    for path, words in FILES.values():
        page.item(_paths(path), words)
    page.section("ENVIRONMENT")
    for variable, words in ENVIRONMENT.items():
        page.item(rf"\fB{variable}\fR", words)
    _write_examples(page, tree.epilog)
    _write_see(page, ["bootc-fast-merge.toml(5)", "bootc-fast-boot.toml(5)", "bootc-fast-trial.toml(5)", "bootc(8)"])
    return str(page)


def make_verb(verb: Verb, globals_: tuple[Argument, ...]) -> str:
    """The page of a verb, and of its sub-commands."""
    facts = FACTS.get(verb.words[0], Facts())
    page = make_page("-".join(("bootc-fast", *verb.words)), 8)
    names = [verb.words[0], *verb.aliases]
    page.name([f"bootc-fast-{name}" for name in names], verb.summary)
    page.section("SYNOPSIS")
    page.raw("\n.br\n".join(_synopsis(one) for one in verb.verbs or (verb,)))
    page.section("DESCRIPTION")
    page.text(verb.description)
    page.text(_prose(verb.epilog))
    shown = {name for argument in globals_ for name in argument.names}
    for one in verb.verbs:
        page.subsection(one.prog)
        page.text(one.description)
        _write_options(page, one.arguments, leave=shown)
    if not verb.verbs:
        page.section("OPTIONS")
        _write_options(page, verb.arguments, leave=shown)
    else:
        page.section("OPTIONS")
    _write_options(page, globals_)
    _write_codes(page, EXIT_STATUS[verb.words[0]])
    if facts.files:
        page.section("FILES")
        for name in facts.files:
            page.item(_paths(FILES[name][0]), FILES[name][1])
    _write_examples(page, "\n".join(dict.fromkeys((verb.epilog, *(one.epilog for one in verb.verbs)))))
    _write_see(page, ["bootc-fast(8)", *facts.see])
    return str(page)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _paths(text: str) -> str:
    return ", ".join(rf"\fI{escape(path)}\fR" for path in text.split(", "))


def _synopsis(verb: Verb) -> str:
    words = [rf"\fB{escape(verb.prog)}\fR", r"[\fIoptions\fR]"]
    for argument in verb.arguments:
        if not argument.names:
            name = rf"\fI{escape(argument.metavar)}\fR"
            words.append({"?": f"[{name}]", "*": f"[{name} ...]", "+": f"{name} ..."}.get(argument.nargs, name))
    return "\n".join(words)


def _write_options(page: Page, arguments: Iterable[Argument], *, leave: Iterable[str] = ()) -> None:
    for argument in arguments:
        if set(argument.names) & set(leave):
            continue
        if not argument.names:
            page.item(rf"\fI{escape(argument.metavar)}\fR", _sentence(argument.text))
            continue
        value = rf"\fI{escape(argument.metavar)}\fR" if argument.metavar else ""
        tags = [rf"\fB{escape(name)}\fR" for name in argument.names]
        last = f"[={value}]" if argument.nargs == "?" else f" {value}" if value else ""
        page.item(", ".join(tags) + last, _sentence(argument.text))


def _write_codes(page: Page, status: ExitStatus) -> None:
    page.section("EXIT STATUS")
    for code in sorted(status.codes):
        note = status.notes.get(code, "")
        page.item(rf"\fB{code}\fR", f"{_sentence(EXIT_CODES[code])} {note}")


def _prose(epilog: str) -> str:
    """What an epilog says beside its examples."""
    parts = [part for part in epilog.split("\n\n") if not part.startswith(("example", "exit codes"))]
    return "\n\n".join(part for part in parts if not part.startswith("marks"))


def _write_examples(page: Page, epilog: str) -> None:
    lines = [line.strip() for line in epilog.split("\n") if line.startswith("  bootc-fast ")]
    if lines:
        page.section("EXAMPLES")
        page.example([part for line in dict.fromkeys(lines) for part in _break(line)])
    for part in epilog.split("\n\n"):
        heading, *rows = part.strip("\n").split("\n")
        if heading.startswith("marks"):
            page.section(heading.rstrip(":").upper())
            for row in rows:
                sign, words = row.split(None, 1)
                page.item(rf"\fB{escape(sign)}\fR", _sentence(words))


def _break(line: str) -> list[str]:
    """A command that is too long for 80 columns, as it can be typed on several lines."""
    parts = textwrap.wrap(line, 68, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return [f"{part} \\" for part in parts[:-1]] + parts[-1:]


def _write_see(page: Page, names: list[str]) -> None:
    page.section("SEE ALSO")
    for number, name in enumerate(names):
        title, _, section = name.partition("(")
        comma = "" if number == len(names) - 1 else ","
        page.raw(f'.BR "{escape(title)}" ({section}{comma}')
