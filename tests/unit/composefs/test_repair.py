"""repair.py on the model of FAT: a repair that is cut anywhere is no worse than none, and the next one finishes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from unit.boot.fat_model import FatModel, seeded
from unit.boot.fat_volume import FatVolume
from unit.boot.scenarios import KNOWN, A, B, C, D, Scenario, bls_text, judge, kernel_directory, make_scenarios

from bootc_fast.boot.entries.menu import read_volumes
from bootc_fast.boot.loaders.entry import parse_entry
from bootc_fast.composefs.repair import Repair, list_own_entries, repair_volumes
from bootc_fast.types import Loader

if TYPE_CHECKING:
    from collections.abc import Callable

    from bootc_fast.boot.entries.menu import BootMenu

LOADERS = (Loader.SYSTEMD_BOOT, Loader.GRUB)
GEOMETRIES = [(4096, 128), (512, 16)]


@dataclass(frozen=True)
class Damage:
    """What is wrong, and how it is mended.

    Attributes:
        name: For the test's id.
        do: Changes the files before they are put on the volume.
        mends: Boot files that the repair writes, of this deployment.
        makes: An entry is written for the running deployment.
        is_dead: Nothing boots before the repair.
    """

    name: str
    do: Callable[[dict[bytes, bytes], Loader], None]
    mends: str | None = None
    makes: bool = False
    is_dead: bool = False


def _without(digest: str, *names: bytes) -> Callable[[dict[bytes, bytes], Loader], None]:
    def do(files: dict[bytes, bytes], loader: Loader) -> None:
        for name in names:
            del files[kernel_directory(digest, loader) + name]

    return do


def _tear(files: dict[bytes, bytes], _loader: Loader) -> None:
    files[b"/loader/entries/bootc_fedora-0-9.conf"] = b"\0" * 300


def _double(files: dict[bytes, bytes], _loader: Loader) -> None:
    files[b"/loader/entries/bootc_fedora-2-0.conf"] = files[b"/loader/entries/bootc_fedora-41-0.conf"]


def _stale(files: dict[bytes, bytes], loader: Loader) -> None:
    files[b"/loader/entries.staged/bootc_x-1-1.conf"] = bls_text(B, "1", "bootc-x-0", loader)


def _cut_exchange(files: dict[bytes, bytes], _loader: Loader) -> None:
    for path in [path for path in files if path.startswith(b"/loader/entries/")]:
        files[path.replace(b"/entries/", b"/entries.staged/")] = files.pop(path)


def _no_entries(files: dict[bytes, bytes], _loader: Loader) -> None:
    for path in [path for path in files if path.startswith(b"/loader/entries/")]:
        del files[path]


DAMAGES = [
    Damage("the kernel of another deployment is gone", _without(C, b"/vmlinuz"), mends=C),
    Damage("the default's kernel is gone", _without(A, b"/vmlinuz"), mends=A, is_dead=True),
    Damage("the default's initrd is gone", _without(A, b"/initrd"), mends=A, is_dead=True),
    Damage("the directory of another deployment's kernel is gone", _without(C, b"/vmlinuz", b"/initrd"), mends=C),
    Damage("a torn entry", _tear),
    Damage("two entries for one deployment", _double),
    Damage("a stale staged set", _stale),
    Damage("an exchange was cut", _cut_exchange, is_dead=True),
    Damage("no entries at all", _no_entries, makes=True, is_dead=True),
]


def _make(loader: Loader, damage: Damage) -> tuple[Scenario, Repair, dict[bytes, bytes]]:
    whole = next(one for one in make_scenarios() if one.name == f"{loader} BLS rollback of three")
    files = dict(whole.files)
    damage.do(files, loader)
    scenario = Scenario(damage.name, loader, whole.files, A, A, None, A, foreign=dict(whole.foreign))
    if damage.is_dead and b"/loader/entries/bootc_fedora-42-1.conf" not in files:
        # The foreign entry went with the directory, or lies beside it.
        scenario.foreign = {path: raw for path, raw in whole.foreign.items() if not path.startswith(b"/loader")}
    where = kernel_directory(damage.mends, loader) if damage.mends else b""
    mended = tuple((where + name, whole.files[where + name]) for name in (b"/vmlinuz", b"/initrd") if damage.mends)
    made = parse_entry(b"bootc_recovered-0-1.conf", bls_text(A, "42", "bootc-fedora-0", loader), known=KNOWN)
    repair = Repair(
        wanted=(A, C, D), files=mended, made=(made,) if damage.makes else (), writes_menu=True, removes_sets=True
    )
    return scenario, repair, files


def _repair(model: FatModel, scenario: Scenario, repair: Repair) -> None:
    volume = FatVolume(model)

    def read() -> BootMenu:
        return read_volumes(volume, volume, loader=scenario.loader, known=KNOWN)

    repair_volumes(volume, volume, repair, read_menu=read)


def _check_mended(model: FatModel, scenario: Scenario, repair: Repair) -> None:
    assert judge(model, scenario, wanted=(A,)) == []
    volume = FatVolume(model)
    menu = read_volumes(volume, volume, loader=scenario.loader, known=KNOWN)
    # A torn file whose blocks may be another's by now stays on FAT, where no device can be asked; it is no entry.
    assert not menu.staged.is_present
    for digest in menu.own_order:
        assert len(list_own_entries(menu, digest)) == 1
        assert not list_own_entries(menu, digest)[0].missing
    for path, data in repair.files:
        assert model.read(model.find(path)) == data


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.name)
@pytest.mark.parametrize(("loader", "geometry"), list(zip(LOADERS, GEOMETRIES, strict=True)), ids=str)
def test_a_repair_that_is_cut_anywhere_makes_nothing_worse_and_the_next_one_finishes(
    loader: Loader, damage: Damage, geometry: tuple[int, int]
) -> None:
    scenario, repair, files = _make(loader, damage)
    if "directory of" in damage.name and geometry[0] == 512:
        # The directory of all kernels would have to grow: see the test below.
        return
    model = FatModel(cluster_bytes=geometry[0], slots_per_sector=geometry[1])
    volume = FatVolume(model)
    for path, data in {**files, **scenario.foreign}.items():
        volume.put(path, data)
    model.start()
    before = set(judge(model.mount(model.disk), scenario, wanted=(A,)))
    assert bool(before) == damage.is_dead
    _repair(model, scenario, repair)
    _check_mended(model.mount(model.cache), scenario, repair)
    reruns = 0
    for number, disk in enumerate(model.crash_states(seeded(5), subsets=3)):
        crashed = model.mount(disk)
        wrong = judge(crashed, scenario, wanted=(A,))
        # What booted still boots, whole; what did not is mended or as broken as it was.
        assert wrong == [] or (damage.is_dead and _is_dead(wrong)), wrong
        # With a broken chain Linux says EIO: that is for fsck, as doctor says.
        if number % 6 == 0 and not any("counts as empty" in one for one in wrong):
            reruns += 1
            crashed.start()
            _repair(crashed, scenario, repair)
            _check_mended(crashed.mount(crashed.cache), scenario, repair)
    assert reruns


def _is_dead(wrong: list[str]) -> bool:
    """Nothing boots, as before, or the default names what is not there: nobody's file is torn."""
    return all(one == "nothing boots" or " names " in one or "counts as empty" in one for one in wrong)


def test_a_kernel_is_not_put_back_where_the_directory_of_all_kernels_would_grow_and_the_rest_is_mended() -> None:
    scenario, repair, files = _make(Loader.SYSTEMD_BOOT, next(one for one in DAMAGES if "directory of" in one.name))
    model = FatModel(cluster_bytes=512, slots_per_sector=16)
    volume = FatVolume(model)
    _tear(files, scenario.loader)
    for path, data in {**files, **scenario.foreign}.items():
        volume.put(path, data)
    model.start()

    def read() -> BootMenu:
        return read_volumes(volume, volume, loader=scenario.loader, known=KNOWN)

    warnings = repair_volumes(volume, volume, repair, read_menu=read)
    assert any("it would grow" in warning for warning in warnings)
    assert volume.find_size(repair.files[0][0]) is None
    assert judge(model.mount(model.cache), scenario, wanted=(A,)) == []
