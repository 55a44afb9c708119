"""The only place that starts threads for the Rust core: cancellation in, exceptions out."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import anyio.from_thread
import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


async def run_native(function: Callable[..., T], *args: object, **kwargs: object) -> T:
    """Call a ``_core`` function that takes ``check`` in a worker thread.

    Cancellation: the core polls ``check`` every 20 ms of work and stops with the canceller's exception, so the
    enclosing scope ends within about 50 ms; what the core leaves behind is the called function's to say.

    Args:
        function: A ``_core`` function or method with a keyword argument ``check``.
        args: Its positional arguments.
        kwargs: Its other keyword arguments.

    Returns:
        What it returns.

    Source:
        Spec core.md, "Python boundary".
    """
    call = partial(function, *args, check=anyio.from_thread.check_cancelled, **kwargs)
    return await anyio.to_thread.run_sync(call)


async def run_blocking(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a short blocking function (file system, no polling) in a worker thread.

    Cancellation waits for the call to end: use it for what ends by itself.
    """
    return await anyio.to_thread.run_sync(partial(function, *args, **kwargs))
