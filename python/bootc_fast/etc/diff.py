"""What an admin changed in /etc, and as patches.

The list of changes is the merge's own: with the pristine tree as the new one, the result is the running /etc, and
what is kept or deleted is what the admin changed. So a diff never says anything else than the next merge.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Literal

from bootc_fast.etc.patches import Version, is_harmless, unify
from bootc_fast.etc.render import DIFF_MARKS
from bootc_fast.etc.trees import read_content
from bootc_fast.machine.native import run_blocking
from bootc_fast.records import dataclass, replace
from bootc_fast.text import escape_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bootc_fast._core import Tree, TreeEntry
    from bootc_fast.etc.trees import OpenTree
    from bootc_fast.types import EtcChange, EtcReport

MAX_PATCH_BYTES = 1 << 20
"""Larger files are not compared line by line: difflib's time grows with the square of the lines."""

PatchSide = Literal["current", "new"]
"""What is compared with the pristine tree: what the admin made of it, or what the new image did."""


@dataclass(frozen=True, slots=True)
class EtcDiffEntry:
    """One changed path.

    Attributes:
        change: What happened to it.
        path: Below /etc, without a leading slash.
        reason: Which attributes, in words.
        detail: What they were and are: ``mode 0644 → 0600``; empty where there is no more to say.
    """

    change: Literal["added", "modified", "deleted"]
    path: bytes
    reason: str = ""
    detail: str = ""

    @property
    def mark(self) -> str:
        """``A``, ``M`` or ``D``."""
        return DIFF_MARKS[self.change]


@dataclass(frozen=True, slots=True)
class EtcPatch:
    """A unified diff of one file.

    Attributes:
        path: Below /etc.
        data: Ends in a newline, and is what ``patch -p1`` in /etc applies; of files with NUL bytes, or longer than
            1 MiB, it only says that they differ.
        notice: One line that says so, of any file.
    """

    path: bytes
    data: bytes
    notice: str = ""

    @property
    def text(self) -> str:
        """For people: what a terminal would act on, and what is not UTF-8, is escaped; tabs are not."""
        tab = escape_bytes(b"\t")
        lines = self.data.split(b"\n")
        return "\n".join(escape_bytes(line).replace(tab, "\t") for line in lines)

    @property
    def is_plain(self) -> bool:
        """Whether it may be written as it is: no terminal that shows it does anything else than that."""
        return is_harmless(self.data)


@dataclass(frozen=True, slots=True)
class EtcDiff:
    """What the admin changed, and what a merge would make of it.

    Attributes:
        entries: Sorted by path.
        warnings: E.g. mount points not crossed.
        merge: Report of the merge with the new image, where one was given.
        patches: Where they were asked for.
        image: What the new image changed of the old one's, where certain paths or its patches were asked for.
    """

    entries: tuple[EtcDiffEntry, ...] = ()
    warnings: tuple[EtcChange, ...] = ()
    merge: EtcReport | None = None
    patches: tuple[EtcPatch, ...] = ()
    image: tuple[EtcDiffEntry, ...] = ()

    @property
    def has_differences(self) -> bool:
        """Whether the running /etc differs from the pristine one."""
        return bool(self.entries)


def list_entries(report: EtcReport, pristine: OpenTree, current: OpenTree) -> tuple[EtcDiffEntry, ...]:
    """Read the changes that the new tree does not have out of a report; blocks for long lists.

    Where the new tree is the pristine one, these are all that an admin made, and there are no conflicts.
    """
    changes = [(change.path, change.reason) for change in (*report.kept, *report.deleted)]
    changes += [(conflict.path, conflict.current) for conflict in report.conflicts]
    return tuple(_make_entry(path, reason, pristine.tree, current.tree) for path, reason in sorted(changes))


def _make_entry(path: bytes, reason: str, pristine: Tree, current: Tree) -> EtcDiffEntry:
    before, after = pristine.find(path), current.find(path)
    if after is None:
        return EtcDiffEntry("deleted", path, reason)
    # A socket is no file of an image: whatever made it makes it again, and it is in no merge.
    if before is None or stat.S_ISSOCK(before.mode):
        return EtcDiffEntry("added", path, reason)
    return EtcDiffEntry("modified", path, reason, ", ".join(_list_details(before, after)))


