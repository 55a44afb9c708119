"""Whether a host's ``grub.cfg`` lets ``custom.cfg`` choose what boots, as far as its text tells.

Source:
    bootupd, ``src/grub2``: its static configuration sources ``custom.cfg`` last; GRUB, ``util/grub.d/41_custom.in``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bootc_fast.boot.counting.grub_script import CUSTOM, sets_default
from bootc_fast.boot.loaders.grub_commands import list_commands
from bootc_fast.records import dataclass

if TYPE_CHECKING:
    from bootc_fast.boot.loaders.grub_commands import Command

_PLACES = re.compile(rb"\$(?:prefix|config_directory|\{prefix\}|\{config_directory\})")
_SOURCES = frozenset({b"source", b"."})
# The section that bootupd makes of greenboot's file; one of its commands can be glued to the mark of its end.
_GREENBOOT = re.compile(rb"(?m)^###[ \t]*BEGIN[ \t]+\S*greenboot")
_COUNTER = b"boot_counter"


@dataclass(frozen=True, slots=True)
class GrubConfig:
    """What ``grub.cfg`` does.

    Attributes:
        sources_custom: It reads ``custom.cfg`` beside it.
        chooses_after: It chooses what boots after that again.
        counts_boots: It counts boots itself, as greenboot's users have it.
        adds_items: The menu has items of its own text before ``custom.cfg`` is read, and before or between those of
            ``user.cfg`` and of the entries: places in the menu are not known.
    """

    sources_custom: bool
    chooses_after: bool
    counts_boots: bool
    adds_items: bool


def parse_grub_config(raw: bytes) -> GrubConfig:
    """Tell what ``grub.cfg`` does; never fails.

    What stands in a condition counts as done: who puts ``custom.cfg`` into ``if [ -f … ]`` means the same.
    """
    commands = list_commands(raw)
    at = next((number for number, command in enumerate(commands) if _is_custom(command)), None)
    after = commands[at + 1 :] if at is not None else []
    own = [number for number, command in enumerate(commands) if command.is_item]
    read = [number for number, command in enumerate(commands) if _reads_entries(command)]
    return GrubConfig(
        sources_custom=at is not None,
        chooses_after=any(map(sets_default, after)),
        counts_boots=_counts(raw, commands),
        adds_items=bool(own and read) and own[0] < read[-1],
    )


def _is_custom(command: Command) -> bool:
    return _is_source_of(command, CUSTOM)


def _is_source_of(command: Command, name: bytes) -> bool:
    if command.name not in _SOURCES or not command.words[1:]:
        return False
    place, _slash, found = command.words[1].rpartition(b"/")
    return found == name and _PLACES.fullmatch(place) is not None


def _reads_entries(command: Command) -> bool:
    return command.name == b"blscfg" or _is_source_of(command, b"user.cfg")


def _counts(raw: bytes, commands: list[Command]) -> bool:
    if _GREENBOOT.search(raw):
        return True
    return any(command.words[:2] == (b"decrement", _COUNTER) for command in commands)
