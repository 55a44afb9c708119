"""How many deployments stay bootable: policy files (docs/boot-entries.md).

Without any it is two, the new one and the one that runs, as bootc leaves it: its garbage collection takes boot entries
as roots, so that more of them, kept without being asked for, fill the boot partition until nothing can be staged.

A policy file is TOML::

    keep = 3
    pinned = ["<digest>"]

``/etc/bootc-fast/boot.toml`` overrides ``/usr/lib/bootc-fast/boot.toml`` key by key.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bootc_fast.errors import FileSystemError, InvalidStateError
from bootc_fast.machine.cmdline import parse_digest
from bootc_fast.machine.policy_file import read_policy_file, refuse_unknown_keys

if TYPE_CHECKING:
    from bootc_fast.machine.host import Host
    from bootc_fast.types import VerityDigest

POLICY_FILES = ("usr/lib/bootc-fast/boot.toml", "etc/bootc-fast/boot.toml")
"""Below the host's root; later ones override earlier ones."""
DEFAULT_KEEP = 2
MAX_KEEP = 50
"""Entries of ours in one menu; ranks in file names have two digits."""
MAX_POLICY_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class KeepPolicy:
    """Which deployments stay bootable beside the new and the running one.

    Attributes:
        keep: How many of ours in all, 2 ≤ keep ≤ ``MAX_KEEP``; pinned ones do not count.
        pinned: These stay as long as they have state and image.
    """

    keep: int = DEFAULT_KEEP
    pinned: tuple[VerityDigest, ...] = ()


def parse_keep_policy(text: str, *, what: str, base: KeepPolicy | None = None) -> KeepPolicy:
    """Parse a policy file on top of another policy.

    Args:
        text: TOML.
        what: What is being read, for the error.
        base: What the file overrides.

    Raises:
        InvalidStateError: Not TOML, an unknown key, or a value that is none.
    """
    base = base or KeepPolicy()
    try:
        table = tomllib.loads(text)
        keep, pinned = table.pop("keep", base.keep), table.pop("pinned", list(base.pinned))
        refuse_unknown_keys(table)
        if not isinstance(keep, int) or isinstance(keep, bool) or not DEFAULT_KEEP <= keep <= MAX_KEEP:
            raise ValueError(f"'keep' is no number from {DEFAULT_KEEP} to {MAX_KEEP}")
        if not isinstance(pinned, list) or not all(isinstance(one, str) for one in pinned):
            raise ValueError("'pinned' is no list of digests")
        return KeepPolicy(keep, tuple(parse_digest(one, what=what) for one in pinned))
    except (tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
        raise InvalidStateError(f"{what}: {error}", hint="its form is described in docs/boot-entries.md") from error


def read_keep_policy(host: Host) -> tuple[KeepPolicy, tuple[str, ...]]:
    """Read the host's policy files; blocks.

    A file that cannot be understood is passed over with a warning: two deployments is what every host can hold, and an
    update must not wait for a number.

    Args:
        host: Whose files.

    Returns:
        The policy, and the warnings.
    """
    policy = KeepPolicy()
    warnings: list[str] = []
    for name in POLICY_FILES:
        path = host.root / name
        try:
            text = read_policy_file(host, path, max_bytes=MAX_POLICY_BYTES)
            policy = parse_keep_policy(text, what=f"reading {path}", base=policy) if text is not None else policy
        except (InvalidStateError, FileSystemError) as error:
            warnings.append(f"{error}: passed over")
    return policy, tuple(warnings)
