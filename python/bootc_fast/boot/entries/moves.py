"""Making an override that named an entry of ours name the new default."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bootc_fast.boot.area.directory import opened
from bootc_fast.boot.area.replace import replace_file
from bootc_fast.boot.entries.reader import GRUB_DIRECTORY, GRUBENV, LOADER_CONF, LOADER_DIRECTORY
from bootc_fast.boot.loaders.entry import MAX_ENTRY_BYTES
from bootc_fast.boot.loaders.override import (
    CONF_KEYS,
    LoaderOverride,
    OverrideKind,
    replace_grubenv_value,
    replace_loader_conf,
)

if TYPE_CHECKING:
    from bootc_fast.boot.area.directory import BootVolume
    from bootc_fast.boot.loaders.entry import MenuEntry

_VARIABLES = (OverrideKind.ONE_SHOT, OverrideKind.PREFERRED_VARIABLE, OverrideKind.DEFAULT_VARIABLE)

VariableSetter = Callable[[OverrideKind, bytes], None]
"""Sets ``LoaderEntryDefault`` or one of its kin to an entry's id; raises OSError."""


def move_override(
    boot: BootVolume,
    override: LoaderOverride,
    default: MenuEntry,
    set_variable: VariableSetter | None,
    *,
    grub: bytes = GRUB_DIRECTORY,
) -> list[str]:
    """Write the new default's name where `override` stands.

    Args:
        boot: The boot directory.
        override: What named an entry that goes.
        default: What it is to name.
        set_variable: Sets an EFI variable; None where that cannot be done.
        grub: The directory of GRUB's environment block.

    Returns:
        Why it was left, in words; empty where it was changed.

    Raises:
        OSError: It has its old value.
    """
    if override.kind in _VARIABLES:
        if set_variable is None:
            return [f"{override.kind.value} still names an entry that is gone"]
        set_variable(override.kind, default.loader_id)
        return []
    if override.kind in CONF_KEYS:
        with opened(boot, LOADER_DIRECTORY) as directory:
            raw = directory.read(LOADER_CONF, MAX_ENTRY_BYTES)
            replace_file(directory, LOADER_CONF, replace_loader_conf(raw, default.loader_id, CONF_KEYS[override.kind]))
        return []
    key = b"next_entry" if override.kind is OverrideKind.GRUB_NEXT else b"saved_entry"
    with opened(boot, grub) as directory:
        block = replace_grubenv_value(directory.read(GRUBENV, MAX_ENTRY_BYTES), key, default.grub_id)
        if block is None:
            return [f"{override.kind.value}: the new value does not fit"]
        # In place: GRUB finds the block by its sectors, and a torn one picks nothing.
        directory.overwrite(GRUBENV, block)
    return []
