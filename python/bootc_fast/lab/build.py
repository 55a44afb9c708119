"""Hosts for tests: a handful of files, made in a few milliseconds."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from bootc_fast.lab import deploy
from bootc_fast.lab.forms import LabForms
from bootc_fast.lab.generated import GENERATED_OS_RELEASE, set_times
from bootc_fast.lab.layout import LabHost
from bootc_fast.lab.rootfs import RootTree
from bootc_fast.records import dataclass, field
from bootc_fast.types import Algorithm, BootType, Loader, VerityDigest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True, slots=True)
class LabFile:
    """A regular file with attributes."""

    content: bytes = b""
    mode: int = 0o644
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LabDir:
    """A directory with attributes; one that only holds files needs no entry of its own."""

    mode: int = 0o755


@dataclass(frozen=True, slots=True)
class LabLink:
    """A symlink."""

    target: str


LabFiles: TypeAlias = "Mapping[str | bytes, str | bytes | LabFile | LabDir | LabLink]"


def make_host(
    directory: Path | str,
    *,
    files: LabFiles | None = None,
    loader: Loader = Loader.SYSTEMD_BOOT,
    boot_type: BootType = BootType.BLS,
    algorithm: Algorithm = Algorithm.SHA512,
    separate_boot: bool = False,
    forms: LabForms | None = None,
    version: str = "1",
    os_id: str = "lab",
    kernel: bytes | None = None,
) -> LabHost:
    """Make a host with one deployment, booted.

    Args:
        directory: Its root, for ``--root``; new or empty.
        files: What its image has below etc, by path; text is content.
        loader: What reads the boot entries.
        boot_type: How the deployment boots.
        algorithm: Of all digests.
        separate_boot: On a GRUB host, /boot is a mount of its own.
        forms: Older forms than the newest.
        version: ``VERSION_ID``.
        os_id: ``ID``.
        kernel: Content of vmlinuz; one that depends on the version where None.

    Returns:
        The host. ``host.booted`` is its deployment, ``stage_files`` stages another.
    """
    host = LabHost(Path(directory), loader, boot_type, algorithm, separate_boot, forms or LabForms())
    host.make_skeleton()
    with _tiny_rootfs(host.root, files or {}, version, os_id, kernel) as tree:
        deploy.install(host, tree)
    return host


def stage_files(
    host: LabHost,
    files: LabFiles | None = None,
    *,
    version: str = "2",
    os_id: str = "lab",
    boot_type: BootType | None = None,
    kernel: bytes | None = None,
    locked: bool = False,
    marker: bool = True,
) -> VerityDigest:
    """Stage a second deployment on a host; the arguments are those of :func:`make_host` and ``deploy.stage``."""
    with _tiny_rootfs(host.root, files or {}, version, os_id, kernel) as tree:
        return deploy.stage(host, tree, boot_type=boot_type, locked=locked, marker=marker)


@contextmanager
def _tiny_rootfs(scratch: Path, files: LabFiles, version: str, os_id: str, kernel: bytes | None) -> Iterator[RootTree]:
    with tempfile.TemporaryDirectory(prefix=".rootfs-", dir=scratch) as name:
        root = Path(name)
        root.chmod(0o755)
        modules = root / f"usr/lib/modules/6.12.0-{version}"
        modules.mkdir(parents=True)
        for directory in ("boot", "sysroot", "var", "etc"):
            (root / directory).mkdir()
        (modules / "vmlinuz").write_bytes(kernel or f"kernel {version}\n".encode())
        (modules / "initramfs.img").write_bytes(f"initrd {version}\n".encode() if kernel is None else b"initrd\n")
        text = GENERATED_OS_RELEASE.format(version=version).replace("ID=lab\n", f"ID={os_id}\n")
        (root / "usr/lib/os-release").write_text(text)
        write_files(root / "etc", files)
        set_times(root)
        yield RootTree(root)


def write_files(directory: Path, files: LabFiles) -> None:
    """Write files below a directory; what is there already is replaced, directories get their attributes last."""
    modes: list[tuple[bytes, int]] = []
    for name, value in files.items():
        path = os.path.join(os.fsencode(directory), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if isinstance(value, LabDir):
            os.makedirs(path, exist_ok=True)
            modes.append((path, value.mode))
        elif isinstance(value, LabLink):
            os.symlink(value.target, path)
        else:
            _write_file(path, value if isinstance(value, LabFile) else LabFile(os.fsencode(value)))
    for path, mode in reversed(modes):
        os.chmod(path, mode)


def _write_file(path: bytes, file: LabFile) -> None:
    with open(path, "wb") as stream:
        stream.write(file.content)
    os.chmod(path, file.mode)
    if file.xattrs:
        from xattr import xattr

        xattr(path).update({name: bytes(value) for name, value in file.xattrs.items()})
