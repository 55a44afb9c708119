"""A command's event sinks: a bar on a terminal, lines with ``-v``, JSON where asked for, ``STATUS=`` under systemd."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from bootc_fast.cli.render import print_errors, text_seconds
from bootc_fast.events import StepDone, StepProgress, StepStarted
from bootc_fast.text import escape

if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator

    from bootc_fast.events import Event, EventSink

# What is asked for beyond the unit's own limit as long as something moves, and how often at most.
_EXTEND_S = 60.0
_EXTEND_EVERY_S = 1.0


@contextmanager
def show_progress(arguments: argparse.Namespace) -> Generator[EventSink]:
    """Make the sink that a command gives to its flow; what it draws is gone when the block ends."""
    with ExitStack() as stack:
        sinks: list[EventSink] = []
        if arguments.progress_json is not None:
            from bootc_fast.cli.progress_json import write_events

            sinks.append(stack.enter_context(write_events(arguments.progress_json)))
        if arguments.verbose:
            sinks.append(_print_lines)
        elif sys.stderr.isatty():
            # Where the library that draws is not installed, nothing is drawn.
            with suppress(ImportError):
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
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    # Drawn on events only: a thread that draws would print into whatever the command prints meanwhile.
    # No markup: a name may have brackets.
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as progress:
        tasks = {}

        def draw(event: Event) -> None:
            if isinstance(event, StepStarted):
                tasks[event.step] = progress.add_task(escape(event.message), total=None)
            elif isinstance(event, StepProgress) and event.step in tasks:
                progress.update(tasks[event.step], completed=event.done, total=event.total or None)
            elif isinstance(event, StepDone) and event.step in tasks:
                progress.remove_task(tasks.pop(event.step))
            progress.refresh()

        yield draw


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
