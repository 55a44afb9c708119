"""finalize and rollback cancelled at each step that trio lets a task make: the old set whole, or the new one.

Here at a few of them, other ones for every flow and loader; with `make faults` at each.
"""

from __future__ import annotations

import collections
import functools
import gc
import os
from typing import TYPE_CHECKING

import anyio.to_thread
import pytest
import trio
from faults.runner import Runner
from faults.scene import ARGV, FORMS, Scene

from bootc_fast import finalize_staged, rollback
from bootc_fast.machine.host import open_host
from bootc_fast.machine.lock import hold_lock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from faults.conftest import Scratch

FLOWS: dict[str, Callable[[Path], Awaitable[object]]] = {
    "finalize": finalize_staged,
    "rollback": functools.partial(rollback, to="previous"),
}
SAMPLE = 4
"""How many cancellations where not all are played."""


class CancelAt(trio.abc.Instrument):
    """Cancels a scope at the n-th step of any task; 0 only counts."""

    def __init__(self, at: int) -> None:
        self.at, self.steps = at, 0
        self.scope: trio.CancelScope | None = None

    def before_task_step(self, _task: trio.lowlevel.Task) -> None:
        if self.scope is None:
            return
        self.steps += 1
        if self.steps == self.at:
            self.scope.cancel()


async def _run(flow: str, root: Path, instrument: CancelAt) -> bool:
    """Run a flow until it ends or is cancelled; says whether it ended by itself."""
    with trio.CancelScope() as scope:
        instrument.scope = scope
        await FLOWS[flow](root)
    instrument.scope = None
    # A thread that is still at work holds a token: nothing goes on behind the back of who cancelled.
    assert anyio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
    # Nor is the lock held any more.
    async with hold_lock(open_host(root), timeout_s=0):
        pass
    return not scope.cancelled_caught


def _cancel(scene: Scene, at: int) -> tuple[bool, int]:
    instrument = CancelAt(at)
    ended = trio.run(_run, scene.flow, scene.root, instrument, instruments=[instrument])
    return ended, instrument.steps


def _descriptors() -> list[str]:
    # A plan of the merge has its own until it is collected, which the traceback of a cancellation may put off.
    gc.collect()
    return sorted(os.listdir("/proc/self/fd"))


@pytest.mark.timeout(0)
@pytest.mark.parametrize("flow", ARGV)
@pytest.mark.parametrize("form", FORMS)
def test_cancelled_at_any_step_the_host_boots_whole_nothing_is_left_open_and_a_rerun_converges(
    scratch: Scratch, form: str, flow: str
) -> None:
    table: collections.Counter[str] = collections.Counter()
    with Runner(scratch.path) as runner:
        scene = Scene.build(runner, scratch.path, form, flow)
        scene.fresh()
        ended, steps = _cancel(scene, 0)
        assert ended
        stride = 1 if scratch.plays_all else max(1, steps // SAMPLE)
        seed = list(FORMS).index(form) + 4 * list(ARGV).index(flow)
        for at in range(1 + seed * stride // 8 % stride, steps + 1, stride):
            scene.fresh()
            before = _descriptors()
            ended, _steps = _cancel(scene, at)
            assert _descriptors() == before, at
            which, wrong = scene.judge_state()
            # Who is cancelled has changed nothing; who has changed it returns.
            assert which == ("new" if ended else "old"), (at, steps)
            wrong += scene.judge_again()
            assert wrong == [], (at, steps)
            table["ended" if ended else "cancelled"] += 1
    for outcome, count in sorted(table.items()):
        print(f"{scene.name} | cancelled at each of {steps} steps | {outcome} | {count}")  # noqa: T201 `make faults`
    assert table["cancelled"] > 0
