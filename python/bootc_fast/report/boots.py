"""What is remembered from one boot to the next, and what it says about updates that nobody applied.

The staged marker is gone when a machine comes back, whether it was shut down, reset or lost its power. What stays is
the state directory of what was staged.

Source:
    bootc ``bootc_composefs/state.rs``: a state directory is written when an update is staged.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from bootc_fast.errors import FileSystemError, InvalidStateError
from bootc_fast.records import dataclass
from bootc_fast.report.finalize import read_boot_id
from bootc_fast.text import dump_json, reason_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from bootc_fast.machine.host import Host
    from bootc_fast.types import Deployment, VerityDigest

FORMAT_VERSION = 1
_MACHINE_ID = re.compile(rb"[0-9a-f]{32}\n?")
_MAX_MACHINE_ID_BYTES = 1 << 10


@dataclass(frozen=True, slots=True)
class BootMemory:
    """The content of ``last-boot.json``.

    Attributes:
        booted: What ran.
        known: Deployments that had a state directory, less what was staged in that boot, and when that directory was
            changed, seconds since 1970: staging one again changes it.
        boot_id: The kernel's name of that boot.
    """

    booted: str
    known: Mapping[str, float]
    boot_id: str | None = None


def read_memory(host: Host) -> BootMemory | None:
    """Read what was remembered; None where nothing was, or nothing that can be read; blocks, never raises."""
    try:
        value = json.loads(host.read_bytes(host.last_boot))
        boot_id = value.get("boot_id")
        known = {str(digest): float(time_s) for digest, time_s in value["known"].items()}
        return BootMemory(str(value["booted"]), known, None if boot_id is None else str(boot_id))
    except (OSError, InvalidStateError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def write_memory(host: Host, memory: BootMemory) -> None:
    """Remember a boot; blocks.

    Raises:
        FileSystemError: It could not be written; what was remembered before still is.
    """
    value = {
        "version": FORMAT_VERSION,
        "booted": memory.booted,
        "known": dict(memory.known),
        "boot_id": memory.boot_id,
    }
    try:
        if host.find_status(host.last_boot.parent) is None:
            host.make_directory(host.last_boot.parent)
    except OSError as error:
        raise FileSystemError(f"writing {host.last_boot}: {reason_of(error)}") from error
    host.write_file(host.last_boot, f"{dump_json(value)}\n".encode())


def make_memory(
    host: Host, booted: VerityDigest, deployments: Iterable[Deployment], waiting: VerityDigest | None = None
) -> BootMemory:
    """Make what is to be remembered of this boot; `waiting` is staged now, and will be missed if nobody applies it."""
    known: dict[str, float] = {one.digest: one.mtime_s for one in deployments if one.digest != waiting}
    return BootMemory(booted, known, read_boot_id(host))


def remember_withdrawn(host: Host, booted: VerityDigest, deployments: Iterable[Deployment]) -> None:
    """Remember that nothing waits any more, so that nobody misses what was dropped or is not to be applied; blocks.

    Raises:
        FileSystemError: It could not be written.
    """
    write_memory(host, make_memory(host, booted, deployments))


def find_missed(
    host: Host,
    booted: VerityDigest,
    deployments: Iterable[Deployment],
    *,
    memory: BootMemory | None,
    bootable: Collection[str],
    staged_set: Collection[str],
    waiting: VerityDigest | None,
) -> tuple[VerityDigest, ...]:
    """Find deployments that were staged, never booted, and are not waiting to be; blocks, never raises.

    Without a memory the state directory has to be newer than that of the deployment that runs, and never booted or
    still in the staged set; with one it has to be new since, in which no clock has a say.

    Args:
        host: Where.
        booted: What runs.
        deployments: All that have a state directory.
        memory: Of the boot before.
        bootable: Deployments that have a boot entry: whoever booted another one chose to.
        staged_set: Deployments in the staged set of boot entries.
        waiting: What the staged marker names.
    """
    every = {one.digest: one for one in deployments}
    candidates = [one for one in every.values() if one.digest not in bootable and one.digest not in {booted, waiting}]
    if staged_set:
        # What was staged before that, and replaced, is not missed.
        candidates = [one for one in candidates if one.digest in staged_set]
    if memory is not None:
        if memory.booted != booted:
            # Another deployment runs than then: an update was applied, and what is left over was replaced by it.
            return ()
        return tuple(one.digest for one in candidates if memory.known.get(one.digest) != one.mtime_s)
    since_s = every[booted].mtime_s if booted in every else 0.0
    return tuple(
        one.digest
        for one in candidates
        if one.mtime_s > since_s and (one.digest in staged_set or not _has_booted(host, one.digest))
    )


def _has_booted(host: Host, digest: VerityDigest) -> bool:
    """Whether its /etc has an identity, which systemd writes at the first boot; a merge brings it along too."""
    try:
        path = host.state_dir(digest) / "etc/machine-id"
        return _MACHINE_ID.fullmatch(host.read_bytes(path, max_bytes=_MAX_MACHINE_ID_BYTES)) is not None
    except (OSError, InvalidStateError):
        return False
