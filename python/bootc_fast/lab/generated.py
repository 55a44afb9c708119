"""The small OS that a lab host is made of when no root tree is given, and the means to make small trees."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bootc_fast.lab.rootfs import RootTree

if TYPE_CHECKING:
    from collections.abc import Iterator

GENERATED_OS_RELEASE = """\
NAME="Lab OS"
ID=lab
VERSION_ID={version}
PRETTY_NAME="Lab OS {version}"
HOME_URL="https://example.org/"
"""

_GENERATED_ETC = {
    "app.conf": "# Lab application\ncolour = {colour}\nworkers = {workers}\n",
    "secret.conf": "token = lab\n",
    "unwanted.conf": "# a default that the admin does not want\n",
    "tagged.conf": "# gets an extended attribute\n",
    "plugins.d/10-one.conf": "plugin = one\n",
    "plugins.d/20-two.conf": "plugin = two\n",
}


@contextmanager
def generated_rootfs(version: int, *, scratch: Path) -> Iterator[RootTree]:
    """Make the small generated OS.

    Its /etc is a copy of what this machine's /etc lets the caller read, with a directory ``lab`` that
    differs from version to version: one file changes, one goes and one comes.

    Args:
        version: 1 or more; kernel, initrd, ``usr/lib/os-release`` and ``etc/lab`` depend on it.
        scratch: An existing directory; the tree is made below it and removed on every exit.
    """
    with tempfile.TemporaryDirectory(prefix=".rootfs-", dir=scratch) as name:
        root = Path(name)
        modules = root / f"usr/lib/modules/6.12.{version}-lab"
        modules.mkdir(parents=True)
        for directory in ("boot", "sysroot", "var/lib", "run", "usr/bin", "tmp", "proc", "sys", "dev"):
            (root / directory).mkdir(parents=True)
        (modules / "vmlinuz").write_bytes(f"lab kernel {version}\n".encode().ljust(8192, b"k"))
        (modules / "initramfs.img").write_bytes(f"lab initrd {version}\n".encode().ljust(16384, b"i"))
        (root / "usr/lib/os-release").write_text(GENERATED_OS_RELEASE.format(version=version))
        (root / "usr/bin/app").write_bytes(b"#!/bin/sh\necho lab\n" * 100 * version)
        for merged in ("bin", "lib", "lib64", "sbin"):
            (root / "usr" / merged).mkdir(exist_ok=True)
            (root / merged).symlink_to(f"usr/{merged}")
        copy_readable(Path("/etc"), root / "etc")
        add_link_targets(root)
        lab = root / "etc/lab"
        shutil.rmtree(lab, ignore_errors=True)
        (lab / "plugins.d").mkdir(parents=True)
        for file, text in _GENERATED_ETC.items():
            (lab / file).write_text(text.format(colour="green" if version % 2 else "blue", workers=4 * version))
        (lab / f"only-in-{version}.conf").write_text(f"since = {version}\n")
        set_times(root)
        yield RootTree(root)


def copy_readable(source: Path, target: Path) -> int:
    """Copy directories, regular files and symlinks that the caller may read; the rest is left out.

    Modes and times are kept; owners and extended attributes are not.

    Returns:
        How many entries were left out.
    """
    skipped = 0
    target.mkdir(parents=True)
    try:
        entries = sorted(os.scandir(os.fsencode(source)), key=lambda entry: entry.name)
    except OSError:
        return 1
    for entry in entries:
        destination = Path(os.fsdecode(os.path.join(os.fsencode(target), entry.name)))
        try:
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), os.fsencode(destination))
            elif entry.is_dir(follow_symlinks=False):
                skipped += copy_readable(Path(os.fsdecode(entry.path)), destination)
            elif entry.is_file(follow_symlinks=False):
                shutil.copyfile(os.fsdecode(entry.path), destination)
                status = entry.stat(follow_symlinks=False)
                os.chmod(destination, stat.S_IMODE(status.st_mode) | stat.S_IRUSR)
                os.utime(destination, ns=(status.st_mtime_ns, status.st_mtime_ns))
            else:
                skipped += 1
        except OSError:
            skipped += 1
    # Writable by its owner, or a later step could not put anything in.
    os.chmod(target, stat.S_IMODE(os.stat(source).st_mode) | stat.S_IRWXU)
    return skipped


def add_link_targets(root: Path) -> None:
    """Make an empty file or directory for everything outside /etc that a symlink in ``root/etc`` leads to.

    Only for what exists on this machine, or the copy would have hundreds of dangling links that the original does
    not have.
    """
    top = os.fsencode(root)
    for directory, directories, files in os.walk(os.path.join(top, b"etc")):
        for name in (*files, *directories):
            path = os.path.join(directory, name)
            if os.path.islink(path):
                _add_link_target(top, path)


def _add_link_target(top: bytes, link: bytes) -> None:
    beside = os.path.dirname(b"/" + os.path.relpath(link, top))
    target = os.path.normpath(os.path.join(beside, os.readlink(link)))
    if target.startswith(b"/etc/") or not os.path.exists(target):
        return
    # A target below another link's target, which is a file here, is left out.
    with suppress(OSError):
        if os.path.isdir(target):
            os.makedirs(top + target, exist_ok=True)
            return
        os.makedirs(os.path.dirname(top + target), exist_ok=True)
        with open(top + target, "xb"):
            return


# 14 November 2023: any moment, as long as the same files always make the same image.
_BUILD_TIME_S = 1_700_000_000


def set_times(top: Path) -> None:
    """Give everything below a directory, and itself, one and the same mtime, as a reproducible build does."""
    for directory, directories, files in os.walk(os.fsencode(top)):
        # Symlinks to directories count as directories; b"." is the directory itself.
        for name in (*files, *directories, b"."):
            os.utime(os.path.join(directory, name), (_BUILD_TIME_S, _BUILD_TIME_S), follow_symlinks=False)
