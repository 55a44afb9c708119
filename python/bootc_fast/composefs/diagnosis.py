"""What is wrong on a boot partition: what power cuts and other tools leave there. Nothing is written.

Source:
    Spec commands.md, ``doctor``; boot.md, "A directory that grows".
"""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

from bootc_fast.boot.area.fat import FatReader
from bootc_fast.boot.area.fat_check import FatProblem, check_volume
from bootc_fast.boot.area.fat_device import device_path_of, open_volume_device
from bootc_fast.boot.area.real import RealVolume
from bootc_fast.boot.entries.duplicates import count_duplicates
from bootc_fast.boot.entries.garbage import find_lost_names, list_named_paths
from bootc_fast.boot.entries.reader import UKI_DIRECTORIES
from bootc_fast.boot.loaders.entry import ARTIFACT_PREFIX, parse_artifact_digest, parse_entry
from bootc_fast.boot.loaders.table import record_of
from bootc_fast.boot.loaders.user_cfg import parse_user_cfg
from bootc_fast.boot.loaders.user_cfg_mend import drop_torn_end, has_zeros, lacks_esp
from bootc_fast.composefs.boot_files import check_boot_files, hash_kernel
from bootc_fast.composefs.recover import (
    Recovered,
    kernel_base,
    make_entry_text,
    make_uki_entry_text,
    make_user_cfg,
    recover_kernel,
)
from bootc_fast.composefs.repair import is_esp_told, list_own_entries
from bootc_fast.errors import BootcFastError, FatFormatError
from bootc_fast.machine.cmdline import split_cmdline
from bootc_fast.machine.mountinfo import find_writable, parse_mountinfo
from bootc_fast.machine.native import run_blocking
from bootc_fast.records import dataclass, field
from bootc_fast.text import describe_error, escape_bytes, shorten_digest
from bootc_fast.types import BootType

if TYPE_CHECKING:
    from bootc_fast.boot.loaders.entry import MenuEntry
    from bootc_fast.composefs.boot_snapshot import BootSnapshot
    from bootc_fast.composefs.survey import Survey
    from bootc_fast.machine.host import Host
    from bootc_fast.types import VerityDigest

