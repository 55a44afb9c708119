"""Reading ``user.cfg``, live and staged, and what GRUB shows where the live one is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.boot.entries.reader import GRUB_DIRECTORY, USER_CFG, USER_CFG_STAGED
from bootc_fast.records import dataclass, replace

if TYPE_CHECKING:
    from bootc_fast.boot.entries.reader import MenuReader
    from bootc_fast.boot.loaders.entry import MenuEntry
    from bootc_fast.boot.loaders.record import LoaderRecord
    from bootc_fast.boot.loaders.user_cfg import Chunk


@dataclass(frozen=True, slots=True)
class UserCfg:
    """What is there.

    Attributes:
        raw: The live file; None where it is absent.
        chunks: Its pieces.
        staged_chunks: Those of the staged one.
        has_staged: There is a staged one.
        fallback: What ``custom.cfg`` has for the case that the live file is gone or empty, where it is.
    """

    raw: bytes | None = None
    chunks: tuple[Chunk, ...] = ()
    staged_chunks: tuple[Chunk, ...] = ()
    has_staged: bool = False
    fallback: MenuEntry | None = None


def read_user_cfg(reader: MenuReader, record: LoaderRecord, available: frozenset[bytes]) -> UserCfg:
    """Read both files.

    Args:
        reader: Of the boot directory.
        record: The loader; one that reads no such file has none.
        available: Paths of UKIs that are there under a staged name.
    """
    if not record.has_user_cfg:
        return UserCfg()
    from bootc_fast.boot.loaders.user_cfg import MAX_USER_CFG_BYTES, parse_user_cfg

    live = reader.read_optional(GRUB_DIRECTORY, USER_CFG, MAX_USER_CFG_BYTES)
    staged = reader.read_optional(GRUB_DIRECTORY, USER_CFG_STAGED, MAX_USER_CFG_BYTES)

    def parse(raw: bytes | None) -> tuple[Chunk, ...]:
        chunks = parse_user_cfg(raw or b"", known=reader.known)
        return tuple(
            replace(chunk, entry=reader.find_missing(chunk.entry, available))
            if chunk.entry is not None and chunk.entry.is_own
            else chunk
            for chunk in chunks
        )

    fallback = None if live or USER_CFG in reader.unread else _read_fallback(reader, available, MAX_USER_CFG_BYTES)
    return UserCfg(live, parse(live), parse(staged), staged is not None, fallback)


def _read_fallback(reader: MenuReader, available: frozenset[bytes], max_bytes: int) -> MenuEntry | None:
    from bootc_fast.boot.loaders.grub_fallback import find_fallback

    custom = reader.read_optional(GRUB_DIRECTORY, b"custom.cfg", max_bytes)
    found = find_fallback(custom, known=reader.known) if custom else None
    found = None if found is None else reader.find_missing(found, available)
    return None if found is None or found.missing else found
