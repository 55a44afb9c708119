"""GRUB's ``user.cfg``: the menuentries of a host that boots UKIs with GRUB, between text that is not ours."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bootc_fast.boot.loaders.entry import MenuEntry, parse_artifact_digest
from bootc_fast.records import dataclass
from bootc_fast.types import BootType

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from bootc_fast.types import VerityDigest

MAX_USER_CFG_BYTES = 1 << 20
"""Largest user.cfg that is read; one menuentry has about 300 bytes."""

ESP_HEADER = b"""
if [ -f ${config_directory}/efiuuid.cfg ]; then
        source ${config_directory}/efiuuid.cfg
fi
"""
"""What bootc begins the file with; the file that is named there sets the variable for the ESP."""

_ESP_VARIABLE = b"EFI_PART_UUID"
_SPACE = b" \t"
_WORD_END = b" \t\r\n;{}"
_CHAINLOADER = re.compile(rb"(?m)^[ \t]*chainloader[ \t]+([^\r\n]*)")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of the file.

    Attributes:
        raw: Its bytes; all chunks in a row are the file.
        entry: The menuentry that it is; None for text between them.
    """

    raw: bytes
    entry: MenuEntry | None = None


class ScriptScanner:
    """Walks over GRUB script, knowing quotes, escapes, comments and braces, and nothing else of it.

    Attributes:
        at: Where it is.
        is_cut: A quote, or a name in braces, had no end.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at: int = 0
        self.is_cut: bool = False

    def read_word(self) -> bytes:
        """Read one argument, without its quotes."""
        out = bytearray()
        data = self.data
        while self.at < len(data) and data[self.at] not in _WORD_END:
            char = data[self.at : self.at + 1]
            self.at += 1
            if char in (b'"', b"'"):
                out += self._read_quoted(char)
            elif char == b"\\" and self.at < len(data):
                out += data[self.at : self.at + 1]
                self.at += 1
            elif char == b"$" and data[self.at : self.at + 1] == b"{":
                end = data.find(b"}", self.at)
                self.is_cut |= end < 0
                end = len(data) - 1 if end < 0 else end
                out += b"$" + data[self.at : end + 1]
                self.at = end + 1
            else:
                out += char
        return bytes(out)

    def _read_quoted(self, quote: bytes) -> bytes:
        out = bytearray()
        data = self.data
        while self.at < len(data) and data[self.at : self.at + 1] != quote:
            if quote == b'"' and data[self.at] == ord("\\") and self.at + 1 < len(data):
                self.at += 1
            out += data[self.at : self.at + 1]
            self.at += 1
        self.is_cut |= self.at >= len(data)
        self.at += 1
        return bytes(out)

    def skip_space(self) -> None:
        """Go on to what is no blank."""
        while self.at < len(self.data) and self.data[self.at] in _SPACE:
            self.at += 1

    def skip_comment(self) -> None:
        """Go on to the line's end."""
        end = self.data.find(b"\n", self.at)
        self.at = len(self.data) if end < 0 else end

    def skip_block(self) -> bool:
        """Skip ``{ … }``; False where it never closes."""
        depth = 0
        at_start = True
        while self.at < len(self.data):
            char = self.data[self.at]
            if char == ord("#") and at_start:
                self.skip_comment()
                continue
            at_start = char in b" \t\r\n;{}"
            if char in b"{}":
                depth += 1 if char == ord("{") else -1
                self.at += 1
                if depth == 0:
                    return True
            elif char in _WORD_END:
                self.at += 1
            else:
                self.read_word()
        return False


def read_menuentry(scanner: ScriptScanner) -> tuple[list[bytes], int] | None:
    """Read a menuentry behind its keyword; returns its arguments and its end, None where it is malformed."""
    arguments: list[bytes] = []
    while True:
        scanner.skip_space()
        if scanner.at >= len(scanner.data) or scanner.data[scanner.at] in b"\r\n;}":
            return None
        if scanner.data[scanner.at] == ord("{"):
            break
        arguments.append(scanner.read_word())
    if not arguments or not scanner.skip_block():
        return None
    scanner.skip_space()
    for line_end in (b"\r\n", b"\n"):
        if scanner.data.startswith(line_end, scanner.at):
            scanner.at += len(line_end)
            break
    return arguments, scanner.at


