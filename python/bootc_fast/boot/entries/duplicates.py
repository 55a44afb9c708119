"""Two entries for one deployment: what a cut leaves where a set cannot be exchanged; bootc's own reader stops at it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from bootc_fast.boot.entries.menu import BootMenu
    from bootc_fast.types import VerityDigest

_RANK = (b"sort-key", b"version", b"title")


def count_duplicates(menu: BootMenu, digests: Collection[VerityDigest]) -> dict[VerityDigest, int]:
    """Count the live entries of deployments that have several which differ by their rank only.

    One that boots a deployment in another way, with other options or files, is no duplicate.
    """
    found: dict[VerityDigest, int] = {}
    for digest in digests:
        raws = [(one.file_name, one.raw) for one in menu.live.files if one.is_own and one.digest == digest]
        if len(raws) > len({_without_rank(raw) for _name, raw in raws}):
            found[digest] = len(raws)
    return found


def _without_rank(raw: bytes) -> tuple[bytes, ...]:
    return tuple(line for line in raw.splitlines() if not line.startswith(_RANK))
