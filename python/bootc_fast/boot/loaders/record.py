"""What is to be known about a boot loader: one record a loader, made in the loader's own file; `table` has them all."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Protocol

from bootc_fast.boot.loaders.override import Outside
from bootc_fast.records import dataclass

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Mapping, Sequence

    from bootc_fast.boot.loaders.entry import MenuEntry
    from bootc_fast.boot.loaders.override import LoaderOverride, LoaderVariables
    from bootc_fast.types import Loader


def makes_nothing(name: bytes, os_release: bytes) -> MenuEntry | None:  # noqa: ARG001
    """Say that the loader shows no UKI that has no entry."""
    return None


def shows_all(
    entry: MenuEntry,  # noqa: ARG001 - for loaders that leave nothing out
    variables: LoaderVariables | None,  # noqa: ARG001
    *,
    is_beside_loader: bool,  # noqa: ARG001
) -> bool:
    """Say that the loader leaves out no entry for what the machine or the loader is."""
    return False


class Hides(Protocol):
    """Whether a loader leaves an entry out for what the machine or the loader is."""

    def __call__(self, entry: MenuEntry, variables: LoaderVariables | None, *, is_beside_loader: bool) -> bool:
        """Say so; `is_beside_loader`: the entry is on the loader's own partition."""
        ...


def shows_entries_only(
    images: Sequence[bytes],  # noqa: ARG001 - for loaders that look for nothing else
    variables: LoaderVariables | None,  # noqa: ARG001
    overrides: Sequence[LoaderOverride],  # noqa: ARG001
    own: re.Pattern[bytes],  # noqa: ARG001
    shown: Sequence[MenuEntry],  # noqa: ARG001
) -> Outside:
    """Say that the loader shows nothing but the entries."""
    return Outside()


@dataclass(frozen=True, slots=True)
class LoaderRule:
    """How one build of a loader reads, orders and picks boot entries.

    Attributes:
        name: For people.
        home: The directory, from the root of the boot directory, that holds what it is told.
        settings: The file there; it may name another entry than the first.
        compare: Negative where the left entry is shown first.
        shows: Whether it shows an entry at all.
        identify: What it calls an entry in that file and in EFI variables. systemd-boot counts boots in the file's
            name, which it changes for that, so that its name of the entry has no counters; GRUB counts nothing.
        collect_overrides: What names another entry than the first, in its precedence: from the content of
            `settings`, None where absent, and from the EFI variables.
        find_match: Which of the entries shown an override picks.
        explain_first: Why the first entry is the first, in words.
        choose_command: The command that makes it pick the entry whose id is put in.
        fate_of_equals: What it does with an entry whose name compares equal to another one's, in words; None where it
            shows both.
        reads_variables: It picks entries by EFI variables.
        counts_boots: It reads boot counters in names, and passes over an entry that has no tries left.
        image_directory: Where it finds UKIs without an entry; None where it looks for none.
        make_image_entry: What it makes of such a one's name and os-release; None where it shows nothing.
        find_outside: What it shows besides the entries: from the names in `image_directory`, the EFI variables, its
            overrides, a pattern of our entries' names, and what is shown by files.
        hides: Whether it leaves an entry out for what the machine is, or the loader itself.
    """

    name: str
    home: bytes
    settings: bytes
    compare: Callable[[MenuEntry, MenuEntry], int]
    shows: Callable[[MenuEntry], bool]
    identify: Callable[[MenuEntry], bytes]
    collect_overrides: Callable[[bytes | None, LoaderVariables | None], tuple[LoaderOverride, ...]]
    find_match: Callable[[LoaderOverride, Sequence[MenuEntry]], MenuEntry | None]
    explain_first: Callable[[MenuEntry], str]
    choose_command: str
    fate_of_equals: str | None = None
    reads_variables: bool = False
    counts_boots: bool = False
    image_directory: bytes | None = None
    make_image_entry: Callable[[bytes, bytes], MenuEntry | None] = makes_nothing
    find_outside: Callable[
        [Sequence[bytes], LoaderVariables | None, Sequence[LoaderOverride], re.Pattern[bytes], Sequence[MenuEntry]],
        Outside,
    ] = shows_entries_only
    hides: Hides = shows_all