def _make_entry(arguments: list[bytes], raw: bytes, known: Collection[VerityDigest]) -> MenuEntry:
    match = _CHAINLOADER.search(raw)
    path = ScriptScanner(match[1]).read_word() if match else None
    digest = parse_artifact_digest(path) if path else None
    menu_id = None
    for i, argument in enumerate(arguments):
        if argument == b"--id" and i + 1 < len(arguments):
            menu_id = arguments[i + 1]
        elif argument.startswith(b"--id="):
            menu_id = argument.removeprefix(b"--id=")
    title = arguments[0]
    return MenuEntry(
        file_name=b"user.cfg",
        raw=raw,
        digest=digest,
        is_own=digest is not None and digest in known,
        boot_type=BootType.UKI,
        title=title,
        uki=path,
        is_bootable=True,
        is_grub_bootable=True,
        is_grub_linux=True,
        menu_id=menu_id if menu_id is not None else title,
    )


def parse_user_cfg(raw: bytes, *, known: Collection[VerityDigest]) -> tuple[Chunk, ...]:
    """Split ``user.cfg`` into menuentries and the text between them; never fails.

    Menuentries inside submenus are text: GRUB shows them one level down, where none of ours are.

    Source:
        Spec host.md, "Boot entries"; GRUB manual, "Shell-like scripting".
    """
    scanner = ScriptScanner(raw)
    chunks: list[Chunk] = []
    text_start = 0
    at_command = True
    while scanner.at < len(raw):
        start = scanner.at
        char = raw[start]
        if char == ord("#") and (at_command or raw[start - 1] in _WORD_END):
            scanner.skip_comment()
        elif char in _WORD_END:
            at_command = at_command if char in _SPACE else True
            scanner.at += 1
        else:
            word = scanner.read_word()
            found = None
            if at_command and word == b"submenu":
                read_menuentry(scanner)
            elif at_command and word == b"menuentry":
                found = read_menuentry(scanner)
            at_command = word in (b"then", b"else", b"do") or found is not None
            if found is not None:
                line_start = raw.rfind(b"\n", 0, start) + 1
                start = line_start if not raw[line_start:start].strip(_SPACE) else start
                start = max(start, text_start)
                if start > text_start:
                    chunks.append(Chunk(raw[text_start:start]))
                body = raw[start : scanner.at]
                chunks.append(Chunk(body, _make_entry(found[0], body, known)))
                text_start = scanner.at
    if text_start < len(raw):
        chunks.append(Chunk(raw[text_start:]))
    return tuple(chunks)


def needs_esp(menuentry: bytes) -> bool:
    """Whether a menuentry finds the ESP by bootc's variable."""
    return _ESP_VARIABLE in menuentry


def sets_esp(text: bytes) -> bool:
    """Whether a text of GRUB's sets the variable by which bootc's menuentries find the ESP."""
    return b"efiuuid.cfg" in text or _ESP_VARIABLE + b"=" in text


def _ensure_line_end(raw: bytes) -> bytes:
    return raw if raw.endswith(b"\n") else raw + b"\n"


def render_user_cfg(chunks: Sequence[Chunk], wanted: Sequence[MenuEntry]) -> bytes:
    """Put our menuentries into the places that ours had; everything else stays where it is.

    Args:
        chunks: The file as it is.
        wanted: Our menuentries in their new order; with more than before, the new ones go to the first place, with
            fewer, the last places vanish. A file without a place gets them at its end.
    """
    places = [i for i, chunk in enumerate(chunks) if chunk.entry is not None and chunk.entry.is_own]
    extra = max(0, len(wanted) - len(places))
    groups: dict[int, Sequence[MenuEntry]] = {
        place: wanted[: extra + 1] if n == 0 else wanted[extra + n : extra + n + 1] for n, place in enumerate(places)
    }
    out: list[bytes] = []
    for i, chunk in enumerate(chunks):
        if i not in groups:
            out.append(chunk.raw)
            continue
        out.extend(_ensure_line_end(entry.raw) for entry in groups[i])
    if not places:
        if out and wanted:
            out[-1] = _ensure_line_end(out[-1])
        out.extend(_ensure_line_end(entry.raw) for entry in wanted)
    return b"".join(out)
