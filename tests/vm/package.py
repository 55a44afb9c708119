"""The tree that the test machines boot: Debian 13, and bootc-fast as its own .deb installs it.

Package and tree are made once for what they are made of, and are there for the next run of the tests.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[2]
ROOTFS = REPOSITORY / "build/rootfs/trixie"
_PARTS = ("python", "rust/core", "rust/sys", "rust/py", "packaging", "tools", "requirements", "docs")
_FILES = (
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "CHANGELOG.md",
    "examples/Containerfile.debian",
    "tests/vm/package.py",
)
_GENERATED = (".pyc", ".so")


def _sources() -> Iterator[Path]:
    for part in _PARTS:
        for directory, directories, files in os.walk(REPOSITORY / part):
            directories.sort()
            yield from (Path(directory, name) for name in sorted(files) if not name.endswith(_GENERATED))
    yield from (REPOSITORY / name for name in _FILES)


def _make_key() -> str:
    """A digest of all that the package is made of, and of the tree that it comes into."""
    digest = hashlib.sha256()
    for path in _sources():
        content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        digest.update(f"{path.relative_to(REPOSITORY)} {len(content)}\0".encode() + content)
    digest.update(str(ROOTFS.stat().st_ino).encode())
    return digest.hexdigest()[:16]


def make_installed_tree() -> Path:
    """Build the .deb and install it into a copy of `ROOTFS` as an image builder does; nothing where that was done.

    Returns:
        The tree; whoever changes it copies it first.
    """
    subprocess.run([REPOSITORY / "tools/make-rootfs", "trixie", ROOTFS], check=True)
    tree = ROOTFS.with_name(f"trixie-installed-{_make_key()}")
    with ROOTFS.with_name("trixie-installed.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tree.exists():
            for older in ROOTFS.parent.glob("trixie-installed-*"):
                shutil.rmtree(older)
            subprocess.run([REPOSITORY / "tools/package-deb", "trixie"], check=True)
            (package,) = (REPOSITORY / "build/deb/trixie").glob("bootc-fast_*.deb")
            partial = ROOTFS.with_name("trixie-partial")
            shutil.rmtree(partial, ignore_errors=True)
            subprocess.run(["cp", "-a", "--reflink=auto", ROOTFS, partial], check=True)
            _install(partial, package)
            partial.rename(tree)
    return tree


def _install(root: Path, package: Path) -> None:
    """Do in a tree what the example for images does: the package by apt, byte code, the self-test.

    What the package needs is there already, so that there is no network.
    """
    inside = root / "tmp" / package.name
    shutil.copy(package, inside)
    text = (REPOSITORY / "examples/Containerfile.debian").read_text().replace("\\\n", " ")
    steps = re.findall(r"^RUN (.*)$", text, re.MULTILINE)
    assert [step.split()[0] for step in steps] == ["apt-get", "python3", "bootc-fast"]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
    for step in steps:
        # There are no lists to bring up to date, nor any to remove.
        command = step.replace("apt-get update &&", "")
        done = subprocess.run(
            ["unshare", "--net", "chroot", root, "sh", "-euc", command], check=False, capture_output=True, text=True,
            env={**environment, "DEBIAN_FRONTEND": "noninteractive"},
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