_NEEDS_NO_FSCK = frozenset({FatProblem.ORPHANS, FatProblem.TORN_NAME, FatProblem.DIRTY})


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: For programs.
        detail: For people.
        repair: What ``--repair`` does about it; None where it does nothing.
        is_harmless: Nothing that boots depends on it.
    """

    kind: str
    detail: str
    repair: str | None = None
    is_harmless: bool = False


@dataclass
class Diagnosis:
    """Findings, and the writes that mend them."""

    survey: Survey
    look: BootSnapshot
    findings: list[Finding] = field(default_factory=list)
    files: list[tuple[bytes, bytes]] = field(default_factory=list)
    made: list[MenuEntry] = field(default_factory=list)
    user_cfg: bytes = b""
    is_fat_unsafe: bool = False
    is_read_only: bool = False
    needs_menu: bool = False
    collects: bool = False

    @property
    def wanted(self) -> tuple[VerityDigest, ...]:
        """Deployments that can boot: the running one, and those with state and image."""
        return (self.survey.booted.digest, *self.survey.kept)


async def diagnose(host: Host, survey: Survey, look: BootSnapshot, *, is_ours_writable: bool) -> Diagnosis:
    """Look at the file systems, the kernels and the entries; nothing is written.

    Cancellation: at any moment; descriptors that it opened are closed.

    Args:
        host: Whose.
        survey: Its deployments.
        look: Its boot partition, open.
        is_ours_writable: This process may have mounted the volume for writing, which sets FAT's mark "in use".

    Returns:
        The findings, and the writes that mend them.

    Raises:
        FileSystemError: Something could not be read.
    """
    found = Diagnosis(survey, look)
    if host.is_live:
        mounts = parse_mountinfo(await run_blocking(host.read_bytes, host.mountinfo))
        for fd in dict.fromkeys(filter(None, (look.area.boot_fd, look.area.esp_fd))):
            number = os.fstat(fd).st_dev
            is_writable = find_writable(mounts, f"{os.major(number)}:{os.minor(number)}")
            if is_writable is False:
                await run_blocking(_tell_read_only, found, fd)
            # Linux sets the mark itself while the volume is mounted for writing.
            is_mark_old = is_writable is False or (is_writable is None and not is_ours_writable)
            await run_blocking(_check_fat, found, fd, is_mark_old=is_mark_old)
    await _check_kernels(found)
    await _check_absent_entries(found)
    _check_menu(found)
    await run_blocking(_check_way_to_esp, found)
    await run_blocking(_check_sets, found)
    await run_blocking(_check_kernel_directories, found)
    await run_blocking(_check_lost_names, found)
    return found


def _tell_read_only(found: Diagnosis, directory_fd: int) -> None:
    found.is_read_only = True
    device = device_path_of(directory_fd)
    advice = "the kernel makes a damaged one so: look at its log, check it unmounted, and mount it again"
    found.findings.append(Finding("read-only", f"{device}: the file system is read-only; {advice}"))


def _check_fat(found: Diagnosis, directory_fd: int, *, is_mark_old: bool) -> None:
    fd = open_volume_device(directory_fd)
    if fd is None:
        return
    device = device_path_of(directory_fd)
    try:
        for one in check_volume(FatReader(fd)):
            if one.problem is FatProblem.DIRTY and not is_mark_old:
                continue
            needs_fsck = one.problem not in _NEEDS_NO_FSCK
            found.is_fat_unsafe |= needs_fsck
            advice = f"; unmount it and run `fsck.fat -a {device}`" if needs_fsck else ""
            detail = f"{device}: /{one.path}: {one.detail}{advice}"
            found.findings.append(Finding(one.problem.value, detail, is_harmless=one.is_harmless))
    except (OSError, FatFormatError) as error:
        found.findings.append(Finding("fat-unreadable", f"{device}: {describe_error(error)}"))
        found.is_fat_unsafe = True
    finally:
        os.close(fd)


async def _check_kernels(found: Diagnosis) -> None:
    """Kernels and initrds that are missing, empty or not those of the origin."""
    done: set[bytes] = set()
    for digest in found.wanted:
        for entry in list_own_entries(found.look.menu, digest):
            if entry.linux is None or entry.linux in done or len(entry.initrd) != 1:
                if entry.uki is not None and entry.missing:
                    names = escape_bytes(b", ".join(entry.missing))
                    found.findings.append(
                        Finding("uki-missing", f"{entry.label} names {names}, which no image holds: stage it again")
                    )
                continue
            done.add(entry.linux)
            reason = await _what_is_wrong(found, entry, digest)
            if reason is not None:
                await _recover_files(found, entry, digest, reason)


async def _what_is_wrong(found: Diagnosis, entry: MenuEntry, digest: VerityDigest) -> str | None:
    if entry.missing:
        return "missing or empty"
    origin = found.survey.find_origin(digest)
    if origin is None or origin.boot_digest is None or entry.linux is None:
        return None
    try:
        is_right = await hash_kernel(found.look, entry, expected=origin.boot_digest) == origin.boot_digest
    except BootcFastError as error:
        return describe_error(error)
    return None if is_right else "not what was staged"


async def _recover(found: Diagnosis, digest: VerityDigest) -> Recovered | str:
    origin = found.survey.find_origin(digest)
    try:
        return await recover_kernel(found.survey.host, digest, origin)
    except BootcFastError as error:
        return describe_error(error)


async def _recover_files(found: Diagnosis, entry: MenuEntry, digest: VerityDigest, reason: str) -> None:
    names = f"{escape_bytes(entry.linux or b'')} and {escape_bytes(entry.initrd[0])}"
    detail = f"{names} of deployment {shorten_digest(digest)}: {reason}"
    if parse_artifact_digest((entry.linux or b"").rpartition(b"/")[0] + b".efi") is None:
        # Not a place where bootc puts kernels: an admin's own, which is not ours to write.
        found.findings.append(Finding("boot-files", f"{detail}; not in a directory of bootc's"))
        return
    recovered = await _recover(found, digest)
    if isinstance(recovered, str):
        found.findings.append(Finding("boot-files", f"{detail}; {recovered}"))
        return
    found.files += [(entry.linux or b"", recovered.linux), (entry.initrd[0], recovered.initrd)]
    found.findings.append(Finding("boot-files", detail, "copy them out of the deployment's image"))


async def _check_absent_entries(found: Diagnosis) -> None:
    """Deployments that could boot and have no entry in what the loader reads."""
    menu, survey = found.look.menu, found.survey
    shown = menu.settled.live
    live = {one.digest for one in (*shown.entries, *shown.files) if one.is_own}
    for digest in found.wanted:
        # An older deployment without an entry is how a loader's menu of two looks; the running one needs its own.
        if digest in live or (live.intersection(found.wanted) and digest != survey.booted.digest):
            continue
        origin = survey.find_origin(digest)
        detail = f"deployment {shorten_digest(digest)} has no boot entry"
        if list_own_entries(menu, digest):
            # The staged set boots nothing before its finalize, which a power cut keeps from coming.
            found.findings.append(Finding("entry-missing", detail, "take the one of the staged set"))
            found.needs_menu = True
            continue
        if origin is not None and origin.boot_type is BootType.UKI:
            await _make_uki_entry(found, digest, detail)
            continue
        recovered = await _recover(found, digest)
        if isinstance(recovered, str):
            found.findings.append(Finding("entry-missing", f"{detail}; {recovered}"))
            continue
        await run_blocking(_make_entry, found, digest, recovered)
        found.findings.append(Finding("entry-missing", detail, "write one from its image and the running command line"))
        found.needs_menu = True


async def _make_uki_entry(found: Diagnosis, digest: VerityDigest, detail: str) -> None:
    """Make an entry for a deployment whose UKI is still there, and is what was staged."""
    record, known = record_of(found.look.area.loader), found.look.menu.known
    why = "it boots from a UKI, which is gone: stage it again"
    esp_fd = found.look.area.esp_fd
    for directory in UKI_DIRECTORIES:
        path = directory + b"/" + ARTIFACT_PREFIX + digest.encode() + b".efi"
        text = make_user_cfg(digest, path) if record.has_user_cfg else make_uki_entry_text(path)
        if record.has_user_cfg:
            entries = [one.entry for one in parse_user_cfg(text, known=known) if one.entry is not None]
        else:
            entries = [parse_entry(b"bootc_recovered-%d-1.conf" % len(found.made), text, known=known)]
        if esp_fd is None or not await run_blocking(RealVolume(esp_fd).find_size, path):
            continue
        try:
            await check_boot_files(found.survey, digest, found.look, entry=entries[0], role="deployment")
        except (BootcFastError, OSError) as error:
            why = describe_error(error)
            continue
        found.made += entries
        found.user_cfg = found.user_cfg or (text if record.has_user_cfg else b"")
        where = "grub2/user.cfg" if record.has_user_cfg else "an entry"
        found.findings.append(Finding("entry-missing", detail, f"write {where} that boots its UKI"))
        found.needs_menu = True
        return
    found.findings.append(Finding("entry-missing", f"{detail}; {why}"))


def _kernel_prefix(found: Diagnosis) -> bytes:
    """GRUB's paths start at the root of the partition, which has /boot in it where that is no partition of its own."""
    area, host = found.look.area, found.survey.host
    if record_of(area.loader).is_on_esp:
        return b"/EFI/Linux"
    root = host.look_at(host.sysroot)
    return b"/boot" if root is not None and root.st_dev == os.fstat(area.boot_fd).st_dev else b""


