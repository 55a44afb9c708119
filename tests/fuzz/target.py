"""What a fuzz target is, and what the targets are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

KNOWN = "ab" * 64
"""The digest of a deployment that the host has."""


@dataclass(frozen=True)
class Target:
    """An invariant, and the bytes to begin with.

    Attributes:
        name: The invariant in words, as a file name.
        check: Raises AssertionError where it does not hold; anything else that it raises is a find too.
        seeds: What the fuzzer starts from; all of it holds.
        max_bytes: Longest input that is tried.
    """

    name: str
    check: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]
    max_bytes: int = 4096


def split(data: bytes, parts: int) -> list[bytes]:
    r"""Cut one input into several at ``\xff\n``; missing ones are empty."""
    found = data.split(b"\xff\n", parts - 1)
    return found + [b""] * (parts - len(found))


def text_of(data: bytes) -> str:
    """What a reader makes of bytes that need not be text."""
    return data.decode("utf-8", "surrogateescape")
