"""Commands whose system calls fail or kill them: by strace's injection, on lab hosts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
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


def run_injected(
    case: Case, calls: str, number: int, what: str, command: str = "finalize"
) -> subprocess.CompletedProcess[bytes]:
    """Run a command in which something befalls the n-th of some system calls of a thread."""
    argv = ["strace", "-f", "-qqq", "-o", os.devnull, f"--trace={calls}", f"--inject={calls}:{what}:when={number}"]
    command_line = [sys.executable, "-m", "bootc_fast", command, "--root", str(case.root)]
    # Byte code written at start-up would be counted, and its files are none of the host's.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([*argv, *command_line], capture_output=True, env=environment, check=False)


def kill_at(case: Case, calls: str, number: int, command: str = "finalize") -> bool:
    """Kill a command at the n-th of some system calls; says whether it got that far."""
    done = run_injected(case, calls, number, "signal=SIGKILL", command)
    if done.returncode != 0:
        assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), done.stderr
    return done.returncode != 0
