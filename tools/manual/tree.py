"""The command line as plain data: commands below commands, options, and what each of them takes."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field

from bootc_fast.cli.parser import COMMANDS, build_parser

# What an argument takes, by the name that help has for it; completions offer that.
_KINDS = {
    "FILE": "file", "IMAGE": "file", "PATH": "file", "ROOTFS": "file", "P": "file", "N": "file", "C": "dir", "R": "dir",
    "DIR": "dir", "DEPLOYMENT": "deployment", "[PATTERN=]STRATEGY": "strategy", "current|new": "side",
    "SECONDS": "none", "COUNT": "none", "FD": "none", "HEX": "none", "BYTES": "none", "1": "none",
}  # fmt: skip
WORDS = {"strategy": ("fail", "current", "new"), "side": ("current", "new")}


@dataclass(frozen=True)
class Argument:
    """An option or a positional argument.

    Attributes:
        names: ``--to``; empty for a positional one.
        metavar: What help calls its value; empty where it takes none.
        nargs: As argparse has it.
        kind: ``file``, ``dir``, ``deployment``, ``words`` or ``none``.
        words: What may stand there.
        text: Help.
    """

    names: tuple[str, ...]
    metavar: str
    nargs: str
    kind: str
    words: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Verb:
    """A command.

    Attributes:
        words: Below ``bootc-fast``: ``("etc", "diff")``; empty for the program itself.
        aliases: Other names of its last word.
        summary: One line.
        description: Paragraphs.
        epilog: Examples, and paragraphs.
        arguments: In the order of help.
        verbs: Below it.
    """

    words: tuple[str, ...]
    aliases: tuple[str, ...]
    summary: str
    description: str
    epilog: str
    arguments: tuple[Argument, ...]
    verbs: tuple[Verb, ...] = field(default=())

    @property
    def prog(self) -> str:
        """As it is typed."""
        return " ".join(("bootc-fast", *self.words))


def read_tree() -> Verb:
    """Read the whole parser."""
    parser = build_parser(complete=True)
    aliases = {command.name: command.aliases for command in COMMANDS}
    return _read(parser, (), (), "finish and undo updates of bootc hosts", aliases)


def _read(
    parser: argparse.ArgumentParser,
    words: tuple[str, ...],
    aliases: tuple[str, ...],
    summary: str,
    known: dict[str, tuple[str, ...]],
) -> Verb:
    arguments, verbs = [], []
    for action in parser._actions:  # noqa: SLF001 argparse has no public way to list what a parser has
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}  # noqa: SLF001
            for name, summary_below in helps.items():
                others = known.get(name, ()) if not words else ()
                verbs.append(_read(action.choices[name], (*words, name), others, summary_below, known))
        elif action.help != argparse.SUPPRESS:
            arguments.append(_read_argument(action))
    description, epilog = parser.description or "", parser.epilog or ""
    return Verb(words, aliases, summary, description, epilog, tuple(arguments), tuple(verbs))


def _read_argument(action: argparse.Action) -> Argument:
    names = tuple(action.option_strings)
    text = (action.help or "").replace("%(default)s", str(action.default))
    if names and action.nargs == 0:
        return Argument(names, "", "", "none", (), text)
    choices = tuple(map(str, action.choices or ()))
    metavar = str(action.metavar or ("|".join(choices) if choices else action.dest.upper()))
    # A name that is missing here would complete nothing, silently: KeyError.
    kind = "words" if choices else _KINDS[metavar]
    words = choices or WORDS.get(kind, ())
    return Argument(names, metavar, str(action.nargs or ""), "words" if words else kind, words, text)
