"""What an unstaging leaves behind while it is under way, and the state directory that goes with it.

The marker lies in /run, so that it is gone first of all whatever happens; after that nothing says any more which
deployment was staged. A note on disk does, until all of it is done: the next run finishes what was cut.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from bootc_fast.errors import FileSystemError, InvalidStateError
from bootc_fast.machine.cmdline import parse_digest
from bootc_fast.machine.remove import list_gone, remove_gone, remove_tree
from bootc_fast.text import dump_json, reason_of

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from bootc_fast.machine.host import Host
    from bootc_fast.types import VerityDigest

FORMAT_VERSION = 1
_MAX_NOTE_BYTES = 1 << 12


def _note_file(host: Host) -> Path:
    return host.last_finalize.parent / "unstaging.json"


def note_unstaging(host: Host, digests: Collection[VerityDigest]) -> None:
    """Note, flushed, which deployments are about to be unstaged; blocks.

    Raises:
        FileSystemError: It could not be written.
    """
    path = _note_file(host)
    try:
        if host.find_status(path.parent) is None:
            host.make_directory(path.parent)
    except OSError as error:
        raise FileSystemError(f"writing {path}: {reason_of(error)}") from error
    host.write_file(path, f"{dump_json({'version': FORMAT_VERSION, 'digests': list(digests)})}\n".encode())


def read_unstaging(host: Host) -> tuple[VerityDigest, ...]:
    """Read which deployments earlier runs have not finished to unstage; what cannot be read is none. Blocks."""
    try:
        value = json.loads(host.read_bytes(_note_file(host), max_bytes=_MAX_NOTE_BYTES))
        return tuple(parse_digest(one, what="reading what was unstaged") for one in value["digests"])
    except (OSError, InvalidStateError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ()


def forget_unstaging(host: Host) -> None:
    """Remove the note; blocks.

    Raises:
        FileSystemError: It stays.
    """
    host.remove_file(_note_file(host))


def has_leftovers(host: Host) -> bool:
    """Whether an earlier run has begun to remove a state directory; blocks.

    Raises:
        FileSystemError: It cannot be told.
    """
    try:
        return bool(list_gone(host, host.state_deploy))
    except OSError as error:
        raise FileSystemError(f"listing {host.state_deploy}: {reason_of(error)}") from error


def remove_state(host: Host, digest: VerityDigest) -> bool:
    """Remove a deployment's state directory; says whether it was there. Blocks.

    Raises:
        FileSystemError: All of it is there, or no name of a deployment leads to what is left.
    """
    return remove_tree(host, host.state_dir(digest))


def finish_removals(host: Host) -> bool:
    """Remove what earlier runs began to; says whether there was anything. Blocks.

    Raises:
        FileSystemError: Some of it is left.
    """
    return bool(remove_gone(host, host.state_deploy))
