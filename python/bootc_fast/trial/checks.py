"""Health checks: which scripts there are, and running them side by side, each with a limit.

Unchanged scripts of greenboot's users are taken as greenboot takes them: what is executable is executed, what ends in
``.sh`` and is not is given to bash, of both directories with the same name both are run.

Source:
    Spec trial.md, "Health"; greenboot-rs ``src/lib/greenboot.rs``, ``run_scripts``.
"""

from __future__ import annotations

import contextlib
import enum
import os
import signal
import stat
import subprocess
from typing import TYPE_CHECKING

import anyio

from bootc_fast.machine.native import run_blocking
from bootc_fast.records import dataclass, field
from bootc_fast.text import escape_bytes, escape_lines, reason_of

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from anyio.abc import ByteReceiveStream, Process

    from bootc_fast.machine.host import Host

MAX_OUTPUT_BYTES = 64 << 10
"""What is kept of a script's output, the end; all of it is read, so that a flood does not stop the script."""
LINGER_S = 1.0
"""How long the output is read on when the script has ended: a child of it may hold the pipe for ever."""
_BASES = ("usr/lib/greenboot", "etc/greenboot", "usr/lib/bootc-fast/health.d", "etc/bootc-fast/health.d")
_CHUNK_BYTES = 16 << 10
_ANY_EXECUTE = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH


class CheckKind(enum.StrEnum):
    """What a script is for."""

    REQUIRED = "required"
    WANTED = "wanted"
    GREEN = "green"
    RED = "red"


class CheckResult(enum.StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    TIMED_OUT = "timed-out"
    NOT_RUN = "not-run"


@dataclass(frozen=True, slots=True)
class Check:
    """One check and how it ended.

    Attributes:
        path: Of the script; for a built-in check its name.
        kind: What it is for.
        result: How it ended.
        reason: Why it did not pass, in words; empty where it did.
        seconds: How long it took.
        output: The end of what it wrote, as lines for people.
    """

    path: str
    kind: CheckKind
    result: CheckResult
    reason: str = ""
    seconds: float = 0.0
    output: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Script:
    """A script that is to be run.

    Attributes:
        path: Where it is.
        kind: What it is for.
        argv: How it is run.
    """

    path: Path
    kind: CheckKind
    argv: tuple[bytes, ...]


@dataclass(slots=True)
class Found:
    """What there is to run.

    Attributes:
        scripts: In the order of their directories and names.
        warnings: What is not run, and why.
        seen: Names of all scripts, also of disabled ones.
    """

    scripts: list[Script] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)


def find_scripts(host: Host, kind: CheckKind, *, disabled: Collection[str] = ()) -> Found:
    """Find the scripts of a kind; blocks.

    Args:
        host: Whose.
        kind: Which.
        disabled: File names that are not run.
    """
    found = Found()
    is_check = kind in {CheckKind.REQUIRED, CheckKind.WANTED}
    for base in _BASES:
        inside = "check/" if is_check and base.endswith("greenboot") else ""
        directory = host.root / base / f"{inside}{kind.value}.d"
        try:
            names = host.list_directory(directory)
        except NotADirectoryError:
            found.warnings.append(f"{directory} is no directory")
            continue
        except OSError as error:
            found.warnings.append(f"{directory} cannot be listed: {reason_of(error)}")
            continue
        for name in names:
            _add(host, found, directory / os.fsdecode(name), kind, disabled)
    return found


def _add(host: Host, found: Found, path: Path, kind: CheckKind, disabled: Collection[str]) -> None:
    where = escape_bytes(os.fsencode(path))
    if path.name.startswith("."):
        # As a shell's `*` passes them over.
        return
    try:
        status = host.find_status(path)
    except OSError as error:
        found.warnings.append(f"{where} is not run: {reason_of(error)}")
        return
    if status is None or not stat.S_ISREG(status.st_mode):
        found.warnings.append(f"{where} is not run: it is no file")
        return
    found.seen.add(path.name)
    if path.name in disabled:
        return
    raw = os.fsencode(path)
    if status.st_mode & _ANY_EXECUTE:
        found.scripts.append(Script(path, kind, (raw,)))
    elif path.suffix == ".sh":
        found.scripts.append(Script(path, kind, (b"bash", raw)))
    else:
        found.warnings.append(f"{where} is not run: it is not executable")


