"""Making an override that named an entry of ours name the new default."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bootc_fast.boot.area.directory import opened
from bootc_fast.boot.area.replace import replace_file
from bootc_fast.boot.entries.settings import find_settings
from bootc_fast.boot.loaders.entry import MAX_ENTRY_BYTES
from bootc_fast.boot.loaders.grubenv import GRUBENV_KEYS, replace_grubenv_value
from bootc_fast.boot.loaders.override import LoaderOverride, OverrideKind
from bootc_fast.boot.loaders.systemd_boot import CONF_KEYS, replace_loader_conf

if TYPE_CHECKING:
    from bootc_fast.boot.area.directory import BootVolume
    from bootc_fast.boot.loaders.entry import MenuEntry
    from bootc_fast.boot.loaders.record import LoaderRule

_VARIABLES = (OverrideKind.ONE_SHOT, OverrideKind.PREFERRED_VARIABLE, OverrideKind.DEFAULT_VARIABLE)

VariableSetter = Callable[[OverrideKind, bytes], None]
"""Sets ``LoaderEntryDefault`` or one of its kin to an entry's id; raises OSError."""


def move_override(
    boot: BootVolume,
    esp: BootVolume | None,
    override: LoaderOverride,
    default: MenuEntry,
    *,
    set_variable: VariableSetter | None,
    rule: LoaderRule,
) -> list[str]:
    """Write the new default's name where `override` stands.

    Args:
        boot: The boot directory.
        esp: The ESP, to which the file that has it may be a link.
        override: What named an entry that goes.
        default: What it is to name.
        set_variable: Sets an EFI variable; None where that cannot be done.
        rule: Whose override it is.

    Returns:
        Why it was left, in words; empty where it was changed.

    Raises:
        OSError: It has its old value.
    """
    if override.kind in _VARIABLES:
        if set_variable is None:
            return [f"{override.kind.value} still names an entry that is gone"]
        set_variable(override.kind, rule.identify(default))
        return []
    volume, home, name = find_settings(boot, esp, rule)
    with opened(volume, home) as directory:
        raw = directory.read(name, MAX_ENTRY_BYTES)
        if override.kind in CONF_KEYS:
            changed = replace_loader_conf(raw, rule.identify(default), CONF_KEYS[override.kind])
            replace_file(volume, home, name, changed)
            return []
        block = replace_grubenv_value(raw, GRUBENV_KEYS[override.kind], rule.identify(default))
        if block is None:
            return [f"{override.kind.value}: the new value does not fit"]
        # In place: GRUB finds the block by its sectors, and a torn one picks nothing.
        directory.overwrite(name, block)
    return []
