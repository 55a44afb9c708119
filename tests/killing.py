"""Commands whose system calls fail or kill them: by strace's injection, on lab hosts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowkit import Case

# Every system call that changes something. Each is killed at its first, second, … call until a run gets through.
KILLABLE = {
    "flush": "fsync,syncfs",
    "rename": "rename,renameat,renameat2",
    "unlink": "unlink,unlinkat",
    "make": "mkdir,mkdirat,symlinkat,linkat",
    "attributes": "fchown,fchownat,fchmod,fchmodat,utimensat,ftruncate",
    "lock": "flock",
}
MOST_CALLS = 40


@dataclass(frozen=True)
class Injected:
    """A command in which system calls failed or killed it.

    ``calls`` are those that did, as strace tells them; none says that no thread makes so many. A call may fail without
    a word: which thread makes a directory that is there already is the scheduler's choice, and nobody minds.
    """

    returncode: int
    said: str
    calls: tuple[str, ...]


def run_injected(case: Case, calls: str, number: int, what: str, command: str = "finalize") -> Injected:
    """Run a command in which something befalls the n-th of some system calls of a thread."""
    with tempfile.NamedTemporaryFile("r", encoding="utf-8", errors="backslashreplace") as trace:
        argv = ["strace", "-f", "-qqq", "-o", trace.name, f"--trace={calls}", f"--inject={calls}:{what}:when={number}"]
        command_line = [sys.executable, "-m", "bootc_fast", command, "--root", str(case.root)]
        # Byte code written at start-up would be counted, and its files are none of the host's.
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run([*argv, *command_line], capture_output=True, env=environment, check=False)
        hit = tuple(line for line in trace if "(INJECTED)" in line)
    return Injected(done.returncode, done.stderr.decode(), hit)


def kill_at(case: Case, calls: str, number: int, command: str = "finalize") -> bool:
    """Kill a command at the n-th of some system calls; says whether it got that far."""
    done = run_injected(case, calls, number, "signal=SIGKILL", command)
    if done.returncode != 0:
        assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), done.said
    return done.returncode != 0
