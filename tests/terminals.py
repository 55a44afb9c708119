"""A real terminal for a command: a pty of a given size, and a screen that understands what we send it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from dataclasses import dataclass, field

_PART = re.compile(r"\r\n|\r|\x1b\[[0-9;]*[A-Za-z]|[^\r\x1b]+|\x1b")


@dataclass
class Screen:
    """Lines as a terminal shows them; anything that it was not told to understand fails the test.

    Attributes:
        columns: Width.
        lines: All that scrolled by, and the line with the cursor last.
        widest: The longest line in characters.
        drawn: What the last line held each time the cursor went back to its begin, in order.
    """

    columns: int
    lines: list[str] = field(default_factory=lambda: [""])
    drawn: list[str] = field(default_factory=list)
    widest: int = 0
    _column: int = 0

    def feed(self, text: str) -> None:
        for found in _PART.finditer(text):
            part = found[0]
            if part == "\r":
                self.drawn.append(self.lines[-1])
                self._column = 0
            elif part == "\r\n":
                self.lines.append("")
                self._column = 0
            elif part == "\x1b[K":
                self.lines[-1] = self.lines[-1][: self._column]
            elif re.fullmatch(r"\x1b\[[0-9;]*m", part):
                pass
            elif part.startswith("\x1b"):
                raise AssertionError(f"the terminal gets {part!r}")
            else:
                line = self.lines[-1]
                self.lines[-1] = line[: self._column] + part + line[self._column + len(part) :]
                self._column += len(part)
                # In the last column some terminals wrap at once.
                self.widest = max(self.widest, self._column)


@dataclass(frozen=True)
class Played:
    """What a command did on a terminal."""

    code: int
    raw: bytes
    screen: Screen
    stdout: bytes


def play(
    argv: list[str],
    *,
    columns: int = 80,
    term: str = "xterm",
    stdout: str = "tty",
    timeout_s: float = 60.0,
    environment: dict[str, str] | None = None,
) -> Played:
    """Run a command whose standard error is a terminal, as its controlling one.

    Args:
        argv: The command.
        columns: Of the terminal.
        term: ``TERM``.
        stdout: ``tty`` for the same terminal, ``pipe`` for a file whose content is returned.
        timeout_s: Then it is killed, and the test fails.
        environment: Variables on top of this process's.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {**os.environ, "TERM": term, **(environment or {})}
    env.pop("COLUMNS", None)
    code = (
        "import fcntl, os, sys, termios\nfcntl.ioctl(2, termios.TIOCSCTTY, 0)\nos.execvp(sys.argv[1], sys.argv[1:])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *argv],
        stdin=theirs, stdout=theirs if stdout == "tty" else subprocess.PIPE, stderr=theirs,
        start_new_session=True, env=env,
    )  # fmt: skip
    os.close(theirs)
    raw, piped = _read_all(process, ours, timeout_s)
    os.close(ours)
    screen = Screen(columns)
    screen.feed(raw.decode())
    return Played(process.wait(), raw, screen, piped)


def _read_all(process: subprocess.Popen[bytes], ours: int, timeout_s: float) -> tuple[bytes, bytes]:
    raw, piped = bytearray(), bytearray()
    reading = {ours: raw}
    if process.stdout is not None:
        reading[process.stdout.fileno()] = piped
    until = time.monotonic() + timeout_s
    while reading:
        ready, _, _ = select.select(list(reading), [], [], max(until - time.monotonic(), 0))
        if not ready:
            process.kill()
            process.wait()
            raise AssertionError(f"{process.args} is not done after {timeout_s} s: {bytes(raw)!r}")
        for fd in ready:
            try:
                data = os.read(fd, 65536)
            except OSError:  # the last one of the terminal's other end was closed
                data = b""
            if data:
                reading[fd] += data
            else:
                del reading[fd]
    if process.stdout is not None:
        process.stdout.close()
    return bytes(raw), bytes(piped)
