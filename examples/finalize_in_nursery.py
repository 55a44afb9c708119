"""Finalize a staged deployment next to other work, with a live progress line, and give up after a time-out.

    python examples/finalize_in_nursery.py DIR [SECONDS]

DIR is a host laid out in a directory; ``bootc-fast lab create DIR`` and ``bootc-fast lab stage DIR`` make one. With
``/`` it works on this machine. Giving up leaves the next boot as it was; running it again continues.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import anyio
import trio

import bootc_fast

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream

# Events wait here while the line is drawn; a sink that found it full would drop progress, never slow the finalize.
BUFFERED_EVENTS = 64


async def draw(events: MemoryObjectReceiveStream[bootc_fast.Event]) -> None:
    """Draw one line, over and over, from the events of a flow."""
    running: dict[str, str] = {}
    try:
        async for event in events:
            match event:
                case bootc_fast.StepStarted(step=step, message=message):
                    running[step] = message
                case bootc_fast.StepProgress(step=step, done=done, total=total):
                    running[step] = f"{step}: {done} of {total or '?'}"
                case bootc_fast.StepDone(step=step):
                    running.pop(step, None)
            sys.stderr.write(f"\r\x1b[K{', '.join(running.values())}")
    finally:
        events.close()
        sys.stderr.write("\r\x1b[K")


async def other_work(beats: list[float]) -> None:
    """Stand for whatever else the program does; it must not notice the finalize."""
    while True:
        beats.append(anyio.current_time())
        await anyio.sleep(0.01)


async def finalize_with_progress(root: str, timeout_s: float) -> str:
    """Run a finalize in a task group with two other tasks.

    Returns:
        What came of it, in words.
    """
    send, receive = anyio.create_memory_object_stream[bootc_fast.Event](BUFFERED_EVENTS)
    beats: list[float] = []
    answer = f"gave up after {timeout_s:g} s: the next boot is what it was"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(draw, receive)
        tasks.start_soon(other_work, beats)
        # Any cancel scope will do: the finalize cleans up, and its commit, once begun, is not torn.
        with send, anyio.move_on_after(timeout_s):
            outcome = await bootc_fast.finalize_staged(root, on_event=bootc_fast.channel_sink(send))
            answer = f"{outcome.result.value}: next boot {outcome.next_boot or 'unchanged'}"
        tasks.cancel_scope.cancel()
    return f"{answer}; the other task ran {len(beats)} times meanwhile"


def main() -> int:
    """Run the example."""
    if len(sys.argv) not in (2, 3):
        sys.stderr.write(__doc__ or "")
        return 2
    timeout_s = float(sys.argv[2]) if len(sys.argv) > 2 else 60.0  # noqa: PLR2004 the optional second argument
    code = 0
    try:
        print(trio.run(finalize_with_progress, sys.argv[1], timeout_s))
    except* bootc_fast.BootcFastError as group:
        for error in group.exceptions:
            sys.stderr.write(f"error: {error}\n")
        code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
