"""Whole commands as they are installed: launcher, -I -S, byte code that is not asked for its source's time.

Peers are what the same Python needs for nothing, for argparse and for trio; and the bootc that ``BOOTC`` names.
The limits are those of the project's contract (packaging.md, "Start-up"), as multiples of a peer's processor time.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from benches.contest import Contestant
from benches.hosts import PROGRAM, copy_host, make_staged_host

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

REPOSITORY = Path(__file__).parents[1]
EDITS = 50
_LIBRARY = "/usr/lib/bootc-fast"


# As run_and_exit does it, so that nothing but the work is the difference.
_FINALIZE = (
    "import gc, os; gc.set_threshold(200_000, 10, 10); import trio, anyio._backends._trio, bootc_fast.cli.runtime, "
    "bootc_fast.cli.cmd_finalize, bootc_fast.flows.finalize; os._exit(0)"
)


def _run(*argv: str | Path) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def _says(word: str) -> Callable[[object], None]:
    def check(text: object) -> None:
        assert word in str(text)

    return check


def _install(dest: Path) -> Path:
    """Lay everything out as a package does; returns the launcher, which looks for its library there."""
    version = _run("/usr/bin/python3", "-Ic", 'import sys; print("%d.%d" % sys.version_info[:2])').strip()
    _run(REPOSITORY / "tools/install", dest, version)
    launcher = dest / "usr/bin/bootc-fast"
    launcher.write_text(launcher.read_text().replace(_LIBRARY, f"{dest}{_LIBRARY}"))
    return launcher


def bench_startup(hold_contest: Callable[..., None], memory_directory: Path, pytestconfig: pytest.Config) -> None:
    work = memory_directory / "startup"
    work.mkdir()
    program = str(_install(work / "image"))
    host = work / "host"
    _run(PROGRAM, "lab", "create", host)
    files: int = pytestconfig.getoption("--finalize-files")
    (work / "large").mkdir()
    staged, copy = make_staged_host(work / "large", files, EDITS), work / "copy"
    path = f"import sys; sys.path.insert(0, '{work / 'image'}{_LIBRARY}'); "
    trio, finalize = f"{path}import trio", f"{path}{_FINALIZE}"

    def ours(name: str, word: str, *argv: str | Path, prepare: Callable[[], None] | None = None) -> Contestant:
        return Contestant(name, lambda: _run(program, *argv), _says(word), prepare, is_ours=True)

    def prepare_copy() -> None:
        copy_host(staged, copy)

    def peer(code: str, shown: str | None = None) -> Contestant:
        return Contestant(f'`python3 -I -c "{shown or code}"`', lambda: _run("/usr/bin/python3", "-Ic", code))

    contestants = [
        peer("pass"),
        peer("import argparse"),
        peer(trio, "import trio"),
        Contestant("what a finalize imports, alone", lambda: _run("/usr/bin/python3", "-ISc", finalize), is_ours=True),
        ours("`bootc-fast --version`", "bootc-fast", "--version"),
        ours("`bootc-fast finalize`, nothing staged", "Nothing is staged", "--root", host, "finalize"),
        ours("`bootc-fast status`", "Booted", "--root", host, "status"),
        ours(
            f"`bootc-fast finalize`, {files:,} files in /etc",
            "boots next",
            "--root",
            copy,
            "finalize",
            prepare=prepare_copy,
        ),
    ]
    if bootc := os.environ.get("BOOTC"):
        contestants.append(Contestant("`bootc --version`", lambda: _run(bootc, "--version"), _says("bootc")))
    hold_contest("Start-up: whole commands, as installed", contestants, note=_NOTE)


_NOTE = (
    "Limits, in processor time: `--version` 1.3 times `import argparse`, finalize of nothing 3 times `pass`, `status` "
    "1.25 times and the large finalize 1.7 times `import trio`. What is above, and why: docs/image-builder.md."
)
