"""No directory in use grows, what a cut left goes only where that is safe, and a menu that was damaged is mended."""

from __future__ import annotations

import errno

import pytest
from unit.boot.fat_model import FREE, ROOT, FatModel, Inode, seeded
from unit.boot.fat_volume import FatVolume
from unit.boot.scenarios import (
    HEADER,
    A,
    B,
    Scenario,
    check_finished,
    find_crossed,
    judge,
    make_scenarios,
    menuentry,
    uki_path,
)

from bootc_fast.boot.area.replace import replace_file
from bootc_fast.boot.area.room import count_slots, has_room_for
from bootc_fast.boot.entries.beside import is_same_directory, remove_outdated, remove_set
from bootc_fast.boot.entries.damage import find_damage
from bootc_fast.errors import BootEntryError, FileSystemError
from bootc_fast.types import Loader

SCENARIOS = {scenario.name: scenario for scenario in make_scenarios()}
UPDATE = SCENARIOS["systemd-boot BLS update"]


def _make(scenario: Scenario, **options: int) -> FatVolume:
    volume = FatVolume(FatModel(**options))
    scenario.install(volume)
    volume.model.start()
    return volume


def _chains(model: FatModel, *paths: bytes) -> list[list[int]]:
    return [model.chain(model.find(path).start) for path in paths]


def _fill(volume: FatVolume, path: bytes, *, free: int) -> None:
    """Put names of one place each until so many places are free."""
    directory = volume.open_directory(path)
    assert directory is not None
    number = len(directory.list_names())
    while sum(map(count_slots, directory.list_names())) + 2 < (directory.capacity_slots() or 0) - free:
        volume.put(path + b"/F%d" % number, b"f")
        number += 1
    volume.model.start()


def _writes(model: FatModel) -> int:
    return sum(kind == "write" for kind, _key, _value in model.log)


@pytest.mark.parametrize("free", [0, 1, 5])
def test_user_cfg_is_replaced_by_a_name_of_one_place_or_refused_before_the_first_write(free: int) -> None:
    scenario = SCENARIOS["grub UKI update"]
    volume = _make(scenario)
    _fill(volume, b"/grub2", free=free)
    before = _chains(volume.model, b"/grub2")
    if free:
        scenario.run(volume)
        check_finished(volume.model, scenario)
    else:
        with pytest.raises(BootEntryError, match="/grub2 has no room for 1 more name: it would grow") as caught:
            scenario.run(volume)
        assert "remove what nobody needs from /grub2" in (caught.value.hint or "")
        assert _writes(volume.model) == 0
    assert _chains(volume.model, b"/grub2") == before


def test_a_first_user_cfg_needs_room_for_its_own_name_too() -> None:
    files = {b"/grub2/user.cfg.staged": HEADER + menuentry(B), b"/grub2/x": b"x", uki_path(A): b"u", uki_path(B): b"u"}
    scenario = Scenario("first", Loader.GRUB, files, A, B, B, A)
    volume = _make(scenario)
    _fill(volume, b"/grub2", free=2)
    with pytest.raises(BootEntryError, match="/grub2 has no room for 2 more names"):
        scenario.run(volume)


@pytest.mark.parametrize("free", [1, 2])
def test_loader_conf_is_replaced_while_the_set_beside_has_its_name_there(free: int) -> None:
    scenario = Scenario(
        "override",
        Loader.SYSTEMD_BOOT,
        {**UPDATE.files, b"/loader/loader.conf": b"default bootc_fedora-42-1.conf\n"},
        A,
        B,
        B,
        A,
    )
    volume = _make(scenario)
    _fill(volume, b"/loader", free=free)
    before = _chains(volume.model, b"/loader", b"/loader/entries")
    if free == 1:
        with pytest.raises(BootEntryError, match="/loader has no room for 2 more names"):
            scenario.run(volume)
        assert _writes(volume.model) == 0
        return
    assert scenario.run(volume).warnings == ()
    check_finished(volume.model, scenario)
    assert _chains(volume.model, b"/loader") == before[:1]
    assert b"bootc_zz" in volume.model.read(volume.model.find(b"/loader/loader.conf"))


