"""``--progress-json FD``: a flow's events as JSON, one object a line, for the program that started this one."""

from __future__ import annotations

import fcntl
import os
import select
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bootc_fast.errors import UsageError
from bootc_fast.events import StepDone, StepProgress, StepStarted
from bootc_fast.text import dump_json, reason_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from bootc_fast.events import Event, EventSink

# A reader that is behind for so many lines is asleep; what comes then is dropped.
_MAX_WAITING = 1000
_LAST_CHANCE_S = 1.0


def encode_event(event: Event) -> dict[str, Any]:
    """Turn an event into plain values for JSON: schemas/progress.json."""
    if isinstance(event, StepStarted):
        return {"event": "step_started", "step": event.step, "message": event.message}
    if isinstance(event, StepProgress):
        total = event.total or None
        return {"event": "step_progress", "step": event.step, "done": event.done, "total": total, "unit": event.unit}
    if isinstance(event, StepDone):
        return {"event": "step_done", "step": event.step, "seconds": round(event.seconds, 6)}
    raise TypeError(event)


@contextmanager
def write_events(number: int) -> Generator[EventSink]:
    """Make a sink that writes to a descriptor which the caller has opened for us.

    Telling must never slow or stop an update: a reader that does not read, or goes away, is written to no more. What
    waits at the end gets a second.

    Args:
        number: Of the descriptor; stays the caller's.

    Raises:
        UsageError: It is not open for writing.
    """
    try:
        is_writable = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        # Tools that are started meanwhile do not get it.
        fd = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)
    except (OSError, ValueError, OverflowError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else str(error)
        raise UsageError(f"reading the command line: --progress-json {number}: {reason}") from error
    try:
        if not is_writable:
            raise UsageError(f"reading the command line: --progress-json {number}: it is open for reading only")
        lines = _Lines(fd)
        yield lines.send
        lines.drain(_LAST_CHANCE_S)
    finally:
        os.close(fd)


class _Lines:
    """Lines on their way to a descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._waiting: deque[bytes] = deque()
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def send(self, event: Event) -> None:
        if len(self._waiting) < _MAX_WAITING:
            self._waiting.append(dump_json(encode_event(event), indent=None).encode() + b"\n")
        self.drain(0)

    def drain(self, timeout_s: float) -> None:
        """Write what can be written at once, or within a time."""
        end = time.monotonic() + timeout_s
        while self._waiting:
            ready = self._poll.poll(max(0.0, end - time.monotonic()) * 1000)
            if not ready or not ready[0][1] & select.POLLOUT:
                # Nobody has room, or nobody is there any more.
                if ready:
                    self._waiting.clear()
                return
            line = self._waiting.popleft()
            try:
                # A pipe that is ready takes a line of this length without waiting.
                written = os.write(self._fd, line[: select.PIPE_BUF])
            except BlockingIOError:
                self._waiting.appendleft(line)
                return
            except OSError:
                self._waiting.clear()
                return
            if written < len(line):
                self._waiting.appendleft(line[written:])
