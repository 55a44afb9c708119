"""The ways into a composefs deployment that go around the firmware: prepared before the boot order is changed.

Source:
    Spec commands.md, "rollback", ``--soft-reboot``.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING

from bootc_fast.composefs.boot_snapshot import open_boot_file
from bootc_fast.composefs.deployments import drop_outdated_marker
from bootc_fast.composefs.kernel import read_command_line, read_entry_uki, require_entry
from bootc_fast.errors import BootcFastError, BootEntryError, FileSystemError, MountError, SoftRebootError
from bootc_fast.machine.booted import read_booted
from bootc_fast.machine.native import run_blocking
from bootc_fast.restart.kexec import (
    KexecPieces,
    check_pieces,
    join_initrds,
    write_memfd,
)
from bootc_fast.restart.soft import judge_soft_reboot, prepare_soft_reboot
from bootc_fast.restart.ways import FULL_REBOOT_HINT, KexecWay, RestartWay, Ways, choose_ways, clear_next_root
from bootc_fast.text import escape, escape_bytes, reason_of, shorten_digest

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from bootc_fast.boot.efi.uki import Uki
    from bootc_fast.boot.loaders.entry import MenuEntry
    from bootc_fast.composefs.boot_snapshot import BootSnapshot
    from bootc_fast.composefs.survey import Survey
    from bootc_fast.restart.soft import PreparedRoot
    from bootc_fast.restart.ways import SoftRebootMode
    from bootc_fast.types import VerityDigest


def make_composefs_ways(
    survey: Survey, look: BootSnapshot, target: VerityDigest, stack: AsyncExitStack, *, mode: SoftRebootMode | None
) -> Ways[None]:
    """Make the ways into a deployment of a composefs host.

    Args:
        survey: The host's deployments.
        look: The boot directories.
        target: What boots next; not the booted deployment.
        stack: Holds what is prepared.
        mode: None asks for a full reboot.
    """
    soft = ComposefsSoftReboot(survey, look, target, stack)
    kexec = ComposefsKexec(survey, look, target)
    return Ways(survey.host, choose_ways(mode, soft=soft, kexec=kexec), target=target)


class ComposefsSoftReboot:
    """A next root that we put together, and attach once the boot order is on disk."""

    kind: RestartWay = RestartWay.SOFT

    def __init__(self, survey: Survey, look: BootSnapshot, target: VerityDigest, stack: AsyncExitStack) -> None:
        self.what: str = f"preparing a soft reboot to {shorten_digest(target)}"
        self._survey = survey
        self._look = look
        self._target = target
        self._stack = stack
        self._root: PreparedRoot | None = None

    async def find(self) -> str | None:
        """Compare kernels, arguments and policies."""
        verdict = await judge_soft_reboot(self._survey, self._look, self._target)
        return None if verdict.is_possible else str(verdict)

    async def prepare(self, *, is_trial: bool) -> None:
        """Put the next root together; under ``--root`` there is nothing to try."""
        if not is_trial or self._survey.host.is_live:
            root = await prepare_soft_reboot(self._survey, self._look, self._target, self._stack, is_trial=is_trial)
            self._root = None if is_trial else root

    def commit(self, order: None) -> None:
        """Attach it.

        Raises:
            MountError: It cannot be attached; a full reboot enters the new order then.
        """
        del order
        host = self._survey.host
        try:
            clear_next_root(host)
            if self._root is not None:
                self._root.attach()
        except MountError as error:
            error.hint = FULL_REBOOT_HINT
            raise
        # A marker that would outlive what it stands for; where it cannot be dropped, the next boot drops it.
        with suppress(BootcFastError, OSError):
            drop_outdated_marker(host, read_booted(host))

    def undo(self) -> None:
        """Nothing: the kernel drops the mounts with the stack."""


class ComposefsKexec(KexecWay):
    """The kernel that a deployment's boot entry names, loaded before the boot order is changed."""

    what: str = "preparing a kexec"

    def __init__(self, survey: Survey, look: BootSnapshot, target: VerityDigest) -> None:
        super().__init__(survey.host)
        self._look = look
        self._target = target

    async def prepare(self, *, is_trial: bool) -> None:
        """Load it, or as a trial read all of it; the load itself waits for a cancellation, and then is undone."""
        with ExitStack() as stack:
            pieces = await assemble_kexec(self._look, self._target, stack)
            await run_blocking(check_pieces, pieces)
            if not is_trial:
                await run_blocking(self._load_pieces, pieces)

    def commit(self, order: None) -> None:
        """Nothing: it is loaded."""


async def assemble_kexec(look: BootSnapshot, target: VerityDigest, stack: ExitStack) -> KexecPieces:
    """Open or extract what a deployment boots from.

    Args:
        look: The boot directories.
        target: The deployment.
        stack: Closes the descriptors.

    Raises:
        BootEntryError: There is no entry, or what it names is missing or lacks a kernel.
        SoftRebootError: It has variables whose values are not kept on disk; the text is the bare reason.
        FileSystemError: A file cannot be read.
    """
    from bootc_fast.boot.loaders.grub_words import has_variable

    entry = require_entry(look, target)
    if entry.linux is not None or entry.uki is None:
        # What GRUB would put in for a variable is known where it is kept on disk, and else to GRUB alone.
        entry = look.menu.record.resolve(entry, dict(look.menu.live.environment))
        line = await read_command_line(look, entry)
        unknown = [escape_bytes(word) for word in entry.unknown]
        if unknown or (look.menu.record.expands_variables and has_variable(line)):
            named = ", ".join(unknown) or escape(line)
            raise SoftRebootError(f"its boot entry has what GRUB alone can expand: {named}")
        kernel, initrd = await run_blocking(_open_files, look, entry, stack)
    else:
        with closing(await read_entry_uki(look, entry.uki)) as uki:
            line = await read_command_line(look, entry, uki=uki)
            kernel, initrd = await run_blocking(_extract_sections, uki, stack)
    data = line.encode("utf-8", "surrogateescape")
    if b"\0" in data:
        raise BootEntryError(f"assembling the kexec of {shorten_digest(target)}: its command line has a NUL")
    return KexecPieces(kernel, initrd, data)


def _open_files(look: BootSnapshot, entry: MenuEntry, stack: ExitStack) -> tuple[int, int | None]:
    assert entry.linux is not None  # noqa: S101 the caller has looked
    try:
        opened: list[int] = []
        for path in (entry.linux, *entry.initrd):
            opened.append(open_boot_file(look, path))
            stack.callback(os.close, opened[-1])
        kernel, *initrds = opened
        return kernel, join_initrds(initrds, stack)
    except OSError as error:
        raise FileSystemError(f"reading kernel and initrd: {reason_of(error)}") from error


def _extract_sections(uki: Uki, stack: ExitStack) -> tuple[int, int | None]:
    linux = uki.pe.iterate_section(".linux")
    if linux is None:
        raise BootEntryError("reading the UKI: it has no section .linux")
    # systemd-stub hands the microcode over before the rest.
    found = [uki.pe.iterate_section(name) for name in (".ucode", ".initrd")]
    initrds = [part for part in found if part is not None]
    try:
        kernel = write_memfd("kernel", [linux], stack)
        return kernel, write_memfd("initrd", initrds, stack) if initrds else None
    except OSError as error:
        raise FileSystemError(f"extracting the UKI's sections: {reason_of(error)}") from error
