"""A command's event sinks: a bar on a terminal, lines with ``-v``, JSON where asked for, ``STATUS=`` under systemd."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from bootc_fast.cli.render import SCREEN, print_errors, text_seconds
from bootc_fast.events import StepDone, StepStarted

if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator

    from bootc_fast.events import Event, EventSink

# What is asked for beyond the unit's own limit as long as something moves, and how often at most.
_EXTEND_S = 60.0
_EXTEND_EVERY_S = 1.0


@contextmanager
def show_progress(arguments: argparse.Namespace, *, has_lines: bool = True) -> Generator[EventSink]:
    """Make the sink that a command gives to its flow; what it draws is gone when the block ends.

    Args:
        arguments: Of the command.
        has_lines: With ``-v`` each step is a line on stderr; else ``-v`` is for something else in this command.
    """
    with ExitStack() as stack:
        sinks: list[EventSink] = []
        if getattr(arguments, "progress_json", None) is not None:
            from bootc_fast.cli.progress_json import write_events

            sinks.append(stack.enter_context(write_events(arguments.progress_json)))
        if arguments.verbose and has_lines:
            sinks.append(_print_lines)
        elif _can_draw():
            sinks.append(stack.enter_context(_draw_bar()))
        # With --root nothing outside DIR is told anything.
        if os.environ.get("NOTIFY_SOCKET") and arguments.root == "/":
            sinks.append(_Notifier())

        def send(event: Event) -> None:
            for sink in sinks:
                sink(event)

        yield send


def _print_lines(event: Event) -> None:
    if isinstance(event, StepStarted):
        print_errors([f"{event.step}: {event.message}"])
    elif isinstance(event, StepDone):
        print_errors([f"{event.step}: done in {text_seconds(event.seconds)}"])


@contextmanager
def _draw_bar() -> Generator[EventSink]:
    """Draw on standard error, and let all that is printed meanwhile go past the line."""
    from bootc_fast.cli.bar import Bar

    bar = Bar(sys.stderr)
    SCREEN.hider = bar.hidden
    try:
        yield bar
    finally:
        SCREEN.hider = None
        bar.close()


def _can_draw() -> bool:
    """Whether standard error is a terminal that takes more than plain text."""
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


class _Notifier:
    """Tells systemd, at most once a second that there is progress."""

    def __init__(self) -> None:
        self._extended_at = float("-inf")

    def __call__(self, event: Event) -> None:
        from bootc_fast.machine.journal import extend_timeout, notify_status

        if isinstance(event, StepStarted):
            notify_status(event.message)
        now = time.monotonic()
        if now - self._extended_at >= _EXTEND_EVERY_S:
            self._extended_at = now
            extend_timeout(_EXTEND_S)
