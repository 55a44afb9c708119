"""Accounts of the new image that a merged /etc does not have, or has under another number.

Files carry numbers. Where the merge keeps this host's ``passwd`` or ``group``, files that the new image owns by its own
numbers belong to somebody else, or to nobody, until accounts are merged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.etc.trees import read_content
from bootc_fast.text import count, escape_bytes
from bootc_fast.types import EtcChange

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bootc_fast._core import EtcPlan
    from bootc_fast.etc.trees import OpenTree

MAX_ACCOUNT_BYTES = 1 << 20
"""Of a ``passwd`` or ``group``; larger ones are not compared."""

_MAX_NAMED = 8
"""Accounts named in one warning."""

_MAX_DIGITS = 10
"""Of a number of 32 bits."""

_FILES = ((b"passwd", "accounts"), (b"group", "groups"))


def compare_accounts(plan: EtcPlan, current: OpenTree, new: OpenTree) -> list[EtcChange]:
    """Compare the accounts of this host with those of the new image, where this host's stay; reads at most four files.

    Returns:
        Warnings, each with its path; none where the result has the image's files.

    Raises:
        FileSystemError: A file cannot be read.
        UsageError: One is an object and no object directory was given.

    Source:
        ``passwd(5)``, ``group(5)``: the name, then the password, then the number.
    """
    if new.tree.find(b"passwd") is None:
        return []
    warnings: list[EtcChange] = []
    for (path, what), owned in zip(_FILES, plan.count_owners(), strict=True):
        if plan.side_of(path) != "current":
            continue
        sides = (read_content(side, path, max_bytes=MAX_ACCOUNT_BYTES) for side in (current, new))
        here, there = (_parse(data or b"") for data in sides)
        warnings += [EtcChange(path, text) for text in _compare(here, there, owned, what)]
    return warnings


def _parse(data: bytes) -> dict[bytes, int]:
    """Read names and numbers; lines that are none, as those of NIS, do not count."""
    found: dict[bytes, int] = {}
    if len(data) > MAX_ACCOUNT_BYTES:
        return found
    for line in data.split(b"\n"):
        name, _, rest = line.partition(b":")
        fields = rest.split(b":")
        if (
            name[:1] not in {b"", b"+", b"-", b"#"}
            and len(fields) > 1
            and fields[1].isdigit()
            and len(fields[1]) <= _MAX_DIGITS
        ):
            found.setdefault(name, int(fields[1]))
    return found


def _compare(here: dict[bytes, int], there: dict[bytes, int], owned: dict[int, int], what: str) -> Iterator[str]:
    for name, number in sorted(there.items()):
        if name in here and here[name] != number:
            text = f"{escape_bytes(name)} is {here[name]} here and {number} in the new image"
            files = owned.get(number, 0)
            yield f"{text}, which owns {count(files, 'files')} of /etc by that number" if files else text
    missing = sorted(there.keys() - here.keys())
    if missing:
        names = [f"{escape_bytes(name)} ({there[name]})" for name in missing[:_MAX_NAMED]]
        more = f" and {len(missing) - len(names)} more" if len(missing) > len(names) else ""
        yield f"{what} of the new image are missing here: {', '.join(names)}{more}"
