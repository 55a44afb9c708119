"""The merge of /etc as the flows ask for it."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from bootc_fast.composefs.survey import check_staged_pieces, open_image
from bootc_fast.errors import MountError
from bootc_fast.etc.plan import plan_etc_merge
from bootc_fast.etc.policy import read_merge_policy
from bootc_fast.etc.trees import DirectorySource, ImageSource
from bootc_fast.events import ignore_event
from bootc_fast.machine.directories import hold_directory, hold_opened
from bootc_fast.machine.mounts import clone_directory
from bootc_fast.machine.native import run_blocking

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AsyncExitStack

    from bootc_fast.composefs.survey import OpenImage
    from bootc_fast.etc.diff import EtcDiffEntry
    from bootc_fast.etc.plan import EtcPlan
    from bootc_fast.etc.policy import ConflictChoice
    from bootc_fast.events import EventSink
    from bootc_fast.machine.held import Held
    from bootc_fast.machine.host import Host
    from bootc_fast.types import Strategy, VerityDigest


async def open_etc(host: Host, stack: AsyncExitStack) -> int:
    """Open the running /etc for as long as the stack, without what is mounted on things in it.

    What lies below a mount point is what an admin wrote and what boots next. Without the privilege to clone the
    mount, the mount points stay, and the scan reports them.

    Raises:
        FileSystemError: It cannot be opened.

    Source:
        Spec etc-merge.md, "The rules, per path": mount points.
    """
    fd = await stack.enter_async_context(hold_directory(host, host.etc))
    if not host.is_live:
        return fd
    try:
        return await stack.enter_async_context(clone_directory(fd))
    except MountError:
        return fd


@asynccontextmanager
async def hold_staged_etc(host: Host, staged: VerityDigest) -> AsyncIterator[int]:
    """Open the /etc that a merge writes, for the length of a block; yields its descriptor.

    Neither the deployment's directory nor its ``etc`` may be a symlink: what they led to would be written, the running
    /etc for one, or that of the deployment to roll back to.

    Raises:
        InvalidStateError: One of them is a symlink.
        FileSystemError: It cannot be opened.
    """
    path = host.state_dir(staged) / "etc"

    def open_it(held: Held) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        with host.open_directory(host.state_deploy) as deploy_fd:
            state_fd = held.add(os.open(staged, flags, dir_fd=deploy_fd))
        return held.add(os.open("etc", flags, dir_fd=state_fd))

    await run_blocking(check_staged_pieces, host, staged)
    async with hold_opened(path, open_it) as fd:
        yield fd


async def plan_merge(
    host: Host,
    pristine: OpenImage,
    new: OpenImage,
    stack: AsyncExitStack,
    *,
    on_conflict: Strategy | ConflictChoice | None = None,
    on_event: EventSink = ignore_event,
) -> EtcPlan:
    """Plan the merge of the running /etc into a new deployment; writes nothing.

    Cancellation: within 50 ms; descriptors belong to `stack`, which closes the plan.

    Args:
        host: Whose /etc.
        pristine: The booted image.
        new: The staged image.
        stack: Closes what the plan needs open.
        on_conflict: Wins over the policy files.
        on_event: Gets the steps of ``plan_etc_merge``.
    """
    policy = await run_blocking(read_merge_policy, host, on_conflict=on_conflict)
    objects_fd = await stack.enter_async_context(hold_directory(host, host.objects))
    current_fd = await open_etc(host, stack)
    plan = await plan_etc_merge(
        ImageSource(pristine.fd, objects_fd),
        DirectorySource(current_fd),
        ImageSource(new.fd, objects_fd),
        policy=policy,
        on_event=on_event,
    )
    return stack.enter_context(plan)


async def list_missing_changes(
    host: Host,
    booted: VerityDigest,
    target: VerityDigest,
    stack: AsyncExitStack,
    *,
    on_event: EventSink = ignore_event,
) -> tuple[EtcDiffEntry, ...]:
    """List what was changed in /etc since the booted image and is not in another deployment's /etc; writes nothing.

    Cancellation: within 50 ms; descriptors belong to `stack`.

    Returns:
        Changes sorted by path.

    Raises:
        InvalidStateError, VerityMismatchError: The booted image is missing or another one.
        FileSystemError: Something cannot be read.
    """
    # Here: a finalize lists nothing of that, and starts without.
    from bootc_fast.etc.merge import find_missing_changes

    image = await open_image(host, booted, stack)
    objects_fd = await stack.enter_async_context(hold_directory(host, host.objects))
    current_fd = await open_etc(host, stack)
    target_fd = await stack.enter_async_context(hold_directory(host, host.state_dir(target) / "etc"))
    return await find_missing_changes(
        ImageSource(image.fd, objects_fd), DirectorySource(current_fd), DirectorySource(target_fd), on_event=on_event
    )
