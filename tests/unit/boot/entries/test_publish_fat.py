"""publish.py on FAT: whatever is on the disk when the power goes, the machine boots, and the next run finishes."""

from __future__ import annotations

import pytest
from unit.boot.fat_model import FatModel, seeded
from unit.boot.fat_volume import FatVolume
from unit.boot.scenarios import A, B, Scenario, check_finished, find_boots, judge, make_scenarios

from bootc_fast.boot.area.room import count_slots
from bootc_fast.boot.entries.publication import Publication
from bootc_fast.errors import BootEntryError
from bootc_fast.types import Loader

GEOMETRIES = [(512, 16), (512, 12), (4096, 16)]
SUBSETS = 12


def _prepare(scenario: Scenario, cluster_bytes: int, slots: int) -> FatModel:
    model = FatModel(cluster_bytes=cluster_bytes, slots_per_sector=slots)
    scenario.install(FatVolume(model))
    model.start()
    return model


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("scenario", make_scenarios(), ids=lambda scenario: scenario.name)
def test_every_crash_state_boots_the_old_or_the_new_default_whole(
    scenario: Scenario, geometry: tuple[int, int]
) -> None:
    model = _prepare(scenario, *geometry)
    if _has_no_room(scenario, geometry):
        with pytest.raises(BootEntryError, match="/EFI/Linux/bootc has no room for 1 more name: it would grow"):
            scenario.run(FatVolume(model))
        assert not [key for kind, key, _value in model.log if kind == "write"]
        return
    scenario.run(FatVolume(model))
    check_finished(model, scenario)
    states = 0
    for disk in model.crash_states(seeded(1), subsets=SUBSETS):
        states += 1
        assert judge(model.mount(disk), scenario) == []
    assert states > 30


def _has_no_room(scenario: Scenario, geometry: tuple[int, int]) -> bool:
    """Two names of UKIs leave no room for a third in directories of 12 places a cluster."""
    return geometry[1] == 12 and any(path.endswith(b".efi.staged") for path in scenario.files)


# What is refused before the first write has no crash; that it is refused is the test above.
WITH_ROOM = [
    pytest.param(scenario, geometry, id=f"{scenario.name}-{geometry}")
    for scenario in make_scenarios()
    for geometry in GEOMETRIES[:2]
    if not _has_no_room(scenario, geometry)
]


@pytest.mark.parametrize(("scenario", "geometry"), WITH_ROOM)
def test_the_next_run_after_any_crash_ends_in_the_new_set(scenario: Scenario, geometry: tuple[int, int]) -> None:
    model = _prepare(scenario, *geometry)
    scenario.run(FatVolume(model))
    for disk in model.crash_states(seeded(2), subsets=4):
        crashed = model.mount(disk)
        if not _has_all_ukis(crashed, scenario):
            continue
        crashed.start()
        scenario.run(FatVolume(crashed))
        check_finished(crashed.mount(crashed.cache), scenario)


def _has_all_ukis(model: FatModel, scenario: Scenario) -> bool:
    """A cut inside the rename of a staged UKI can lose it; then nothing is staged any more, as after any power cut."""
    for path in scenario.files:
        if path.endswith(b".staged") and path.startswith(b"/EFI"):
            sizes = [FatVolume(model).find_size(name) for name in (path, path.removesuffix(b".staged"))]
            if not any(sizes):
                return False
    return True


@pytest.mark.parametrize("scenario", make_scenarios(), ids=lambda scenario: scenario.name)
def test_two_crashes_in_a_row_still_boot_and_then_finish(scenario: Scenario) -> None:
    rng = seeded(3)
    model = _prepare(scenario, 512, 16)
    scenario.run(FatVolume(model))
    states = list(model.crash_states(rng, subsets=2))
    for disk in rng.sample(states, min(15, len(states))):
        second = model.mount(disk)
        if not _has_all_ukis(second, scenario):
            continue
        second.start()
        scenario.run(FatVolume(second))
        again = list(second.crash_states(rng, subsets=1))
        for other in rng.sample(again, min(10, len(again))):
            third = second.mount(other)
            assert judge(third, scenario) == []
            if _has_all_ukis(third, scenario):
                third.start()
                scenario.run(FatVolume(third))
                check_finished(third, scenario)


@pytest.mark.parametrize(
    "scenario", [s for s in make_scenarios() if s.staged is not None], ids=lambda scenario: scenario.name
)
def test_without_a_marker_the_next_run_after_a_crash_can_go_back_to_the_old_set(scenario: Scenario) -> None:
    model = _prepare(scenario, 512, 16)
    scenario.run(FatVolume(model))
    back = Scenario(
        scenario.name, scenario.loader, scenario.files, scenario.old, scenario.old, None, A, foreign=scenario.foreign
    )
    for disk in model.crash_states(seeded(4), subsets=3):
        crashed = model.mount(disk)
        crashed.start()
        back.run(FatVolume(crashed))
        check_finished(crashed.mount(crashed.cache), back)


def _grow_scenario() -> Scenario:
    return next(s for s in make_scenarios() if s.name == "systemd-boot BLS update")


