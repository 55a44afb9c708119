"""Blessing, and making the old default regular again, cut at every write: what boots is whole, the next run mends."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import loader_emulation as loaders
import pytest
from random_host import LIVE, RandomHostAfterCut
from trial_hosts import COUNTED, TrialHost
from unit.boot.fat_model import seeded
from unit.boot.fat_volume import FatVolume

from bootc_fast.boot.counting.records import CountWish, WantedMethod
from bootc_fast.trial.states import TrialState
from bootc_fast.types import BootType

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = pytest.mark.parametrize(
    ("boot_type", "info"),
    [(BootType.BLS, "systemd-boot 257.9"), (BootType.UKI, "systemd-boot 257.9"), (BootType.UKI, "systemd-boot 262")],
)


def _updated(boot_type: BootType, info: str, method: WantedMethod = WantedMethod.AUTO) -> tuple[TrialHost, str, str]:
    machine = TrialHost(boot_type, info)
    machine.complete(is_healthy=True)
    old = machine.host.booted
    machine.host.stage("fedora", "44", boot_type, shares_kernel=False)
    new = machine.host.marker
    assert new is not None
    machine.finalize(CountWish(3, method))
    machine.host.settle()
    return machine, old, new


def _cuts(machine: TrialHost) -> Iterator[TrialHost]:
    """Every state that a power cut within the last command may have left, with what was noted before it."""
    model, states = machine.host.volume.model, dict(machine.states)
    for disk in model.crash_states(seeded(21), subsets=6):
        cut = object.__new__(TrialHost)
        cut.host = RandomHostAfterCut(machine.host, FatVolume(model.mount(disk)), machine.host.variables)
        cut.info, cut.states = machine.info, dict(states)
        cut.host.settle()
        yield cut


def _first_without_counters(machine: TrialHost) -> str | None:
    files = {re.sub(r"\+\d+(-\d+)?\.conf$", ".conf", path): raw for path, raw in machine.host.files.items()}
    return next((one.digest for one in loaders.list_menu(machine.host.loader, files) if one.digest), None)


@KINDS
@pytest.mark.parametrize("tries", [1, 3])
def test_a_blessing_that_was_cut_leaves_the_new_one_whole_and_the_next_boot_blesses_it(
    boot_type: BootType, info: str, tries: int
) -> None:
    machine, old, new = _updated(boot_type, info)
    assert [machine.start() for _ in range(tries)] == [new] * tries
    machine.host.settle()
    noted = dict(machine.states)
    machine.complete(is_healthy=True)
    machine.states = noted
    count = 0
    for cut in _cuts(machine):
        count += 1
        booted = cut.start()
        # On its last try the loader has the old one first until the blessing is on the disk.
        assert booted == new or (booted == old and tries == 3)
        assert cut.host.is_intact(booted)
        cut.host.settle()
        if booted == new:
            cut.complete(is_healthy=True)
            assert not any(
                COUNTED.fullmatch(name)
                for name, raw in cut.host.files.items()
                if name.startswith(LIVE) and new.encode() in raw
            )
            assert [cut.start(), cut.start()] == [new, new]
            assert cut.states[cut.host.booted].state is TrialState.GOOD
    assert count > 60


@KINDS
def test_a_fallback_that_was_cut_boots_the_old_one_in_every_state_and_is_finished_by_the_next_boot(
    boot_type: BootType, info: str
) -> None:
    machine, old, new = _updated(boot_type, info)
    assert [machine.start() for _ in range(4)] == [new, new, new, old]
    machine.host.settle()
    noted = dict(machine.states)
    machine.complete(is_healthy=True)
    assert _first_without_counters(machine) == old
    machine.states = noted
    count = 0
    for cut in _cuts(machine):
        count += 1
        assert cut.start() == old
        assert cut.host.is_intact(old)
        cut.complete(is_healthy=True)
        assert (cut.start(), _first_without_counters(cut)) == (old, old)
        assert {record.state for record in cut.states.values()} == {TrialState.GOOD, TrialState.FAILED}
    assert count > 60


@KINDS
def test_by_one_shot_a_good_boot_that_was_cut_boots_one_of_the_two_whole(boot_type: BootType, info: str) -> None:
    machine, old, new = _updated(boot_type, info, WantedMethod.ONE_SHOT)
    assert machine.start() == new
    machine.host.settle()
    noted = dict(machine.states)
    machine.complete(is_healthy=True)
    machine.states = noted
    found = set()
    for cut in _cuts(machine):
        booted = cut.start()
        assert cut.host.is_intact(booted)
        found.add(booted)
        cut.complete(is_healthy=True)
        assert cut.start() == booted
    assert found == {old, new}
