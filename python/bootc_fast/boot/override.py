"""What makes a loader boot another entry than the first: EFI variables, loader.conf, GRUB's environment block."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from bootc_fast.boot.order import OrderRule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bootc_fast.boot.entry import MenuEntry

GRUBENV_HEADER = b"# GRUB Environment Block\n"
_SAVED = b"@saved"


class OverrideKind(enum.StrEnum):
    """Where an override stands; the order is the loaders' precedence."""

    ONE_SHOT = "LoaderEntryOneShot"
    DEFAULT_VARIABLE = "LoaderEntryDefault"
    LOADER_CONF = "default in loader/loader.conf"
    GRUB_NEXT = "next_entry in grubenv"
    GRUB_SAVED = "saved_entry in grubenv"


class LoaderVariables(Protocol):
    """The part of ``boot.firmware``'s variables that picks an entry; each None where the variable is absent."""

    @property
    def entry_default(self) -> str | None:
        """``LoaderEntryDefault``."""

    @property
    def entry_oneshot(self) -> str | None:
        """``LoaderEntryOneShot``."""

    @property
    def entry_last_booted(self) -> str | None:
        """``LoaderEntryLastBooted``."""


@dataclass(frozen=True, slots=True)
class LoaderOverride:
    """One override.

    Attributes:
        kind: Where it stands.
        value: A glob over entry ids (systemd-boot), or an id, title or number (GRUB).
    """

    kind: OverrideKind
    value: bytes


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
        return next((entry for entry in shown if glob.fullmatch(entry.loader_id)), None)
    for entry in shown:
        if override.value in (entry.grub_id, entry.title):
            return entry
    number = override.value
    return shown[int(number)] if number.isdigit() and int(number) < len(shown) else None


def find_default(
    shown: Sequence[MenuEntry], rule: OrderRule, overrides: Sequence[LoaderOverride] = ()
) -> DefaultChoice:
    """Say which of the entries boots next.

    Args:
        shown: What the loader shows, in its order.
        rule: Whose rule that was.
        overrides: In the loader's precedence; those that match nothing are passed over, as the loaders do.

    Source:
        systemd-boot ``config_select_default_entry``; Fedora's GRUB ``is_default_entry`` and ``00_header``.
    """
    for override in overrides:
        entry = _find_match(override, shown, rule)
        if entry is not None:
            value = override.value.decode("utf-8", "backslashreplace")
            return DefaultChoice(entry, f"{override.kind.value} names {value}", override)
    if not shown:
        return DefaultChoice(None, f"{rule.value}: there is no entry")
    if shown[0].menu_id is not None:
        return DefaultChoice(shown[0], "GRUB: first menuentry in user.cfg")
    by = "sort-key" if rule is OrderRule.SYSTEMD_BOOT and shown[0].sort_key is not None else "file name"
    return DefaultChoice(shown[0], f"{rule.value}: first by {by}")


def parse_loader_conf(raw: bytes) -> bytes | None:
    """Return the value of the last ``default`` in loader.conf."""
    found = None
    for line in re.split(rb"[\r\n]+", raw):
        match = re.fullmatch(rb"[ \t]*default[ \t]+(.*?)[ \t]*", line)
        if match:
            found = match[1]
    return found


def replace_loader_conf_default(raw: bytes, value: bytes) -> bytes:
    """Return loader.conf with another value of its last ``default``; all else stays."""
    matches = list(re.finditer(rb"(?m)^[ \t]*default[ \t]+([^\r\n]*?)[ \t]*$", raw.replace(b"\r", b"\n")))
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
    """
    found: list[tuple[OverrideKind, bytes | None]] = []
    if rule is OrderRule.SYSTEMD_BOOT:
        saved = None if variables is None else _encode(variables.entry_last_booted)
        if variables is not None:
            found.append((OverrideKind.ONE_SHOT, _encode(variables.entry_oneshot)))
            found.append((OverrideKind.DEFAULT_VARIABLE, _encode(variables.entry_default)))
        found.append((OverrideKind.LOADER_CONF, parse_loader_conf(loader_conf or b"")))
        found = [(kind, saved if value and value.lower() == _SAVED else value) for kind, value in found]
    else:
        values = parse_grubenv(grubenv or b"")
        found.append((OverrideKind.GRUB_NEXT, values.get(b"next_entry")))
        found.append((OverrideKind.GRUB_SAVED, values.get(b"saved_entry")))
    return tuple(LoaderOverride(kind, value) for kind, value in found if value)


def _encode(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8", "replace")
