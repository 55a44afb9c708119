"""What makes a loader boot another entry than the first: EFI variables, loader.conf, GRUB's environment block."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Protocol

from bootc_fast.boot.loaders.entry import MenuEntry
from bootc_fast.records import dataclass
from bootc_fast.text import escape_bytes
from bootc_fast.types import BootType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bootc_fast.boot.loaders.record import LoaderRule


class OverrideKind(enum.StrEnum):
    """Where an override stands; the order is the loaders' precedence."""

    ONE_SHOT = "LoaderEntryOneShot"
    PREFERRED_VARIABLE = "LoaderEntryPreferred"
    PREFERRED_CONF = "preferred in loader/loader.conf"
    DEFAULT_VARIABLE = "LoaderEntryDefault"
    LOADER_CONF = "default in loader/loader.conf"
    GRUB_NEXT = "next_entry in grubenv"
    GRUB_TRIAL = "bootc_fast_trial in grubenv"
    GRUB_FALLBACK = "bootc_fast_fallback in grubenv"
    GRUB_SAVED = "saved_entry in grubenv"


_REMEDIES = {
    OverrideKind.ONE_SHOT: '`bootctl set-oneshot ""` clears it; it is for one boot only',
    OverrideKind.PREFERRED_VARIABLE: '`bootctl set-preferred ""` clears it',
    OverrideKind.PREFERRED_CONF: "remove the line `preferred {}` from loader/loader.conf",
    OverrideKind.DEFAULT_VARIABLE: '`bootctl set-default ""` clears it',
    OverrideKind.LOADER_CONF: "remove the line `default {}` from loader/loader.conf",
    OverrideKind.GRUB_NEXT: "`grub2-editenv - unset next_entry` clears it; it is for one boot only",
    OverrideKind.GRUB_TRIAL: "`grub2-editenv - unset bootc_fast_trial` ends the trial; so does a complete boot of it",
    OverrideKind.GRUB_FALLBACK: "`grub2-editenv - unset bootc_fast_trial` clears it; so does the next complete boot",
    OverrideKind.GRUB_SAVED: "`grub2-editenv - unset saved_entry` clears it",
}


class LoaderVariables(Protocol):
    """The part of ``boot.firmware``'s variables that picks an entry; each None where the variable is absent."""

    @property
    def info(self) -> str | None:
        """``LoaderInfo``."""

    @property
    def image_path(self) -> str | None:
        """``LoaderImageIdentifier``: the path of the loader itself on its partition."""

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
    def unread(self) -> tuple[str, ...]:
        """Names of those that pick an entry, and are there and cannot be read."""

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
    def remedy(self) -> str:
        """What an admin does so that it picks nothing."""
        return _REMEDIES[self.kind].format(escape_bytes(self.value))

    @property
    def is_of_trial(self) -> bool:
        """Whether it is a trial of ours, which the next publication replaces or ends."""
        return self.kind in (OverrideKind.GRUB_TRIAL, OverrideKind.GRUB_FALLBACK)

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


@dataclass(frozen=True, slots=True)
class Outside:
    """What systemd-boot shows besides ``loader/entries``: UKIs in ``EFI/Linux``, Windows, an EFI shell.

    Attributes:
        ids: Their ids, in lower case.
        first: The one that it ranks above all entries of ours; None where there is none.
    """

    ids: tuple[bytes, ...] = ()
    first: bytes | None = None

    @property
    def entries(self) -> tuple[MenuEntry, ...]:
        """They as foreign entries."""
        return tuple(map(make_outside_entry, self.ids))


def make_outside_entry(name: bytes) -> MenuEntry:
    """Return a foreign entry that is no file in ``entries``."""
    return MenuEntry(file_name=name, raw=b"", boot_type=BootType.UKI, is_bootable=True)


def find_default(
    shown: Sequence[MenuEntry],
    rule: LoaderRule,
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
        entry = rule.find_match(override, shown) or rule.find_match(override, outside.entries)
        if entry is not None:
            return DefaultChoice(entry, f"{override.kind.value} names {escape_bytes(override.value)}", override)
    if outside.first is not None:
        return DefaultChoice(make_outside_entry(outside.first), f"{rule.name} showed it first at the last boot")
    if not shown:
        return DefaultChoice(None, f"{rule.name}: there is no entry")
    if shown[0].menu_id is not None:
        return DefaultChoice(shown[0], "GRUB: first menuentry in user.cfg")
    return DefaultChoice(shown[0], f"{rule.name}: {rule.explain_first(shown[0])}")
