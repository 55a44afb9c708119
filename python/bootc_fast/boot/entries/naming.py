"""Names and sort-keys that put an entry first for every loader, whatever the versions are.

A name is ``<constant>-<generation>-<rank>.conf``, a sort-key ``<constant><inverted generation>-<rank>``, and behind it
the ID of the deployment's os-release, where it had one: as bootc's keys do, it says whose entry it is. Fedora's
GRUB compares constant, generation, rank as RPM versions; upstream GRUB and bootc's own reader compare the whole
name; both show the greater first, so the generation counts up and the rank down. systemd-boot shows the smaller
sort-key first, so there it is the other way round. A new generation outranks every older one and all of bootc's
names, thus a name is never used twice and old and new entries can be there at the same time.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bootc_fast.boot.loaders.entry import MenuEntry, replace_sort_key, set_counters
from bootc_fast.boot.loaders.table import list_rules, record_of
from bootc_fast.errors import BootEntryError
from bootc_fast.records import dataclass, replace

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from bootc_fast.boot.loaders.record import LoaderRule
    from bootc_fast.types import Loader

MAX_GENERATION = 99_999_999
MAX_RANK = 99

# The first is enough unless an os id starts with a digit or with "zz"; the others are for names made by hand.
_FILE_PREFIXES = (b"bootc_zz", b"bootd", b"zz_bootc")
# The first is enough unless the oldest bootc's sort-keys, "0" and "1", are there.
_KEY_PREFIXES = (b"bootc-", b"-bootc-", b"!bootc-")
# bootc's own, and ours; an os-release ID, as os-release(5) has it.
_OS_ID = re.compile(rb"bootc-(?P<bootc>[a-z0-9._-]+)-[01]|[!-]?bootc-[0-9]{8}-[0-9]{2}-(?P<ours>[a-z0-9._-]+)")
_GENERATION = re.compile(rb"(?:bootc_zz|bootd|zz_bootc)-([0-9]{8})-[0-9]{2}(?:[+.]|$)")


def find_generation(names: Collection[bytes]) -> int:
    """Return the greatest generation among the names; 0 where there is none."""
    return max((int(match[1]) for name in names if (match := _GENERATION.match(name))), default=0)


def find_os_id(entry: MenuEntry) -> bytes | None:
    """Return the os-release ID that the entry's sort-key carries; None where it carries none."""
    match = _OS_ID.fullmatch(entry.sort_key or b"")
    return None if match is None else match["bootc"] or match["ours"]


@dataclass(frozen=True, slots=True)
class NameMaker:
    """Makes the names of one generation.

    Attributes:
        file_prefix: The constant of file names.
        key_prefix: The constant of sort-keys.
        generation: From 1.
    """

    file_prefix: bytes
    key_prefix: bytes
    generation: int

    def rename(self, entry: MenuEntry, rank: int) -> MenuEntry:
        """Return the entry at `rank`, 0 being the default; only its name and its sort-key differ.

        Boot counters stay as they are: who put them there counts on it. But a default without tries left loses them,
        since it could not be first.
        """
        if not 0 <= rank <= MAX_RANK:
            raise BootEntryError(f"there are more than {MAX_RANK + 1} deployments to make boot entries for")
        is_reset = rank == 0 and entry.tries_left == 0
        counters = b"" if is_reset else entry.counters
        name = b"%s-%08d-%02d%s.conf" % (self.file_prefix, self.generation, MAX_RANK - rank, counters)
        os_id = find_os_id(entry)
        key = b"%s%08d-%02d" % (self.key_prefix, MAX_GENERATION - self.generation, rank)
        key += b"" if os_id is None else b"-" + os_id
        return replace(
            entry,
            file_name=name,
            sort_key=key,
            raw=replace_sort_key(entry.raw, key),
            tries_left=None if is_reset else entry.tries_left,
            tries_done=None if is_reset else entry.tries_done,
        )


def _outranks(entry: MenuEntry, others: Sequence[MenuEntry], rules: Sequence[LoaderRule]) -> bool:
    return all(rule.compare(entry, other) < 0 for other in others for rule in rules)


def choose_names(
    default: MenuEntry, others: Sequence[MenuEntry], names: Collection[bytes], loader: Loader
) -> NameMaker:
    """Find names under which `default` outranks all of `others`.

    Args:
        default: The entry that is to be first.
        others: All entries of ours that are there now.
        names: Every name in use, leftovers too.
        loader: Whose rule must hold; those of the other loaders hold where that is possible, so that the order
            survives a change of loader.

    Raises:
        BootEntryError: An entry of ours has a name that nothing can outrank.
    """
    generation = 1 + find_generation(names)
    if generation >= MAX_GENERATION:
        raise BootEntryError(f"the boot entries' generation number {generation - 1} is the last one")
    own = record_of(loader).rules
    # A loader that counts nothing takes a counter for a part of the name: without, the constant stays what it is.
    plain = [set_counters(entry, None) for entry in others]
    for rules in (list_rules(), own):
        for file_prefix in _FILE_PREFIXES:
            for key_prefix in _KEY_PREFIXES:
                maker = NameMaker(file_prefix, key_prefix, generation)
                first = maker.rename(default, 0)
                if _outranks(first, others, own) and _outranks(set_counters(first, None), plain, rules):
                    return maker
    worst = ", ".join(entry.label for entry in others)
    raise BootEntryError(
        f"no name for the new boot entry comes before all of: {worst}",
        hint="rename the entry whose name is not of the form bootc_<os id>-<version>-<priority>.conf",
    )
