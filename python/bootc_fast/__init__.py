"""bootc-fast: finishes and undoes updates of image-based Linux hosts that bootc installed.

The flows are async functions that run on trio, and through anyio on asyncio; they are imported when first used, so
that importing the package costs nothing.
"""

from __future__ import annotations

__version__ = "0.1.0"

# Not from typing: importing that takes a tenth of the command line's start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from bootc_fast.errors import BootcFastError as BootcFastError
    from bootc_fast.etc.merge import diff_etc as diff_etc
    from bootc_fast.etc.merge import merge_etc as merge_etc
    from bootc_fast.events import Event as Event
    from bootc_fast.events import StepDone as StepDone
    from bootc_fast.events import StepProgress as StepProgress
    from bootc_fast.events import StepStarted as StepStarted
    from bootc_fast.events import channel_sink as channel_sink
    from bootc_fast.flows.finalize import finalize_staged as finalize_staged
    from bootc_fast.flows.rollback import rollback as rollback
    from bootc_fast.flows.status import get_status as get_status
    from bootc_fast.report.rollback import RollbackOutcome as RollbackOutcome
    from bootc_fast.report.status import HostStatus as HostStatus
    from bootc_fast.types import FinalizeOutcome as FinalizeOutcome
    from bootc_fast.types import Loader as Loader
    from bootc_fast.types import Result as Result
    from bootc_fast.types import Strategy as Strategy

_HOMES = {
    "BootcFastError": "errors",
    "Event": "events",
    "FinalizeOutcome": "types",
    "HostStatus": "report.status",
    "Loader": "types",
    "Result": "types",
    "RollbackOutcome": "report.rollback",
    "StepDone": "events",
    "StepProgress": "events",
    "StepStarted": "events",
    "Strategy": "types",
    "channel_sink": "events",
    "diff_etc": "etc.merge",
    "finalize_staged": "flows.finalize",
    "get_status": "flows.status",
    "merge_etc": "etc.merge",
    "rollback": "flows.rollback",
}

__all__ = [
    "BootcFastError",
    "Event",
    "FinalizeOutcome",
    "HostStatus",
    "Loader",
    "Result",
    "RollbackOutcome",
    "StepDone",
    "StepProgress",
    "StepStarted",
    "Strategy",
    "channel_sink",
    "diff_etc",
    "finalize_staged",
    "get_status",
    "merge_etc",
    "rollback",
]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import a public name when it is first asked for."""
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """All public names, imported or not."""
        return sorted({*globals(), *__all__})
