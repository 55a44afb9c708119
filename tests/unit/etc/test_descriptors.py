"""Descriptors go back at once, however a merge ends: nobody waits for the collector, whatever a traceback keeps."""

from __future__ import annotations

import gc
import os
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from etc_trees import Sides, make_sides, write

from bootc_fast import _core
from bootc_fast.errors import EtcConflictError, FileSystemError
from bootc_fast.etc.diff import EtcDiff
from bootc_fast.etc.merge import DirectorySource, EtcSource, ImageSource, diff_etc, merge_etc, plan_etc_merge

if TYPE_CHECKING:
    from collections.abc import Generator


def count() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def without_collector() -> Generator[None]:
    """What is not let go by hand stays."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Scene:
    """A merge of two images' /etc and a directory, all open."""

    def __init__(self, base: Path, stack: ExitStack) -> None:
        self.sides: Sides = make_sides(base)
        for side, text in zip(self.sides[:3], ("old", "mine", "old"), strict=True):
            for number in range(50):
                write(side / f"d{number}/f", text * 1000)
        (base / "repository").mkdir()
        self._stack = stack
        repository_fd = self.open(base / "repository")
        writer = _core.RepositoryWriter(repository_fd)
        images = []
        for side in (self.sides.pristine, self.sides.new):
            digest = writer.write_image(writer.ingest_directory(self.open(side)))
            images.append(self.open(base / "repository/images" / digest))
        objects = self.open(base / "repository/objects")
        self.pristine, self.new = (ImageSource(fd, objects, b"") for fd in images)
        self.current = DirectorySource(self.open(self.sides.current))
        self.result = self.open(self.sides.result)

    def open(self, path: Path) -> int:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._stack.callback(os.close, fd)
        return fd

    async def merge(self, new: EtcSource | None = None) -> None:
        await merge_etc(self.pristine, self.current, new or self.new, self.result)

    async def diff(self) -> EtcDiff:
        return await diff_etc(self.pristine, self.current, self.new, patch="new")


@pytest.fixture
def scene() -> Generator[Scene]:
    """In memory: each of a hundred merges ends with a sync, which would wait for whatever else the disk has to do."""
    with ExitStack() as stack:
        base = stack.enter_context(tempfile.TemporaryDirectory(prefix="bootc-fast-tests.", dir="/dev/shm"))
        yield Scene(Path(base), stack)


async def test_a_merge_that_succeeds_keeps_none(scene: Scene) -> None:
    before = count()
    with without_collector():
        await scene.merge()
        assert (await scene.diff()).has_differences
        assert count() == before


async def test_a_merge_that_fails_keeps_none_while_its_exception_is_held(scene: Scene) -> None:
    write(scene.sides.current / "x", "a file")
    write(scene.sides.new / "x/y", "a directory")
    conflicting = DirectorySource(scene.open(scene.sides.new))
    before, held = count(), []
    with without_collector():
        for new in (conflicting, ImageSource(scene.result, None, b"")):
            with pytest.raises((EtcConflictError, FileSystemError, OSError)) as raised:
                await scene.merge(new)
            held.append(raised.value)
        assert all(error.__traceback__ for error in held)
        assert count() == before


async def test_a_merge_that_is_cancelled_anywhere_keeps_none(scene: Scene) -> None:
    """At each of its scheduling steps, by an instrument; what was cancelled is held."""

    class CancelAt(trio.abc.Instrument):
        def __init__(self, step: int, scope: trio.CancelScope) -> None:
            self.left, self.scope = step, scope

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            del task
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()

    before, cancelled, held = count(), 0, []
    with without_collector():
        for step in range(1, 400):
            with trio.CancelScope() as scope:
                instrument = CancelAt(step, scope)
                trio.lowlevel.add_instrument(instrument)
                try:
                    await scene.merge()
                except BaseException as error:
                    held.append(error)
                    raise
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            assert count() == before, (step, len(held))
            if not scope.cancelled_caught:
                break
            cancelled += 1
    assert cancelled > 10
    assert held


async def test_a_plan_that_is_closed_can_be_read_and_not_written(scene: Scene) -> None:
    before = count()
    with without_collector():
        plan = await plan_etc_merge(scene.pristine, scene.current, scene.new)
        assert count() > before
        plan.close()
        plan.close()
        assert count() == before
    assert plan.report.kept
    assert not plan.has_fatal_conflicts
    for call in (plan.apply, plan.list_operations):
        with pytest.raises(ValueError, match="the plan is closed"):
            await call(scene.result)


def test_an_image_and_a_side_that_are_closed_say_so(scene: Scene) -> None:
    before = count()
    with without_collector():
        with _core.Image.open(scene.new.image_fd) as image:
            assert count() == before + 1
            tree = image.tree()
        assert count() == before
    for call in (image.tree, image.verify, image.walk, lambda: image.lookup(b"x"), lambda: image.dump(1)):
        with pytest.raises(ValueError, match="the image is closed"):
            call()
    assert image.size_bytes > 4096
    side = _core.Side(tree, objects_fd=scene.new.objects_fd)
    side.close()
    assert count() == before
    with pytest.raises(ValueError, match="the side of the merge is closed"):
        _core.plan_etc(side, side, side)
