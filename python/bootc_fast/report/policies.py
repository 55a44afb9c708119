"""What a host's policy files say together: each value, what it is for, and which file it comes from."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any, NamedTuple

from bootc_fast.boot.entries import keep
from bootc_fast.errors import BootcFastError, FileSystemError, UsageError
from bootc_fast.etc import policy as merge
from bootc_fast.machine.host import open_host
from bootc_fast.machine.policy_file import read_policy_file
from bootc_fast.records import dataclass, replace
from bootc_fast.text import did_you_mean, reason_of
from bootc_fast.trial import policy as health
from bootc_fast.trial import trial_policy as trial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from bootc_fast.machine.host import Host
    from bootc_fast.machine.policy_file import Key

BUILT_IN = "built in"


class Table(NamedTuple):
    """One table of a policy file, with its own reader.

    Attributes:
        name: As in ``[name]``; empty for the file's top level.
        keys: What may stand in it.
        parse: Reads a whole file on top of another policy of this table (`what`, `base`).
        base: Where there is no file.
    """

    name: str
    keys: tuple[Key, ...]
    parse: Callable[..., Any]
    base: object


class Kind(NamedTuple):
    """One kind of policy file.

    Attributes:
        name: File name.
        about: What it decides, in words.
        paths: Where a host has it, below its root; later ones override earlier ones.
        tables: What is in it.
        max_bytes: A longer one is refused.
    """

    name: str
    about: str
    paths: tuple[str, ...]
    tables: tuple[Table, ...]
    max_bytes: int


KINDS = (
    Kind(
        "merge.toml",
        "who wins where an update and a change in /etc collide",
        merge.POLICY_FILES,
        (Table("", merge.KEYS, merge.parse_policy, merge.MergePolicy()),),
        merge.MAX_POLICY_BYTES,
    ),
    Kind(
        "boot.toml",
        "which deployments stay bootable",
        keep.POLICY_FILES,
        (Table("", keep.KEYS, keep.parse_keep_policy, keep.KeepPolicy()),),
        keep.MAX_POLICY_BYTES,
    ),
    Kind(
        "trial.toml",
        "how a new deployment is tried, and what healthy means",
        health.POLICY_FILES,
        (
            Table("health", health.KEYS, health.parse_health_policy, health.HealthPolicy()),
            Table("trial", trial.KEYS, trial.parse_trial_policy, trial.TrialPolicy()),
        ),
        health.MAX_POLICY_BYTES,
    ),
)


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A place where a policy file may be.

    Attributes:
        path: Of it.
        is_there: Whether it is.
        error: Why it cannot be understood.
    """

    path: str
    is_there: bool
    error: BootcFastError | None = None


@dataclass(frozen=True, slots=True)
class PolicyValue:
    """What holds.

    Attributes:
        key: As it is written, with its table: ``health.timeout``, ``path."ssh/*".on-conflict``.
        value: A text, number, truth value or list of texts.
        source: The file it comes from, or ``built in``.
        meaning: What it is for, in words.
    """

    key: str
    value: str | int | float | bool | tuple[str, ...]
    source: str
    meaning: str


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """What files of one kind say.

    Attributes:
        name: Of the kind, ``merge.toml``.
        about: What it decides, in words.
        files: Each place, the least important first.
        values: What holds, of the files that can be understood.
    """

    name: str
    about: str
    files: tuple[PolicyFile, ...]
    values: tuple[PolicyValue, ...]

    @property
    def errors(self) -> list[BootcFastError]:
        """What is wrong with its files."""
        return [one.error for one in self.files if one.error is not None]


def check_host(host: Host) -> tuple[PolicyReport, ...]:
    """Read all policy files of a host; blocks, writes nothing."""
    return tuple(_check(kind, [_place(host, host.root / name, kind) for name in kind.paths]) for kind in KINDS)


def check_files(paths: Sequence[Path]) -> tuple[PolicyReport, ...]:
    """Read the files that are named, by kind, in this order one on top of the other; blocks, writes nothing.

    Raises:
        UsageError: A file has the name of no policy file, or is not there.
    """
    names = [kind.name for kind in KINDS]
    for path in paths:
        if path.name not in names:
            meant = did_you_mean(path.name, names)
            raise UsageError(f"reading {path}: a policy file is called {', '.join(names)}", hint=meant or None)
        if not path.exists():
            raise UsageError(f"reading {path}: there is no such file")
    # As every policy file is read: no FIFO is waited for, and none is longer than it may be on a host.
    machine = open_host("/")
    return tuple(
        _check(kind, [_place(machine, path, kind) for path in paths if path.name == kind.name])
        for kind in KINDS
        if any(path.name == kind.name for path in paths)
    )


def _place(host: Host, path: Path, kind: Kind) -> tuple[str, Callable[[], str | None]]:
    return str(path), lambda: read_policy_file(host, path.absolute(), max_bytes=kind.max_bytes)


def _check(kind: Kind, places: Iterable[tuple[str, Callable[[], str | None]]]) -> PolicyReport:
    files: list[PolicyFile] = []
    texts: list[tuple[str, str]] = []
    for path, read in places:
        try:
            text = read()
            for table in kind.tables if text is not None else ():
                table.parse(text, what=f"reading {path}", base=table.base)
        except BootcFastError as error:
            files.append(PolicyFile(path, is_there=True, error=error))
        except OSError as error:
            files.append(PolicyFile(path, is_there=True, error=FileSystemError(f"reading {path}: {reason_of(error)}")))
        else:
            files.append(PolicyFile(path, is_there=text is not None))
            if text is not None:
                texts.append((path, text))
    values = [value for table in kind.tables for value in _list_values(table, texts)]
    return PolicyReport(kind.name, kind.about, tuple(files), tuple(values))


def _list_values(table: Table, texts: Sequence[tuple[str, str]]) -> list[PolicyValue]:
    """What holds of one table, and where each value comes from: the last file that has the key."""
    policy, sources = table.base, {}
    for path, text in texts:
        policy = table.parse(text, what=path, base=policy)
        document = tomllib.loads(text)
        written = document.get(table.name, {}) if table.name else document
        sources.update(dict.fromkeys(written, path))
    prefix = f"{table.name}." if table.name else ""
    values = [
        PolicyValue(
            f"{prefix}{key.name}", _plain(getattr(policy, key.attribute)), sources.get(key.name, BUILT_IN), key.meaning
        )
        for key in table.keys
        if key.name != "path"
    ]
    return values + (_list_paths(texts) if isinstance(policy, merge.MergePolicy) else [])


def _list_paths(texts: Sequence[tuple[str, str]]) -> list[PolicyValue]:
    """The entries for certain paths, the most important first."""
    found: list[PolicyValue] = []
    meanings = {key.name: key.meaning for key in merge.PATH_KEYS}
    bare = replace(merge.MergePolicy(), preferences=())
    sources = [(merge.parse_policy(text, what=path, base=bare), path) for path, text in reversed(texts)]
    for policy, source in (*sources, (merge.MergePolicy(), BUILT_IN)):
        rows = [
            *((rule.pattern, "on-conflict", str(rule.strategy)) for rule in policy.rules),
            *((rule.pattern, "on-both-changed", str(rule.preference)) for rule in policy.preferences),
        ]
        found += [PolicyValue(f'path."{pattern}".{key}', value, source, meanings[key]) for pattern, key, value in rows]
    return found


def _plain(value: object) -> str | int | float | bool | tuple[str, ...]:
    if isinstance(value, tuple):
        return tuple(map(str, value))
    return value if isinstance(value, bool | int | float) else str(value)
