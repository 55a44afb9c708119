"""Removing kernels, initrds and UKIs that nothing names any more."""

from __future__ import annotations

import contextlib
import errno
import re
from typing import TYPE_CHECKING

from bootc_fast.boot.area.directory import FileKind
from bootc_fast.boot.area.real import RealVolume
from bootc_fast.boot.area.replace import find_linked, remove_detached, remove_files
from bootc_fast.boot.area.room import look_at
from bootc_fast.boot.entries.aliases import find_aliases
from bootc_fast.boot.entries.beside import CHECK_HINT, detach_path
from bootc_fast.boot.entries.mentions import read_mentions
from bootc_fast.boot.entries.reader import UKI_DIRECTORIES
from bootc_fast.errors import FatFormatError
from bootc_fast.records import dataclass, field
from bootc_fast.text import describe_error, escape_bytes, reason_of
from bootc_fast.types import VerityDigest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from bootc_fast.boot.area.directory import Area, BootDirectory, BootVolume
    from bootc_fast.boot.area.fat_look import FatLook
    from bootc_fast.boot.entries.aliases import Alias
    from bootc_fast.boot.entries.menu import BootMenu

_ARTIFACT = re.compile(
    rb"(?:bootc-fast-gone-)?(?:bootc_composefs-)?(?P<digest>[0-9a-f]{128}|[0-9a-f]{64})"
    rb"(?P<kind>\.efi(?P<addons>\.extra\.d)?(?:\.staged)?(?:\.[0-9]+\.gone)?)?"
)
"""What bootc names boot files, and how earlier versions of this program called what they were removing."""
_KERNEL_NAMES = (b"vmlinuz", b"linux")


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
    mentions: bytes
    known: frozenset[VerityDigest]
    looks: dict[int, FatLook | None] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def is_wanted(self, path: bytes, digest: bytes) -> bool:
        """By path, since deployments with the same kernel and initrd share one directory; and by every mention."""
        own = _normalize(path)
        # Addons belong to the UKI that their directory is named after.
        uki = own.removesuffix(b".extra.d")
        if VerityDigest(digest.decode("ascii")) in self.known or uki in self.named:
            return True
        if digest in self.mentions or own.rpartition(b"/")[2] in self.mentions:
            return True
        return any(name.startswith(own + b"/") for name in self.named)

    def list_candidates(self, volume: BootVolume, path: bytes, *, is_for_ukis: bool) -> list[bytes]:
        """List the paths of what would go."""
        directory = volume.open_plain_directory(path)
        if directory is None:
            return []
        with contextlib.closing(directory):
            names = self._choose(volume, path, directory.list_names(), is_for_ukis=is_for_ukis)
        return [(path + b"/" + name).lstrip(b"/") for name in names]

    def collect(self, volume: BootVolume, path: bytes, *, is_for_ukis: bool) -> None:
        """Go through one directory."""
        try:
            directory = volume.open_plain_directory(path)
            if directory is None:
                return
            with contextlib.closing(directory):
                self._collect_in(volume, directory, path, is_for_ukis=is_for_ukis)
        except OSError as error:
            self.warnings.append(f"collecting garbage in /{_text(path)}: {reason_of(error)}")

    def _collect_in(self, volume: BootVolume, directory: BootDirectory, path: bytes, *, is_for_ukis: bool) -> None:
        candidates = self._choose(volume, path, directory.list_names(), is_for_ukis=is_for_ukis)
        if not candidates:
            return
        # First, since the kernel does not look up everything that a cut leaves.
        left = self._leave(volume, directory, path, candidates)
        kinds = {name: directory.find_kind(name) for name in candidates if name not in left}
        # Of a link the name goes, and never what it leads to.
        for name in [name for name, kind in kinds.items() if kind is FileKind.LINK]:
            directory.unlink(name)
            self.removed.append(_show(path, name))
        self._remove(directory, path, [name for name, kind in kinds.items() if kind is FileKind.FILE])
        for name in [name for name, kind in kinds.items() if kind is FileKind.DIRECTORY]:
            self._remove_directory(volume, path + b"/" + name)
            self.removed.append(_show(path, name))

    def _leave(self, volume: BootVolume, directory: BootDirectory, path: bytes, names: Collection[bytes]) -> set[bytes]:
        """Find names that the kernel must not remove, and take them away by themselves where the FAT says why."""
        unsafe = self._find_unsafe(volume, directory, path)
        look = self.looks.get(id(volume))
        left: set[bytes] = set()
        for name in names:
            where = (path + b"/" + name).lstrip(b"/")
            try:
                trouble = look.find_trouble(where) if look is not None else None
                is_detached = look is not None and look.leads_nowhere(where)
            except (OSError, FatFormatError):
                trouble, is_detached = None, False
            if trouble is not None:
                self.warnings.append(detach_path(volume, where, trouble))
            elif name in unsafe:
                self.warnings.append(f"/{_text(where)} is left: {unsafe[name]}; {CHECK_HINT}")
            elif is_detached:
                remove_detached(volume, directory, where)
            else:
                continue
            left.add(name)
        return left

    def _find_unsafe(self, volume: BootVolume, directory: BootDirectory, path: bytes) -> Mapping[bytes, str]:
        """One look at the FAT serves the whole collection: what is safe stays safe when other safe names go."""
        look = self.looks.get(id(volume))
        try:
            if look is not None:
                return look.find_unsafe(path)
        except (OSError, FatFormatError):
            self.looks[id(volume)] = None
        files = [name for name in directory.list_names() if directory.find_kind(name) is FileKind.FILE]
        return dict.fromkeys(find_linked(directory, files), "it shares its blocks with another name")

    def _remove(self, directory: BootDirectory, path: bytes, names: list[bytes]) -> None:
        problems = remove_files(directory, names, linked=()) if names else []
        self.warnings += problems
        left = frozenset(directory.list_names()) if problems else frozenset()
        self.removed += [_show(path, name) for name in names if name not in left]

    def _choose(self, volume: BootVolume, path: bytes, names: list[bytes], *, is_for_ukis: bool) -> list[bytes]:
        aliases = self.find_aliases(volume, path, names, is_for_ukis=is_for_ukis)
        lost = {name for name, alias in aliases.items() if self.is_alias_garbage(path, alias, names)}
        return [name for name in names if name in lost or self._is_garbage(path, name, is_for_ukis=is_for_ukis)]

    def find_aliases(
        self, volume: BootVolume, path: bytes, names: list[bytes], *, is_for_ukis: bool
    ) -> dict[bytes, Alias]:
        """Find names that are short ones only; none where the FAT cannot be read."""
        look = self.looks.get(id(volume))
        try:
            found = look.find_short_names(path) if look is not None else {}
        except (OSError, FatFormatError):
            return {}
        return find_aliases(found, names, is_for_ukis=is_for_ukis)

    def find_lost(self, volume: BootVolume, path: bytes, *, is_for_ukis: bool) -> dict[bytes, bool]:
        """Find the paths of names that are short ones only, and whether they would go."""
        directory = volume.open_plain_directory(path)
        if directory is None:
            return {}
        with contextlib.closing(directory):
            names = directory.list_names()
        found = self.find_aliases(volume, path, names, is_for_ukis=is_for_ukis).items()
        return {(path + b"/" + n).lstrip(b"/"): self.is_alias_garbage(path, alias, names) for n, alias in found}

    def is_alias_garbage(self, path: bytes, alias: Alias, names: list[bytes]) -> bool:
        """Tell whether nobody can need a short name: no entry, no text, and no deployment that lacks its own file."""
        here, low = _normalize(path).rstrip(b"/") + b"/", alias.name.lower().encode()
        own = here + low
        if (
            not alias.is_ours
            or low in self.mentions
            or any((name + b"/").startswith(own + b"/") for name in self.named)
        ):
            return False
        there = {name.lower() for name in names}
        # It may be what an entry names here and does not find.
        if any(n.startswith(here) and n.removeprefix(here).partition(b"/")[0] not in there for n in self.named):
            return False
        shown = b"\0".join(there)
        digests = [digest.encode() for digest in self.known if alias.may_belong_to(digest)]
        return all(digest in self.mentions or digest in shown for digest in digests)

    def _is_garbage(self, path: bytes, name: bytes, *, is_for_ukis: bool) -> bool:
        match = _ARTIFACT.fullmatch(name)
        # Without a suffix it is a kernel's directory, with one a UKI or its addons.
        if match is None or (match["kind"] is not None) != is_for_ukis:
            return False
        return not self.is_wanted(path + b"/" + name, match["digest"])

    def _remove_directory(self, volume: BootVolume, path: bytes) -> None:
        """Empty a directory and remove it, under its own name: another one could make its parent grow.

        The kernel goes last, since bootc stops at a directory that has an initrd and no kernel.
        """
        directory = volume.open_plain_directory(path)
        if directory is None:
            return
        with contextlib.closing(directory):
            names = directory.list_names()
            linked = self._find_unsafe(volume, directory, path)
            kernels = [name for name in names if name.startswith(_KERNEL_NAMES)]
            problems: list[str] = []
            for group in ([name for name in names if name not in kernels], kernels):
                if group and not problems:
                    problems += _remove_group(directory, group, linked)
        if problems:
            raise OSError(errno.ENOTEMPTY, f"/{_text(path)} is left: {problems[0]}")
        volume.remove_directory(path)


