"""Boot files of ours that a power cut left with a short name alone, which FAT makes of every long one.

The slots of a long name may lie in two sectors. A cut inside its removal, or its making, leaves ``BOOTC_~1.EFI`` or
``0A1B2C~1``, with all that it leads to. What stood next to the short name is the beginning of the long one: parts of
it, deleted ones too, carry the short name's checksum. It says whose the name is, and with luck which deployment's.

Source:
    Linux ``fs/fat/namei_vfat.c``, ``vfat_create_shortname``, which turns to two characters and four digits where the
    numbers 1 to 9 are taken; ``fs/fat/dir.c``, ``fat_remove_entries``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bootc_fast.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from bootc_fast.types import VerityDigest

_PREFIXES = ("", "bootc_composefs-", "bootc-fast-gone-", "bootc-fast-gone-bootc_composefs-")
_SHAPE = re.compile(r"(?P<base>BOOTC[_-]|(?:BO|[0-9A-F]{2})[0-9A-F]{4})~[1-9](?P<kind>\.(?:EFI|STA|GON|D))?")
_BEGINNING = re.compile(r"(?P<digest>[0-9a-f]{0,128})(?P<kind>\.(?:e|ef|efi(?:\.[a-z0-9.]*)?)?)?")
_BOOTCS_BASE = "BOOTC_"
_DIGEST_DIGITS = (64, 128)
_MACHINE_ID_DIGITS = 32
"""Of the ids by which systemd's tools name what they put beside; more digits begin no such name."""


@dataclass(frozen=True, slots=True)
class Alias:
    """A name that is short only.

    Attributes:
        name: As the FAT has it, in capitals.
        digest: The beginning of its deployment's digest; empty where nothing of it is left.
        is_ours: The long name was one of ours, as far as can be told.
    """

    name: str
    digest: str
    is_ours: bool

    def may_belong_to(self, digest: VerityDigest) -> bool:
        """Tell whether it can have been a boot file of this deployment."""
        return digest.startswith(self.digest)


def _read_beginning(text: str) -> str | None:
    """Return what of a digest is in the beginning of a long name; None where it is none of ours."""
    for prefix in _PREFIXES:
        if prefix.startswith(text):
            return ""
        match = _BEGINNING.fullmatch(text[len(prefix) :]) if text.startswith(prefix) else None
        if match is None or (not prefix and len(match["digest"]) <= _MACHINE_ID_DIGITS):
            continue
        kind = match["kind"]
        if kind is None or len(match["digest"]) in _DIGEST_DIGITS:
            return match["digest"]
    return None


def parse_alias(name: str, lost_name: str, *, is_for_ukis: bool) -> Alias | None:
    """Tell whether a name may be the short one of a name of ours.

    Args:
        name: The short name of a file or directory that has no long one.
        lost_name: What is left of the long one; its beginning.
        is_for_ukis: UKIs and addons are looked for, which have a suffix, not kernels' directories, which have none.

    Returns:
        None where it looks like none.
    """
    match = _SHAPE.fullmatch(name)
    if match is None or (match["kind"] is not None) != is_for_ukis:
        return None
    # Where nothing is left, only a name that says it is bootc's counts: six hexadecimal digits are a word, too.
    digest = _read_beginning(lost_name) if lost_name else ("" if match["base"] == _BOOTCS_BASE else None)
    return Alias(name, digest or "", is_ours=digest is not None)


def find_aliases(short_names: Mapping[str, str], names: Collection[bytes], *, is_for_ukis: bool) -> dict[bytes, Alias]:
    """Find those of a directory, by the names that the kernel shows, which may be in small letters."""
    shown = {name.upper(): name for name in names}
    found: dict[bytes, Alias] = {}
    for short, lost in short_names.items():
        alias = parse_alias(short, lost, is_for_ukis=is_for_ukis)
        if alias is not None and (name := shown.get(short.encode())) is not None:
            found[name] = alias
    return found
