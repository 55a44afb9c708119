"""The fallback entry in ``custom.cfg``, asked of the real GRUBs of Debian 13 (2.12) and forky (2.14)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from vm.grub_counting import AFTER, GRUB, OLD_TITLE, GrubHost, make_images, menuentry, start

from bootc_fast.boot.counting.grub_script import CUSTOM, put_fallback
from bootc_fast.boot.loaders.grub_trial import TRIES
from bootc_fast.boot.loaders.user_cfg import parse_user_cfg

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

# As bootupd's 30_uefi-firmware, before custom.cfg: the first item where nothing else is left.
_SETUP = menuentry("UEFI Firmware Settings", "setup")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return make_images(tmp_path_factory.mktemp("grubs"))


@pytest.mark.parametrize(
    ("suite", "user_cfg", "boots"),
    [("trixie", None, "old"), ("forky", b"", "old"), ("forky", "kept", "new")],
)
def test_it_boots_where_user_cfg_is_gone_or_empty_and_only_there(
    suite: str, user_cfg: bytes | str | None, boots: str, images: Mapping[str, Path], tmp_path: Path
) -> None:
    host = GrubHost(suite, "uki", "fat", custom=_SETUP + AFTER)
    host.put_on_trial()
    (entry,) = [chunk.entry for chunk in parse_user_cfg(menuentry(OLD_TITLE, "old").encode(), known=())]
    custom = f"{GRUB}/{CUSTOM.decode()}"
    host.files[custom] = put_fallback(host.files[custom], entry)
    if not isinstance(user_cfg, str):
        host.files[f"{GRUB}/user.cfg"] = user_cfg
    machine = start(tmp_path, host, images[suite])
    assert machine.boot() == [boots], machine.console[-3000:]
    # What is not there is not tried.
    assert machine.variables()[TRIES] == (b"2" if boots == "new" else b"3")


def test_without_it_something_else_boots(images: Mapping[str, Path], tmp_path: Path) -> None:
    host = GrubHost("trixie", "uki", "fat", custom=_SETUP.replace("setup.efi", "old.efi") + AFTER)
    host.files[f"{GRUB}/user.cfg"] = None
    machine = start(tmp_path, host, images["trixie"])
    assert machine.boot() == ["old"], "the item that stands for the firmware's setup"