def test_replacing_a_file_grows_nothing_and_says_so_where_it_would() -> None:
    volume = FatVolume(FatModel())
    volume.put(b"/d/file", b"old")
    _fill(volume, b"/d", free=1)
    replace_file(volume, b"d", b"file", b"new")
    assert volume.model.read(volume.model.find(b"/d/file")) == b"new"
    _fill(volume, b"/d", free=0)
    with pytest.raises(OSError, match="would grow") as caught:
        replace_file(volume, b"d", b"file", b"newer")
    assert caught.value.errno == errno.ENOSPC
    assert volume.model.read(volume.model.find(b"/d/file")) == b"new"


def test_where_the_fat_cannot_be_read_the_free_places_are_taken_to_lie_scattered() -> None:
    volume = FatVolume(FatModel())
    for name in (b"A", b"B", b"C"):
        volume.put(b"/d/" + name, b"x")
    names = [b"a-name-of-three-places.x"]
    assert has_room_for(volume, b"d", names)
    volume.is_fat_readable = False
    assert has_room_for(volume, b"d", names), "16 places, 5 taken: 8 scattered ones would still leave 3 side by side"
    assert not has_room_for(volume, b"d", names * 2)


def _put_set(volume: FatVolume, name: bytes = b"BFSET0") -> None:
    for file in (b"bootc_zz-00000001-99.conf", b"a_memtest.conf"):
        volume.put(b"/loader/" + name + b"/" + file, b"title x\n" * 20)


def _set_start(volume: FatVolume, path: bytes, start: int) -> None:
    """What a cut leaves: the name is on the disk, with other clusters than its own, or with free ones."""
    inode: Inode = volume.model.find(path)
    inode.start = start
    volume.model._write_inode(inode)


def test_what_a_cut_left_while_building_goes_where_its_clusters_are_its_own() -> None:
    volume = _make(UPDATE)
    _put_set(volume)
    volume.put(b"/loader/BFSET3/x", b"")
    volume.model.start()
    assert remove_outdated(volume) == []
    assert sorted(volume.model.find(b"/loader").children) == [b"entries", b"entries.staged"]


def _first_free(model: FatModel) -> int:
    """The cluster that the next file gets."""
    return next(c for c in range(ROOT + 1, model.clusters) if model._fat(c) == FREE)


def _victims(model: FatModel) -> dict[str, int]:
    return {
        "free": _first_free(model),
        "live entry": model.find(b"/loader/entries/bootc_fedora-42-1.conf").start,
        "kernel": model.find(b"/EFI/Linux/bootc_composefs-" + A.encode() + b"/initrd").start,
        "live directory": model.find(b"/loader/entries").start,
        "kernel directory": model.find(b"/EFI/Linux/bootc_composefs-" + A.encode()).start,
    }


def _leave(path: bytes, whose: str, *, remembers: bool = False) -> FatVolume:
    """What a cut while a set was built can leave: a name of it on the disk, with clusters that are not its own."""
    volume = _make(UPDATE)
    _put_set(volume)
    _set_start(volume, path, _victims(volume.model)[whose])
    volume.model.start()
    model = volume.model.mount(volume.model.disk)
    model.remembers = remembers
    model.start()
    return FatVolume(model)


_SET, _ENTRY = b"/loader/BFSET0", b"/loader/BFSET0/bootc_zz-00000001-99.conf"
LEFT = [(_SET, "free"), (_SET, "live directory"), (_SET, "kernel directory")]
LEFT += [(_ENTRY, whose) for whose in ("free", "live entry", "kernel", "live directory", "kernel directory")]


