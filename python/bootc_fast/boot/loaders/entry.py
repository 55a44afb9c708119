"""Boot Loader Specification type 1 entries: reading their text, and changing their rank without changing else."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Self

from bootc_fast.errors import InvalidStateError
from bootc_fast.machine.cmdline import parse_composefs_arguments, parse_digest
from bootc_fast.records import dataclass, replace
from bootc_fast.text import escape_bytes
from bootc_fast.types import BootType, VerityDigest

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_ENTRY_BYTES = 1 << 20
"""Largest entry file that is read: GRUB ignores larger ones, and a real one has less than 10 KiB."""

ARTIFACT_PREFIX = b"bootc_composefs-"
"""Before the digest in the names of bootc's kernel directories and UKIs; absent in older ones."""

_COUNTERS = re.compile(rb"\+(?P<left>[0-9]+)(?:-(?P<done>[0-9]+))?(?=\.(?:conf|efi)$)", re.IGNORECASE)
_MAX_COUNTER = 0x7FFF_FFFF
_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n|$)")
_OTHER_PATH_KEYS = frozenset({b"devicetree", b"devicetree-overlay", b"extra"})
_LIST_KEYS = frozenset({b"devicetree-overlay"})
"""Several paths in one value, by the Boot Loader Specification."""

_LOADER_KEYS = (b"linux", b"uki", b"efi", b"uki-url")
_MIN_QUOTED_BYTES = 2


@dataclass(frozen=True, slots=True)
class EntryText:
    """The lines of an entry as a loader sees them.

    Attributes:
        fields: Keys and values in the file's order, as systemd-boot reads them.
        grub_fields: How many of them GRUB reads: it stops at the first blank line and at a key without a value.
        raw_values: The same keys, their values with the quotes around them, as GRUB reads them.
    """

    fields: tuple[tuple[bytes, bytes], ...]
    grub_fields: int
    raw_values: tuple[tuple[bytes, bytes], ...] = ()

    def find(self, key: bytes) -> bytes | None:
        """Return the last value of `key`, the one that counts for systemd-boot."""
        return next((value for name, value in reversed(self.fields) if name == key), None)

    def find_all(self, key: bytes) -> tuple[bytes, ...]:
        """Return all values of `key`."""
        return tuple(value for name, value in self.fields if name == key)


@dataclass(frozen=True, slots=True)
class MenuEntry:
    """One entry of the boot menu: a ``.conf`` file, or a menuentry of ``user.cfg``.

    Attributes:
        file_name: Name in ``entries``; for a menuentry ``user.cfg``.
        raw: The file, or the menuentry's text.
        digest: The deployment it boots; None where it names none.
        is_own: `digest` is a deployment that this host has or had.
        boot_type: With a kernel and initrd, or with a UKI.
        title, version, sort_key, machine_id: As in the entry; None where absent.
        linux: Path of the kernel, from the root of the boot partition; None where it has none.
        linux_arguments: What stands behind the kernel's path in its line, for GRUB.
        initrd: Paths of the initrds.
        others: Paths of device trees, their overlays, and extras.
        unknown: What is no literal path: GRUB puts the value of a variable in, or looks on another device. It counts as
            there.
        uki: Path of the UKI or other EFI program.
        is_bootable: systemd-boot would show it: exactly one kind of thing to start, and the file is whole.
        is_grub_bootable: Likewise for Fedora's GRUB, as far as the text says.
        is_grub_linux: Likewise for upstream's GRUB, which looks for a kernel and knows no UKIs in entries.
        tries_left, tries_done: Boot counters in the name; None without.
        missing: Paths that it names and that are not there or empty.
        is_hidden: The loader leaves it out: it is for another machine, or starts the loader itself.
        menu_id: What GRUB knows it by, where that is not the file's name.
    """

    file_name: bytes
    raw: bytes
    digest: VerityDigest | None = None
    is_own: bool = False
    boot_type: BootType = BootType.BLS
    title: bytes | None = None
    version: bytes | None = None
    sort_key: bytes | None = None
    machine_id: bytes | None = None
    linux: bytes | None = None
    initrd: tuple[bytes, ...] = ()
    uki: bytes | None = None
    linux_arguments: tuple[bytes, ...] = ()
    others: tuple[bytes, ...] = ()
    unknown: tuple[bytes, ...] = ()
    is_bootable: bool = False
    is_grub_bootable: bool = False
    is_grub_linux: bool = False
    tries_left: int | None = None
    tries_done: int | None = None
    missing: tuple[bytes, ...] = ()
    is_hidden: bool = False
    menu_id: bytes | None = None

    @property
    def counters(self) -> bytes:
        """The boot counters of its name as they stand there; empty without."""
        found = _COUNTERS.search(self.file_name) if self.tries_left is not None else None
        return b"" if found is None else found[0]

    @property
    def loader_id(self) -> bytes:
        """What systemd-boot calls it: the file's name without counters, in lower case."""
        return strip_counters(self.file_name)

    @property
    def grub_id(self) -> bytes:
        """What GRUB calls it: the file's name without ``.conf``, or a menuentry's ``--id`` or title."""
        return self.menu_id if self.menu_id is not None else self.file_name.removesuffix(b".conf")

    @property
    def needs_uki_key(self) -> bool:
        """Whether only the key ``uki`` says what to start, which systemd-boot knows since version 258."""
        keys = {key for key, _value in parse_text(self.raw).fields}
        return b"uki" in keys and not keys & {b"linux", b"efi"}

    @property
    def paths(self) -> tuple[bytes, ...]:
        """Every file that it names."""
        named = (self.linux, *self.initrd, self.uki, *self.others)
        return tuple(path for path in named if path is not None and path not in self.unknown)

    @property
    def label(self) -> str:
        """Its file name, for people."""
        return escape_bytes(self.menu_id if self.menu_id is not None else self.file_name)