def _list_details(before: TreeEntry, after: TreeEntry) -> Iterator[str]:
    """Say what the attributes were and are, of two of one kind; of content nothing, which a patch shows."""
    if stat.S_IFMT(before.mode) != stat.S_IFMT(after.mode):
        return
    modes = stat.S_IMODE(before.mode), stat.S_IMODE(after.mode)
    if modes[0] != modes[1] and not stat.S_ISLNK(after.mode):
        yield f"mode {modes[0]:04o} → {modes[1]:04o}"
    if (before.uid, before.gid) != (after.uid, after.gid):
        yield f"owner {before.uid}:{before.gid} → {after.uid}:{after.gid}"
    if before.target != after.target:
        yield f"target {escape_bytes(before.target or b'')} → {escape_bytes(after.target or b'')}"
    names = {name for name in {*before.xattrs, *after.xattrs} if before.xattrs.get(name) != after.xattrs.get(name)}
    for name in sorted(names):
        how = "added" if name not in before.xattrs else "removed" if name not in after.xattrs else "changed"
        yield f"xattr {escape_bytes(name)} {how}"


@dataclass(frozen=True, slots=True)
class PathFilter:
    """Paths below /etc that are wanted, each with all that lies below it.

    Attributes:
        paths: Without slashes around them; none for everything.
    """

    paths: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, names: Iterable[str | bytes]) -> PathFilter:
        """Take names as people write them: below ``/etc``, or from there on; ``/etc`` itself is everything."""
        paths = [os.fsencode(name).strip(b"/") for name in names]
        inner = [path.removeprefix(b"etc").strip(b"/") if path.split(b"/")[0] == b"etc" else path for path in paths]
        return cls() if b"" in inner or b"." in inner else cls(tuple(inner))

    def wants(self, path: bytes) -> bool:
        """Whether a path is one of them, or below one."""
        return not self.paths or any(path == one or path.startswith(one + b"/") for one in self.paths)

    def narrow(self, report: EtcReport) -> EtcReport:
        """Leave out of a report what is not wanted; warnings stay, and what was counted."""
        if not self.paths:
            return report
        return replace(
            report,
            kept=self._pick(report.kept),
            deleted=self._pick(report.deleted),
            image_changes_ignored=self._pick(report.image_changes_ignored),
            image_additions_kept=self._pick(report.image_additions_kept),
            conflicts=tuple(one for one in report.conflicts if self.wants(one.path)),
            dangling_links=self._pick(report.dangling_links),
        )

    def _pick(self, changes: Iterable[EtcChange]) -> tuple[EtcChange, ...]:
        return tuple(one for one in changes if self.wants(one.path))


async def make_patches(
    entries: Iterable[EtcDiffEntry], pristine: OpenTree, other: OpenTree, *, side: PatchSide
) -> tuple[EtcPatch, ...]:
    """Make unified diffs of text files, from the pristine tree to another one.

    Reads one file of each tree at a time, in worker threads, at most ``MAX_PATCH_BYTES`` of it.
    Cancellation: between two files.

    Args:
        entries: Which files.
        pristine: Before.
        other: After.
        side: What that is, for the names in the patch.

    Raises:
        FileSystemError: An object is missing or a file cannot be read.
    """
    patches = [await run_blocking(_make_patch, entry.path, pristine, other, side) for entry in entries]
    return tuple(patch for patch in patches if patch is not None)


def _make_patch(path: bytes, pristine: OpenTree, other: OpenTree, side: PatchSide) -> EtcPatch | None:
    before, after = (_read_version(tree, path) for tree in (pristine, other))
    if [_text_of(before), _text_of(after)] == [None, None]:
        return None
    if before is not None and after is not None and before.data == after.data and _text_of(before) == _text_of(after):
        return None
    names = [
        b"%s/%s" % (prefix, path) if version is not None else b"/dev/null"
        for prefix, version in ((b"pristine", before), (side.encode(), after))
    ]
    notice = "Binary files {} and {} differ\n".format(*map(escape_bytes, names))
    if not (_is_text(before) and _is_text(after)):
        return EtcPatch(path, notice.encode(), notice)
    return EtcPatch(path, unify(path, side.encode(), before, after), notice)


def _read_version(tree: OpenTree, path: bytes) -> Version | None:
    """What of an entry a patch can hold; None of what is neither a file nor a symlink."""
    entry = tree.tree.find(path)
    if entry is None:
        return None
    if stat.S_ISLNK(entry.mode):
        return Version(entry.mode, entry.target or b"")
    data = read_content(tree, path, max_bytes=MAX_PATCH_BYTES)
    return None if data is None else Version(entry.mode, data)


def _text_of(version: Version | None) -> bytes | None:
    """The content of a file; None of a symlink, whose target stands in the list of changes."""
    return version.data if version is not None and stat.S_ISREG(version.mode) else None


def _is_text(version: Version | None) -> bool:
    return version is None or (b"\0" not in version.data and len(version.data) <= MAX_PATCH_BYTES)
