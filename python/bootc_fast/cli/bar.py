"""One line at the foot of a terminal: what runs, how far it is, for how long.

Drawn ten times a second by a thread, since a step may tell nothing for long; whatever the command prints meanwhile
takes the line away first (`Bar.hidden`). Nothing is drawn in the first half second, so that quick commands stay quiet.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from bootc_fast.events import StepDone, StepProgress, StepStarted
from bootc_fast.text import escape

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import TextIO

    from bootc_fast.events import Event

DELAY_S = 0.5
"""What ends sooner shows nothing."""
INTERVAL_S = 0.1
MIN_BAR_CHARS = 10
MAX_BAR_CHARS = 40
_CLEAR_TO_END = "\x1b[K"


class View(NamedTuple):
    """What the line says.

    Attributes:
        message: The step, for people.
        done: Units of it that are done.
        total: Of so many; 0 where that is not known.
        seconds: Since the first step began.
        unit: What is counted: ``items`` or ``bytes``.
    """

    message: str
    done: int = 0
    total: int = 0
    seconds: float = 0.0
    unit: str = "items"


def compose(view: View, columns: int) -> str:
    """Make the line, one character shorter than the terminal is wide: in the last one, some terminals wrap.

    What has no room goes, in this order: the time, the bar, the count; then the message is cut.
    """
    room = max(columns - 1, 0)
    message = escape(view.message)
    clock = f"  {int(view.seconds) // 60}:{int(view.seconds) % 60:02}"
    if not view.total:
        count = f"  {_amount(view.done, view.unit)}" if view.done else ""
        shapes = [f"{message}{count}{clock}", f"{message}{count}", message, _cut(message, room)]
        return next(shape for shape in shapes if len(shape) <= room)
    done = min(view.done, view.total)
    percent = f"  {done * 100 // view.total:3}%"
    count = f"  {_amount(done, view.unit)}/{_amount(view.total, view.unit)}"
    for tail in (f"{percent}{count}{clock}", f"{percent}{count}"):
        bar_chars = min(room - len(message) - len("  []") - len(tail), MAX_BAR_CHARS)
        if bar_chars >= MIN_BAR_CHARS:
            filled = bar_chars * done // view.total
            return f"{message}  [{'#' * filled}{'-' * (bar_chars - filled)}]{tail}"
    for tail in (f"{percent}{count}", percent):
        if len(message) + len(tail) <= room:
            return f"{message}{tail}"
    return f"{_cut(message, room - len(percent))}{percent}"[:room]


def _amount(number: int, unit: str) -> str:
    """``12,345``, or of bytes ``1.2 GiB``."""
    if unit != "bytes":
        return f"{number:,}"
    size, name = float(number), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:  # noqa: PLR2004 of a KiB
            break
        size, name = size / 1024, larger
    return f"{size:.0f} {name}" if name == "B" else f"{size:.1f} {name}"


def _cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[: max(chars - 3, 0)]}..."[: max(chars, 0)]


class Bar:
    """Shows on a terminal what the events of a flow say; an event sink.

    Args:
        stream: Standard error, a terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._descriptor = stream.fileno()
        self._began = time.monotonic()
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._is_shown = False
        self._messages: dict[str, str] = {}
        self._counts: dict[str, StepProgress] = {}
        # Daemonic: an interpreter that exits in the middle of everything waits for nobody.
        self._thread = threading.Thread(target=self._draw_on, name="progress", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        """Take note; draws nothing, and never waits for the terminal longer than one line takes."""
        with self._lock:
            if isinstance(event, StepStarted):
                self._messages[event.step] = event.message
            elif isinstance(event, StepProgress):
                self._counts[event.step] = event
            elif isinstance(event, StepDone):
                self._messages.pop(event.step, None)
                self._counts.pop(event.step, None)

    def close(self) -> None:
        """Take the line away and draw no more."""
        self._over.set()
        self._thread.join()
        with self.hidden():
            pass

    @contextmanager
    def hidden(self) -> Generator[None]:
        """Take the line away for as long as the block lasts, for what else is written to the terminal."""
        with self._lock:
            self._erase()
            yield

    def _erase(self) -> None:
        if self._is_shown:
            self._is_shown = False
            self._write(f"\r{_CLEAR_TO_END}")

    def _draw_on(self) -> None:
        wait_s = DELAY_S
        while not self._over.wait(wait_s):
            wait_s = INTERVAL_S
            with self._lock:
                self._draw()

    def _draw(self) -> None:
        view = self._choose()
        if view is None or not self._is_in_front():
            return
        try:
            columns = os.get_terminal_size(self._descriptor).columns or 80
        except OSError:
            return
        # The new line over the old one, and only then the rest of the old one away: nothing is ever blank.
        self._write(f"\r{compose(view, columns)}{_CLEAR_TO_END}")
        self._is_shown = True

    def _choose(self) -> View | None:
        """The step that began last of those whose end is known; else of all."""
        if not self._messages:
            return None
        counted = [step for step in self._messages if step in self._counts and self._counts[step].total]
        step = (counted or list(self._messages))[-1]
        known = self._counts.get(step, StepProgress(step, 0, 0))
        seconds = time.monotonic() - self._began
        return View(self._messages[step], known.done, known.total, seconds, known.unit)

    def _is_in_front(self) -> bool:
        """Whether the terminal is ours now: in the background, a shell's user is typing there."""
        try:
            return os.tcgetpgrp(self._descriptor) == os.getpgrp()
        except OSError:
            # Not our controlling terminal: nobody else's either.
            return True

    def _write(self, text: str) -> None:
        # A terminal that has gone away stops no work.
        with suppress(OSError):
            self._stream.write(text)
            self._stream.flush()
