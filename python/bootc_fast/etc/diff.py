"""What an admin changed in /etc, and as patches.

The list of changes is the merge's own: with the pristine tree as the new one, the result is the running /etc, and
what is kept or deleted is what the admin changed. So a diff never says anything else than the next merge.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bootc_fast.etc.trees import read_content
from bootc_fast.machine.native import run_blocking
from bootc_fast.text import escape_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bootc_fast.etc.trees import OpenTree
    from bootc_fast.types import EtcReport

MAX_PATCH_BYTES = 1 << 20
"""Larger files are not compared line by line: difflib's time grows with the square of the lines."""

MARKS = {"added": "A", "modified": "M", "deleted": "D"}


@dataclass(frozen=True, slots=True)
class EtcDiffEntry:
    """One changed path.

    Attributes:
        change: What happened to it.
        path: Below /etc, without a leading slash.
        reason: Which attributes, in words.
    """

    change: Literal["added", "modified", "deleted"]
    path: bytes
    reason: str = ""

    @property
    def mark(self) -> str:
        """``A``, ``M`` or ``D``."""
        return MARKS[self.change]


@dataclass(frozen=True, slots=True)
class EtcPatch:
    """A unified diff of one file.

    Attributes:
        path: Below /etc.
        text: Ends in a newline; bytes that are not UTF-8 are escaped.
    """

    path: bytes
    text: str


@dataclass(frozen=True, slots=True)
class EtcDiff:
    """What the admin changed, and what a merge would make of it.

    Attributes:
        entries: Sorted by path.
        warnings: E.g. mount points not crossed.
        merge: Report of the merge with the new image, where one was given.
        patches: Where they were asked for.
    """

    entries: tuple[EtcDiffEntry, ...] = ()
    warnings: tuple[str, ...] = ()
    merge: EtcReport | None = None
    patches: tuple[EtcPatch, ...] = ()

    @property
    def has_differences(self) -> bool:
        """Whether the running /etc differs from the pristine one."""
        return bool(self.entries)


def list_entries(report: EtcReport, pristine: OpenTree, current: OpenTree) -> tuple[EtcDiffEntry, ...]:
    """Read the changes that the new tree does not have out of a report.

    Where the new tree is the pristine one, these are all that an admin made, and there are no conflicts.
    """
    changes = [(change.path, change.reason) for change in (*report.kept, *report.deleted)]
    changes += [(conflict.path, conflict.current) for conflict in report.conflicts]

    def classify(path: bytes) -> Literal["added", "modified", "deleted"]:
        if current.tree.find(path) is None:
            return "deleted"
        return "added" if pristine.tree.find(path) is None else "modified"

    return tuple(EtcDiffEntry(classify(path), path, reason) for path, reason in sorted(changes))


async def make_patches(
    entries: Iterable[EtcDiffEntry], pristine: OpenTree, current: OpenTree, new: OpenTree | None
) -> tuple[EtcPatch, ...]:
    """Make unified diffs of the changed text files: pristine to current, and new to current where that differs.

    Reads one file of each tree at a time, in worker threads, at most ``MAX_PATCH_BYTES`` of it.
    Cancellation: between two files.

    Raises:
        FileSystemError: An object is missing or a file cannot be read.
    """
    patches = []
    for entry in entries:
        patches += await run_blocking(_patch_entry, entry.path, pristine, current, new)
    return tuple(patches)


def _patch_entry(path: bytes, pristine: OpenTree, current: OpenTree, new: OpenTree | None) -> list[EtcPatch]:
    sides = {"pristine": pristine, "current": current, **({"new": new} if new else {})}
    data = {name: read_content(side, path, max_bytes=MAX_PATCH_BYTES) for name, side in sides.items()}
    pairs = [("pristine", "current")]
    if "new" in data and data["new"] not in (data["pristine"], data["current"]):
        pairs.append(("new", "current"))
    texts = ["".join(_unified(path, left, data[left], right, data[right])) for left, right in pairs]
    return [EtcPatch(path, text) for text in texts if text]


def _unified(path: bytes, left: str, before: bytes | None, right: str, after: bytes | None) -> Iterator[str]:
    """Yield the lines of a unified diff; nothing where both are the same or neither is a file."""
    if before == after:
        return
    name = escape_bytes(path)
    names = [f"{side}/{name}" if data is not None else "/dev/null" for side, data in ((left, before), (right, after))]
    if not (_is_text(before) and _is_text(after)):
        yield f"Binary files {names[0]} and {names[1]} differ\n"
        return
    for line in difflib.unified_diff(_lines(before), _lines(after), fromfile=names[0], tofile=names[1]):
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


def _is_text(data: bytes | None) -> bool:
    return data is None or (b"\0" not in data and len(data) <= MAX_PATCH_BYTES)


def _lines(data: bytes | None) -> list[str]:
    """Split at newlines only; what a terminal would act on is escaped, tabs are not."""
    if not data:
        return []
    parts = data.split(b"\n")
    last = parts.pop()
    tab = escape_bytes(b"\t")
    texts = [escape_bytes(part).replace(tab, "\t") for part in parts]
    return [f"{text}\n" for text in texts] + ([escape_bytes(last).replace(tab, "\t")] if last else [])
