"""Programs that compare with the composefs crates; they are examples of this workspace's own crates."""

from __future__ import annotations

import functools
import json
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


@functools.cache
def find_program(name: str) -> Path:
    """Return a program, after building what is not built: ``tools/test`` has done so before the first test.

    All of the workspace at once, as ``cargo test`` does: a package of its own would get other features of what it
    depends on, and build all of that a second time.
    """
    argv = ["cargo", "build", "--quiet", "--locked", "--workspace", "--examples", "--message-format=json"]
    done = subprocess.run(argv, cwd=REPOSITORY, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    return next(
        Path(one["executable"])
        for one in messages
        if one["reason"] == "compiler-artifact" and one["target"]["name"] == name and one["executable"]
    )
