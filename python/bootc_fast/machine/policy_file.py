"""What all policy files have in common: they may be absent, they are text, and no key is passed over."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from bootc_fast.errors import FileSystemError, InvalidStateError
from bootc_fast.text import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from bootc_fast.machine.host import Host

T = TypeVar("T")


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


def refuse_unknown_keys(table: Mapping[str, object]) -> None:
    """Refuse what is left of a table when all keys that are known were taken out.

    Raises:
        ValueError: Something is left.
    """
    if table:
        raise ValueError(f"unknown key {min(table)!r}")