def unquote(value: bytes) -> bytes:
    """Take a pair of quotes off, as systemd-boot does."""
    is_quoted = len(value) >= _MIN_QUOTED_BYTES and value[0] == value[-1] and value[:1] in (b'"', b"'")
    return value[1:-1] if is_quoted else value


def parse_text(raw: bytes) -> EntryText:
    """Split an entry into keys and values.

    Source:
        systemd ``line_get_key_value``: lines end at CR or LF, keys at a space or tab, ``#`` starts a comment line;
        Fedora's GRUB ``read_entry`` and upstream's ``bls_parse_keyvals`` for where GRUB stops.
    """
    fields: list[tuple[bytes, bytes]] = []
    raw_values: list[tuple[bytes, bytes]] = []
    grub_fields: int | None = None
    for line in raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").removesuffix(b"\n").split(b"\n"):
        stripped = line.strip(b" \t")
        if stripped.startswith(b"#"):
            continue
        key, *rest = stripped.replace(b"\t", b" ").split(b" ", 1)
        if not rest:
            grub_fields = len(fields) if grub_fields is None else grub_fields
            continue
        raw_values.append((key, stripped[len(key) + 1 :].strip(b" \t")))
        fields.append((key, unquote(raw_values[-1][1])))
    return EntryText(tuple(fields), len(fields) if grub_fields is None else grub_fields, tuple(raw_values))


def strip_counters(name: bytes) -> bytes:
    """Return what systemd-boot calls an entry of that file name: without counters, in lower case."""
    return _COUNTERS.sub(b"", name).lower()


def parse_counters(file_name: bytes) -> tuple[int, int] | None:
    """Return tries left and done from ``NAME+LEFT-DONE.conf``; None without counters.

    Source:
        systemd-boot ``boot_entry_parse_tries``; UAPI boot loader specification, "Boot counting".
    """
    match = _COUNTERS.search(file_name)
    if match is None:
        return None
    left, done = int(match["left"]), int(match["done"] or b"0")
    return (left, done) if max(left, done) <= _MAX_COUNTER else None


def set_counters(entry: MenuEntry, left: int | None, done: int = 0) -> MenuEntry:
    """Return the entry under the name that has these counters, in the place of what it has; None for none."""
    name = _COUNTERS.sub(b"", entry.file_name)
    if left is not None:
        stem, dot, suffix = name.rpartition(b".")
        name = b"%s+%d-%d%s%s" % (stem, left, done, dot, suffix)
    return replace(entry, file_name=name, tries_left=left, tries_done=None if left is None else done)


def parse_artifact_digest(path: bytes) -> VerityDigest | None:
    """Return the digest that a UKI's file name carries, with or without bootc's prefix and ``.staged``."""
    name = path.replace(b"\\", b"/").rsplit(b"/", 1)[-1].removesuffix(b".staged")
    if not name.lower().endswith(b".efi"):
        return None
    text = name[: -len(b".efi")].removeprefix(ARTIFACT_PREFIX).decode("ascii", "replace")
    try:
        return parse_digest(text, what="UKI name")
    except InvalidStateError:
        return None