def _make_entry(found: Diagnosis, digest: VerityDigest, recovered: Recovered) -> None:
    host, booted = found.survey.host, found.survey.booted
    arguments = split_cmdline(host.read_bytes(host.proc_cmdline).decode("utf-8", "surrogateescape"))
    base = kernel_base(digest, prefix=_kernel_prefix(found))
    raw = make_entry_text(
        digest,
        recovered,
        booted_arguments=arguments,
        has_question_mark=booted.missing_verity_allowed,
        base=base,
    )
    name = b"bootc_recovered-%d-1.conf" % len(found.made)
    found.made.append(parse_entry(name, raw, known=found.look.menu.known))
    found.files += [(base + b"/vmlinuz", recovered.linux), (base + b"/initrd", recovered.initrd)]


def _check_menu(found: Diagnosis) -> None:
    """What a publication of the wanted set mends."""
    menu = found.look.menu
    repair = "write the set of entries anew"
    if menu.odd.is_exchange_unfinished:
        _add_menu(found, "exchange-unfinished", "loader/entries is missing, a staged set is there", repair)
    for name in menu.odd.torn:
        _add_menu(found, "entry-torn", f"loader/entries/{escape_bytes(name)} is empty or torn", "remove it")
    if drop_torn_end(menu.live.chunks, known=menu.known) != tuple(menu.live.chunks):
        _add_menu(found, "entry-torn", "grub2/user.cfg ends within a menuentry", "remove what is there of it")
    if has_zeros(menu.live.chunks):
        detail = "grub2/user.cfg has zeros in it, where sectors never arrived"
        _add_menu(found, "entry-torn", detail, "remove them, and what they have left of a menuentry")
    for name in menu.odd.leftovers:
        _add_menu(found, "leftover", f"loader/entries/{escape_bytes(name)} was left by a cut", "remove it")
    for digest, number in count_duplicates(menu, found.wanted).items():
        _add_menu(found, "entry-duplicate", f"deployment {shorten_digest(digest)} has {number} entries", "keep one")
    if menu.staged.is_present and found.survey.marker is None and not menu.odd.is_exchange_unfinished:
        _add_menu(found, "staged-stale", "a staged set is there, and no marker asks for it", "remove it")


