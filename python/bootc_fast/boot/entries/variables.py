"""Moving the EFI variables that pick a boot entry along with the set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.boot.efi.firmware import write_loader_variable
from bootc_fast.errors import BootEntryError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bootc_fast.boot.loaders.override import OverrideKind
    from bootc_fast.machine.host import Host


def make_variable_setter(host: Host) -> Callable[[OverrideKind, bytes], None]:
    """Return what ``publish_menu`` takes as ``set_variable`` on this host.

    It raises OSError, which publishing turns into a warning: an override that names nothing is passed over.
    """

    def set_variable(kind: OverrideKind, value: bytes) -> None:
        try:
            write_loader_variable(host, kind.value, value.decode("utf-8", "replace"))
        except BootEntryError as error:
            raise OSError(str(error)) from error

    return set_variable