async def run_script(script: Script, *, timeout_s: float, cwd: Path) -> Check:
    """Run a script to its end, at most `timeout_s`; never raises for what the script does.

    It gets a session of its own, which is killed with all that is in it when the time is over, or the caller's
    cancellation comes.

    Args:
        script: Which.
        timeout_s: In seconds.
        cwd: Its working directory.
    """
    started = anyio.current_time()

    def end(result: CheckResult, reason: str = "", output: bytes = b"") -> Check:
        seconds = anyio.current_time() - started
        path = escape_bytes(os.fsencode(script.path))
        return Check(path, script.kind, result, reason, seconds, tuple(escape_lines(output)))

    try:
        process = await anyio.open_process(
            list(script.argv), stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, cwd=cwd, start_new_session=True
        )
    except OSError as error:
        return end(CheckResult.FAILED, f"it cannot be run: {reason_of(error)}")
    kept = bytearray()
    is_over = False
    try:
        with anyio.move_on_after(timeout_s) as limit:
            is_over = await _read_to_end(process, kept)
    finally:
        with anyio.CancelScope(shield=True):
            if not is_over:
                _kill(process)
            await process.wait()
            if process.stdout is not None:
                await process.stdout.aclose()
    output = bytes(kept)
    if limit.cancelled_caught:
        return end(CheckResult.TIMED_OUT, f"it took longer than {timeout_s:g} s", output)
    code = process.returncode or 0
    if code == 0:
        return end(CheckResult.PASSED, output=output)
    reason = f"it exited with {code}" if code > 0 else f"it was killed by {_name_signal(-code)}"
    return end(CheckResult.FAILED, reason, output)


def _name_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


async def _read_to_end(process: Process, kept: bytearray) -> bool:
    """Read all that it writes until it has ended; what a child of it holds open is waited for a moment only.

    Returns:
        Whether nothing of it is left that holds its output open.
    """
    assert process.stdout is not None  # noqa: S101 it was asked for
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_read, process.stdout, kept)
        await process.wait()
        tasks.cancel_scope.deadline = anyio.current_time() + LINGER_S
    return not tasks.cancel_scope.cancelled_caught


async def _read(stream: ByteReceiveStream, kept: bytearray) -> None:
    with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        while True:
            kept += await stream.receive(_CHUNK_BYTES)
            del kept[:-MAX_OUTPUT_BYTES]


def _kill(process: Process) -> None:
    """Kill all of its session's first process group, what it left behind included."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


async def run_scripts(found: Found, *, script_timeout_s: float, timeout_s: float, cwd: Path) -> list[Check]:
    """Run scripts side by side; what has not ended when the whole's time is over is cancelled, and has timed out.

    Args:
        found: What to run.
        script_timeout_s: For each, in seconds.
        timeout_s: For all, in seconds.
        cwd: Their working directory.

    Returns:
        In the scripts' order.
    """
    ended: dict[int, Check] = {}

    async def run_one(number: int, script: Script) -> None:
        ended[number] = await run_script(script, timeout_s=script_timeout_s, cwd=cwd)

    with anyio.move_on_after(timeout_s):
        async with anyio.create_task_group() as tasks:
            for number, script in enumerate(found.scripts):
                tasks.start_soon(run_one, number, script)
    for number, script in enumerate(found.scripts):
        if number not in ended:
            path = escape_bytes(os.fsencode(script.path))
            reason = f"all checks together took longer than {timeout_s:g} s"
            ended[number] = Check(path, script.kind, CheckResult.TIMED_OUT, reason, timeout_s)
    return [ended[number] for number in range(len(found.scripts))]


async def find_and_run(
    host: Host, kind: CheckKind, *, disabled: Collection[str], script_timeout_s: float, timeout_s: float
) -> tuple[list[Check], Found]:
    """Find the scripts of a kind, and run them side by side."""
    found = await run_blocking(lambda: find_scripts(host, kind, disabled=disabled))
    cwd = host.root
    return await run_scripts(found, script_timeout_s=script_timeout_s, timeout_s=timeout_s, cwd=cwd), found
