"""How a lab host's loader counts boots: systemd-boot renames what it boots, as the firmware lets it.

Written apart from ``bootc_fast.boot``, so that a lab host checks it instead of echoing it.

Source:
    UAPI boot loader specification, "Boot counting"; what systemd-boot 252, 254, 257 and 262 do in a machine
    (``tests/sdboot``).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bootc_fast.types import Loader

if TYPE_CHECKING:
    from pathlib import Path

    from bootc_fast.lab.layout import LabHost

_COUNTED = re.compile(r"(?P<name>.+)\+(?P<left>\d+)(?:-(?P<done>\d+))?\.conf")
# Of the version that a lab host has: the key `efi` is not counted any more.
_KEYS = ("linux", "uki")
_PATH = "LoaderBootCountPath"


def count_boot(host: LabHost, label: str) -> str:
    """Count a boot of an entry: its file gets another name where that has a counter.

    Sets ``LoaderBootCountPath`` to the new name, or removes it.

    Args:
        host: Where.
        label: The entry's file name.

    Returns:
        What the loader says that it has booted: the name without a counter.
    """
    if host.loader is not Loader.SYSTEMD_BOOT:
        return label
    host.write_efi_variable(_PATH, None)
    found = _COUNTED.fullmatch(label)
    path = host.boot_dir / "loader/entries" / label
    if found is None or not path.is_file():
        return label
    if _has_counted_key(path):
        left, done = int(found["left"]), int(found["done"] or 0)
        new = f"{found['name']}+{max(left - 1, 0)}-{done + 1}.conf"
        path.rename(path.with_name(new))
        host.write_efi_variable(_PATH, f"\\loader\\entries\\{new}")
    return f"{found['name']}.conf"


def _has_counted_key(path: Path) -> bool:
    lines = path.read_text(errors="replace").splitlines()
    return any(line.split(maxsplit=1)[0] in _KEYS for line in lines if line.strip())
