"""Root file trees that a lab host's images are made of: a directory, a tar archive, or a small generated OS."""

from __future__ import annotations

import re
import shlex
import tempfile
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from bootc_fast.errors import UsageError
from bootc_fast.lab.copying import ignore_progress, unpack_archive
from bootc_fast.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bootc_fast.lab.copying import Progress

STUB_NAME = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"


@dataclass(frozen=True)
class RootTree:
    """A root file tree on disk, and what bootc looks for in one.

    Attributes:
        path: Its top directory.
    """

    path: Path

    @cached_property
    def os_release(self) -> dict[str, str]:
        """``usr/lib/os-release`` (or ``etc/os-release``), unquoted; empty where there is none."""
        for name in ("usr/lib/os-release", "etc/os-release"):
            try:
                text = (self.path / name).read_text(errors="replace")
            except OSError:
                continue
            pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
            return {key: "".join(shlex.split(value)[:1]) for key, value in pairs}
        return {}

    @property
    def os_id(self) -> str:
        """``ID``, or ``bootc`` as bootc has it."""
        return self.os_release.get("ID", "bootc")

    @property
    def title(self) -> str | None:
        """``PRETTY_NAME``, ``NAME`` or ``ID``, in composefs's order."""
        return next((self.os_release[key] for key in ("PRETTY_NAME", "NAME", "ID") if key in self.os_release), None)

    @property
    def version(self) -> str | None:
        """``VERSION_ID`` or ``VERSION``, in composefs's order."""
        return next((self.os_release[key] for key in ("VERSION_ID", "VERSION") if key in self.os_release), None)

    @cached_property
    def kernel(self) -> KernelFiles:
        """The newest kernel and its initrd.

        Raises:
            UsageError: The tree has none.
        """
        candidates = [
            KernelFiles(path.parent.name, path, path.with_name("initramfs.img"))
            for path in self.path.glob("usr/lib/modules/*/vmlinuz")
        ]
        for path in self.path.glob("boot/vmlinuz-*"):
            release = path.name.removeprefix("vmlinuz-")
            candidates.append(KernelFiles(release, path, path.with_name(f"initrd.img-{release}")))
        complete = [files for files in candidates if files.linux.is_file() and files.initrd.is_file()]
        if not complete:
            raise UsageError(
                f"{self.path} has no kernel with an initrd",
                hint="usr/lib/modules/*/{vmlinuz,initramfs.img} or boot/{vmlinuz,initrd.img}-* is needed",
            )
        return max(complete, key=lambda files: _version_key(files.release))

    @property
    def stub(self) -> bytes | None:
        """The UKI stub of the tree, else of this machine; None where neither has one."""
        for path in (self.path / STUB_NAME, Path("/") / STUB_NAME):
            try:
                return path.read_bytes()
            except OSError:
                continue
        return None


@dataclass(frozen=True, slots=True)
class KernelFiles:
    """A kernel: its release as ``uname -r`` says it, and where it is."""

    release: str
    linux: Path
    initrd: Path


def _version_key(release: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", release) if part]


def check_source(source: Path) -> None:
    """Find out cheaply that nothing can be made of a source, before anything is written for it.

    Raises:
        UsageError: It is neither a directory nor a file, or a directory without a kernel.
    """
    if source.is_dir():
        _ = RootTree(source).kernel
    elif not source.is_file():
        raise UsageError(f"{source} is neither a directory nor a tar archive")


@contextmanager
def open_rootfs(source: Path, *, scratch: Path, progress: Progress = ignore_progress) -> Iterator[RootTree]:
    """Make a directory or a tar archive available as a directory.

    An archive is unpacked below ``scratch`` and removed again on every exit. Not as root, its owners become the
    caller and device nodes are left out.

    Args:
        source: A directory, or a tar archive in any compression that GNU tar knows.
        scratch: An existing directory.
        progress: Gets the bytes of an archive that were read, and its size.

    Raises:
        UsageError: There is no such file.
        CommandError: tar failed.
    """
    check_source(source)
    if source.is_dir():
        yield RootTree(source)
        return
    with tempfile.TemporaryDirectory(prefix=".rootfs-", dir=scratch) as name:
        unpack_archive(source, Path(name), progress)
        yield RootTree(Path(name))
