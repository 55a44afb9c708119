"""publish.py: every operation fails once, or the process dies there; the old set or the new one is in force."""

from __future__ import annotations

import errno
from functools import cache

import pytest
from unit.boot.fat_model import FatModel
from unit.boot.fat_volume import FatVolume
from unit.boot.faults import FaultyVolume, JournalVolume, KilledError, Trigger, make_volume
from unit.boot.scenarios import Scenario, check_finished, judge, make_scenarios

from bootc_fast.boot.entries.publish import publish_volumes
from bootc_fast.errors import BootEntryError, FileSystemError

SCENARIOS = {scenario.name: scenario for scenario in make_scenarios()}
ERRORS = [errno.ENOSPC, errno.EIO, errno.EROFS, errno.ENOENT, errno.EINTR]


@cache
def _install(name: str) -> FatModel:
    model = FatModel()
    SCENARIOS[name].install(FatVolume(model))
    model.start()
    return model


def _prepare(scenario: Scenario) -> FatModel:
    installed = _install(scenario.name)
    model = installed.mount(installed.disk)
    model.start()
    return model


def _publish(scenario: Scenario, model: FatModel, trigger: Trigger) -> None:
    menu = scenario.read(FatVolume(model))
    plan = scenario.plan(menu)
    volume = FaultyVolume(FatVolume(model), trigger)
    publish_volumes(volume, volume, menu, plan)


def _count_operations(scenario: Scenario) -> int:
    trigger = Trigger()
    _publish(scenario, _prepare(scenario), trigger)
    return len(trigger.calls)


def _own_files(model: FatModel) -> dict[bytes, bytes]:
    found = {}
    for path in (b"/loader/entries", b"/grub2"):
        if FatVolume(model).open_directory(path) is not None:
            found.update({n: model.read(i) for n, i in model.find(path).children.items() if not n.endswith(b".staged")})
    return found


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.__getitem__)
@pytest.mark.parametrize("scenario", make_scenarios(), ids=lambda scenario: scenario.name)
def test_after_any_one_failure_the_old_set_is_back_or_the_new_one_in_force(scenario: Scenario, error: int) -> None:
    outcomes = set()
    for at in range(_count_operations(scenario)):
        model = _prepare(scenario)
        before = _own_files(model)
        trigger = Trigger(at, error)
        failure: FileSystemError | BootEntryError | None = None
        try:
            _publish(scenario, model, trigger)
        except (FileSystemError, BootEntryError) as raised:
            failure = raised
        if failure is not None:
            outcomes.add("failed")
            # A system call failed: nothing is said about what could not be read. Only ENOENT says that itself.
            assert isinstance(failure, FileSystemError) or error == errno.ENOENT, (failure, trigger.calls[at:])
            assert "None" not in str(failure)
            assert judge(model, scenario, wanted=(scenario.old,)) == [], trigger.calls[at:]
            assert _own_files(model) == before, trigger.calls[at:]
        else:
            outcomes.add("done")
            assert judge(model, scenario, wanted=(scenario.new,)) == [], trigger.calls[at:]
        assert trigger.has_fired
        if error in (errno.ENOSPC, errno.EIO):
            # The others leave the same states behind; these two leave half a file in between as well.
            scenario.run(FatVolume(model))
            check_finished(model, scenario)
    assert outcomes == {"failed", "done"}


@pytest.mark.parametrize("scenario", make_scenarios(), ids=lambda scenario: scenario.name)
def test_kill_at_any_operation_leaves_a_bootable_set_and_a_rerun_finishes(scenario: Scenario) -> None:
    for at in range(_count_operations(scenario)):
        model = _prepare(scenario)
        with pytest.raises(KilledError):
            _publish(scenario, model, Trigger(at))
        model.close_all()
        assert judge(model, scenario) == []
        scenario.run(FatVolume(model))
        check_finished(model, scenario)


@pytest.mark.parametrize("scenario", make_scenarios(), ids=lambda scenario: scenario.name)
def test_on_a_journaled_file_system_every_state_boots(scenario: Scenario) -> None:
    volume = JournalVolume()
    scenario.install(volume)
    volume.snapshot()
    scenario.run(volume)
    assert len(volume.states) >= 3
    for files in volume.states:
        state = make_volume(files)
        assert judge(state.model, scenario) == []
        scenario.run(state)
        check_finished(state.model, scenario)


def test_a_leftover_of_a_killed_run_is_removed_where_the_file_system_has_a_journal() -> None:
    scenario = make_scenarios()[0]
    volume = JournalVolume()
    scenario.install(volume)
    volume.put(b"/loader/entries/bootc_zz-00000001-99.conf.new", b"half")
    scenario.run(volume)
    assert not [name for name in volume.model.find(b"/loader/entries").children if name.endswith(b".new")]


def test_a_set_that_does_not_fit_is_refused_before_the_first_write() -> None:
    scenario = make_scenarios()[0]
    model = FatModel(clusters=120)
    volume = FatVolume(model)
    scenario.install(volume)
    free, unit = volume.free_bytes()
    volume.put(b"/filler", b"f" * (free - unit))
    model.start()
    with pytest.raises(FileSystemError, match="bytes are needed") as caught:
        scenario.run(volume)
    assert caught.value.exit_code == 6
    assert isinstance(caught.value.__cause__, OSError)
    assert model.log == []


def test_where_space_is_short_boot_files_that_nobody_names_go_first() -> None:
    scenario = make_scenarios()[0]
    model = FatModel(clusters=120)
    volume = FatVolume(model)
    scenario.install(volume)
    gone = b"/EFI/Linux/bootc_composefs-" + b"e" * 64
    volume.put(gone + b"/vmlinuz", b"k" * 2000)
    volume.put(gone + b"/initrd", b"i" * 2000)
    free, unit = volume.free_bytes()
    volume.put(b"/filler", b"f" * (free - unit))
    model.start()
    menu = scenario.read(volume)
    publish_volumes(volume, volume, menu, scenario.plan(menu), protected=scenario.kept)
    check_finished(model, scenario)
    assert volume.open_directory(gone) is None


def test_an_entry_that_reads_back_otherwise_puts_the_old_set_back() -> None:
    scenario = make_scenarios()[0]
    model = _prepare(scenario)
    menu = scenario.read(FatVolume(model))
    plan = scenario.plan(menu)
    inner = FatVolume(model)

    class Liar(FaultyVolume):
        """A disk that swallows a byte."""

        def open_directory(self, path: bytes):  # type: ignore[no-untyped-def] # noqa: ANN202 - a wrapper of a wrapper
            directory = super().open_directory(path)
            if directory is not None:
                read = directory._inner.read
                directory._inner.read = lambda name, size: read(name, size)[: -1 if b"_zz-" in name else None]  # type: ignore[method-assign]
            return directory

    volume = Liar(inner, Trigger())
    with pytest.raises(BootEntryError, match="reads back otherwise") as caught:
        publish_volumes(volume, volume, menu, plan)
    assert caught.value.exit_code == 7
    assert judge(model, scenario, wanted=(scenario.old,)) == []
    assert not [name for name in model.find(b"/loader/entries").children if b"_zz-" in name]
