"""What happens on merge conflicts: policy files and the command line (docs/merge-policy.md).

A policy file is TOML::

    default = "fail"

    [[path]]
    pattern = "ssh/sshd_config.d/**"
    on-conflict = "current"

Patterns are matched against the whole path below /etc: ``*`` and ``?`` stay within one name, a name ``**`` stands for
any number of names, ``[a-z]`` and ``[!a-z]`` are sets, a backslash takes the next character literally. Of several
entries that match, the first one counts. Those of ``/etc/bootc-fast/merge.toml`` come before those of
``/usr/lib/bootc-fast/merge.toml``, and its ``default`` overrides the other's. ``--on-conflict`` overrides everything,
also with ``fail``.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bootc_fast.errors import InvalidStateError
from bootc_fast.machine.policy_file import read_policy_file, refuse_unknown_keys
from bootc_fast.types import Strategy

if TYPE_CHECKING:
    from bootc_fast.machine.host import Host

POLICY_FILES = ("usr/lib/bootc-fast/merge.toml", "etc/bootc-fast/merge.toml")
"""Below the host's root; later ones override earlier ones."""

MAX_POLICY_BYTES = 1 << 20
"""Far more than anybody writes by hand; a policy file is read at every shutdown."""

MAX_PATTERN_CHARACTERS = 4096
"""``PATH_MAX``: no longer path exists that it could match."""


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One ``[[path]]`` entry.

    Attributes:
        pattern: As written, without a leading ``/`` or ``/etc/``.
        strategy: For the paths that it matches.
    """

    pattern: str
    strategy: Strategy


@dataclass(frozen=True, slots=True)
class MergePolicy:
    """Chooses the strategy for a conflict; the core matches the patterns (``rust/core/src/etc/policy.rs``).

    Attributes:
        default: Where no rule matches.
        rules: The most important first: the first that matches counts.
    """

    default: Strategy = Strategy.FAIL
    rules: tuple[PolicyRule, ...] = ()


def make_rule(pattern: str, strategy: Strategy) -> PolicyRule:
    """Make a rule.

    Args:
        pattern: See the module's description; a leading ``/etc/`` or ``/`` is dropped, as is a ``/`` at the end.
        strategy: What it chooses.

    Raises:
        ValueError: The pattern is empty, too long, or names ``.`` or ``..``.
    """
    inner = pattern.removeprefix("/etc/").removeprefix("/").rstrip("/")
    if not inner or len(inner) > MAX_PATTERN_CHARACTERS:
        raise ValueError(f"a pattern has 1 to {MAX_PATTERN_CHARACTERS} characters")
    if {".", "..", ""} & set(inner.split("/")):
        raise ValueError("a pattern has no empty names, '.' or '..'")
    return PolicyRule(inner, strategy)


def parse_policy(text: str, *, what: str, base: MergePolicy | None = None) -> MergePolicy:
    """Parse a policy file on top of another policy.

    Args:
        text: TOML.
        what: What is being read, for the error.
        base: What the file overrides.

    Raises:
        InvalidStateError: Not TOML, unknown keys or strategies, or a malformed pattern. Nothing is ignored: a policy
            that is half understood would lose an admin's file one day.
    """
    base = base or MergePolicy()
    try:
        table = tomllib.loads(text)
        entries = table.pop("path", [])
        default = Strategy(table.pop("default", base.default))
        refuse_unknown_keys(table)
        if not isinstance(entries, list):
            raise TypeError("'path' is no array of tables: write [[path]]")
        return MergePolicy(default, (*(_parse_entry(entry) for entry in entries), *base.rules))
    except (tomllib.TOMLDecodeError, ValueError, TypeError, RecursionError) as error:
        raise InvalidStateError(f"{what}: {error}", hint="its form is described in docs/merge-policy.md") from error


def _parse_entry(entry: object) -> PolicyRule:
    if not isinstance(entry, dict):
        raise TypeError("'path' is no array of tables: write [[path]]")
    table = dict(entry)
    pattern, strategy = table.pop("pattern", None), table.pop("on-conflict", None)
    if not isinstance(pattern, str) or not isinstance(strategy, str):
        raise TypeError("each [[path]] needs a pattern and on-conflict, both strings")
    refuse_unknown_keys(table)
    return make_rule(pattern, Strategy(strategy))


def read_merge_policy(host: Host, *, on_conflict: Strategy | None = None) -> MergePolicy:
    """Read the host's policy files; what the command line says overrides them all.

    Args:
        host: Whose files.
        on_conflict: From the command line; ``fail`` counts as well.

    Raises:
        InvalidStateError: A file is malformed; also with `on_conflict`, since the next run may be without it.
        FileSystemError: A file is there and cannot be read.

    Source:
        Spec etc-merge.md, "Conflicts".
    """
    policy = MergePolicy()
    for name in POLICY_FILES:
        path = host.root / name
        text = read_policy_file(host, path, max_bytes=MAX_POLICY_BYTES)
        if text is not None:
            policy = parse_policy(text, what=f"reading {path}", base=policy)
    return policy if on_conflict is None else MergePolicy(on_conflict)