class KnownDigests(frozenset[VerityDigest]):
    """Deployments whose boot entries are ours, and which of them have a state directory.

    An entry may name several images, of one file tree in several formats or hashes; the deployment is the one that has
    state, and the others' images lie there without.
    """

    with_state: frozenset[VerityDigest]

    def __new__(cls, known: Collection[VerityDigest], with_state: Collection[VerityDigest]) -> Self:
        """Make it of all, and of those with state."""
        made = super().__new__(cls, known)
        made.with_state = frozenset(with_state)
        return made


def _choose_digest(found: list[VerityDigest], known: Collection[VerityDigest]) -> VerityDigest | None:
    with_state = known.with_state if isinstance(known, KnownDigests) else ()
    for group in (with_state, known):
        digest = next((digest for digest in found if digest in group), None)
        if digest is not None:
            return digest
    return found[0] if found else None


def _find_digest(text: EntryText, uki: bytes | None, known: Collection[VerityDigest]) -> VerityDigest | None:
    if uki is not None:
        return parse_artifact_digest(uki)
    options = b" ".join(text.find_all(b"options")).decode("utf-8", "replace")
    try:
        found = [argument.digest for argument in parse_composefs_arguments(options, what="options")]
    except InvalidStateError:
        return None
    return _choose_digest(found, known)


def parse_entry(file_name: bytes, raw: bytes, *, known: Collection[VerityDigest]) -> MenuEntry:
    """Read an entry; never fails, whatever the bytes are.

    Args:
        file_name: Its name in the directory.
        raw: Its content.
        known: Digests of the deployments that this host has or had; of several in one entry the first that has state
            counts (`KnownDigests`), else the first known.

    Source:
        Spec host.md, "Boot entries"; boot.md, "Reading"; systemd-boot ``boot_entry_add_type1``.
    """
    text = parse_text(raw)
    kinds = {key for key, _value in text.fields if key in _LOADER_KEYS}
    grub_keys = [key for key, _value in text.fields[: text.grub_fields] if key in (b"linux", b"efi")]
    is_whole = b"\0" not in raw
    linux, uki = text.find(b"linux"), text.find(b"uki") or text.find(b"efi")
    digest = _find_digest(text, None if linux is not None else uki, known)
    counters = parse_counters(file_name)
    return MenuEntry(
        file_name=file_name,
        raw=raw,
        digest=digest,
        is_own=digest is not None and digest in known,
        boot_type=BootType.UKI if linux is None and uki is not None else BootType.BLS,
        title=text.find(b"title"),
        version=text.find(b"version"),
        sort_key=text.find(b"sort-key"),
        machine_id=text.find(b"machine-id"),
        linux=linux,
        initrd=text.find_all(b"initrd"),
        uki=uki,
        others=tuple(
            part
            for key, value in text.fields
            if key in _OTHER_PATH_KEYS
            for part in (value.split() if key in _LIST_KEYS else [value])
        ),
        is_bootable=len(kinds) == 1 and is_whole,
        is_grub_bootable=len(set(grub_keys)) == 1 and is_whole,
        is_grub_linux=b"linux" in grub_keys and is_whole,
        tries_left=counters[0] if counters else None,
        tries_done=counters[1] if counters else None,
    )


def rename_key(raw: bytes, old: bytes, new: bytes) -> bytes:
    """Return the entry with another name for a key; every other byte stays."""
    pattern = rb"^([ \t]*)" + re.escape(old) + rb"(?=[ \t])"
    return b"".join(re.sub(pattern, rb"\1" + new, line) for line in _LINE.findall(raw))


def replace_sort_key(raw: bytes, sort_key: bytes) -> bytes:
    """Return the entry with another sort-key; every byte outside of that value stays.

    An entry without one gets a line at its end, with the line end that its last line has.
    """
    out: list[bytes] = []
    is_found = False
    for line in _LINE.findall(raw):
        body = line.rstrip(b"\r\n")
        start = len(body) - len(body.lstrip(b" \t"))
        key = re.match(rb"sort-key[ \t]+", body[start:])
        if key is None:
            out.append(line)
            continue
        is_found = True
        out.append(body[: start + key.end()] + sort_key + line[len(body) :])
    if is_found:
        return b"".join(out)
    line_end = b"\r\n" if raw.endswith(b"\r\n") else b"\n"
    glue = b"" if not raw or raw.endswith((b"\n", b"\r")) else line_end
    return raw + glue + b"sort-key " + sort_key + line_end
