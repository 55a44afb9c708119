"""What makes a loader boot another entry than the first: EFI variables, loader.conf, GRUB's environment block."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from bootc_fast.boot.loaders.entry import MenuEntry, parse_text
from bootc_fast.boot.loaders.order import OrderRule
from bootc_fast.types import BootType

if TYPE_CHECKING:
    from collections.abc import Sequence

GRUBENV_HEADER = b"# GRUB Environment Block\n"
_SAVED = b"@saved"
_FEATURE_PREFERRED = 1 << 19
"""Bit of ``LoaderFeatures``: from systemd 260 on the loader knows ``LoaderEntryPreferred`` and ``preferred``."""


class OverrideKind(enum.StrEnum):
    """Where an override stands; the order is the loaders' precedence."""

    ONE_SHOT = "LoaderEntryOneShot"
    PREFERRED_VARIABLE = "LoaderEntryPreferred"
    PREFERRED_CONF = "preferred in loader/loader.conf"
    DEFAULT_VARIABLE = "LoaderEntryDefault"
    LOADER_CONF = "default in loader/loader.conf"
    GRUB_NEXT = "next_entry in grubenv"
    GRUB_SAVED = "saved_entry in grubenv"


CONF_KEYS = {OverrideKind.PREFERRED_CONF: b"preferred", OverrideKind.LOADER_CONF: b"default"}
"""The keys of ``loader.conf``."""


class LoaderVariables(Protocol):
    """The part of ``boot.firmware``'s variables that picks an entry; each None where the variable is absent."""

    @property
    def info(self) -> str | None:
        """``LoaderInfo``."""

    @property
    def entry_default(self) -> str | None:
        """``LoaderEntryDefault``."""

    @property
    def entry_oneshot(self) -> str | None:
        """``LoaderEntryOneShot``."""

    @property
    def entry_last_booted(self) -> str | None:
        """``LoaderEntryLastBooted``."""

    @property
    def entry_preferred(self) -> str | None:
        """``LoaderEntryPreferred``."""

    @property
    def features(self) -> int:
        """``LoaderFeatures``; 0 where the loader does not say."""

    @property
    def shown(self) -> tuple[str, ...]:
        """``LoaderEntries``: what the loader showed at the last boot, in its order."""


@dataclass(frozen=True, slots=True)
class LoaderOverride:
    """One override.

    Attributes:
        kind: Where it stands.
        value: A glob over entry ids (systemd-boot), or an id, title or number (GRUB).
        is_saved: It is ``@saved``, and `value` is what that stands for now: the loader itself keeps it up to date.
    """

    kind: OverrideKind
    value: bytes
    is_saved: bool = False

    @property
    def skips_exhausted(self) -> bool:
        """Whether it passes over entries that have no tries left."""
        return self.kind in (OverrideKind.PREFERRED_VARIABLE, OverrideKind.PREFERRED_CONF)


@dataclass(frozen=True, slots=True)
class DefaultChoice:
    """Which entry boots next, and why.

    Attributes:
        entry: None where the loader shows nothing.
        reason: In words for people.
        override: What picked it; None where it is the first.
    """

    entry: MenuEntry | None
    reason: str
    override: LoaderOverride | None = None


def _translate_glob(pattern: bytes) -> re.Pattern[bytes]:
    """systemd-boot's globs: ``*``, ``?``, ``[a-z]`` without negation, backslash."""
    out: list[bytes] = []
    i = 0
    while i < len(pattern):
        char = pattern[i : i + 1]
        i += 1
        if char == b"*":
            out.append(b".*")
        elif char == b"?":
            out.append(b".")
        elif char == b"\\" and i < len(pattern):
            out.append(re.escape(pattern[i : i + 1]))
            i += 1
        elif char == b"[" and (end := pattern.find(b"]", i + 1)) > 0:
            inner = pattern[i:end].replace(b"\\", b"\\\\").replace(b"^", b"\\^").replace(b"[", b"\\[")
            out.append(b"[" + inner + b"]")
            i = end + 1
        else:
            out.append(re.escape(char))
    try:
        return re.compile(b"".join(out), re.DOTALL)
    except re.error:
        # A reversed range such as [z-a]; the loader matches nothing with it either.
        return re.compile(rb"(?!)")


