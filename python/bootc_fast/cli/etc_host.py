"""The trees of a host for ``bootc-fast etc``: the booted image, /etc, and the staged image."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from bootc_fast.cli.cmd_etc import Trees, open_path
from bootc_fast.composefs.etc import open_etc
from bootc_fast.composefs.survey import check_staged_pieces, open_image, read_survey
from bootc_fast.errors import UsageError
from bootc_fast.etc.policy import MergePolicy, read_merge_policy
from bootc_fast.etc.trees import DirectorySource, ImageSource
from bootc_fast.machine.booted import is_etc_transient
from bootc_fast.machine.directories import hold_directory
from bootc_fast.machine.host import hold_lock, open_host
from bootc_fast.machine.mounts import open_writable
from bootc_fast.machine.native import run_blocking
from bootc_fast.types import Strategy

if TYPE_CHECKING:
    import argparse
    from contextlib import AsyncExitStack

    from bootc_fast.machine.host import Host
    from bootc_fast.types import VerityDigest


async def open_host_trees(arguments: argparse.Namespace, stack: AsyncExitStack) -> Trees:
    """Open what the host of ``--root`` has, for as long as `stack` lives.

    A merge that is written goes to the staged deployment's /etc unless ``--into`` says otherwise, and the lock is held
    meanwhile. The images are verified before they are read.

    Raises:
        NotBootcHostError: The host is none of ours.
        InvalidStateError: Marker or command line are malformed, or an image is missing.
        VerityMismatchError: An image is not what its name says.
        UsageError: There is nothing to merge here.
    """
    is_merge = arguments.etc_command == "merge"
    host = await run_blocking(open_host, arguments.root)
    if is_merge and not arguments.dry_run:
        await stack.enter_async_context(hold_lock(host))
        host = await stack.enter_async_context(open_writable(host))
    survey = await read_survey(host)
    if is_merge and await run_blocking(is_etc_transient, host):
        raise UsageError("merging /etc: it is transient here, so the new deployment starts with its image's /etc")
    objects = await stack.enter_async_context(hold_directory(host, host.objects))
    pristine = await _open_image(host, survey.booted.digest, objects, stack)
    staged = survey.marker.digest if survey.marker else None
    new = None if staged is None else await _open_image(host, staged, objects, stack)
    current = DirectorySource(await open_etc(host, stack))
    policy, dest_fd = MergePolicy(), None
    if is_merge:
        strategy = Strategy(arguments.on_conflict) if arguments.on_conflict else None
        policy = await run_blocking(read_merge_policy, host, on_conflict=strategy)
        if arguments.into is not None:
            dest_fd = await run_blocking(open_path, arguments.into, stack, kind=stat.S_IFDIR)
        elif staged is not None:
            await run_blocking(check_staged_pieces, host, staged)
            dest_fd = await stack.enter_async_context(hold_directory(host, host.state_dir(staged) / "etc"))
    return Trees(pristine, current, new, policy, dest_fd)


async def _open_image(host: Host, digest: VerityDigest, objects: int, stack: AsyncExitStack) -> ImageSource:
    image = await open_image(host, digest, stack)
    return ImageSource(image.fd, objects)
