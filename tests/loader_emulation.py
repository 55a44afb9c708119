"""Boot loaders for tests, written from their sources and apart from ``bootc_fast.boot``: which entry boots next?

`unit/boot/test_loader_emulation.py` checks them with the tables that the program's own rules are checked with.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, field
from functools import cmp_to_key
from typing import TYPE_CHECKING

from bootc_fast.types import Loader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MENUENTRY = re.compile(r'^menuentry "([^"]*)".*?^\}', re.MULTILINE | re.DOTALL)
DIGEST = re.compile(r"[0-9a-f]{128}|[0-9a-f]{64}")


def _sign(left: int | bool | str, right: int | bool | str) -> int:  # noqa: FBT001 - compared as C does
    return (left > right) - (left < right)  # type: ignore[operator]


def compare_uapi(a: str, b: str) -> int:
    """systemd ``strverscmp_improved``."""
    i, j = 0, 0
    a, b = a + "\0", b + "\0"

    def end(text: str, at: int, is_part: Callable[[str], bool]) -> int:
        while is_part(text[at]):
            at += 1
        return at

    def is_junk(char: str) -> bool:
        return char != "\0" and not (char.isascii() and char.isalnum()) and char not in "~-^."

    while True:
        i, j = end(a, i, is_junk), end(b, j, is_junk)
        for separator in "~\0-^.":
            if separator == "\0":
                if "\0" in (a[i], b[j]):
                    return _sign(a[i], b[j])
            elif separator in (a[i], b[j]):
                if a[i] != b[j]:
                    return -1 if a[i] == separator else 1
                i, j = i + 1, j + 1
        kind = str.isdigit if a[i].isdigit() or b[j].isdigit() else str.isalpha
        next_i, next_j = end(a, i, kind), end(b, j, kind)
        left, right = a[i:next_i], b[j:next_j]
        if kind is str.isdigit:
            order = _sign(bool(left), bool(right)) or _sign(int(left or 0), int(right or 0))
        else:
            order = _sign(left, right)
        if order:
            return order
        i, j = next_i, next_j


def compare_rpm(a: str, b: str) -> int:
    """Fedora's GRUB ``vercmp``: rpmvercmp with tilde and plus."""
    while a or b:
        a, b = re.sub(r"^[^A-Za-z0-9~+]+", "", a), re.sub(r"^[^A-Za-z0-9~+]+", "", b)
        if "~" in (a[:1], b[:1]):
            if a[:1] != b[:1]:
                return -1 if a[:1] == "~" else 1
            a, b = a[1:], b[1:]
            continue
        if "+" in (a[:1], b[:1]):
            if not a or not b:
                return _sign(bool(a), bool(b))
            if a[:1] != b[:1]:
                return -1 if a[:1] == "+" else 1
            a, b = a[1:], b[1:]
            continue
        if not a or not b:
            break
        pattern = r"[0-9]*" if a[0].isdigit() else r"[A-Za-z]*"
        left, right = (re.match(pattern, text)[0] for text in (a, b))  # type: ignore[index]
        if not right:
            return 1 if a[0].isdigit() else -1
        order = _sign(int(left), int(right)) if a[0].isdigit() else _sign(left, right)
        if order:
            return order
        a, b = a[len(left) :], b[len(right) :]
    return _sign(bool(a), bool(b))


def _order(text: str, at: int) -> int:
    if at >= len(text):
        return -1
    char = text[at]
    if char.isdigit():
        return 0
    if char == "~":
        return -2
    return ord(char) if char.isascii() and char.isalpha() else ord(char) + 256


def _compare_pass(a: str, b: str) -> int:
    i = j = 0
    while i < len(a) or j < len(b):
        while (i < len(a) and not a[i].isdigit()) or (j < len(b) and not b[j].isdigit()):
            if _order(a, i) != _order(b, j):
                return _sign(_order(a, i), _order(b, j))
            i, j = i + 1, j + 1
        left, right = re.compile(r"[0-9]*").match(a, i), re.compile(r"[0-9]*").match(b, j)
        assert left is not None
        assert right is not None
        order = _sign(int(left[0] or 0), int(right[0] or 0))
        if order:
            return order
        i, j = left.end(), right.end()
    return 0


def compare_file_names(a: str, b: str) -> int:
    """gnulib ``filevercmp``, which GRUB 2.14 took over."""
    if a == b:
        return 0
    for special in ("", ".", ".."):
        if special in (a, b):
            return -1 if a == special else 1
    if a.startswith(".") != b.startswith("."):
        return -1 if a.startswith(".") else 1
    suffix = re.compile(r"(?:\.[A-Za-z~][A-Za-z0-9~]*)*\Z")
    ends = [suffix.search(text) for text in (a, b)]
    left, right = (text[: found.start()] for text, found in zip((a, b), ends, strict=True) if found)
    return _compare_pass(left, right) or _compare_pass(a, b)


@dataclass(frozen=True)
class Entry:
    """One line of the menu; `digest` is None where it names none."""

    name: str
    text: str
    values: dict[str, str] = field(compare=False)

    @property
    def digest(self) -> str | None:
        named = re.search(r"composefs=\??(\w+)", self.text)
        found = DIGEST.search(named[1] if named else self.values.get("uki", self.values.get("efi", "")))
        return found[0] if found else None


