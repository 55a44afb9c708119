"""Running a command: signals to cancellation, exceptions to text and exit code."""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager

from bootc_fast.cli.failure import encode_error, exit_code_of, want_json
from bootc_fast.cli.render import SCREEN, drop_stream, print_error, print_json, write_stdout
from bootc_fast.errors import BootcFastError, CancelledByUserError

# Not from typing: importing that takes a tenth of the whole start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Generator
    from types import FrameType
    from typing import NoReturn, TypeVar

    T = TypeVar("T")

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def call_guarded(run: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Call a command and turn what it raises into text on stderr, JSON on stdout where asked for, and an exit code.

    Returns:
        The command's exit code, or the error's.
    """
    previous = signal.signal(signal.SIGTERM, _raise_cancelled)
    SCREEN.is_whole = bool(arguments.verbose)
    try:
        code = run(arguments)
        write_stdout()
    except KeyboardInterrupt:
        error: BaseException = CancelledByUserError("cancelled by SIGINT")
    except Exception as raised:  # noqa: BLE001 the one place that turns every error into text
        error = raised
    else:
        return code
    finally:
        signal.signal(signal.SIGTERM, previous)
    if isinstance(error.__cause__, OSError) and not _is_stdout_fine():
        drop_stream(sys.stdout)
    print_error(error, verbosity=arguments.verbose)
    if want_json(arguments) and not getattr(arguments, "has_told_json", False):
        _print_json_of(error)
    return exit_code_of(error)


def _print_json_of(error: BaseException) -> None:
    try:
        print_json(encode_error(error))
        write_stdout()
    except BootcFastError:
        # Standard error has said what is wrong.
        drop_stream(sys.stdout)


def run_async(function: Callable[[], Awaitable[T]]) -> T:
    """Run an async function on trio; SIGINT and SIGTERM cancel it.

    Cancellation: the function's own; the signal is reported only after the function has cleaned up, and a
    function that finishes in spite of it (its commit had begun) counts as finished.

    Args:
        function: Called without arguments.

    Returns:
        What it returns.

    Raises:
        CancelledByUserError: A signal ended it.
    """
    with _finding_threads_library():
        import trio

    received: list[str] = []
    before = [
        signal.signal(number, lambda got, _frame: received.append(signal.Signals(got).name)) for number in STOP_SIGNALS
    ]
    try:
        return trio.run(_run_until_signal, function, received)
    finally:
        for number, handler in zip(STOP_SIGNALS, before, strict=True):
            signal.signal(number, handler)


async def _run_until_signal(function: Callable[[], Awaitable[T]], received: list[str]) -> T:
    """Run `function`; cancel it when a signal comes, or has come before trio could listen."""
    import trio

    finished: list[T] = []
    failed: list[Exception] = []

    async def watch(scope: trio.CancelScope, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(*STOP_SIGNALS) as signals:
            if received:
                scope.cancel()
            task_status.started()
            async for number in signals:
                received.append(signal.Signals(number).name)
                scope.cancel()

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        await nursery.start(watch, scope)
        with scope:
            try:
                finished.append(await function())
            except Exception as error:  # noqa: BLE001 raised again below, outside of the nursery's group
                failed.append(error)
        nursery.cancel_scope.cancel()
    if failed:
        raise failed[0]
    if finished:
        return finished[0]
    raise CancelledByUserError(f"cancelled by {received[0]}", hint="run the command again to continue")


@contextmanager
def _finding_threads_library() -> Generator[None]:
    """Find libpthread, by which trio names its threads when it is imported, without asking ldconfig.

    That is a process of its own at every start, and a tenth of what importing trio takes. Where there is no such file,
    trio leaves its threads without names.
    """
    import ctypes.util

    names = vars(ctypes.util)
    find = names["find_library"]
    names["find_library"] = lambda name: "libpthread.so.0" if name == "pthread" else find(name)
    try:
        yield
    finally:
        names["find_library"] = find


def _raise_cancelled(_number: int, _frame: FrameType | None) -> NoReturn:
    raise CancelledByUserError("cancelled by SIGTERM")


def _is_stdout_fine() -> bool:
    """Whether what is still in its buffer can go; else the interpreter complains about it when it exits."""
    try:
        sys.stdout.flush()
    except OSError:
        return False
    return True