@pytest.mark.parametrize("remembers", [False, True])
@pytest.mark.parametrize(("path", "whose"), LEFT)
def test_a_leftover_whose_clusters_are_not_its_own_goes_and_frees_none(
    path: bytes,
    whose: str,
    remembers: bool,  # noqa: FBT001 - a case
) -> None:
    volume = _leave(path, whose, remembers=remembers)
    before = dict(volume.model.cache)
    problems = remove_outdated(volume)
    assert [problem.startswith("/loader/BFSET0, whose clusters are not its own") for problem in problems] == [True]
    assert problems[0].endswith("is taken away and they are left alone")
    changed = {key for key, sector in volume.model.cache.items() if before.get(key) != sector}
    assert changed == {("data", volume.model.find(b"/loader").start)}, "no cluster is freed, nothing else is written"
    after = volume.model.mount(volume.model.cache)
    left = after.find(b"/loader").children.get(b"BFSET0")
    assert (
        left is None if not remembers else (left is not None and (left.start, left.size, left.is_dir) == (0, 0, False))
    )
    assert judge(after, UPDATE, wanted=(A,)) == []


@pytest.mark.parametrize("remembers", [False, True])
@pytest.mark.parametrize(("path", "whose"), LEFT)
def test_the_update_after_such_a_cut_shares_no_cluster_with_anything(
    path: bytes,
    whose: str,
    remembers: bool,  # noqa: FBT001 - a case
) -> None:
    volume = _leave(path, whose, remembers=remembers)
    outcome = UPDATE.run(volume)
    assert any("are left alone" in warning for warning in outcome.warnings)
    after = volume.model.mount(volume.model.cache)
    check_finished(after, UPDATE)
    assert find_crossed(after) == []
    for disk in volume.model.crash_states(seeded(1), subsets=4):
        assert judge(volume.model.mount(disk), UPDATE) == []
    # The next boot's first run takes the rest away.
    after.start()
    assert remove_outdated(FatVolume(after)) == []
    assert [name for name in after.find(b"/loader").children if name.startswith(b"BFSET")] == []
    check_finished(after, UPDATE)


@pytest.mark.parametrize(("path", "whose"), LEFT)
def test_where_the_device_cannot_be_written_the_leftover_stays_and_shares_nothing_with_what_is_live(
    path: bytes, whose: str
) -> None:
    volume = _leave(path, whose)
    volume.is_device_writable = False
    outcome = UPDATE.run(volume)
    assert any("stays; check the partition" in warning for warning in outcome.warnings)
    check_finished(volume.model.mount(volume.model.cache), UPDATE)
    names = [paths for paths in find_crossed(volume.model) if not all(b"/BFSET" in path for path in paths)]
    assert all(whose in {"live entry", "kernel", "live directory", "kernel directory"} for _ in names)


@pytest.mark.parametrize("is_writable", [True, False])
def test_a_foreign_name_on_a_free_cluster_gets_nothing_of_the_new_set(is_writable: bool) -> None:  # noqa: FBT001 - a case
    volume = _make(UPDATE)
    volume.put(b"/EFI/other/lost.bin", b"x" * 700)
    volume.put(b"/loader/lost.conf", b"x" * 700)
    for path in (b"/EFI/other/lost.bin", b"/loader/lost.conf"):
        _set_start(volume, path, _first_free(volume.model))
    volume.model.start()
    volume = FatVolume(volume.model.mount(volume.model.disk))
    volume.is_device_writable = is_writable
    volume.model.start()
    outcome = UPDATE.run(volume)
    assert ["whose clusters are not its own" in warning for warning in outcome.warnings] == [True]
    after = volume.model.mount(volume.model.cache)
    check_finished(after, UPDATE)
    assert not any(path.startswith(b"/loader/entries/") for paths in find_crossed(after) for path in paths)


