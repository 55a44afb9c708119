"""GRUB's boot counting, asked of the real GRUBs of Debian 13 (2.12) and forky (2.14) with tiny programs as kernels.

The authority for `bootc_fast.boot.counting`: its script, its block in ``custom.cfg`` and its variables are what GRUB is
given. The short part; the whole matrix is `test_grub_counting_matrix.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from unit.boot.counting.test_grub_names import ANSWERS
from vm.grub_counting import GrubHost, ask_names, make_images, start

from bootc_fast.boot.loaders.grub_trial import TRIES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return make_images(tmp_path_factory.mktemp("grubs"))


@pytest.mark.parametrize(("suite", "kind", "file_system"), [("trixie", "uki", "ext4"), ("forky", "bls", "fat")])
def test_after_three_power_cycles_the_old_one_boots_by_itself_and_stays(
    suite: str, kind: str, file_system: str, images: Mapping[str, Path], tmp_path: Path
) -> None:
    host = GrubHost(suite, kind, file_system)
    host.put_on_trial()
    machine = start(tmp_path, host, images[suite])
    found = [(machine.boot(), machine.variables()[TRIES]) for _ in range(4)]
    assert found == [(["new"], b"2"), (["new"], b"1"), (["new"], b"0"), (["old"], b"0")], machine.console[-2000:]
    assert machine.variables()[b"other"] == b"kept"
    machine.check()


def test_a_disk_that_takes_no_write_boots_the_old_one(images: Mapping[str, Path], tmp_path: Path) -> None:
    host = GrubHost("trixie", "uki", "ext4")
    host.put_on_trial()
    machine = start(tmp_path, host, images["trixie"])
    assert machine.boot(read_only=True) == ["old"]
    assert machine.variables()[TRIES] == b"3"


def test_an_admins_choice_for_one_boot_is_heeded_once_and_spends_no_try(
    images: Mapping[str, Path], tmp_path: Path
) -> None:
    host = GrubHost("forky", "bls", "ext4")
    host.put_on_trial(next_entry=host.names[1])
    machine = start(tmp_path, host, images["forky"])
    assert (machine.boot(), machine.variables()[TRIES]) == (["old"], b"3")
    assert machine.variables()[b"next_entry"] == b""
    assert (machine.boot(), machine.variables()[TRIES]) == (["new"], b"2")


def test_names_lead_to_the_items_that_we_say(images: Mapping[str, Path], tmp_path: Path) -> None:
    questions = [(titles, value) for titles, value, _place in ANSWERS]
    assert ask_names(tmp_path, images["forky"], "forky", questions) == [place for _titles, _value, place in ANSWERS]
