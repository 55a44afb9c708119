"""What all policy files have in common: they may be absent, they are text, and no key is passed over."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from bootc_fast.errors import FileSystemError, InvalidStateError
from bootc_fast.text import did_you_mean, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping
    from pathlib import Path

    from bootc_fast.machine.host import Host

T = TypeVar("T")


class Key(NamedTuple):
    """A key of a policy file: for what reads it, for errors, `policy check` and the man pages.

    Attributes:
        name: As it is written.
        attribute: Of the policy, where its value ends up.
        values: What may stand there, in words.
        meaning: What it is for, in words.
    """

    name: str
    attribute: str
    values: str
    meaning: str


def name_hint(file_name: str) -> str:
    """Where somebody whose policy file is refused finds help on that very host."""
    return f"bootc-fast-{file_name}(5) has its form; `bootc-fast policy check` reads all policy files"


@contextmanager
def refusing(what: str, file_name: str) -> Generator[None]:
    """Turn what a parser stops at, TOML's own errors among it, into the one error of a policy file.

    Args:
        what: What is being read.
        file_name: Of the policy, for the hint.

    Raises:
        InvalidStateError: The block raised ValueError, TypeError or RecursionError.
    """
    try:
        yield
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidStateError(f"{what}: {error}", hint=name_hint(file_name)) from error


def read_policy_file(host: Host, path: Path, *, max_bytes: int) -> str | None:
    """Read a policy file; None where it is absent. Blocks.

    Args:
        host: Whose.
        path: On it.
        max_bytes: A longer one is refused, and not read further.

    Raises:
        InvalidStateError: It is no text, no regular file, or too long.
        FileSystemError: It is there and cannot be read.
    """
    try:
        return host.read_bytes(path, max_bytes=max_bytes).decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError as error:
        raise InvalidStateError(f"reading {path}: the byte at offset {error.start} is not UTF-8") from error
    except OSError as error:
        raise FileSystemError(f"reading {path}: {reason_of(error)}") from error


def read_policies(
    host: Host, names: Iterable[str], parse: Callable[..., T], base: T, *, max_bytes: int
) -> tuple[T, list[str]]:
    """Read policy files one on top of the other; one that cannot be understood is passed over with a warning. Blocks.

    Args:
        host: Whose.
        names: Below its root; later ones override earlier ones.
        parse: Takes a text, what is being read, and what the file overrides (`what` and `base`).
        base: What the first one overrides.
        max_bytes: Of each.

    Returns:
        The policy, and the warnings.
    """
    warnings: list[str] = []
    for name in names:
        path = host.root / name
        try:
            text = read_policy_file(host, path, max_bytes=max_bytes)
            base = base if text is None else parse(text, what=f"reading {path}", base=base)
        except (InvalidStateError, FileSystemError) as error:
            warnings.append(f"{error}: passed over")
    return base, warnings


def refuse_unknown_keys(table: Mapping[str, object], known: Iterable[str]) -> None:
    """Refuse what is left of a table when all keys that are known were taken out.

    Args:
        table: What is left.
        known: All keys that it may have.

    Raises:
        ValueError: Something is left; says what may stand there.
    """
    if table:
        names = tuple(known)
        word = min(table)
        meant = did_you_mean(word, names)
        raise ValueError(f"unknown key {word!r}{f' ({meant})' if meant else ''}; valid keys: {', '.join(names)}")


def take_flag(table: dict[str, object], key: str, *, default: bool) -> bool:
    """Take true or false out of a table; `default` where the key is missing.

    Raises:
        TypeError: Something else stands there.
    """
    value = table.pop(key, default)
    if not isinstance(value, bool):
        raise TypeError(f"{key!r} is neither true nor false")
    return value


def take_word(table: dict[str, object], key: str, words: Iterable[str], default: str) -> str:
    """Take one of a few words out of a table; `default` where the key is missing.

    Raises:
        ValueError: Another value stands there; says which may.
    """
    value, known = table.pop(key, default), tuple(map(str, words))
    if not isinstance(value, str) or value not in known:
        meant = did_you_mean(value, known) if isinstance(value, str) else ""
        raise ValueError(f"{key!r} is {value!r}, none of {', '.join(known)}{f' ({meant})' if meant else ''}")
    return value
