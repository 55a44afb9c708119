"""Where the loader's settings file really is: ``grubenv`` may be a symlink that leads to the ESP."""

from __future__ import annotations

import errno
import os
import posixpath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bootc_fast.boot.area.directory import BootVolume
    from bootc_fast.boot.loaders.record import LoaderRule

MAX_LINKS = 8

_BOOT = b"/boot"
# Where the ESP is mounted, whatever the loader.
_ESP_PLACES = (b"/boot/efi", b"/efi", b"/boot/EFI")


def _locate(path: bytes, boot: BootVolume, esp: BootVolume | None) -> tuple[BootVolume, bytes] | None:
    """Find the volume on which a path of the running system is, and its path there."""
    inside = path.removeprefix(b"/sysroot")
    is_on_boot = inside.startswith(_BOOT + b"/")
    if is_on_boot and boot.find_size(inside.removeprefix(_BOOT)) is not None:
        return boot, inside.removeprefix(_BOOT)
    for place in _ESP_PLACES:
        if esp is not None and inside.startswith(place + b"/"):
            return esp, inside.removeprefix(place)
    return (boot, inside.removeprefix(_BOOT)) if is_on_boot else None


def find_settings(boot: BootVolume, esp: BootVolume | None, rule: LoaderRule) -> tuple[BootVolume, bytes, bytes]:
    """Follow the links that lead to a rule's ``settings``, inside of the boot directory and the ESP.

    RHEL 8 and its kin, and openSUSE, keep ``grubenv`` on the ESP, where their GRUB reads and writes it.

    Returns:
        The volume, the directory there, and the name in it; the file need not be there where no link leads to it.

    Raises:
        OSError: ``ELOOP``: too many links; ``ENOENT``: they lead to nothing; ``EXDEV``: they leave both partitions.
    """
    volume, home, name = boot, rule.home, rule.settings
    for step in range(MAX_LINKS):
        path = home.strip(b"/") + b"/" + name
        target = volume.read_link(path)
        if target is None:
            if step and volume.find_size(path) is None:
                raise OSError(errno.ENOENT, "it is a link that leads to nothing", path)
            return volume, home, name
        prefix = _BOOT if volume is boot else _ESP_PLACES[0]
        seen = posixpath.normpath(posixpath.join(prefix + b"/" + home.strip(b"/"), target))
        located = _locate(seen, boot, esp)
        if located is None:
            raise OSError(errno.EXDEV, "it is a link that leaves the boot directory and the ESP", path)
        volume, inside = located
        home, _slash, name = inside.strip(b"/").rpartition(b"/")
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), rule.settings)
