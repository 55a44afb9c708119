"""Removing kernels, initrds and UKIs that nothing names any more."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bootc_fast.boot.area.directory import RealVolume
from bootc_fast.boot.area.replace import find_linked, remove_files
from bootc_fast.boot.entries.reader import UKI_DIRECTORIES
from bootc_fast.text import escape_bytes
from bootc_fast.types import VerityDigest

if TYPE_CHECKING:
    from collections.abc import Collection

    from bootc_fast.boot.area.directory import Area, BootDirectory, BootVolume
    from bootc_fast.boot.entries.menu import BootMenu

GONE_PREFIX = b"bootc-fast-gone-"
"""Put before the name of a directory that is being removed: one with an initrd and no kernel breaks bootc."""

_ARTIFACT = re.compile(
    rb"(?:bootc_composefs-)?(?P<digest>[0-9a-f]{128}|[0-9a-f]{64})"
    rb"(?P<kind>\.efi(?P<addons>\.extra\.d)?(?:\.staged)?(?:\.[0-9]+\.gone)?)?"
)


@dataclass(frozen=True, slots=True)
class GarbageOutcome:
    """What a collection did.

    Attributes:
        removed: Paths of files and directories, from the partition's root.
        warnings: What could not be removed, and why.
    """

    removed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def _normalize(path: bytes) -> bytes:
    """FAT and EFI do not tell case; GRUB's paths may start at a partition that has /boot as a directory."""
    return b"/" + path.replace(b"\\", b"/").strip(b"/").lower().removeprefix(b"boot/")


def list_named_paths(menu: BootMenu) -> frozenset[bytes]:
    """Return every path that any entry names, live or staged, ours or not."""
    chunks = [chunk.entry for chunk in (*menu.live.chunks, *menu.staged.chunks) if chunk.entry is not None]
    entries = (*menu.live.files, *menu.staged.files, *menu.live.entries, *menu.staged.entries, *chunks)
    return frozenset(_normalize(path) for entry in entries for path in entry.paths)


@dataclass
class _Collection:
    named: frozenset[bytes]
    known: frozenset[VerityDigest]
    removed: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def is_wanted(self, path: bytes, digest: bytes) -> bool:
        """By path, since deployments with the same kernel and initrd share one directory."""
        own = _normalize(path)
        # Addons belong to the UKI that their directory is named after.
        uki = own.removesuffix(b".extra.d")
        if VerityDigest(digest.decode("ascii")) in self.known or uki in self.named:
            return True
        return any(name.startswith(own + b"/") for name in self.named)

    def collect(self, volume: BootVolume, path: bytes, *, is_for_ukis: bool) -> None:
        """Go through one directory."""
        try:
            directory = volume.open_directory(path)
            if directory is None:
                return
            with contextlib.closing(directory):
                self._collect_in(volume, directory, path, is_for_ukis=is_for_ukis)
        except OSError as error:
            self.warnings.append(f"collecting garbage in /{_text(path)}: {error.strerror or error}")

    def _collect_in(self, volume: BootVolume, directory: BootDirectory, path: bytes, *, is_for_ukis: bool) -> None:
        names = directory.list_names()
        candidates = [name for name in names if self._is_garbage(path, name, is_for_ukis=is_for_ukis)]
        all_files = [name for name in names if volume.find_size(path + b"/" + name) is not None]
        linked = find_linked(directory, all_files)
        gone = [name for name in candidates if name in all_files and name not in linked]
        problems = remove_files(directory, gone, linked=()) if gone else []
        self.warnings += problems
        left = frozenset(directory.list_names()) if problems else frozenset()
        self.removed += [_show(path, name) for name in gone if name not in left]
        for name in candidates:
            if name not in all_files:
                target = name if name.startswith(GONE_PREFIX) else GONE_PREFIX + name
                if target != name:
                    directory.rename(name, target)
                    directory.barrier()
                self._remove_directory(volume, path + b"/" + target)
                self.removed.append(_show(path, name))

    def _is_garbage(self, path: bytes, name: bytes, *, is_for_ukis: bool) -> bool:
        if name.startswith(GONE_PREFIX):
            return True
        match = _ARTIFACT.fullmatch(name)
        # Without a suffix it is a kernel's directory, with one a UKI or its addons.
        if match is None or (match["kind"] is not None) != is_for_ukis:
            return False
        return not self.is_wanted(path + b"/" + name, match["digest"])

    def _remove_directory(self, volume: BootVolume, path: bytes) -> None:
        directory = volume.open_directory(path)
        if directory is None:
            return
        try:
            names = directory.list_names()
            self.warnings += remove_files(directory, names, linked=find_linked(directory, names))
        finally:
            directory.close()
        volume.remove_directory(path)


def _text(path: bytes) -> str:
    return escape_bytes(path.strip(b"/"))


def _show(path: bytes, name: bytes) -> str:
    return f"/{_text(path + b'/' + name)}"


def collect_volumes(
    boot: BootVolume, esp: BootVolume | None, menu: BootMenu, *, known: Collection[VerityDigest]
) -> GarbageOutcome:
    """Do what ``collect_garbage`` does, on volumes."""
    if not menu.odd.is_complete:
        return GarbageOutcome(warnings=("boot files are left as they are: not all boot entries could be read",))
    run = _Collection(list_named_paths(menu), frozenset(known))
    run.collect(boot, menu.record.kernel_directory, is_for_ukis=False)
    for path in UKI_DIRECTORIES if esp is not None else ():
        if esp is not None:
            run.collect(esp, path, is_for_ukis=True)
    return GarbageOutcome(tuple(run.removed), tuple(run.warnings))


def collect_garbage(area: Area, menu: BootMenu, *, known: Collection[VerityDigest]) -> GarbageOutcome:
    """Remove boot files of deployments that are gone. Blocks.

    Args:
        area: The boot directories, open for writing.
        menu: What ``read_menu`` finds now, after the new set is on the disk.
        known: Deployments with a state directory, the booted, staged and rollback ones among them: whatever is named
            after one of these stays.

    Returns:
        What was removed. A failure is one of its warnings, never an exception: the set is in force.

    Source:
        Spec boot.md, "Garbage".
    """
    esp = None if area.esp_fd is None else RealVolume(area.esp_fd)
    return collect_volumes(RealVolume(area.boot_fd), esp, menu, known=known)
