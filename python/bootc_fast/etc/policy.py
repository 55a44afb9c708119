"""What happens on merge conflicts: policy files and the command line (docs/merge-policy.md).

A policy file is TOML::

    default = "fail"

    [[path]]
    pattern = "ssh/sshd_config.d/**"
    on-conflict = "current"
    on-both-changed = "new"

Patterns are matched against the whole path below /etc: ``*`` and ``?`` stay within one name, a name ``**`` stands for
any number of names, ``[a-z]`` and ``[!a-z]`` are sets, a backslash takes the next character literally. Of several
entries that match, the first one counts. Those of ``/etc/bootc-fast/merge.toml`` come before those of
``/usr/lib/bootc-fast/merge.toml``, and its ``default`` overrides the other's. ``--on-conflict STRATEGY`` overrides
everything, also with ``fail``; ``--on-conflict PATTERN=STRATEGY`` comes before all entries.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from bootc_fast.machine.policy_file import Key, read_policy_file, refuse_unknown_keys, refusing, take_word
from bootc_fast.records import dataclass, replace
from bootc_fast.types import Strategy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bootc_fast.machine.host import Host

POLICY_FILES = ("usr/lib/bootc-fast/merge.toml", "etc/bootc-fast/merge.toml")
"""Below the host's root; later ones override earlier ones."""

KEYS = (
    Key(
        "default",
        "default",
        '"fail", "current" or "new"; "fail" where it is missing',
        "what happens on a conflict that no [[path]] entry matches: nothing is written; the version in /etc wins; the "
        "new image's wins. What loses is kept beside it",
    ),
    Key(
        "path", "rules", "any number of [[path]] tables", "what happens at certain paths; the first that matches counts"
    ),
)
PATH_KEYS = (
    Key("pattern", "pattern", "a path below /etc, with wildcards", "which paths the entry is for"),
    Key("on-conflict", "strategy", '"fail", "current" or "new"', "who wins where two changes cannot be joined"),
    Key(
        "on-both-changed",
        "preference",
        '"current" or "new"',
        "whose version of a file wins that both sides changed, which is no conflict",
    ),
)
"""Of the file, and of a ``[[path]]`` entry."""

MAX_POLICY_BYTES = 1 << 20
"""Far more than anybody writes by hand; a policy file is read at every shutdown."""

MAX_PATTERN_CHARACTERS = 4096
"""``PATH_MAX``: no longer path exists that it could match."""