def _find_match(override: LoaderOverride, shown: Sequence[MenuEntry], rule: OrderRule) -> MenuEntry | None:
    if rule is OrderRule.SYSTEMD_BOOT:
        glob = _translate_glob(override.value.lower())
        usable = [entry for entry in shown if not (override.skips_exhausted and entry.tries_left == 0)]
        return next((entry for entry in usable if glob.fullmatch(entry.loader_id)), None)
    for entry in shown:
        if override.value in (entry.grub_id, entry.title):
            return entry
    number = override.value
    return shown[int(number)] if number.isdigit() and int(number) < len(shown) else None


@dataclass(frozen=True, slots=True)
class Outside:
    """What systemd-boot shows besides ``loader/entries``: UKIs in ``EFI/Linux``, Windows, an EFI shell.

    Attributes:
        ids: Their ids, in lower case.
        first: The one that it ranks above all entries of ours; None where there is none.
    """

    ids: tuple[bytes, ...] = ()
    first: bytes | None = None

    def find(self, override: LoaderOverride) -> MenuEntry | None:
        """Return what an override picks of these, as a foreign entry."""
        glob = _translate_glob(override.value.lower())
        found = next((name for name in self.ids if glob.fullmatch(name)), None)
        return None if found is None else make_outside_entry(found)


def make_outside_entry(name: bytes) -> MenuEntry:
    """Return a foreign entry that is no file in ``entries``."""
    return MenuEntry(file_name=name, raw=b"", boot_type=BootType.UKI, is_bootable=True)


def find_outside(
    images: Sequence[bytes],
    variables: LoaderVariables | None,
    overrides: Sequence[LoaderOverride],
    own: re.Pattern[bytes],
) -> Outside:
    """Tell what systemd-boot shows that is no file in ``entries``.

    Where such a thing stands in the order is the loader's own word, ``LoaderEntries`` of the last boot: our entries
    may have other names since, and still sort under the same constant.

    Args:
        images: Names in ``EFI/Linux``.
        variables: The EFI variables.
        overrides: Of this loader. What begins with ``auto-`` only the loader can find: it counts as there unless
            the loader has told that it is not.
        own: File names of ours.
    """
    told = [text.lower().encode("utf-8", "replace") for text in (variables.shown if variables is not None else ())]
    present = tuple(name.lower() for name in images if name.lower().endswith(b".efi"))
    named = tuple(
        value for override in overrides if (value := override.value.lower()).startswith(b"auto-") and not told
    )
    ids = tuple(dict.fromkeys((*(name for name in told if not name.endswith(b".conf")), *present, *named)))
    above = []
    for name in told:
        if own.fullmatch(name):
            break
        above.append(name)
    else:
        above = []
    # A UKI with profiles has one id for each: its file's name, @ and a number.
    first = next((name for name in above if name.partition(b"@")[0] in present), None)
    return Outside(ids, first)


def find_default(
    shown: Sequence[MenuEntry],
    rule: OrderRule,
    overrides: Sequence[LoaderOverride] = (),
    outside: Outside = Outside(),
) -> DefaultChoice:
    """Say which of the entries boots next.

    Args:
        shown: What the loader shows, in its order.
        rule: Whose rule that was.
        overrides: In the loader's precedence; those that match nothing are passed over, as the loaders do.
        outside: What the loader shows besides.

    Source:
        systemd-boot ``config_select_default_entry``; Fedora's GRUB ``is_default_entry`` and ``00_header``.
    """
    for override in overrides:
        entry = _find_match(override, shown, rule)
        if entry is None and rule is OrderRule.SYSTEMD_BOOT:
            entry = outside.find(override)
        if entry is not None:
            value = override.value.decode("utf-8", "backslashreplace")
            return DefaultChoice(entry, f"{override.kind.value} names {value}", override)
    if outside.first is not None:
        return DefaultChoice(make_outside_entry(outside.first), f"{rule.value} showed it first at the last boot")
    if not shown:
        return DefaultChoice(None, f"{rule.value}: there is no entry")
    if shown[0].menu_id is not None:
        return DefaultChoice(shown[0], "GRUB: first menuentry in user.cfg")
    by = "sort-key" if rule is OrderRule.SYSTEMD_BOOT and shown[0].sort_key is not None else "file name"
    return DefaultChoice(shown[0], f"{rule.value}: first by {by}")


