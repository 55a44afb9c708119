"""GRUB's words: it makes a script of an entry, so that blanks split a value and ``$`` stands for a variable.

Source:
    GRUB ``blscfg.c`` (Fedora's) and ``blsuki.c`` (2.14): ``linux ($root)VALUE OPTIONS``, ``initrd ($root)VALUE …``;
    GRUB manual, "Shell-like scripting".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bootc_fast.boot.loaders.entry import parse_text
from bootc_fast.records import dataclass, replace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bootc_fast.boot.loaders.entry import MenuEntry

_END = b";&|<>"
_VARIABLE = re.compile(rb"\$(?:\{(?P<braced>[^}]*)\}|(?P<name>[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[?@*#]))")
_ESCAPED = re.compile(rb"\\.", re.DOTALL)
_ESCAPED_OR_VARIABLE = re.compile(_ESCAPED.pattern + b"|" + _VARIABLE.pattern, re.DOTALL)


@dataclass(frozen=True, slots=True)
class GrubWord:
    """One word of a command.

    Attributes:
        text: Without quotes; a variable of which nothing is known stays as it is written.
        is_known: It has no such variable, and names a file of the partition that the entry is on.
    """

    text: bytes
    is_known: bool = True


class _Splitter:
    def __init__(self, variables: Mapping[bytes, bytes]) -> None:
        self.variables = variables
        self.words: list[GrubWord] = []
        self.text: bytearray | None = None
        self.is_known = True

    def end_word(self) -> None:
        if self.text is not None:
            word = bytes(self.text)
            self.words.append(GrubWord(word, self.is_known and not word.startswith(b"(")))
        self.text, self.is_known = None, True

    def add(self, text: bytes) -> None:
        self.text = (self.text or bytearray()) + text

    def add_variable(self, match: re.Match[bytes], *, is_quoted: bool) -> None:
        name = match["name"] if match["name"] is not None else match["braced"]
        value = self.variables.get(name)
        if value is None:
            self.add(match[0])
            self.is_known = False
        elif is_quoted:
            self.add(value)
        else:
            self.add_split(value)

    def add_split(self, value: bytes) -> None:
        """A variable outside of quotes is split at blanks, and nothing where it is empty."""
        parts = re.split(rb"[ \t]+", value)
        for number, part in enumerate(parts):
            if number:
                self.end_word()
            if part:
                self.add(part)

    def add_block(self, text: bytes) -> None:
        self.end_word()
        self.add(text)
        self.is_known = False
        self.end_word()

    def add_quoted(self, inside: bytes) -> None:
        self.add(b"")
        at = 0
        while at < len(inside):
            match = _VARIABLE.match(inside, at)
            if match is not None:
                self.add_variable(match, is_quoted=True)
                at = match.end()
                continue
            at += inside[at : at + 1] == b"\\" and inside[at + 1 : at + 2] in (b"$", b'"', b"\\")
            self.add(inside[at : at + 1])
            at += 1


def _find_quote_end(value: bytes, at: int) -> int:
    """Where a double-quoted part ends that begins before `at`; the value's end where it does not."""
    while at < len(value) and value[at : at + 1] != b'"':
        at += 2 if value[at : at + 1] == b"\\" else 1
    return min(at, len(value))


def split_words(value: bytes, variables: Mapping[bytes, bytes] | None = None) -> tuple[GrubWord, ...]:
    """Split a value as GRUB's script does.

    What GRUB does not take for a sentence, so that it does not run the command (a quote that is open, a ``$`` without a
    name), stays as it is written: it is looked for, and missing.

    Args:
        value: As it stands in the entry, quotes too.
        variables: Those whose value is known; all others stay as they are written.
    """
    run = _Splitter(variables or {})
    at = 0
    while at < len(value):
        char = value[at : at + 1]
        match = _VARIABLE.match(value, at)
        if char in (b" ", b"\t"):
            run.end_word()
        elif match is not None:
            run.add_variable(match, is_quoted=False)
            at = match.end() - 1
        elif char == b"'":
            end = value.find(b"'", at + 1)
            end = len(value) if end < 0 else end
            run.add(value[at + 1 : end])
            at = end
        elif char == b'"':
            end = _find_quote_end(value, at + 1)
            run.add_quoted(value[at + 1 : end])
            at = end
        elif char == b"\\":
            run.add(value[at + 1 : at + 2])
            at += 1
        elif char == b"{":
            # A block is an argument of its own, also without a blank before it.
            end = value.find(b"}", at)
            end = len(value) - 1 if end < 0 else end
            run.add_block(value[at : end + 1])
            at = end
        elif char in (b";", b"&", b"|", b"<", b">") or (char == b"#" and run.text is None and run.words):
            break
        else:
            run.add(char)
        at += 1
    run.end_word()
    return tuple(run.words)


def expand_variables(text: str, variables: Mapping[bytes, bytes]) -> str:
    """Put the values of variables in; one of which nothing is known stays as it is written."""

    def value_of(match: re.Match[bytes]) -> bytes:
        if match[0].startswith(b"\\"):
            return match[0]
        name = match["name"] if match["name"] is not None else match["braced"]
        return variables.get(name, match[0])

    return _ESCAPED_OR_VARIABLE.sub(value_of, text.encode("utf-8", "surrogateescape")).decode(
        "utf-8", "surrogateescape"
    )


def has_variable(text: str) -> bool:
    """Say whether GRUB would put the value of a variable in."""
    return _VARIABLE.search(_ESCAPED.sub(b"", text.encode("utf-8", "surrogateescape"))) is not None


def resolve_entry(entry: MenuEntry, variables: Mapping[bytes, bytes] | None = None) -> MenuEntry:
    """Return an entry with the files that GRUB loads for it.

    Args:
        entry: As it was read, one value a path.
        variables: Of the environment block, where they are to be put in.

    Returns:
        Its kernel is the first word of ``linux``, what follows are arguments; each word of ``initrd``, ``devicetree``
        and the like is a file. What a variable stands for is in `unknown`.
    """
    if entry.menu_id is not None:
        return entry
    text = parse_text(entry.raw)
    found = text.raw_values[: text.grub_fields]
    kernel = next((split_words(value, variables) for key, value in found if key == b"linux"), ())
    words = {
        kind: [word for key, value in found if key in keys for word in split_words(value, variables)]
        for kind, keys in (("initrd", (b"initrd",)), ("other", (b"devicetree",)))
    }
    unknown = [word.text for word in (*kernel[:1], *words["initrd"], *words["other"]) if not word.is_known]
    return replace(
        entry,
        linux=kernel[0].text if kernel else entry.linux,
        linux_arguments=tuple(word.text for word in kernel[1:]),
        initrd=tuple(word.text for word in words["initrd"] if word.is_known),
        others=tuple(word.text for word in words["other"] if word.is_known),
        unknown=tuple(unknown),
    )
