"""Options that several commands have, with one meaning and one text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.types import Loader

if TYPE_CHECKING:
    import argparse


def add_bootloader(parser: argparse.ArgumentParser) -> None:
    """Add ``--bootloader``, for hosts on which the boot loader is detected wrongly."""
    parser.add_argument(
        "--bootloader", type=Loader, choices=list(Loader), help="the boot loader, where it is detected wrongly"
    )


def add_progress(parser: argparse.ArgumentParser) -> None:
    """Add ``--progress-json``, for programs that show what a flow is about."""
    parser.add_argument(
        "--progress-json",
        type=int,
        metavar="FD",
        help="write each step's begin, progress and end as a line of JSON to this file descriptor",
    )
