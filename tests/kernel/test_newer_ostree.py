"""Debian 13's libostree: the tests of ostree hosts, run inside a Debian 13 tree."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from repo_support import REPOSITORY, debian_tree

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

# Mounts live in the namespace that `unshare` made, and go with it.
_RUN = """
mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && mount -t tmpfs tmpfs "$1/tmp" || exit 90
exec chroot "$1" /usr/bin/env -i PATH=/usr/sbin:/usr/bin HOME=/tmp LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 \\
  PYTHONPATH=/src/python:/usr/lib/bootc-fast-tests \\
  sh -c 'cd /src && ostree --version && exec python3 -m pytest -q -p no:cacheprovider \
    tests/unit/ostree tests/unit/restart/test_ostree_restart.py'
"""


def _prepare(root: Path) -> None:
    """Put the program, built for the tree's own Python, and what its tests need into the tree."""
    python = next((root / "usr/lib").glob("python3.*")).name.removeprefix("python")
    subprocess.run([REPOSITORY / "tools/install", root, python], check=True)
    argv = [
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile",
        "--target", root / "usr/lib/bootc-fast-tests", "--python-version", python, "--implementation", "cp",
        "--only-binary", ":all:",
        *(part for tag in ("2_34", "2_28", "2_17") for part in ("--platform", f"manylinux_{tag}_x86_64")),
        "--require-hashes", "-r", REPOSITORY / "requirements/guest.lock",
    ]  # fmt: skip
    subprocess.run(argv, check=True)
    source = root / "src"
    source.mkdir()
    shutil.copy(REPOSITORY / "pyproject.toml", source)
    for name in ("python", "tests"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    (native,) = (root / "usr/lib/bootc-fast/bootc_fast").glob("_core*.so")
    shutil.copy(native, source / "python/bootc_fast")


def test_rollback_and_status_work_with_the_libostree_of_debian_13(tmp_path: Path) -> None:
    root = tmp_path / "root"
    subprocess.run(["cp", "-a", "--reflink=auto", debian_tree("trixie"), root], check=True)
    try:
        _prepare(root)
        argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _RUN, "sh", root]
        done = subprocess.run(argv, check=False, capture_output=True, text=True)
    finally:
        shutil.rmtree(root)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "Version: '2025." in done.stdout
    found = re.search(r"^(\d+) passed in", done.stdout, re.MULTILINE)
    assert found, done.stdout[-2000:]
    assert int(found[1]) >= 60
