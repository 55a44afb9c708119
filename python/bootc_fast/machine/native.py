"""The only place that starts threads for the Rust core: cancellation in, exceptions out."""

from __future__ import annotations

import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import anyio.from_thread
import anyio.to_thread

from bootc_fast.events import StepProgress, ignore_event, run_step

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from bootc_fast.events import EventSink

P = ParamSpec("P")
T = TypeVar("T")


PROGRESS_INTERVAL_S = 0.05
"""Between two events of one step: what takes longer to tell than to do is told less often."""


class Tally:
    """Adds up what several calls in worker threads tell of themselves, as the progress of one step.

    Args:
        on_event: Gets the progress, on the event loop, at most every 50 ms, and the end of what has one.
        step: Whose progress it is.
        unit: Of what is counted: ``items`` or ``bytes``.
    """

    def __init__(self, on_event: EventSink, step: str, *, unit: str = "items") -> None:
        self._on_event = on_event
        self._step = step
        self._unit = unit
        self._parts: list[tuple[int, int]] = []
        self._told_at = float("-inf")
        self._told: StepProgress | None = None

    def add(self, total: int = 0) -> Callable[[int, int], None] | None:
        """Make what one more call takes as ``progress``; its thread must be one of ``run_native``'s.

        Args:
            total: How many units it will have, where that is known before; else the whole has no end until it tells.

        Returns:
            None where nobody listens.
        """
        if self._on_event is ignore_event:
            return None
        number = len(self._parts)
        self._parts.append((0, total))

        def tell(done: int, total: int) -> None:
            self._parts[number] = (done, total)
            now = time.monotonic()
            if now - self._told_at >= PROGRESS_INTERVAL_S or 0 < total <= done:
                self._told_at = now
                anyio.from_thread.run_sync(self.flush)

        return tell

    def flush(self) -> None:
        """Send what was told since the last event; on the event loop."""
        if any(done for done, _ in self._parts) and (now := self._sum()) != self._told:
            self._told = now
            self._on_event(now)

    def _sum(self) -> StepProgress:
        totals = [total for _, total in self._parts]
        whole = sum(totals) if all(totals) else 0
        return StepProgress(self._step, sum(done for done, _ in self._parts), whole, self._unit)


@contextmanager
def tally_step(on_event: EventSink, step: str, message: str, *, unit: str = "items") -> Generator[Tally]:
    """Run a block as a step whose calls of ``run_native`` tell how far they are."""
    with run_step(on_event, step, message, unit=unit):
        tally = Tally(on_event, step, unit=unit)
        yield tally
        tally.flush()


async def run_native(function: Callable[..., T], *args: object, **kwargs: object) -> T:
    """Call a ``_core`` function that takes ``check`` in a worker thread.

    Cancellation: the core polls ``check`` every 20 ms of work and stops with the canceller's exception, so the
    enclosing scope ends within about 50 ms; what the core leaves behind is the called function's to say.

    Args:
        function: A ``_core`` function or method with a keyword argument ``check``.
        args: Its positional arguments.
        kwargs: Its other keyword arguments.

    Returns:
        What it returns.

    Source:
        Spec core.md, "Python boundary".
    """
    call = partial(function, *args, check=anyio.from_thread.check_cancelled, **kwargs)
    return await anyio.to_thread.run_sync(call)


async def run_blocking(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a short blocking function (file system, no polling) in a worker thread.

    Cancellation waits for the call to end: use it for what ends by itself.
    """
    return await anyio.to_thread.run_sync(partial(function, *args, **kwargs))