def _prepare_filled(fill: int, *, capacity: int = 16) -> FatModel:
    """A host whose FAT sectors hold one entry each, with as many long foreign names as `fill` in ``entries``."""
    scenario = _grow_scenario()
    model = FatModel(slots_per_sector=capacity, fat_entries=1)
    volume = FatVolume(model)
    scenario.install(volume)
    for number in range(fill):
        volume.put(b"/loader/entries/other-system-with-a-long-name-%d.conf" % number, b"title other\nlinux /o\n")
    model.start()
    return model


def _count_bad(model: FatModel, scenario: Scenario, *, seed: int) -> tuple[int, int]:
    states = [judge(model.mount(disk), scenario) for disk in model.crash_states(seeded(seed), subsets=40)]
    return sum(bool(problems) for problems in states), len(states)


@pytest.mark.parametrize("fill", range(6))
def test_no_state_has_a_live_directory_that_firmware_takes_for_empty(fill: int) -> None:
    scenario = _grow_scenario()
    model = _prepare_filled(fill)
    before = {name: model.read(inode) for name, inode in model.find(b"/loader/entries").children.items()}
    scenario.run(FatVolume(model))
    check_finished(model, scenario)
    after = {name: model.read(inode) for name, inode in model.find(b"/loader/entries").children.items()}
    assert {n: raw for n, raw in before.items() if n.startswith(b"other")}.items() <= after.items()
    assert sorted(model.find(b"/loader").children) == [b"entries"]
    bad, states = _count_bad(model, scenario, seed=7)
    assert (bad, states > 200) == (0, True)


def test_the_old_way_grows_the_live_directory_and_the_model_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = _grow_scenario()
    model = _prepare_filled(1)
    monkeypatch.setattr(Publication, "_exchange_sets", lambda _self: False)
    scenario.run(FatVolume(model))
    bad, _states = _count_bad(model, scenario, seed=7)
    assert bad > 0


def test_without_an_exchange_names_that_would_make_the_live_directory_grow_are_refused() -> None:
    scenario = _grow_scenario()
    model = _prepare_filled(1)
    model.can_exchange = False
    with pytest.raises(BootEntryError, match="would grow") as caught:
        scenario.run(FatVolume(model))
    assert "loader/" in (caught.value.hint or "")
    assert judge(model, scenario, wanted=(scenario.old,)) == []
    assert _count_bad(model, scenario, seed=9)[0] == 0


def test_a_parent_without_a_free_slot_is_refused_before_the_first_write() -> None:
    scenario = _grow_scenario()
    model = _prepare_filled(0)
    volume = FatVolume(model)
    directory = volume.open_directory(b"/loader")
    assert directory is not None
    number = 0
    while (free := 14 - sum(count_slots(name) for name in directory.list_names())) > 0:
        volume.put(b"/loader/" + b"%d" % number + b"x" * (12 if free == 2 else 20 if free == 3 else 5), b"f")
        number += 1
    model.start()
    with pytest.raises(BootEntryError, match="would grow"):
        scenario.run(volume)
    assert model.log == [] or all(kind == "flush" for kind, _key, _value in model.log)


def _bootc_exchange(model: FatModel) -> None:
    """bootc's own sequence: exchange the two directories, remove the old one's files and it, fsync the parent."""
    loader = model.find(b"/loader")
    model.exchange(loader, b"entries", b"entries.staged")
    old = model.find(b"/loader/entries.staged")
    for name in list(old.children):
        model.unlink(old, name)
    model.unlink(loader, b"entries.staged")
    model.fsync(loader)


def test_bootcs_own_sequence_leaves_states_that_do_not_boot_so_the_model_bites() -> None:
    scenario = next(s for s in make_scenarios() if s.name == "systemd-boot BLS update")
    scenario.foreign = {}
    model = _prepare(scenario, 512, 16)
    _bootc_exchange(model)
    after_fsync = model.mount(model.disk)
    assert find_boots(after_fsync, scenario) == [None]
    wrong = [judge(model.mount(disk), scenario) for disk in model.crash_states(seeded(5), subsets=40)]
    assert sum(bool(problems) for problems in wrong) > len(wrong) // 10


def test_removing_without_holding_the_file_open_would_tear_entries_in_the_model() -> None:
    scenario = next(s for s in make_scenarios() if s.name == "systemd-boot BLS update")
    model = _prepare(scenario, 512, 16)
    entries = model.find(b"/loader/entries")
    model.unlink(entries, b"bootc_fedora-42-1.conf")
    model.syncfs()
    model.flush()
    states = [model.mount(disk) for disk in model.crash_states(seeded(6), subsets=40)]
    assert any("lost clusters" in problem for state in states for problem in judge(state, scenario))


def test_an_update_and_two_rollbacks_in_a_row_never_reuse_a_name() -> None:
    scenario = next(s for s in make_scenarios() if s.name == "systemd-boot BLS update")
    model = _prepare(scenario, 512, 16)
    volume = FatVolume(model)
    seen = set(model.find(b"/loader/entries").children)
    scenario.run(volume)
    for digest in (A, B, A, B):
        now = set(model.find(b"/loader/entries").children)
        step = Scenario("step", Loader.SYSTEMD_BOOT, scenario.files, A, digest, None, A, foreign=scenario.foreign)
        menu = step.read(volume)
        plan = step.plan(menu)
        fresh = {entry.file_name for entry in plan.new_files}
        assert not fresh & (seen | now)
        seen |= now | fresh
        step.run(volume)
        check_finished(model, step)
