"""The files in GRUB's directory by which it counts: what is there, why it would not do, and writing it.

Source:
    Spec trial.md, "Counting".
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from bootc_fast.boot.area.directory import FileKind, opened
from bootc_fast.boot.area.replace import list_new_names, replace_file
from bootc_fast.boot.area.room import has_room_for
from bootc_fast.boot.counting.grub_config import GrubConfig, parse_grub_config
from bootc_fast.boot.counting.grub_script import (
    CUSTOM,
    MAX_CONFIG_BYTES,
    SCRIPT,
    add_block,
    is_script,
    put_fallback,
    render_script,
)
from bootc_fast.boot.counting.records import Fallback
from bootc_fast.boot.entries.settings import MAX_LINKS
from bootc_fast.boot.loaders.entry import MAX_ENTRY_BYTES
from bootc_fast.boot.loaders.grubenv import GRUBENV_BYTES, GRUBENV_HEADER, change_grubenv
from bootc_fast.records import dataclass
from bootc_fast.text import escape_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bootc_fast.boot.area.directory import BootDirectory, BootVolume
    from bootc_fast.boot.counting.records import CountContext
    from bootc_fast.boot.loaders.entry import MenuEntry

_CONFIG = b"grub.cfg"
# Script, custom.cfg and grubenv: each is written beside the old one, and one at a time.
_NEEDED_UNITS = 4


@dataclass(frozen=True, slots=True)
class GrubFiles:
    """GRUB's directory as it is.

    Attributes:
        boot: The boot directory.
        home: GRUB's directory there, which has ``grub.cfg``.
        config: What that does.
        script: Our script; None where there is none.
        custom: ``custom.cfg``; None where there is none.
        grubenv: The environment block; None where there is none.
        env_home: The directory in which it is, links followed.
        env_name: Its name there.
        odd: Why one of them cannot be written, in words, by its name.
    """

    boot: BootVolume
    home: bytes
    config: GrubConfig
    script: bytes | None
    custom: bytes | None
    grubenv: bytes | None
    env_home: bytes
    env_name: bytes
    odd: Mapping[bytes, str]

    def list_changes(self, tries: int) -> list[bytes]:
        """List which of script and ``custom.cfg`` are not as they have to be."""
        changes = [SCRIPT] if self.script != render_script(tries) else []
        try:
            changes += [CUSTOM] if self.custom != add_block(self.custom) else []
        except ValueError:
            changes.append(CUSTOM)
        # A short or a long block has to be written anew even where its variables are right.
        return [*changes, *([self.env_name] if len(self.grubenv or b"") != GRUBENV_BYTES else [])]

    def find_trouble(self, values: Mapping[bytes, bytes | None], tries: int, *, is_real: bool) -> str | None:
        """Say why GRUB could not be made to count; None where it can. Writes nothing.

        Args:
            values: The variables to write.
            tries: For the script.
            is_real: What the boot directory lies on is what GRUB will find.

        Raises:
            OSError: It cannot be told.
        """
        where = f"/{escape_bytes(self.home)}"
        if not self.config.sources_custom:
            return f"{where}/grub.cfg does not read custom.cfg"
        if self.config.chooses_after:
            return f"{where}/grub.cfg sets `default` after it has read custom.cfg"
        if self.script is not None and not is_script(self.script):
            return f"{where}/{SCRIPT.decode()} is somebody else's"
        try:
            add_block(self.custom)
        except ValueError as error:
            return f"{where}/{CUSTOM.decode()}: {error}"
        try:
            change_grubenv(self.grubenv, values)
        except ValueError as error:
            return f"{where}/grubenv: {error}"
        return (self.boot.why_not_in_place() if is_real else None) or self._find_obstacle(tries)

    def _find_obstacle(self, tries: int) -> str | None:
        """Say what keeps us from writing."""
        changes = {*self.list_changes(tries), self.env_name}
        for name, why in self.odd.items():
            if name in changes:
                return f"/{escape_bytes(self.home)}/{escape_bytes(name)}: {why}"
        for place in dict.fromkeys((self.home, self.env_home)):
            names = sorted(changes - {self.env_name} if place != self.env_home else changes)
            with opened(self.boot, place) as directory:
                new = list(dict.fromkeys(one for name in names for one in list_new_names(directory, name)))
                fixed = next((name for name in (b".", *names) if _is_fixed(directory, name)), None)
            if fixed is not None:
                return f"/{escape_bytes(place)}/{escape_bytes(fixed)} has the attribute i or a (chattr)"
            if not has_room_for(self.boot, place, new):
                return f"/{escape_bytes(place)} has no room for more names"
        free, unit = self.boot.free_bytes()
        return "the boot partition is full" if free < _NEEDED_UNITS * unit else None

    def write_script(self, tries: int) -> None:
        """Write the script, and then the block in ``custom.cfg`` that runs it, where they are not there.

        Raises:
            OSError: The old one is in place.
            ValueError: ``custom.cfg`` takes no block.
        """
        script, custom = render_script(tries), add_block(self.custom)
        if self.script != script:
            replace_file(self.boot, self.home, SCRIPT, script)
        if self.custom != custom:
            replace_file(self.boot, self.home, CUSTOM, custom)

    def plan_fallback(self, entry: MenuEntry | None) -> Fallback:
        """Say what it takes to have ``custom.cfg`` show this menuentry, or none, where ``user.cfg`` is gone."""
        where = f"/{escape_bytes(self.home)}/{CUSTOM.decode()}"
        if entry is not None and not self.config.sources_custom:
            return Fallback(f"/{escape_bytes(self.home)}/grub.cfg does not read custom.cfg")
        if CUSTOM in self.odd:
            # Of what is no file nothing is ours.
            return Fallback(f"{where}: {self.odd[CUSTOM]}" if entry is not None else "")
        try:
            wanted = put_fallback(self.custom, entry)
        except ValueError as error:
            return Fallback(f"{where}: {error}")
        if wanted is None or wanted == self.custom:
            return Fallback()
        return Fallback(write=lambda: replace_file(self.boot, self.home, CUSTOM, wanted))

    def write_variables(self, values: Mapping[bytes, bytes | None]) -> list[str]:
        """Replace the environment block; returns warnings.

        Raises:
            OSError: The old one is in place.
            ValueError: There is no room in it.
        """
        replace_file(self.boot, self.env_home, self.env_name, change_grubenv(self.grubenv, values))
        raw = self.grubenv
        if not raw or raw.startswith(GRUBENV_HEADER):
            return []
        return [f"/{escape_bytes(self.home)}/grubenv was no environment block: a new one is in its place"]


def find_grub_files(context: CountContext) -> GrubFiles | str:
    """Read GRUB's files, or say why there is nothing to count with.

    Raises:
        OSError: Something cannot be read.
    """
    home = context.menu.rule.home
    where = f"/{escape_bytes(home)}"
    directory = context.boot.open_directory(home)
    if directory is None:
        return f"{where} is not there"
    directory.close()
    raw = context.boot.read_file(home + b"/" + _CONFIG, MAX_CONFIG_BYTES)
    if raw is None:
        return f"{where}/{_CONFIG.decode()} is not there"
    place = _find_grubenv(context.boot, home)
    if isinstance(place, str):
        return f"{where}/grubenv {place}"
    env_home, env_name = place
    odd: dict[bytes, str] = {}
    with opened(context.boot, home) as directory:
        script = _read(directory, SCRIPT, odd)
        custom = _read(directory, CUSTOM, odd) if CUSTOM not in odd else None
        if directory.find_kind(CUSTOM) is FileKind.LINK:
            custom = context.boot.read_file(home + b"/" + CUSTOM, MAX_CONFIG_BYTES)
    env_directory = context.boot.open_directory(env_home)
    if env_directory is None:
        return f"{where}/grubenv is a link that leads to nothing"
    env_directory.close()
    with opened(context.boot, env_home) as directory:
        grubenv = _read(directory, env_name, odd, max_bytes=MAX_ENTRY_BYTES)
    files = (script, custom, grubenv, env_home, env_name)
    return GrubFiles(context.boot, home, parse_grub_config(raw), *files, odd)


def _read(
    directory: BootDirectory, name: bytes, odd: dict[bytes, str], *, max_bytes: int = MAX_CONFIG_BYTES
) -> bytes | None:
    """Read a file that is to be replaced; None, and a reason, where it is none."""
    kind = directory.find_kind(name)
    if kind is None:
        return None
    if kind is not FileKind.FILE:
        odd[name] = "it is a link" if kind is FileKind.LINK else "it is no file"
        return None
    return directory.read(name, max_bytes)


def _is_fixed(directory: BootDirectory, name: bytes) -> bool:
    is_there = name == b"." or directory.find_kind(name) in (FileKind.FILE, FileKind.DIRECTORY)
    return is_there and directory.is_immutable(name)


def _find_grubenv(boot: BootVolume, home: bytes) -> tuple[bytes, bytes] | str:
    """Follow the links of ``grubenv`` as GRUB does, which knows this file system and no mounts.

    Returns:
        The directory and the name; or what it is, in words.
    """
    path = home.strip(b"/") + b"/grubenv"
    for _step in range(MAX_LINKS):
        target = boot.read_link(path)
        if target is None:
            head, _slash, name = path.rpartition(b"/")
            return head, name
        if target.startswith(b"/"):
            return "is an absolute link, which GRUB follows from another root"
        path = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if path.startswith(b".."):
            return "is a link that leaves the boot directory"
    return "is a link to links"
