"""publish.py and directory.py on this machine's file system, and inside an event loop."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import pytest
import trio
from unit.boot.fat_model import FatModel
from unit.boot.fat_volume import FatVolume
from unit.boot.scenarios import Scenario, make_scenarios

from bootc_fast.boot.area.real import RealDirectory, RealVolume
from bootc_fast.boot.entries import publish
from bootc_fast.boot.entries.deployment_order import order_after_finalize
from bootc_fast.boot.entries.garbage import collect_garbage
from bootc_fast.boot.entries.menu import read_menu
from bootc_fast.boot.entries.plan import plan_menu
from bootc_fast.boot.entries.publish import publish_menu
from bootc_fast.errors import FileSystemError
from bootc_fast.types import Loader

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


@dataclass(frozen=True)
class _Area:
    loader: Loader
    boot_fd: int
    esp_fd: int | None
    loader_fd: int | None = None
    other_fd: int | None = None
    esp_error: None = None


@contextmanager
def _install(scenario: Scenario, root: Path) -> Generator[_Area]:
    for path, data in {**scenario.files, **scenario.foreign}.items():
        target = root / path.decode().lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield _Area(scenario.loader, fd, fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("scenario", make_scenarios(), ids=lambda scenario: scenario.name)
async def test_a_set_is_replaced_on_a_real_file_system(scenario: Scenario, tmp_path: Path) -> None:
    with _install(scenario, tmp_path) as area:
        menu = read_menu(area, known=scenario.kept)
        assert menu.default is not None
        assert menu.default.digest == scenario.old
        outcome = await publish_menu(area, menu, scenario.plan(menu), sync_fds=[area.boot_fd])
        assert outcome.warnings == ()
        after = read_menu(area, known=scenario.kept)
        assert after.default is not None
        assert after.default.digest == scenario.new
        assert after.default.label == outcome.next_boot
        assert after.default.missing == ()
        assert not after.staged.is_present
        assert after.staged.renames == ()
        assert collect_garbage(area, after, known=scenario.kept).removed == ()
    for path, data in scenario.foreign.items():
        assert (tmp_path / path.decode().lstrip("/")).read_bytes() == data


def test_a_set_is_replaced_on_asyncio_too(tmp_path: Path) -> None:
    scenario = make_scenarios()[0]

    async def run() -> None:
        with _install(scenario, tmp_path) as area:
            menu = read_menu(area, known=scenario.kept)
            await publish_menu(area, menu, scenario.plan(menu))
            assert read_menu(area, known=scenario.kept).own_order[0] == scenario.new

    anyio.run(run, backend="asyncio")


async def test_a_cancellation_meanwhile_waits_for_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = make_scenarios()[0]
    real = publish.publish_volumes
    with _install(scenario, tmp_path) as area:
        menu = read_menu(area, known=scenario.kept)
        plan = scenario.plan(menu)
        with trio.CancelScope() as scope:

            def publish_while_cancelled(*args: object, **kwargs: object) -> object:
                trio.from_thread.run_sync(scope.cancel)
                return real(*args, **kwargs)  # type: ignore[arg-type]

            monkeypatch.setattr(publish, "publish_volumes", publish_while_cancelled)
            await publish_menu(area, menu, plan)
        assert read_menu(area, known=scenario.kept).own_order[0] == scenario.new


async def test_without_an_exchange_a_name_in_the_way_is_a_file_system_error_and_nothing_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: RealDirectory, one: bytes, _two: bytes) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), one)

    monkeypatch.setattr(RealDirectory, "exchange", refuse)
    scenario = make_scenarios()[0]
    with _install(scenario, tmp_path) as area:
        menu = read_menu(area, known=scenario.kept)
        plan = plan_menu(
            menu,
            order=order_after_finalize(menu, staged=scenario.new, booted=scenario.booted, kept=scenario.kept),
            staged=scenario.staged,
        )
        (tmp_path / "loader/entries" / (plan.default.label + ".new")).write_bytes(b"in the way")
        with pytest.raises(FileSystemError, match="writing the boot entry") as caught:
            await publish_menu(area, menu, plan)
        assert caught.value.exit_code == 6
        assert read_menu(area, known=scenario.kept).own_order[0] == scenario.old


def test_a_path_with_dots_or_symlinks_does_not_leave_the_volume(tmp_path: Path) -> None:
    root = tmp_path / "esp"
    root.mkdir()
    (tmp_path / "secret").write_bytes(b"s")
    (root / "link").symlink_to(tmp_path)
    fd = os.open(root, os.O_RDONLY)
    try:
        volume = RealVolume(fd)
        assert volume.find_size(b"/../secret") is None
        assert volume.find_size(b"link/secret") is None
        assert volume.find_size(b"x" * 300) is None
        directory = volume.open_directory(b"../..")
        assert directory is not None
        assert directory.list_names() == [b"link"]
        directory.close()
        assert not volume.is_fat()
    finally:
        os.close(fd)


def test_a_real_directory_behaves_as_the_model_does(tmp_path: Path) -> None:
    model = FatModel()
    fat = FatVolume(model)
    fat.make_directory(b"/d")
    (tmp_path / "d").mkdir()
    modelled = fat.open_directory(b"/d")
    assert modelled is not None
    for directory in (RealDirectory(os.open(tmp_path / "d", os.O_RDONLY)), modelled):
        directory.write_new(b"a", b"one")
        directory.write_new(b"b", b"two")
        for name, number in ((b"a", errno.EEXIST),):
            with pytest.raises(OSError, match=name.decode()) as caught:
                directory.write_new(name, b"x")
            assert caught.value.errno == number
        with pytest.raises(FileNotFoundError):
            directory.read(b"missing", 10)
        with pytest.raises(OSError, match="a") as caught:
            directory.read(b"a", 2)
        assert caught.value.errno == errno.EFBIG
        handle = directory.hold(b"b")
        directory.rename(b"a", b"b")
        directory.barrier()
        directory.release(handle)
        assert directory.list_names() == [b"b"]
        assert directory.read(b"b", 10) == b"one"
        directory.overwrite(b"b", b"two")
        assert directory.read(b"b", 10) == b"two"
        assert directory.first_block(b"b") is None or isinstance(directory.first_block(b"b"), int)
        directory.unlink(b"b")
        with pytest.raises(FileNotFoundError):
            directory.unlink(b"b")
        assert directory.list_names() == []
        directory.close()