def make_entry(name: str, raw: bytes) -> Entry:
    lines = [line.split(None, 1) for line in raw.decode(errors="replace").splitlines() if line.strip()]
    return Entry(name, raw.decode(errors="replace"), {line[0]: line[1] for line in lines if len(line) > 1})


def _counters(entry: Entry) -> tuple[int, int] | None:
    found = re.search(r"\+(\d+)(?:-(\d+))?\.conf$", entry.name)
    return (int(found[1]), int(found[2] or 0)) if found else None


def compare_systemd(one: Entry, two: Entry) -> int:
    """systemd-boot ``boot_entry_compare``."""
    left, right = _counters(one), _counters(two)
    exhausted = _sign(bool(left and not left[0]), bool(right and not right[0]))
    keyed = -_sign("sort-key" in one.values, "sort-key" in two.values)
    order = exhausted or keyed
    if not order and "sort-key" in one.values:
        for key in ("sort-key", "machine-id"):
            pair = [
                (value is not None, [char for char in value or "" if ord(char) < 0x10000 and char != "\ufffd"])
                for value in (one.values.get(key), two.values.get(key))
            ]
            order = order or (pair[0] > pair[1]) - (pair[0] < pair[1])
        order = order or -compare_uapi(one.values.get("version", ""), two.values.get("version", ""))
    names = [re.sub(r"\+\d+(?:-\d+)?(?=\.conf$)", "", entry.name).lower() for entry in (one, two)]
    order = order or -compare_uapi(*names)
    return order or (0 if not left or not right else -_sign(left[0], right[0]) or _sign(left[1], right[1]))


def compare_fedora(one: Entry, two: Entry) -> int:
    """Fedora's ``blscfg``: name, version, release."""

    def split(name: str) -> list[str]:
        parts = name.removesuffix(".conf").rsplit("-", 2)
        return parts + [""] * (3 - len(parts))

    pairs = zip(split(one.name), split(two.name), strict=True)
    return -next((order for a, b in pairs if (order := compare_rpm(a, b))), 0)


def compare_upstream(one: Entry, two: Entry) -> int:
    """Upstream's ``blscfg``."""
    left, right = (entry.name.encode().decode("latin-1") for entry in (one, two))  # it compares bytes
    return -compare_file_names(left, right)


RULES = {
    Loader.SYSTEMD_BOOT: (compare_systemd,),
    Loader.GRUB: (compare_fedora, compare_upstream),
    Loader.GRUB_CC: (compare_fedora,),
}


def list_menu(
    loader: Loader, files: Mapping[str, bytes], compare: Callable[[Entry, Entry], int] | None = None
) -> list[Entry]:
    """What the loader shows, in its order.

    Args:
        loader: Which.
        files: Everything on the boot partition, by path from its root.
        compare: Its rule; the first of this loader's where None.
    """
    entries = [
        make_entry(path.rsplit("/", 1)[1], raw)
        for path, raw in files.items()
        if path.startswith("loader/entries/") and path.endswith(".conf") and not _is_hidden(loader, files, raw)
        # Upstream's GRUB alone shows hidden files.
        if compare is compare_upstream or "/." not in path
    ]
    shown = sorted(entries, key=cmp_to_key(compare or RULES[loader][0]))
    if loader is not Loader.GRUB:
        return shown
    cfg = files.get("grub2/user.cfg", b"").decode()
    chunks = [Entry(found[1], found[0], {"efi": found[0], "title": found[1]}) for found in MENUENTRY.finditer(cfg)]
    return [*chunks, *shown]


def _is_hidden(loader: Loader, files: Mapping[str, bytes], raw: bytes) -> bool:
    """systemd-boot leaves out what has no program, or one that is not there."""
    entry = make_entry("", raw)
    program = next((entry.values[key] for key in ("linux", "uki", "efi") if key in entry.values), None)
    return program is None or (loader is Loader.SYSTEMD_BOOT and program.lstrip("/") not in files)


def boot_next(
    loader: Loader,
    files: Mapping[str, bytes],
    variables: Mapping[str, str] | None = None,
    compare: Callable[[Entry, Entry], int] | None = None,
) -> Entry:
    """What boots, overrides included; AssertionError where nothing does."""
    menu = list_menu(loader, files, compare)
    variables = variables or {}
    wanted: list[str] = []
    if loader is Loader.SYSTEMD_BOOT:
        wanted = [variables[name] for name in ("LoaderEntryOneShot", "LoaderEntryDefault") if name in variables]
        conf = files.get("loader/loader.conf", b"").decode()
        wanted += re.findall(r"(?m)^[ \t]*default[ \t]+(.+?)[ \t]*$", conf)[-1:]
        wanted = [variables.get("LoaderEntryLastBooted", "") if one == "@saved" else one for one in wanted]
        for glob in wanted:
            found = [entry for entry in menu if fnmatch.fnmatchcase(entry.name.lower(), glob.lower())]
            if found:
                return found[0]
    elif loader is Loader.GRUB:
        env = dict(re.findall(r"(?m)^(\w+)=(.*)$", files.get("grub2/grubenv", b"").decode()))
        for value in filter(None, (env.get("next_entry"), env.get("saved_entry"))):
            ids = [(entry.name.removesuffix(".conf"), entry.values.get("title")) for entry in menu]
            at = [index for index, names in enumerate(ids) if value in names]
            at += [int(value)] if value.isdigit() and int(value) < len(menu) else []
            if at:
                return menu[at[0]]
    assert menu, "nothing boots"
    return menu[0]
