"""The commands of a GRUB script, as far as they can be told without running it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.boot.loaders.user_cfg import ScriptScanner
from bootc_fast.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

_KEYWORDS = frozenset({b"if", b"then", b"elif", b"else", b"while", b"until", b"do", b"!", b"time"})
_OPENS, _CLOSES = frozenset({b"if", b"while", b"until", b"for"}), frozenset({b"fi", b"done"})
_ITEMS = frozenset({b"menuentry", b"submenu"})


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        words: Its words without quotes, the first its name; variables as they are written.
        is_conditional: It stands between ``if`` and ``fi``, or in a loop.
    """

    words: tuple[bytes, ...]
    is_conditional: bool = False

    @property
    def name(self) -> bytes:
        """Its first word."""
        return self.words[0]

    @property
    def is_item(self) -> bool:
        """It makes an item of the menu."""
        return self.name in _ITEMS


def list_commands(raw: bytes) -> list[Command]:
    """List the commands of a script in their order, those in conditions too.

    What a menuentry, a submenu or a function does is not among them: it is not run when the script is read.

    Source:
        GRUB manual, "Shell-like scripting".
    """
    return list(_Walk(raw).run())


def has_open_end(raw: bytes) -> bool:
    """Say whether what follows the script would be part of its last sentence."""
    walk = _Walk(raw)
    for _command in walk.run():
        pass
    return walk.is_open or raw.endswith((b"\\", b"\\\n"))


def find_stray_end(raw: bytes) -> int | None:
    """Return where a script ends something that it has not begun, behind the word; None where it does not."""
    walk = _Walk(raw)
    for _command in walk.run():
        if walk.stray_at is not None:
            break
    return walk.stray_at


class _Walk:
    def __init__(self, raw: bytes) -> None:
        self.scanner = ScriptScanner(raw)
        self.depth = 0
        self.blocks = 0
        self.stray_at: int | None = None

    @property
    def is_open(self) -> bool:
        """Something that was begun has not ended."""
        return self.depth != 0 or self.blocks != 0 or self.scanner.is_cut

    def run(self) -> Iterator[Command]:
        scanner, data = self.scanner, self.scanner.data
        words: list[bytes] = []
        while scanner.at < len(data):
            char = data[scanner.at]
            if char in b" \t":
                scanner.at += 1
            elif char == ord("#"):
                scanner.skip_comment()
            elif char == ord("{") and words and words[0] in (*_ITEMS, b"function"):
                if not scanner.skip_block():
                    self.blocks += 1
            elif char in b"\r\n;{}":
                self.blocks += {ord("{"): 1, ord("}"): -1}.get(char, 0)
                scanner.at += 1
                self._note_stray()
                if words:
                    yield Command(tuple(words), self.depth > 0)
                words = []
            else:
                word = scanner.read_word()
                if words or not self._is_keyword(word):
                    words.append(word)
        if words:
            yield Command(tuple(words), self.depth > 0)

    def _is_keyword(self, word: bytes) -> bool:
        """Say whether a first word is no command; ``for`` counts as one."""
        self.depth += (word in _OPENS) - (word in _CLOSES)
        self._note_stray()
        return word in _KEYWORDS or word in _CLOSES

    def _note_stray(self) -> None:
        if self.stray_at is None and min(self.depth, self.blocks) < 0:
            self.stray_at = self.scanner.at
