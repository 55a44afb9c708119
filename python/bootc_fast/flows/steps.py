"""Steps of a flow: an event when one starts and ends, a time limit for each and for all."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio

from bootc_fast.errors import BootcFastError, BootcFastErrorGroup, StepTimeoutError
from bootc_fast.events import StepDone, StepStarted
from bootc_fast.text import explain_failure, flatten

if TYPE_CHECKING:
    from collections.abc import Generator

    from bootc_fast.events import EventSink


_HINT = "give it more time with --timeout"
PROMPT_S = 10.0
"""A step of no more than that has nothing to wait for: with more time for the whole it gets none."""


class Steps:
    """What has run, for how long, and what may still.

    Who gives the whole more time than usual gives each step so much more: else ``--timeout`` would be no help where one
    is slow.

    Args:
        on_event: Gets the events.
        flow: What the whole is called in errors, e.g. ``"finalizing"``.
        timeout_s: For the whole flow, in seconds.
        usual_s: What it usually is; None: the steps' limits stay as they are.
    """

    def __init__(self, on_event: EventSink, *, flow: str, timeout_s: float, usual_s: float | None = None) -> None:
        self.on_event = on_event
        self.flow = flow
        self.timeout_s = timeout_s
        self._patience = max(1.0, timeout_s / usual_s) if usual_s else None
        self.seconds: dict[str, float] = {}
        self._interrupted: list[str] = []

    @contextmanager
    def limit_all(self) -> Generator[None]:
        """Give the block the flow's whole time.

        Raises:
            StepTimeoutError: It was not enough; names the steps that were running.
        """
        with anyio.move_on_after(self.timeout_s) as scope:
            yield
        if scope.cancelled_caught:
            interrupted = self._interrupted
            where = f" (while at: {', '.join(interrupted)})" if interrupted else ""
            raise StepTimeoutError(
                f"{self.flow}: not done after {self.timeout_s:g} s{where}",
                step=interrupted[0] if interrupted else "",
                timeout_s=self.timeout_s,
                hint=_HINT,
            )

    @contextmanager
    def run(self, name: str, message: str, *, timeout_s: float) -> Generator[None]:
        """Run the block as a step.

        Cancellation: passes; no ``StepDone`` is sent then. A call in a thread is waited for, and ends the step where it
        was its last: what is done late is done.

        Args:
            name: For events and ``phase_s``.
            message: For people, e.g. ``"Reading boot entries"``.
            timeout_s: For this step, in seconds, where the whole has its usual time.

        Raises:
            StepTimeoutError: The step took longer.
            FileSystemError: In place of a bare OSError, which does not say what was being done.
        """
        self.on_event(StepStarted(name, message))
        started = anyio.current_time()
        grows = self._patience is not None and timeout_s > PROMPT_S
        if self._patience is not None and grows:
            timeout_s *= self._patience
        try:
            with anyio.move_on_after(timeout_s) as scope:
                yield
            if scope.cancelled_caught:
                raise StepTimeoutError(
                    f"{self.flow}: step '{name}' took longer than {timeout_s:g} s",
                    step=name,
                    timeout_s=timeout_s,
                    hint=_HINT if grows else None,
                )
        except BaseException as error:
            # Trio wraps the cancellations of a nursery's tasks in a group.
            if any(isinstance(leaf, anyio.get_cancelled_exc_class()) for leaf in flatten(error)):
                self._interrupted.append(name)
            explained = explain_failure(f"{message[:1].lower()}{message[1:]}", error)
            if explained is error:
                raise
            raise explained from explained.__cause__
        finally:
            self.seconds[name] = anyio.current_time() - started
        self.on_event(StepDone(name, self.seconds[name]))


@contextmanager
def single_error() -> Generator[None]:
    """Let the only error of a task group leave as itself; several leave as a group that is the package's error too.

    The group itself stays its ``__context__``; its own cause and notes are kept. A group with a defect in it stays what
    it is: whoever expects the package's errors does not expect that one.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        leaves = flatten(group)
        expected = [leaf for leaf in leaves if isinstance(leaf, BootcFastError | OSError)]
        if len(leaves) != len(expected) and len(leaves) > 1:
            raise
        leaf = leaves[0] if len(leaves) == 1 else BootcFastErrorGroup(group.message, expected)
    else:
        return
    cause = leaf.__cause__
    raise leaf from cause
