"""What a flow tells while it runs: steps that start, progress, and end.

A flow takes ``on_event``, a plain callable that must not block; ``channel_sink`` makes one from a memory channel.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bootc_fast.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Generator

    from anyio.streams.memory import MemoryObjectSendStream


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step began; `step` is a name such as ``"look"``, or ``"look.etc"`` for a part of another step."""

    step: str
    message: str


@dataclass(frozen=True, slots=True)
class StepProgress:
    """`done` of `total` units of a step (``"items"`` or ``"bytes"``); `total` 0 where it is not known."""

    step: str
    done: int
    total: int
    unit: str = "items"


@dataclass(frozen=True, slots=True)
class StepDone:
    """A step ended well after `seconds`."""

    step: str
    seconds: float


Event = StepStarted | StepProgress | StepDone
EventSink = Callable[[Event], None]


def ignore_event(_event: Event) -> None:
    """Drop the event: the default sink."""


@contextmanager
def run_step(
    on_event: EventSink, step: str, message: str, *, unit: str = "items"
) -> Generator[Callable[[int, int], None]]:
    """Run a block that does not wait for anything as a step.

    Args:
        on_event: Gets the events.
        step: Its name.
        message: For people, e.g. ``"Storing files"``.
        unit: Of what is counted.

    Yields:
        What a function of the core takes as ``progress``.
    """
    on_event(StepStarted(step, message))
    began = time.monotonic()
    yield lambda done, total: on_event(StepProgress(step, done, total, unit))
    on_event(StepDone(step, time.monotonic() - began))


def channel_sink(channel: MemoryObjectSendStream[Event]) -> EventSink:
    """Make a sink that puts events on a memory channel.

    A full channel drops progress events and an abandoned one drops all: telling must never slow or stop an update.
    """
    import anyio

    def send(event: Event) -> None:
        try:
            channel.send_nowait(event)
        except (anyio.WouldBlock, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return

    return send