def _remove_group(directory: BootDirectory, names: list[bytes], linked: Collection[bytes]) -> list[str]:
    files: list[bytes] = []
    problems: list[str] = []
    for name in names:
        kind = directory.find_kind(name)
        if kind is FileKind.LINK:
            directory.unlink(name)
        elif kind is FileKind.FILE and name not in linked:
            files.append(name)
        elif kind is not None:
            what = "shares its blocks" if name in linked else "is no file"
            problems.append(f"{escape_bytes(name)} in it {what}")
    return [*problems, *remove_files(directory, files, linked=())]


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
    try:
        mentions = read_mentions(boot, esp)
    except OSError as error:
        return GarbageOutcome(warnings=(f"boot files are left as they are: {describe_error(error)}",))
    run = _Collection(list_named_paths(menu), mentions, frozenset(known))
    with contextlib.ExitStack() as stack:
        for volume in filter(None, (boot, esp)):
            if id(volume) not in run.looks:
                run.looks[id(volume)] = stack.enter_context(look_at(volume))
        run.collect(boot, menu.record.kernel_directory, is_for_ukis=False)
        for path in UKI_DIRECTORIES if esp is not None else ():
            if esp is not None:
                run.collect(esp, path, is_for_ukis=True)
    return GarbageOutcome(tuple(run.removed), tuple(run.warnings))