def knows_every_key(info: str | None) -> str | None:  # noqa: ARG001 - for loaders of which no version is too old
    """Say of every version that it shows an entry whose UKI stands under the key ``uki``."""
    return None


def takes_values_literally(
    entry: MenuEntry,
    variables: Mapping[bytes, bytes] | None = None,  # noqa: ARG001 - for loaders that have none
) -> MenuEntry:
    """Say that each value of the entry is one path as it stands."""
    return entry


def has_no_variables(settings: bytes | None) -> Mapping[bytes, bytes]:  # noqa: ARG001
    """Say that no variable's value stands in the loader's settings."""
    return {}


class CountsIn(enum.Enum):
    """Where the number of boots that are left stands, for a loader that can be made to count."""

    NAMES = enum.auto()
    GRUBENV = enum.auto()


@dataclass(frozen=True, slots=True)
class BootCounting:
    """How one version of a loader counts boots in the names of entries.

    Attributes:
        keys: Under which an entry's program has to stand; none: it counts nothing.
        has_counters_in_ids: What names an entry names its counters, too.
        needs_power_cycle: What it cannot start ends in the firmware, uncounted a second time, and resets nothing.
    """

    keys: frozenset[bytes] = frozenset()
    has_counters_in_ids: bool = False
    needs_power_cycle: bool = False


def counts_nothing(info: str | None) -> BootCounting:  # noqa: ARG001 - for loaders that count in no name
    """Say that the loader counts in no name."""
    return BootCounting()


@dataclass(frozen=True, slots=True)
class LoaderRecord:
    """One loader.

    Attributes:
        loader: Its public name.
        info: What ``LoaderInfo`` has in it, in lower case; empty for the one that need not say anything.
        rules: That it may follow; which build of it is installed can not always be told from outside.
        is_on_esp: Entries, kernels and initrds lie on the ESP; else in the boot directory: the partition of /boot
            (XBOOTLDR), or a directory of the root's file system.
        kernel_directory: Where the kernels' directories are there; empty for its root.
        has_user_cfg: It reads ``grub2/user.cfg``, which may hold menuentries of ours.
        reads_extended_boot: It also shows entries and UKIs on the XBOOTLDR partition of its disk; bootc may then
            have everything there but the loader itself and its settings.
        status_name: What bootc's own status calls it.
        resolve: From an entry as it was read, and known variables, the entry with the files that the loader loads.
        read_variables: From the content of a rule's ``settings`` the variables that entries may have in them.
        find_version_without_uki_key: From ``LoaderInfo``, the version where it does not show entries whose UKI stands
            under the key ``uki``; else None.
        find_counting: From ``LoaderInfo``, how that version counts boots in the names of entries.
        counts_in: Where boots are counted; None where nobody can make it count.
        program_names: Where the loader itself is installed, from the root of the ESP.
        package_directories: Where packages leave it in an image, for bootc and bootupd to take it from.
    """

    loader: Loader
    info: str
    rules: tuple[LoaderRule, ...]
    is_on_esp: bool
    kernel_directory: bytes
    status_name: str
    has_user_cfg: bool = False
    reads_extended_boot: bool = False
    resolve: Callable[[MenuEntry, Mapping[bytes, bytes] | None], MenuEntry] = takes_values_literally
    read_variables: Callable[[bytes | None], Mapping[bytes, bytes]] = has_no_variables
    find_version_without_uki_key: Callable[[str | None], str | None] = knows_every_key
    find_counting: Callable[[str | None], BootCounting] = counts_nothing
    counts_in: CountsIn | None = None
    program_names: tuple[bytes, ...] = ()
    package_directories: tuple[str, ...] = ()

    @property
    def expands_variables(self) -> bool:
        """Values of entries may have variables in them."""
        return self.resolve is not takes_values_literally
