"""What a flow tells while it runs: steps that start, progress, and end.

A flow takes ``on_event``, a plain callable that must not block; ``channel_sink`` makes one from a memory channel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bootc_fast.records import dataclass

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectSendStream


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step began; `step` is a name such as ``"look"`` or ``"look.etc"``."""

    step: str
    message: str


@dataclass(frozen=True, slots=True)
class StepProgress:
    """`done` of `total` units of a step; `total` 0 where it is not known."""

    step: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class StepDone:
    """A step ended well after `seconds`."""

    step: str
    seconds: float


Event = StepStarted | StepProgress | StepDone
EventSink = Callable[[Event], None]


def ignore_event(_event: Event) -> None:
    """Drop the event: the default sink."""


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
