"""The order of GRUB 2.14's own menu against the program's rule for it: one boot into the menu, no system behind it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from loader_emulation import compare_upstream, list_menu
from vm import machine
from vm.grub import make_image
from vm.tables import make_equal_table, make_grub_table, parse_table

from bootc_fast.boot.loaders import grub_upstream
from bootc_fast.boot.loaders.order import sort_entries
from bootc_fast.types import Loader

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

# A terminal that is taller than the menu, so that all of it is drawn; the last entry ends the machine.
_CONFIG = """
serial --unit=0 --speed=115200
terminfo -g 100x250 serial vt100
terminal_input serial
terminal_output serial
blscfg --path (hd0,gpt2)/boot/loader/entries
menuentry "E999" --id end { halt }
set default=end
set timeout=5
"""


def _read_menu(work: Path, table: dict[str, bytes]) -> list[str]:
    """Boot into the menu of a table; return its titles from above."""
    lab = work / "host"
    (lab / "efi").mkdir(parents=True)
    entries = lab / "sysroot/boot/loader/entries"
    entries.mkdir(parents=True)
    for name, raw in table.items():
        (entries / name).write_bytes(raw)
    (lab / "sysroot/boot/grub2").mkdir()
    (lab / "sysroot/boot/grub2/grub.cfg").write_text(_CONFIG)
    image = make_image("forky", work / "grub.efi", "blsuki")
    disk = work / "disk.raw"
    machine.make_disk(lab, disk, root_mib=64, esp_files={"EFI/BOOT/BOOTX64.EFI": image})
    run = machine.run_machine(disk, work, boots=1, boot_timeout_s=300)
    disk.unlink()
    drawn = list(dict.fromkeys(re.findall(r"\bE\d{3}\b", run.console)))
    assert drawn[-1:] == ["E999"], run.console[-4000:]
    return drawn[:-1]


@pytest.fixture(scope="module")
def menu(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return _read_menu(tmp_path_factory.mktemp("grub-order"), make_grub_table())


def _titles(table: dict[str, bytes]) -> list[str]:
    return [(entry.title or b"").decode() for entry in sort_entries(parse_table(table), grub_upstream.RULE)]


def test_grub_shows_the_entries_that_we_say_it_shows(menu: list[str]) -> None:
    assert sorted(menu) == sorted(_titles(make_grub_table()))


def test_grub_shows_them_in_the_order_that_we_say(menu: list[str]) -> None:
    assert len(menu) > 70
    assert menu == _titles(make_grub_table())


def test_the_tests_own_loader_orders_names_like_the_real_one(menu: list[str]) -> None:
    files = {f"loader/entries/{name}": raw for name, raw in make_grub_table().items() if raw.startswith(b"title E0")}
    ours = [entry.values["title"] for entry in list_menu(Loader.GRUB, files, compare_upstream)]
    assert [title for title in menu if title < "E500"] == ours


def test_grub_shows_only_one_of_two_entries_that_compare_equal(tmp_path: Path) -> None:
    shown = _read_menu(tmp_path, make_equal_table())
    assert len({"E002", "E003"} & set(shown)) == 1
    # 2.14 reads no more of the directory then; what it did read is in order.
    assert shown == [title for title in reversed([f"E{index:03}" for index in range(6)]) if title in shown]