@pytest.mark.parametrize("whose", ["free", "file", "own"])
def test_a_temporary_file_that_a_cut_left_beside_user_cfg_goes_with_the_next_run_whatever_that_writes(
    whose: str,
) -> None:
    scenario = SCENARIOS["grub UKI rollback"]
    volume = _make(scenario)
    volume.put(b"/grub2/BFNEW0", b"new" * 300)
    start = {
        "free": _first_free(volume.model),
        "file": volume.model.find(b"/grub2/user.cfg").start,
        "own": volume.model.find(b"/grub2/BFNEW0").start,
    }[whose]
    _set_start(volume, b"/grub2/BFNEW0", start)
    volume.model.start()
    model = volume.model.mount(volume.model.disk)
    model.start()
    volume = FatVolume(model)
    assert scenario.read(volume).odd.old_sets == (b"grub2/BFNEW0",)
    problems = remove_outdated(volume)
    assert ["/grub2/BFNEW0, whose clusters are not its own" in one for one in problems] == [True] * (whose != "own")
    assert list(model.find(b"/grub2").children) == [b"user.cfg"]
    after = model.mount(model.cache)
    assert judge(after, scenario, wanted=(A,)) == []
    assert find_crossed(after) == []


@pytest.mark.parametrize("remembers", [False, True])
@pytest.mark.parametrize("whose", ["free", "file"])
def test_a_temporary_file_that_a_cut_left_on_others_clusters_goes_and_frees_none(
    whose: str,
    remembers: bool,  # noqa: FBT001 - a case
) -> None:
    volume = FatVolume(FatModel())
    volume.put(b"/d/file", b"old" * 300)
    volume.put(b"/d/BFNEW0", b"new" * 300)
    start = volume.model.find(b"/d/file").start if whose == "file" else _first_free(volume.model)
    _set_start(volume, b"/d/BFNEW0", start)
    volume.model.start()
    volume = FatVolume(volume.model.mount(volume.model.disk))
    volume.model.remembers = remembers
    for number in range(3):
        replace_file(volume, b"d", b"file", b"newer%d" % number * 200)
        after = volume.model.mount(volume.model.cache)
        assert after.read(after.find(b"/d/file")) == b"newer%d" % number * 200
        assert find_crossed(after) == []
    assert not volume.model.is_read_only
    after.start()
    replace_file(FatVolume(after), b"d", b"file", b"last")
    assert list(after.find(b"/d").children) == [b"file"]


def _share(volume: FatVolume, path: bytes, other: bytes) -> FatVolume:
    """Both names lead to one directory, as a cut inside an exchange leaves it."""
    _set_start(volume, path, volume.model.find(other).start)
    volume.model.start()
    return FatVolume(volume.model.mount(volume.model.disk))


@pytest.mark.parametrize("is_readable", [True, False])
def test_one_directory_under_two_names_is_never_emptied(is_readable: bool) -> None:  # noqa: FBT001 - a case
    volume = _share(_make(UPDATE), b"/loader/entries.staged", b"/loader/entries")
    volume.model.start()
    volume.is_fat_readable = is_readable
    assert is_same_directory(volume, b"loader/entries.staged")
    assert "same directory" in remove_set(volume, b"loader/entries.staged")[0]
    assert judge(volume.model, UPDATE, wanted=(A,)) == []


def test_two_directories_with_the_same_names_are_two() -> None:
    volume = _make(UPDATE)
    for name, inode in volume.model.find(b"/loader/entries").children.items():
        volume.put(b"/loader/BFSET0/" + name, volume.model.read(inode))
    assert not is_same_directory(volume, b"loader/BFSET0")


class _Damaging(FatVolume):
    """The old set goes, and something takes the live one along."""

    def __init__(self, model: FatModel, *, times: int = 1) -> None:
        super().__init__(model)
        self.times = times

    def remove_directory(self, path: bytes) -> None:
        super().remove_directory(path)
        if path.startswith(b"loader/BFSET") and self.times:
            self.times -= 1
            live = self.model.find(b"/loader/entries")
            for name in list(live.children):
                self.model.unlink(live, name)


