"""What was changed in /etc on an ostree host."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from bootc_fast.etc.merge import DirectorySource, find_missing_changes
from bootc_fast.events import ignore_event
from bootc_fast.machine.booted import is_etc_transient
from bootc_fast.machine.directories import hold_directory
from bootc_fast.machine.native import run_blocking

if TYPE_CHECKING:
    from bootc_fast.etc.diff import EtcDiffEntry
    from bootc_fast.events import EventSink
    from bootc_fast.machine.host import Host
    from bootc_fast.ostree.sysroot import OstreeDeployment


async def list_missing_ostree_changes(
    host: Host, booted: OstreeDeployment, target: OstreeDeployment, *, on_event: EventSink = ignore_event
) -> tuple[EtcDiffEntry, ...] | None:
    """List what was changed in the booted deployment's /etc and is not in another deployment's; writes nothing.

    Compared is the deployment's own ``etc``, which is the running one without what is mounted on things in it, with
    its ``usr/etc``. Cancellation: within 50 ms.

    Args:
        host: Whose.
        booted: The booted deployment.
        target: The other one.
        on_event: Gets the steps ``etc.scan`` and ``etc.plan``.

    Returns:
        Changes sorted by path; None where /etc is transient: what is changed there is gone after a reboot anyway.

    Raises:
        FileSystemError: Something cannot be read.

    Source:
        Spec commands.md, "rollback"; ostree ``merge_configuration_from``.
    """
    if await run_blocking(is_etc_transient, host):
        return None
    async with AsyncExitStack() as stack:
        parts = [(booted, "usr/etc"), (booted, "etc"), (target, "etc")]
        fds = [
            await stack.enter_async_context(hold_directory(host, host.sysroot / one.path / name)) for one, name in parts
        ]
        pristine, current, other = map(DirectorySource, fds)
        return await find_missing_changes(pristine, current, other, on_event=on_event)
