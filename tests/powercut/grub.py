"""What GRUB makes of its files in a state: its entries, ``custom.cfg``, what counts boots, the environment block."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loader_emulation import MENUENTRY
from powercut.hosts import ADMINS_VARIABLE
from unit.boot.counting.grub_machine import HEADER, DamagedError, GrubMachine

if TYPE_CHECKING:
    from collections.abc import Mapping

CUSTOM, ENVIRONMENT = "grub2/custom.cfg", "grub2/grubenv"
_BLOCK = re.compile(rb"### BEGIN bootc-fast ###\n[^\0]*?### END bootc-fast ###\n")
_VARIABLE = re.compile(rb"[a-z_]+=[^\n\0]*")


@dataclass(frozen=True)
class _Menuentry:
    title: bytes
    text: bytes
    menu_id: bytes | None = None
    file_name: bytes = b""


@dataclass
class _Volume:
    """The files of a state, as `GrubMachine` reads a volume; what GRUB writes stays here."""

    files: dict[str, bytes | None]

    def read_file(self, path: bytes, _max_bytes: int) -> bytes | None:
        return self.files.get(path.decode())

    def open_directory(self, _path: bytes) -> _Volume:
        return self

    def close(self) -> None:
        """Nothing is open."""

    def overwrite(self, name: bytes, data: bytes) -> None:
        self.files[f"grub2/{name.decode()}"] = data


@dataclass
class _Grub(GrubMachine):
    """With a reader of menuentries that is not the product's."""

    menu: list[_Menuentry] = field(default_factory=list)

    def _list_menu(self) -> Any:
        return self.menu


def find_started(files: Mapping[str, bytes | None]) -> bytes | None:
    """Return the menuentry that GRUB starts, counted where it counts; the first where nothing in its files chooses.

    Raises:
        DamagedError: GRUB stops at something.
    """
    text = (files.get("grub2/user.cfg") or b"").decode("latin-1")
    menu = [_Menuentry(one[1].encode("latin-1"), one[0].encode("latin-1")) for one in MENUENTRY.finditer(text)]
    if "grub2/grub.cfg" not in files:
        return menu[0].text if menu else None
    machine = _Grub(_Volume(dict(files)), None, (), menu=menu)  # type: ignore[arg-type]
    chosen: Any = machine.boot()
    return None if chosen is None else chosen.text


def judge_files(files: Mapping[str, bytes | None], texts: Mapping[str, str]) -> list[str]:
    """Say what is wrong with ``custom.cfg``, where an admin's commands stay, and with the environment block."""
    problems = []
    if CUSTOM in texts:
        before, raw = texts[CUSTOM].encode("latin-1"), files.get(CUSTOM) or b""
        rest = raw.removeprefix(before)
        if not raw.startswith(before) or (rest and not _BLOCK.fullmatch(rest)):
            problems.append("custom.cfg is not an admin's text and our block")
    if ENVIRONMENT in texts:
        raw = files.get(ENVIRONMENT) or b""
        lines = raw.removeprefix(HEADER).rstrip(b"#").split(b"\n")
        if len(raw) != len(texts[ENVIRONMENT]) or not raw.startswith(HEADER) or lines.pop():
            problems.append("grubenv is no environment block")
        elif not all(_VARIABLE.fullmatch(line) for line in lines):
            problems.append("grubenv: a variable is torn")
        elif ADMINS_VARIABLE in texts[ENVIRONMENT] and ADMINS_VARIABLE.strip().encode() not in lines:
            problems.append("grubenv: an admin's variable is lost")
    return problems


__all__ = ["CUSTOM", "ENVIRONMENT", "DamagedError", "find_started", "judge_files"]
