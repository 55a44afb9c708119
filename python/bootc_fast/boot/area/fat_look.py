"""One look at the FAT below a mounted volume: what has room, what is broken, which names may be removed.

The kernel tells none of it: it shows a directory up to the hole in its chain, and two names on one cluster as two
files, of which removing the one frees the other's clusters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.boot.area.fat import Verdict
from bootc_fast.boot.area.fat_check import FatProblem, check_names
from bootc_fast.records import dataclass, field
from bootc_fast.text import escape_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bootc_fast.boot.area.fat import FatDirectory, FatReader
    from bootc_fast.boot.area.fat_slots import FatEntry

_SHARED = frozenset({FatProblem.CROSS_LINKED, FatProblem.DIRECTORY_BROKEN, FatProblem.DIRECTORY_UNREACHABLE})


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _fold(path: str) -> str:
    return path.strip("/").upper()


@dataclass
class FatLook:
    """What one look finds; make a new one after a change.

    Attributes:
        reader: The volume, everything flushed.
        device: Its name, for people.
    """

    reader: FatReader
    device: str
    _shared: dict[str, str] | None = field(default=None, repr=False)

    def _find(self, path: bytes) -> FatDirectory | None:
        return self.reader.find_directory(_text(path))

    def has_room_for(self, path: bytes, names: Sequence[bytes]) -> bool | None:
        """Tell whether new names fit into a directory without another cluster; None where there is no directory."""
        directory = self._find(path)
        return None if directory is None else directory.table.has_room_for([_text(name) for name in names])

    def find_broken(self, paths: Iterable[bytes], *, has_failed: bool = False) -> list[str]:
        """Say which of these directories, or those above them, the firmware takes for empty.

        Args:
            paths: Which.
            has_failed: The kernel has failed to read one: a directory without a first cluster, which may just not be
                written yet, counts as broken. That is how ``fsck.fat -a`` leaves one whose first cluster was free.
        """
        found: dict[str, None] = {}
        for path in paths:
            parts = path.strip(b"/").split(b"/")
            for count in range(len(parts) + 1):
                above = b"/".join(parts[:count])
                entry = self.reader.find_entry(_text(above))
                directory = self._find(above)
                if directory is None:
                    break
                is_told = has_failed or entry is None or bool(entry.first_cluster)
                if not directory.chain.is_whole and is_told:
                    verdict = directory.chain.verdict
                    how = verdict.value if verdict is Verdict.FREE else f"is {verdict.value}"
                    found[f"the chain of clusters of /{escape_bytes(above)} {how}"] = None
                    break
        return list(found)

    def is_same(self, path: bytes, other: bytes) -> bool:
        """Tell whether two directories have a cluster in common."""
        one, two = self._find(path), self._find(other)
        return one is not None and two is not None and bool({*one.chain.clusters} & {*two.chain.clusters})

    def find_short_names(self, path: bytes) -> dict[str, str]:
        """Find the names in a directory that are short ones only, in capitals, and the beginnings of long ones lost."""
        directory = self._find(path)
        entries = directory.entries if directory is not None else ()
        return {one.short_name: one.lost_name for one in entries if one.slot_count == 1}

    def find_shared(self, path: bytes) -> str | None:
        """Say with what a name, or anything below it, has a cluster in common, or where its chain is broken."""
        here = _fold(_text(path))
        found = self._find_shared().items()
        return next((text for name, text in found if name == here or name.startswith(here + "/")), None)

    def leads_nowhere(self, path: bytes) -> bool:
        """Tell whether a name is that of an empty file without clusters, as detaching leaves it."""
        entry = self.reader.find_entry(_text(path))
        return entry is not None and not (entry.is_directory or entry.first_cluster or entry.size_bytes)

    def why_left(self, path: bytes) -> str | None:
        """Say why the kernel must not remove a directory of files with all that is in it; None where it may."""
        reason, directory = self.find_trouble(path), self._find(path)
        if reason is None and directory is not None and any(one.is_directory for one in directory.entries):
            return "there is a directory in it"
        return reason

    def find_trouble(self, path: bytes) -> str | None:
        """Say what of a file, or of a directory and the files in it, has clusters that are not its own."""
        entry = self.reader.find_entry(_text(path))
        if entry is None:
            return None
        reason = self.find_shared(path)
        if reason is not None or not entry.is_directory:
            return reason or self._why_unsafe(_fold(_text(path)), entry, {})
        if self.reader.read_directory(entry.first_cluster).dots[0] != entry.first_cluster:
            return "it is half-made"
        return next((f"{escape_bytes(name)}: {text}" for name, text in self.find_unsafe(path).items()), None)

    def find_unsafe(self, path: bytes) -> dict[bytes, str]:
        """Say which names in a directory must not be removed, and why.

        The kernel frees a name's clusters with it. It stops, and makes the file system read-only, at a chain that
        runs into a free cluster; it does not notice where the clusters are another name's too.

        Returns:
            Names, as the kernel shows them, and reasons; all of them where the directory itself is not whole.
        """
        directory = self._find(path)
        if directory is None:
            return {}
        shared = self._find_shared()
        here = _fold(_text(path))
        whole = "the directory is not whole" if not directory.chain.is_whole else shared.get(here)
        found: dict[bytes, str] = {}
        for entry in directory.entries:
            reason = whole or self._why_unsafe(f"{here}/{_fold(entry.name)}", entry, shared)
            if reason:
                found[entry.name.encode("utf-8", "surrogateescape")] = reason
        return found

    def _why_unsafe(self, path: str, entry: FatEntry, shared: dict[str, str]) -> str | None:
        if entry.first_cluster and not self.reader.read_chain(entry.first_cluster).is_whole:
            return "its clusters are free, or another's"
        return next((text for name, text in shared.items() if name == path or name.startswith(path + "/")), None)

    def _find_shared(self) -> dict[str, str]:
        if self._shared is None:
            self._shared = {}
            for one in check_names(self.reader):
                if one.problem in _SHARED:
                    self._shared[_fold(one.path)] = one.detail
                    if one.other is not None:
                        self._shared[_fold(one.other)] = f"shares clusters with {one.path or '/'}"
        return self._shared
