"""How many deployments stay bootable: policy files (docs/boot-entries.md).

Without any it is two, the new one and the one that runs, as bootc leaves it: its garbage collection takes boot entries
as roots, so that more of them, kept without being asked for, fill the boot partition until nothing can be staged.

A policy file is TOML::

    keep = 3
    pinned = ["<digest>"]
    fallback-entry = true

``/etc/bootc-fast/boot.toml`` overrides ``/usr/lib/bootc-fast/boot.toml`` key by key. What ``bootc-fast pin``
pins stands in a file of the same form in the state directory, and is added to theirs: it belongs to the host and not to
a deployment, whose /etc comes and goes with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.errors import FileSystemError, InvalidStateError
from bootc_fast.machine.cmdline import parse_digest
from bootc_fast.machine.policy_file import (
    Key,
    name_hint,
    read_policies,
    read_policy_file,
    refuse_unknown_keys,
    refusing,
    take_flag,
)
from bootc_fast.records import dataclass, replace
from bootc_fast.text import reason_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bootc_fast.machine.host import Host
    from bootc_fast.types import VerityDigest

POLICY_FILES = ("usr/lib/bootc-fast/boot.toml", "etc/bootc-fast/boot.toml")
"""Below the host's root; later ones override earlier ones."""
DEFAULT_KEEP = 2
MAX_KEEP = 50
"""Entries of ours in one menu; ranks in file names have two digits."""
MAX_POLICY_BYTES = 1 << 16


MAX_PINS = MAX_KEEP

KEYS = (
    Key(
        "keep",
        "keep",
        f"a number from {DEFAULT_KEEP} to {MAX_KEEP}; {DEFAULT_KEEP} where it is missing",
        "how many deployments keep a boot entry in all, the new and the running one among them",
    ),
    Key("pinned", "pinned", "a list of digests, as in `status -v`", "deployments that keep theirs whatever is updated"),
    Key(
        "fallback-entry",
        "has_fallback",
        "true or false; false where it is missing",
        "GRUB with user.cfg: what came up well boots, from custom.cfg, where user.cfg is lost",
    ),
)


@dataclass(frozen=True, slots=True)
class KeepPolicy:
    """Which deployments stay bootable beside the new and the running one.

    Attributes:
        keep: How many of ours in all, 2 ≤ keep ≤ ``MAX_KEEP``; pinned ones do not count.
        pinned: These stay as long as they have state and image.
        has_fallback: What came up well has an entry in a second place, where the loader reads one.
    """

    keep: int = DEFAULT_KEEP
    pinned: tuple[VerityDigest, ...] = ()
    has_fallback: bool = False


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
    import tomllib

    with refusing(what, "boot.toml"):
        table = tomllib.loads(text)
        keep, pinned = table.pop("keep", base.keep), table.pop("pinned", list(base.pinned))
        has_fallback = take_flag(table, "fallback-entry", default=base.has_fallback)
        refuse_unknown_keys(table, [key.name for key in KEYS])
        if not isinstance(keep, int) or isinstance(keep, bool) or not DEFAULT_KEEP <= keep <= MAX_KEEP:
            raise ValueError(f"'keep' is no number from {DEFAULT_KEEP} to {MAX_KEEP}")
        if not isinstance(pinned, list) or not all(isinstance(one, str) for one in pinned):
            raise ValueError("'pinned' is no list of digests")
    try:
        return KeepPolicy(keep, tuple(parse_digest(one, what=what) for one in pinned), has_fallback)
    except InvalidStateError as error:
        error.hint = name_hint("boot.toml")
        raise


def read_keep_policy(host: Host) -> tuple[KeepPolicy, tuple[str, ...]]:
    """Read the host's policy files; blocks.

    A file that cannot be understood is passed over with a warning: two deployments is what every host can hold, and an
    update must not wait for a number.

    Args:
        host: Whose files.

    Returns:
        The policy, and the warnings.
    """
    policy, warnings = read_policies(host, POLICY_FILES, parse_keep_policy, KeepPolicy(), max_bytes=MAX_POLICY_BYTES)
    try:
        policy = replace(policy, pinned=tuple(dict.fromkeys((*policy.pinned, *read_pins(host)))))
    except (InvalidStateError, FileSystemError) as error:
        warnings.append(f"{error}: passed over")
    return policy, tuple(warnings)


def find_pins_file(host: Host) -> Path:
    """Where ``bootc-fast pin`` writes."""
    return host.last_finalize.parent / "boot.toml"


def read_pins(host: Host) -> tuple[VerityDigest, ...]:
    """Read what ``bootc-fast pin`` has pinned, not what a policy file pins; blocks.

    Raises:
        InvalidStateError: The file cannot be understood.
        FileSystemError: It cannot be read.
    """
    path = find_pins_file(host)
    text = read_policy_file(host, path, max_bytes=MAX_POLICY_BYTES)
    return () if text is None else parse_keep_policy(text, what=f"reading {path}").pinned


def write_pins(host: Host, pins: Sequence[VerityDigest]) -> None:
    """Replace what is pinned, atomically and flushed; blocks.

    Args:
        host: Whose; its lock is held, its /sysroot writable.
        pins: All of them.

    Raises:
        InvalidStateError: They are more than `MAX_PINS`: ranks in file names have two digits.
        FileSystemError: It could not be written; what was pinned before still is.
    """
    if len(pins) > MAX_PINS:
        raise InvalidStateError(f"pinning: {MAX_PINS} deployments are pinned already")
    path = find_pins_file(host)
    try:
        if host.find_status(path.parent) is None:
            host.make_directory(path.parent)
    except OSError as error:
        raise FileSystemError(f"writing {path}: {reason_of(error)}") from error
    names = ", ".join(f'"{digest}"' for digest in pins)
    host.write_file(path, f"# Written by `bootc-fast pin` and `unpin`.\npinned = [{names}]\n".encode())
