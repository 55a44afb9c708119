"""Runs the program under the tracer, for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

HERE = Path(__file__).parent
CHANGES, READS = 1, 2


@dataclass(frozen=True)
class Ran:
    """One run.

    Attributes:
        exit_code: 128 + n where signal n ended it.
        count: How many system calls were counted.
        call: The one that failed; empty where the run did not get there.
        path: What it was about, below the directory.
    """

    exit_code: int
    count: int
    call: str
    path: str
    out: str
    err: str
    log: str = ""


class Runner:
    """A server process (server.py), and the way to ask it."""

    def __init__(self, scratch: Path) -> None:
        library = scratch / "tracer.so"
        subprocess.run(
            ["cc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, HERE / "tracer.c"], check=True
        )
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": os.fspath(HERE.parent)}
        self._process = subprocess.Popen(
            [sys.executable, HERE / "server.py", library],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()
        process.wait()

    def ask(self, request: dict[str, Any]) -> Ran:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        assert line, "the server is gone"
        return Ran(**json.loads(line))

    def run(self, root: Path, argv: list[str], **order: Any) -> Ran:
        """Run the program on the host in `root`; the order's keys are those of tracer.c."""
        return self.ask({"argv": ["--root", os.fspath(root), *argv], "below": os.fspath(root), **order})

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of scene.py in a process of its own."""
        ran = self.ask({"call": name, "arguments": list(arguments), "below": "/nonexistent"})
        assert ran.exit_code == 0, ran.err
        return json.loads(ran.out.splitlines()[-1])
