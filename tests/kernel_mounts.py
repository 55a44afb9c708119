"""Images mounted by this kernel: what the readers and writers of images are held to."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from bootc_fast import _core
from bootc_fast.machine.mounts import hold_mount
from bootc_fast.machine.scratch import DIRECTORY, make_image_mount, open_scratch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bootc_fast.machine.held import Held


def _open_root(held: Held, mount_fd: int) -> int:
    return held.add(os.open(".", DIRECTORY, dir_fd=held.add(mount_fd)))


@asynccontextmanager
async def mount_image(image_fd: int) -> AsyncIterator[int]:
    """Mount an EROFS image as the next root does, without the overlay; yields its root.

    Composefs files then are empty and have their ``trusted.overlay.*`` attributes.
    """
    async with hold_mount("the EROFS image", lambda held: _open_root(held, make_image_mount(image_fd))) as fd:
        yield fd


@asynccontextmanager
async def mount_composefs(image_fd: int, objects_fd: int, *, require_verity: bool) -> AsyncIterator[int]:
    """Mount a composefs image as the next root does: an overlay over the repository's objects; yields its root."""

    def make(held: Held) -> int:
        # Here: before Linux 6.15 a mount can be cloned only in the namespace that it belongs to.
        clone_fd = held.add(_core.clone_mount(objects_fd))

        def stack() -> int:
            with open_scratch() as scratch:
                return scratch.make_composefs(
                    image_fd, clone_fd, require_verity=require_verity, source="composefs", is_system_root=False
                )

        return _open_root(held, _core.call_with_private_mounts(stack))

    async with hold_mount("the composefs overlay", make) as fd:
        yield fd