def _check_way_to_esp(found: Diagnosis) -> None:
    if lacks_esp(found.look.menu.live.chunks) and not is_esp_told(RealVolume(found.look.area.boot_fd)):
        detail = "nothing tells GRUB which partition is the ESP, on which the menuentries of grub2/user.cfg boot UKIs"
        _add_menu(found, "user-cfg-header", detail, "put bootc's lines before them")


def _check_sets(found: Diagnosis) -> None:
    """Sets beside the live one, which a cut after their exchange, or while they were built, leaves."""
    for name in found.look.menu.odd.old_sets:
        detail = f"{escape_bytes(name)}, which no loader reads, was left by a cut"
        found.findings.append(Finding("set-leftover", detail, "remove it where that is safe", is_harmless=True))


def _check_kernel_directories(found: Diagnosis) -> None:
    """Half of a kernel's directory, as a staging that was cut leaves it: bootc's commands stop at one."""
    menu, volume = found.look.menu, RealVolume(found.look.area.boot_fd)
    base = menu.record.kernel_directory
    directory = volume.open_directory(base)
    if directory is None:
        return
    with closing(directory):
        names = directory.list_names()
    named = list_named_paths(menu)
    for name in names:
        digest = parse_artifact_digest(name + b".efi")
        path = b"/" + (base + b"/" + name if base else name)
        if digest is None or digest in found.survey.with_state or volume.find_size(path + b"/vmlinuz"):
            continue
        if volume.find_size(path) is not None or any(one.startswith(path.lower() + b"/") for one in named):
            continue
        found.collects = True
        detail = f"{escape_bytes(path)} has no kernel, and no entry names it"
        found.findings.append(Finding("kernel-directory-torn", detail, "remove it", is_harmless=True))


def _check_lost_names(found: Diagnosis) -> None:
    """Boot files with a short name alone, as a cut inside the removal or the making of a long one leaves them."""
    area = found.look.area
    esp = None if area.esp_fd is None else RealVolume(area.esp_fd)
    try:
        names = find_lost_names(RealVolume(area.boot_fd), esp, found.look.menu, known=found.survey.with_state)
    except OSError as error:
        found.findings.append(Finding("name-lost", f"short names: {describe_error(error)}", is_harmless=True))
        return
    for path, goes in names.items():
        found.collects |= goes
        detail = f"/{escape_bytes(path)} has lost its long name, as a power cut leaves it"
        detail += ", and nothing needs it" if goes else "; it may be somebody's, look at it before you remove it"
        found.findings.append(Finding("name-lost", detail, "remove it" if goes else None, is_harmless=True))


def _add_menu(found: Diagnosis, kind: str, detail: str, repair: str) -> None:
    found.needs_menu = True
    found.findings.append(Finding(kind, detail, repair))