def find_garbage(volume: BootVolume, menu: BootMenu, *, known: Collection[VerityDigest]) -> dict[bytes, int]:
    """Find what a collection would remove from the boot partition; writes nothing.

    Args:
        volume: The boot partition.
        menu: What is there.
        known: As for ``collect_garbage``.

    Returns:
        Paths, and the bytes that their files take, in whole allocation units.

    Raises:
        OSError: It cannot be told.
    """
    if not menu.odd.is_complete:
        return {}
    run = _Collection(list_named_paths(menu), read_mentions(volume, None), frozenset(known))
    with look_at(volume, flush=False) as run.looks[id(volume)]:
        found = run.list_candidates(volume, menu.record.kernel_directory, is_for_ukis=False)
        for path in UKI_DIRECTORIES:
            found += run.list_candidates(volume, path, is_for_ukis=True)
    _free, unit = volume.free_bytes()
    sizes = dict.fromkeys(found, 0)
    for path in found:
        # Not even its size can be told of what a cut left on a free cluster, and it frees nothing when it goes.
        with contextlib.suppress(OSError):
            sizes[path] = measure(volume, path, unit=unit)
    return sizes


def find_lost_names(
    boot: BootVolume, esp: BootVolume | None, menu: BootMenu, *, known: Collection[VerityDigest]
) -> dict[bytes, bool]:
    """Find boot files that a cut left with a short name alone (``aliases``); writes nothing.

    Args:
        boot: The boot partition.
        esp: The ESP.
        menu: What is there.
        known: As for ``collect_garbage``.

    Returns:
        Paths, and whether a collection would remove them; where it would not they may be somebody else's.

    Raises:
        OSError: It cannot be told.
    """
    run = _Collection(list_named_paths(menu), read_mentions(boot, esp), frozenset(known))
    found: dict[bytes, bool] = {}
    for volume, paths, is_for_ukis in ((boot, (menu.record.kernel_directory,), False), (esp, UKI_DIRECTORIES, True)):
        if volume is not None:
            with look_at(volume, flush=False) as run.looks[id(volume)]:
                for path in paths:
                    found |= run.find_lost(volume, path, is_for_ukis=is_for_ukis)
    return {path: goes and menu.odd.is_complete for path, goes in found.items()}


def measure(volume: BootVolume, path: bytes, *, unit: int = 1) -> int:
    """Return the bytes of a file, or of the files in a directory, each rounded up to whole units."""

    def size_of(one: bytes) -> int:
        return -(-(volume.find_size(one) or 0) // unit) * unit

    directory = volume.open_plain_directory(path)
    if directory is None:
        return size_of(path)
    with contextlib.closing(directory):
        return sum(size_of(path + b"/" + name) for name in directory.list_names())


def collect_garbage(area: Area, menu: BootMenu, *, known: Collection[VerityDigest]) -> GarbageOutcome:
    """Remove boot files of deployments that are gone. Blocks.

    Args:
        area: The boot directories, open for writing.
        menu: What ``read_menu`` finds now, after the new set is on the disk.
        known: The booted, the staged and the rollback deployment: whatever is named after one of these stays.

    Returns:
        What was removed. A failure is one of its warnings, never an exception: the set is in force.

    Source:
        Spec boot.md, "Garbage".
    """
    esp = None if area.esp_fd is None else RealVolume(area.esp_fd)
    return collect_volumes(RealVolume(area.boot_fd), esp, menu, known=known)