def parse_loader_conf(raw: bytes, key: bytes = b"default") -> bytes | None:
    """Return the last value of a key of loader.conf that picks an entry.

    Source:
        systemd-boot ``config_defaults_load_from_file``: special values but ``@saved`` are ignored.
    """
    values = [value for value in parse_text(raw).find_all(key) if value]
    return next((v for v in reversed(values) if not v.startswith(b"@") or v.lower() == _SAVED), None)


def replace_loader_conf(raw: bytes, value: bytes, key: bytes = b"default") -> bytes:
    """Return loader.conf with another value where its key is last; all else stays."""
    pattern = rb"(?m)^[ \t]*" + re.escape(key) + rb"[ \t]+([^\r\n]*?)[ \t]*$"
    matches = list(re.finditer(pattern, raw.replace(b"\r", b"\n")))
    if not matches:
        return raw
    start, end = matches[-1].span(1)
    return raw[:start] + value + raw[end:]


def parse_grubenv(raw: bytes) -> dict[bytes, bytes]:
    """Return the variables of an environment block; a malformed block has none, as for GRUB.

    Source:
        GRUB ``grub-core/lib/envblk.c``: a backslash takes the next character, a newline too, as it is.
    """
    if not raw.startswith(GRUBENV_HEADER):
        return {}
    found: dict[bytes, bytes] = {}
    for line in re.findall(rb"(?:\\.|[^\\\n])*\n", raw[len(GRUBENV_HEADER) :], re.DOTALL):
        key, separator, value = line[:-1].partition(b"=")
        if separator and not line.startswith(b"#"):
            found[key] = re.sub(rb"\\(.)", rb"\1", value, flags=re.DOTALL)
    return found


def replace_grubenv_value(raw: bytes, key: bytes, value: bytes) -> bytes | None:
    """Return the block with another value of `key`, of the same length; None where it does not fit."""
    escaped = value.replace(b"\\", b"\\\\").replace(b"\n", b"\\\n")
    body = raw[len(GRUBENV_HEADER) :]
    match = re.search(rb"(?m)^" + re.escape(key) + rb"=(?:\\.|[^\\\n])*\n", body)
    if match is None or not raw.startswith(GRUBENV_HEADER):
        return None
    changed = body[: match.start()] + key + b"=" + escaped + b"\n" + body[match.end() :]
    stripped = changed.rstrip(b"#")
    padded = GRUBENV_HEADER + stripped
    return padded.ljust(len(raw), b"#") if len(padded) <= len(raw) else None


def collect_overrides(
    rule: OrderRule, *, variables: LoaderVariables | None, loader_conf: bytes | None, grubenv: bytes | None
) -> tuple[LoaderOverride, ...]:
    """Put the overrides of this loader in its precedence.

    ``@saved`` stands for the entry that was booted last; its name changes with the set, so that it picks nothing then.

    Args:
        rule: Which loader.
        variables: The EFI variables; None where there are none.
        loader_conf: Content of ``loader/loader.conf``; None where absent.
        grubenv: Content of GRUB's environment block; None where absent.

    Source:
        https://systemd.io/BOOT_LOADER_INTERFACE: one-shot, then preferred (variable, file), then default likewise.
    """
    if rule is not OrderRule.SYSTEMD_BOOT:
        values = parse_grubenv(grubenv or b"")
        of_grub = ((OverrideKind.GRUB_NEXT, b"next_entry"), (OverrideKind.GRUB_SAVED, b"saved_entry"))
        return tuple(LoaderOverride(kind, values[key]) for kind, key in of_grub if values.get(key))
    found: dict[OverrideKind, bytes | None] = {
        kind: parse_loader_conf(loader_conf or b"", key) for kind, key in CONF_KEYS.items()
    }
    saved = None
    if variables is not None:
        saved = _encode(variables.entry_last_booted)
        found[OverrideKind.ONE_SHOT] = _encode(variables.entry_oneshot)
        found[OverrideKind.PREFERRED_VARIABLE] = _encode(variables.entry_preferred)
        found[OverrideKind.DEFAULT_VARIABLE] = _encode(variables.entry_default)
    if variables is None or not variables.features & _FEATURE_PREFERRED:
        found[OverrideKind.PREFERRED_VARIABLE] = found[OverrideKind.PREFERRED_CONF] = None
    overrides = []
    for kind in OverrideKind:
        value = found.get(kind)
        is_saved = value is not None and value.lower() == _SAVED
        value = saved if is_saved else value
        if value:
            overrides.append(LoaderOverride(kind, value, is_saved=is_saved))
    return tuple(overrides)


def _encode(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8", "replace")
