"""Whatever names the boot partition has: nothing that a terminal obeys comes out of the boot room."""

from __future__ import annotations

import pytest
from unit.boot.fat_model import FatModel
from unit.boot.fat_volume import FatVolume
from unit.boot.scenarios import KNOWN, A, C, bls_text

from bootc_fast.boot.efi.firmware import LoaderVariables
from bootc_fast.boot.entries.garbage import collect_volumes
from bootc_fast.boot.entries.menu import read_volumes
from bootc_fast.boot.entries.plan import plan_menu
from bootc_fast.errors import BootEntryError
from bootc_fast.types import Loader

# ESC and CSI, a line end, a right-to-left override, bytes that are not UTF-8, C1's CSI as UTF-8.
EVIL = [b"\x1b[31m", b"\r\nok: ", "\u202e".encode(), b"\xff\x9b", "\x9b1m".encode(), b"\x7f\x08"]


@pytest.mark.parametrize("evil", EVIL, ids=repr)
@pytest.mark.parametrize("loader", list(Loader))
def test_no_name_reaches_people_as_it_is(loader: Loader, evil: bytes) -> None:
    volume = FatVolume(FatModel())
    name = b"bootc_a" + evil + b"-1-1.conf"
    volume.put(b"/loader/entries/" + name, bls_text(A, "43", "bootc-a-0").replace(b"linux ", b"linux /x" + evil[:4]))
    volume.put(b"/loader/entries/zz" + evil + b"-9-9.conf", b"title x\nlinux /missing" + evil + b"\nsort-key 0\n")
    volume.put(b"/loader/entries/torn" + evil + b".conf", b"")
    volume.put(b"/loader/loader.conf", b"default zz" + evil.replace(b"\r\n", b"") + b"-9-9.conf\n")
    menu = read_volumes(
        volume, volume, loader=loader, known=KNOWN, variables=LoaderVariables(info="systemd-boot 257.1")
    )
    said = [*menu.odd.warnings, menu.live.choice.reason, *(entry.label for entry in menu.live.files)]
    try:
        plan_menu(menu, order=(A, C), staged=None)
    except BootEntryError as error:
        said.append(str(error))
    outcome = collect_volumes(volume, volume, menu, known=())
    said += [*outcome.removed, *outcome.warnings]
    assert len(said) > 3
    assert all(text.isprintable() for text in said), said
