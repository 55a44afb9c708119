"""A whole finalize of a lab host with 50 edits in /etc, in the library and as the command.

Hosts are in memory where the machine has such a file system, so that syncing takes no time: what is measured is this
program. Every round gets a host of its own. Source: spec core.md, "Trees".
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import trio

from benches.contest import Contestant
from benches.hosts import PROGRAM, copy_host, make_staged_host
from bootc_fast import finalize_staged
from bootc_fast.types import FinalizeOutcome, Result

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

EDITS = 50


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def bench_finalize(hold_contest: Callable[..., None], memory_directory: Path, pytestconfig: pytest.Config) -> None:
    files = pytestconfig.getoption("--finalize-files")
    work = memory_directory / "finalize"
    work.mkdir()
    staged, host = make_staged_host(work, files, EDITS), work / "copy"

    def finalize() -> object:
        return trio.run(lambda: finalize_staged(str(host)))

    def is_done(outcome: object) -> None:
        assert isinstance(outcome, FinalizeOutcome)
        assert outcome.result is Result.DONE
        assert outcome.etc is not None
        assert len(outcome.etc.kept) == EDITS

    def says_so(text: object) -> None:
        assert "The staged deployment boots next" in str(text)

    def prepare() -> None:
        copy_host(staged, host)

    hold_contest(
        f"Finalize a lab host: {files:,} files in /etc, {EDITS} edited, kernel and initrd of 32 MiB",
        [
            Contestant("in-process: `await finalize_staged()`", finalize, is_done, prepare, is_ours=True),
            Contestant(
                "`bootc-fast finalize`",
                lambda: run(str(PROGRAM), "--root", str(host), "finalize"),
                says_so,
                prepare,
                is_ours=True,
            ),
            Contestant('`python -c "import trio"`', lambda: run(sys.executable, "-c", "import trio")),
        ],
    )
