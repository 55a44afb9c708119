"""staged_set.py and what an unstaging does on the boot partition: cut or failing anywhere, the old default boots."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

import pytest
from unit.boot.fat_model import FatModel, seeded
from unit.boot.fat_volume import FatVolume
from unit.boot.faults import FaultyVolume, KilledError, Trigger
from unit.boot.scenarios import KNOWN, A, B, Scenario, bls_text, judge, kernel_directory, make_scenarios, uki_path

from bootc_fast.boot.entries.garbage import GarbageOutcome, collect_volumes
from bootc_fast.boot.entries.staged_set import find_naming, remove_staged_set
from bootc_fast.types import Loader

if TYPE_CHECKING:
    from bootc_fast.boot.area.directory import BootVolume

UPDATES = [scenario for scenario in make_scenarios() if scenario.staged is not None]
GEOMETRIES = [(512, 16), (512, 12), (4096, 16)]


def _unstage(scenario: Scenario, volume: BootVolume) -> tuple[list[str], GarbageOutcome]:
    """As the flow does it: the staged set, then, by a menu that is read anew, the files of what was staged."""
    problems = remove_staged_set(volume)
    menu = scenario.read(volume)
    assert scenario.staged is not None
    named = find_naming(volume, volume, menu, scenario.staged)
    gone = {scenario.staged} if named is None and menu.odd.is_complete else set()
    return problems, collect_volumes(volume, volume, menu, known=KNOWN - gone)


def _prepare(scenario: Scenario, cluster_bytes: int = 512, slots: int = 16) -> FatModel:
    model = FatModel(cluster_bytes=cluster_bytes, slots_per_sector=slots)
    scenario.install(FatVolume(model))
    model.start()
    return model


def _tree(model: FatModel) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    pending = [(b"", model.root)]
    while pending:
        path, inode = pending.pop()
        for name, child in inode.children.items():
            if child.is_dir:
                pending.append((path + b"/" + name, child))
            else:
                found[path + b"/" + name] = model.read(child)
    return found


def _check_gone(model: FatModel, scenario: Scenario) -> None:
    """Nothing of the staged deployment is left, and everything else is what it was, byte for byte."""
    wanted = {
        path: data
        for path, data in {**scenario.files, **scenario.foreign}.items()
        if not path.startswith(b"/loader/entries.staged/") and not path.endswith(b"/user.cfg.staged")
    }
    assert scenario.staged is not None
    wanted = {path: data for path, data in wanted.items() if scenario.staged.encode() not in path}
    assert _tree(model) == wanted
    assert not FatVolume(model).open_plain_directory(b"loader/entries.staged")
    assert not model.is_read_only


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("scenario", UPDATES, ids=lambda scenario: scenario.name)
def test_every_crash_state_boots_the_old_default_and_the_next_run_finishes(
    scenario: Scenario, geometry: tuple[int, int]
) -> None:
    model = _prepare(scenario, *geometry)
    problems, outcome = _unstage(scenario, FatVolume(model))
    assert (problems, outcome.warnings) == ([], ())
    _check_gone(model, scenario)
    states = 0
    for disk in model.crash_states(seeded(5), subsets=6):
        states += 1
        crashed = model.mount(disk)
        assert judge(crashed, scenario, wanted=(scenario.old,)) == []
        crashed.start()
        _unstage(scenario, FatVolume(crashed))
        assert judge(crashed.mount(crashed.cache), scenario, wanted=(scenario.old,)) == []
        left = _tree(crashed.mount(crashed.cache))
        assert not [path for path in left if b"/entries.staged/" in path], "a staged entry is left"
    assert states > 5


def _count_operations(scenario: Scenario) -> int:
    trigger = Trigger()
    _unstage(scenario, FaultyVolume(FatVolume(_prepare(scenario)), trigger))
    return len(trigger.calls)


@pytest.mark.parametrize("scenario", UPDATES, ids=lambda scenario: scenario.name)
def test_killed_at_any_operation_the_old_default_boots_and_the_next_run_finishes(scenario: Scenario) -> None:
    for at in range(_count_operations(scenario)):
        model = _prepare(scenario)
        with pytest.raises(KilledError):
            _unstage(scenario, FaultyVolume(FatVolume(model), Trigger(at)))
        model.close_all()
        assert judge(model, scenario, wanted=(scenario.old,)) == []
        _unstage(scenario, FatVolume(model))
        _check_gone(model, scenario)


@pytest.mark.parametrize("error", [errno.EIO, errno.EROFS, errno.ENOENT, errno.EACCES], ids=errno.errorcode.get)
@pytest.mark.parametrize("scenario", UPDATES, ids=lambda scenario: scenario.name)
def test_after_any_one_failure_the_old_default_boots_and_the_next_run_finishes(scenario: Scenario, error: int) -> None:
    told = 0
    for at in range(_count_operations(scenario)):
        model = _prepare(scenario)
        trigger = Trigger(at, error)
        with contextlib.suppress(OSError):
            problems, outcome = _unstage(scenario, FaultyVolume(FatVolume(model), trigger))
            told -= not (problems or outcome.warnings)
        told += 1
        assert trigger.has_fired
        assert judge(model, scenario, wanted=(scenario.old,)) == [], trigger.calls[at:]
        _unstage(scenario, FatVolume(model))
        _check_gone(model, scenario)
    assert told > 3


def _named(files: dict[bytes, bytes], *, with_staged: bool = True) -> str | None:
    volume = FatVolume(FatModel())
    for path, data in files.items():
        volume.put(path, data)
    scenario = Scenario("", Loader.SYSTEMD_BOOT, {}, A, B, B, A)
    return find_naming(volume, volume, scenario.read(volume), B, with_staged=with_staged)


def test_a_deployment_is_named_by_entries_and_texts_and_not_by_a_kernel_directory_that_is_shared() -> None:
    live, staged = b"/loader/entries/bootc_x-2-1.conf", b"/loader/entries.staged/bootc_x-3-1.conf"
    own, others = (kernel_directory(digest, Loader.SYSTEMD_BOOT) for digest in (A, B))
    shared = bls_text(A, "2", "k").replace(own, others)
    assert _named({live: shared}) is None
    assert _named({live: bls_text(B, "2", "k")}) == "the boot entry bootc_x-2-1.conf"
    assert _named({staged: bls_text(B, "2", "k")}) == "the boot entry bootc_x-3-1.conf"
    assert _named({staged: bls_text(B, "2", "k")}, with_staged=False) is None
    other = b"title o\nlinux /x\noptions quiet composefs.digest=v1-sha256-12:" + b"9" * 64 + b" composefs=" + B.encode()
    assert _named({b"/loader/entries/other.conf": other}) == "the boot entry other.conf"
    assert _named({b"/grub2/custom.cfg": b"chainloader " + uki_path(B).upper()}) == "a text on the boot partition"
    assert _named({b"/grub2/user.cfg.staged": b"set x=" + B.encode()}, with_staged=False) is None
