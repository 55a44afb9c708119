"""A scan does not cross mounts, and says which it met. Run in a private mount namespace of a child process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, subprocess, sys
from bootc_fast import _core
root = sys.argv[1]
for name in ("sub/point", "other"):
    os.makedirs(f"{root}/{name}")
open(f"{root}/machine-id", "w").close()
open(f"{root}/file", "w").close()
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", f"{root}/sub/point"], check=True)
open(f"{root}/sub/point/hidden", "w").close()
subprocess.run(["mount", "--bind", f"{root}/file", f"{root}/machine-id"], check=True)
fd = os.open(root, os.O_RDONLY)
tree = _core.Tree.scan(fd)
print(sorted(entry.path for entry in tree.entries()), tree.mounts)
"""


@pytest.mark.root
def test_mount_points_of_directories_and_files_are_reported_and_left_out(tmp_path: Path) -> None:
    argv = ["unshare", "-m", "--propagation", "private", sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[b'', b'file', b'other', b'sub'] [b'machine-id', b'sub/point']"