MAX_CHOICE_CHARACTERS = 8192
"""Of all that ``--on-conflict`` is given: it is recorded whole, or the next run would choose otherwise."""


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One ``[[path]]`` entry.

    Attributes:
        pattern: As written, without a leading ``/`` or ``/etc/``.
        strategy: For the paths that it matches.
    """

    pattern: str
    strategy: Strategy


class Preference(StrEnum):
    """Whose version of a leaf wins where both sides changed the same of it, which is no conflict.

    ``machine-made`` is ``new`` for what a program makes anew: the version in /etc is not kept beside it.
    """

    CURRENT = "current"
    NEW = "new"
    MACHINE_MADE = "machine-made"


@dataclass(frozen=True, slots=True)
class PreferenceRule:
    """One ``on-both-changed`` of a ``[[path]]`` entry.

    Attributes:
        pattern: As written, without a leading ``/`` or ``/etc/``.
        preference: For the leaves that it matches.
    """

    pattern: str
    preference: Preference


MACHINE_MADE = tuple(
    PreferenceRule(pattern, Preference.MACHINE_MADE)
    for pattern in (
        "ld.so.cache",
        "udev/hwdb.bin",
        "pki/ca-trust/extracted/**",
        "ca-certificates/extracted/**",
        "ssl/certs/ca-certificates.crt",
        "ssl/certs/java/cacerts",
        "selinux/*/policy/**",
        "selinux/*/contexts/files/*.bin",
    )
)
"""What ``ldconfig``, ``systemd-hwdb``, ``update-ca-trust``, ``update-ca-certificates`` and ``semodule`` make of files
that are merged on their own: made for the old image, it does not fit the new one."""


@dataclass(frozen=True, slots=True)
class MergePolicy:
    """Chooses who wins; the core matches the patterns (``rust/core/src/etc/policy.rs``).

    Attributes:
        default: Strategy of a conflict where no rule matches.
        rules: The most important first: the first that matches counts.
        preferences: For leaves that both sides changed, in the same order; where none matches, the admin's wins.
    """

    default: Strategy = Strategy.FAIL
    rules: tuple[PolicyRule, ...] = ()
    preferences: tuple[PreferenceRule, ...] = MACHINE_MADE


def make_rule(pattern: str, strategy: Strategy) -> PolicyRule:
    """Make a rule.

    Args:
        pattern: See the module's description; a leading ``/etc/`` or ``/`` is dropped, as is a ``/`` at the end.
        strategy: What it chooses.

    Raises:
        ValueError: The pattern is empty, too long, or names ``.`` or ``..``.
    """
    return PolicyRule(_checked(pattern), strategy)


def make_preference(pattern: str, preference: Preference) -> PreferenceRule:
    """Make a rule for leaves that both sides changed, else like ``make_rule``."""
    return PreferenceRule(_checked(pattern), preference)


def _checked(pattern: str) -> str:
    inner = pattern.removeprefix("/etc/").removeprefix("/").rstrip("/")
    if not inner or len(inner) > MAX_PATTERN_CHARACTERS:
        raise ValueError(f"a pattern has 1 to {MAX_PATTERN_CHARACTERS} characters")
    if {".", "..", ""} & set(inner.split("/")):
        raise ValueError("a pattern has no empty names, '.' or '..'")
    return inner


@dataclass(frozen=True, slots=True)
class ConflictChoice:
    """What is asked for of the conflicts of one merge, on the command line: it comes before the policy files.

    Attributes:
        default: For every path that no rule matches: the policy files' rules do not count then. None leaves them.
        rules: The most important first.
    """

    default: Strategy | None = None
    rules: tuple[PolicyRule, ...] = ()

    @classmethod
    def parse(cls, words: Sequence[str]) -> ConflictChoice:
        """Take ``STRATEGY`` and ``PATTERN=STRATEGY``, as they stand on a command line.

        Raises:
            ValueError: A word is neither, two strategies stand alone, or all are longer than ``MAX_CHOICE_CHARACTERS``.
        """
        if sum(map(len, words)) > MAX_CHOICE_CHARACTERS:
            raise ValueError(f"more than {MAX_CHOICE_CHARACTERS} characters: a policy file has room for them")
        alone, rules = [], []
        for word in words:
            # Of a pattern with = in it the last one counts: no strategy has one.
            pattern, separator, strategy = word.rpartition("=")
            if strategy not in list(Strategy):
                raise ValueError(f"{strategy!r} is none of {', '.join(Strategy)}")
            if separator:
                rules.append(make_rule(pattern, Strategy(strategy)))
            else:
                alone.append(Strategy(strategy))
        if len(alone) > 1:
            told = " and ".join(alone)
            raise ValueError(f"{told} are both for every path: name the paths of one, as PATTERN={alone[0]}")
        return cls(alone[0] if alone else None, tuple(rules))

    @property
    def words(self) -> tuple[str, ...]:
        """The words that it was parsed from."""
        rules = [f"{rule.pattern}={rule.strategy}" for rule in self.rules]
        return (*rules, *([] if self.default is None else [str(self.default)]))

    def apply_to(self, policy: MergePolicy) -> MergePolicy:
        """Put it before a policy."""
        if self.default is None:
            return replace(policy, rules=(*self.rules, *policy.rules))
        return replace(policy, default=self.default, rules=self.rules)


def to_choice(on_conflict: Strategy | ConflictChoice | None) -> ConflictChoice:
    """Take what callers may ask for; a strategy alone is for every path."""
    if on_conflict is None:
        return ConflictChoice()
    return on_conflict if isinstance(on_conflict, ConflictChoice) else ConflictChoice(on_conflict)


def encode_choice(on_conflict: Strategy | ConflictChoice | None) -> str | list[str] | None:
    """Turn it into plain values for JSON: a strategy alone is a string, as it always was."""
    choice = to_choice(on_conflict)
    return list(choice.words) if choice.rules else choice.default


def decode_choice(value: object) -> Strategy | ConflictChoice | None:
    """The inverse of ``encode_choice``.

    Raises:
        ValueError, TypeError: It is none.
    """
    if value is None:
        return None
    return ConflictChoice.parse(value) if isinstance(value, list) else Strategy(str(value))


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
    # Here: most hosts have no such file, and what asks for a strategy only starts without it.
    import tomllib

    base = base or MergePolicy()
    with refusing(what, "merge.toml"):
        table = tomllib.loads(text)
        entries = table.pop("path", [])
        default = Strategy(take_word(table, "default", Strategy, base.default))
        refuse_unknown_keys(table, [key.name for key in KEYS])
        if not isinstance(entries, list):
            raise TypeError("'path' is no array of tables: write [[path]]")
        return _add_entries(replace(base, default=default), entries)


def _add_entries(base: MergePolicy, entries: list[object]) -> MergePolicy:
    """Put the entries of a file before all others."""
    rules: list[PolicyRule] = []
    preferences: list[PreferenceRule] = []
    for entry in entries:
        if not isinstance(entry, dict):
            raise TypeError("'path' is no array of tables: write [[path]]")
        table = dict(entry)
        pattern = table.pop("pattern", None)
        has_choice = bool({"on-conflict", "on-both-changed"} & set(table))
        if "on-conflict" in table:
            strategy = Strategy(take_word(table, "on-conflict", Strategy, ""))
            rules.append(make_rule(_to_text(pattern), strategy))
        if "on-both-changed" in table:
            preference = Preference(take_word(table, "on-both-changed", (Preference.CURRENT, Preference.NEW), ""))
            preferences.append(make_preference(_to_text(pattern), preference))
        refuse_unknown_keys(table, [key.name for key in PATH_KEYS])
        if not has_choice:
            raise TypeError(_INCOMPLETE)
    return replace(base, rules=(*rules, *base.rules), preferences=(*preferences, *base.preferences))


_INCOMPLETE = "each [[path]] needs a pattern, and on-conflict or on-both-changed or both, all strings"


def _to_text(pattern: object) -> str:
    if not isinstance(pattern, str):
        raise TypeError(_INCOMPLETE)
    return pattern


def read_merge_policy(host: Host, *, on_conflict: Strategy | ConflictChoice | None = None) -> MergePolicy:
    """Read the host's policy files; what the command line says overrides them all.

    Args:
        host: Whose files.
        on_conflict: From the command line; ``fail`` counts as well, and rules alone come before those of the files.

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
    return to_choice(on_conflict).apply_to(policy)