def test_an_empty_menu_after_the_removals_is_written_again_from_memory() -> None:
    volume = _Damaging(_make(UPDATE).model)
    outcome = UPDATE.run(volume)
    assert ["written once more" in warning for warning in outcome.warnings] == [True]
    assert judge(volume.model, UPDATE, wanted=(B,)) == []


def test_a_menu_that_cannot_be_written_again_is_an_error_with_a_hint() -> None:
    volume = _Damaging(_make(UPDATE).model)

    def refuse(path: bytes) -> None:
        if volume.times == 0:
            raise OSError(errno.EIO, "Input/output error", path)
        FatVolume.make_directory(volume, path)

    volume.make_directory = refuse  # type: ignore[method-assign]
    with pytest.raises(BootEntryError, match="after the old ones were removed") as caught:
        UPDATE.run(volume)
    assert caught.value.exit_code == 7
    assert "fsck.fat" in (caught.value.hint or "")


def _break(volume: FatVolume, path: bytes) -> FatVolume:
    """A new cluster is linked to the directory, and has no end mark."""
    model = volume.model
    free = next(c for c in range(300, 400) if model._fat(c) == FREE)
    model._set_fat(model.chain(model.find(path).start)[-1], free)
    model.start()
    return FatVolume(model.mount(model.disk))


@pytest.mark.parametrize("path", [b"/loader", b"/EFI/Linux", b"/EFI"])
def test_a_broken_directory_is_told_with_what_mends_it(path: bytes) -> None:
    volume = _break(_make(UPDATE), path)
    assert find_damage(volume, volume) == [
        (f"the chain of clusters of {path.decode()} runs into a free cluster", "/dev/model")
    ]


def test_a_directory_without_a_first_cluster_is_told_once_the_kernel_has_failed() -> None:
    """``fsck.fat -a`` leaves one so whose first cluster was free; before that it may just not be written yet."""
    volume = _make(UPDATE)
    model = volume.model
    inode = model.find(b"/loader/entries")
    inode.start = FREE
    model._write_inode(inode)
    model.flush()
    model.start()
    volume = FatVolume(model.mount(model.disk))
    assert find_damage(volume, volume) == []
    (told,) = find_damage(volume, volume, has_failed=True)
    assert told[0].startswith("the chain of clusters of /loader/entries ")
    assert told[1] == "/dev/model"


def test_nothing_is_written_where_a_directory_is_broken() -> None:
    volume = _make(UPDATE)
    menu = UPDATE.read(volume)
    plan = UPDATE.plan(menu)
    broken = _break(volume, b"/EFI/Linux")
    broken.model.start()
    from bootc_fast.boot.entries.publish import publish_volumes

    with pytest.raises(BootEntryError, match="the firmware takes it for empty") as caught:
        publish_volumes(broken, broken, menu, plan)
    assert "fsck.fat -a /dev/model" in (caught.value.hint or "")
    assert _writes(broken.model) == 0


def test_the_copies_of_foreign_entries_count_as_needed_space() -> None:
    volume = _make(UPDATE)
    for number in range(20):
        volume.put(b"/loader/entries/other-%d.conf" % number, b"title o\nlinux /o\n" * 100)
    free, unit = volume.free_bytes()
    # Enough for the new entries alone.
    volume.put(b"/filler", b"f" * (free - 12 * unit))
    volume.model.start()
    with pytest.raises(FileSystemError, match="bytes are needed"):
        UPDATE.run(volume)
    assert _writes(volume.model) == 0
    assert judge(volume.model, UPDATE, wanted=(A,)) == []


def test_a_rename_over_a_stale_uki_keeps_it_until_the_new_one_has_the_name() -> None:
    scenario = SCENARIOS["systemd-boot UKI update, old staged names"]
    volume = FatVolume(FatModel())
    scenario.install(volume)
    volume.put(uki_path(B), b"stale" * 300)
    volume.model.start()
    scenario.run(volume)
    check_finished(volume.model, scenario)
    assert not [name for name in volume.model.find(b"/EFI/Linux/bootc").children if b".gone" in name]
