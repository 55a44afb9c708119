"""Options that several commands have, with one meaning and one text."""

from __future__ import annotations

import argparse

from bootc_fast.errors import UsageError
from bootc_fast.types import Loader, Strategy

# Not from typing: importing that takes a tenth of the whole start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from bootc_fast.etc.policy import ConflictChoice


def add_bootloader(parser: argparse.ArgumentParser) -> None:
    """Add ``--bootloader``, for hosts on which the boot loader is detected wrongly."""
    parser.add_argument(
        "--bootloader",
        type=Loader,
        choices=list(Loader),
        metavar="NAME",
        help=f"the boot loader, where it is detected wrongly: {', '.join(Loader)}",
    )


def add_progress(parser: argparse.ArgumentParser) -> None:
    """Add ``--progress-json``, for programs that show what a flow is about."""
    parser.add_argument(
        "--progress-json",
        type=int,
        metavar="FD",
        help="write each step's begin, progress and end as a line of JSON to this file descriptor",
    )


def add_on_conflict(parser: argparse.ArgumentParser) -> None:
    """Add ``--on-conflict``, once for every path or several times with patterns."""
    parser.add_argument(
        "--on-conflict",
        action="append",
        type=_conflict_word,
        metavar="[PATTERN=]STRATEGY",
        help="who wins where the admin's and the image's change of a path cannot be joined: nobody (fail), the running "
        "/etc (current) or the new image (new); overrides merge.toml, or with a pattern for these paths only (several "
        "times)",
    )


def _conflict_word(word: str) -> str:
    strategy = word.rpartition("=")[2]
    if strategy not in list(Strategy):
        raise argparse.ArgumentTypeError(f"{strategy!r} is none of {', '.join(Strategy)}")
    return word


def parse_choice(words: Sequence[str] | None) -> Strategy | ConflictChoice | None:
    """Turn the words of ``--on-conflict`` into what the flows take.

    Raises:
        UsageError: They contradict each other, or one has no valid pattern.
    """
    if not words:
        return None
    # Here, since most runs go without.
    from bootc_fast.etc.policy import ConflictChoice

    try:
        choice = ConflictChoice.parse(words)
    except ValueError as error:
        raise UsageError(f"reading the command line: --on-conflict: {error}") from error
    return choice if choice.rules else choice.default
