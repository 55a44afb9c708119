"""UKI addons: the stub adds their command lines to the UKI's, so that one of another deployment misleads it."""

from __future__ import annotations

import re
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from bootc_fast.boot.area.real import RealVolume
from bootc_fast.boot.efi.sections import MAX_HEADER_BYTES, MAX_TEXT_BYTES, parse_section_table
from bootc_fast.boot.loaders.entry import parse_artifact_digest
from bootc_fast.errors import InvalidStateError
from bootc_fast.machine.cmdline import parse_composefs_arguments
from bootc_fast.text import escape_bytes, reason_of, shorten_digest

if TYPE_CHECKING:
    from bootc_fast.boot.area.directory import BootVolume
    from bootc_fast.composefs.boot_snapshot import BootSnapshot
    from bootc_fast.types import VerityDigest

GLOBAL_DIRECTORY = b"loader/addons"
"""Its addons are added to every UKI of the partition."""

_SUFFIX = re.compile(rb"\.addon\.efi(?:\.staged)?", re.IGNORECASE)
_DIGEST = re.compile(rb"(?<![0-9a-f])(?:[0-9a-f]{128}|[0-9a-f]{64})(?![0-9a-f])")
# Of a UKI that waits under its staged name the addons do, too.
_DIRECTORY_SUFFIXES = (b".extra.d", b".extra.d.staged")


def _list_addons(volume: BootVolume, directory: bytes) -> list[bytes]:
    opened = volume.open_directory(directory)
    if opened is None:
        return []
    with closing(opened):
        return sorted(name for name in opened.list_names() if _SUFFIX.search(name) is not None)


def _find_named(volume: BootVolume, path: bytes) -> list[str]:
    """Find the images that an addon names, by its command line or its file's name."""
    found = [match.decode("ascii") for match in _DIGEST.findall(path.rpartition(b"/")[2])]
    sections = parse_section_table(volume.read_part(path, 0, MAX_HEADER_BYTES))
    place = next((one for one in sections if one.name == b".cmdline"), None)
    if place is not None:
        raw = volume.read_part(path, place.offset, min(place.size_bytes, MAX_TEXT_BYTES)).partition(b"\0")[0]
        with suppress(InvalidStateError):
            arguments = parse_composefs_arguments(raw.decode("utf-8", "replace"), what="reading an addon")
            found += [argument.digest for argument in arguments]
    return list(dict.fromkeys(found))


def find_stray_addons(look: BootSnapshot) -> tuple[str, ...]:
    """Tell addons that belong to another deployment than the UKI to which they are added; blocks.

    Args:
        look: The boot directories.

    Returns:
        A warning for each; n >= 0.

    Source:
        systemd-stub(7), "Companion files".
    """
    menu = look.menu
    chunks = [chunk.entry for chunk in (*menu.live.chunks, *menu.staged.chunks) if chunk.entry is not None]
    entries = [one for one in (*menu.live.files, *menu.staged.files, *chunks) if one.is_own and one.uki is not None]
    places: dict[bytes, VerityDigest | None] = {}
    for entry in entries:
        path = (entry.uki or b"").replace(b"\\", b"/").strip(b"/")
        places |= {path + suffix: parse_artifact_digest(path) for suffix in _DIRECTORY_SUFFIXES}
    if places:
        places[GLOBAL_DIRECTORY] = None
    volume = RealVolume(look.area.boot_fd if look.area.esp_fd is None else look.area.esp_fd)
    told = []
    for directory, owner in places.items():
        try:
            for name in _list_addons(volume, directory):
                path = directory + b"/" + name
                others = [digest for digest in _find_named(volume, path) if digest != owner]
                if others:
                    whose = " and ".join(map(shorten_digest, others))
                    added = "every UKI" if owner is None else f"the UKI of {shorten_digest(owner)}"
                    told.append(f"the addon /{escape_bytes(path)} belongs to {whose}, and is added to {added}")
        except OSError as error:
            told.append(f"addons in /{escape_bytes(directory)} cannot be looked at: {reason_of(error)}")
    return tuple(told)
