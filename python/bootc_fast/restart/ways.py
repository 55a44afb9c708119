"""How the machine gets into the deployment that boots next: found out and prepared before anything is swapped."""

from __future__ import annotations

import enum
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from bootc_fast import message_ids
from bootc_fast.composefs.survey import drop_outdated_marker
from bootc_fast.errors import BootcFastError, CommandError, MountError, SoftRebootError
from bootc_fast.machine.booted import read_booted
from bootc_fast.machine.host import open_host
from bootc_fast.machine.journal import PRIORITY_NOTICE, send_journal
from bootc_fast.machine.native import run_blocking
from bootc_fast.restart import nextroot
from bootc_fast.restart.kexec import FULL_REBOOT_HINT, load_kexec, unload_kexec
from bootc_fast.restart.soft import judge_soft_reboot, prepare_soft_reboot
from bootc_fast.text import describe_error, escape_lines, shorten_digest

if TYPE_CHECKING:
    from contextlib import AsyncExitStack
    from pathlib import Path

    from bootc_fast.composefs.boot_files import BootLook
    from bootc_fast.composefs.survey import Survey
    from bootc_fast.machine.host import Host
    from bootc_fast.restart.soft import PreparedRoot
    from bootc_fast.types import VerityDigest

_COMMAND_TIMEOUT_S = 30.0


class SoftRebootMode(enum.StrEnum):
    """What ``--soft-reboot`` asks for."""

    AUTO = "auto"
    REQUIRED = "required"
    KEXEC = "kexec"


class RestartWay(enum.StrEnum):
    """How the machine restarts; the values are systemctl's verbs."""

    SOFT = "soft-reboot"
    KEXEC = "kexec"
    FULL = "reboot"


class Restart:
    """A way that is prepared and not in force yet.

    Args:
        host: Which.
        way: How.
        target: Into what: a digest, or an ostree deployment's name.
        notes: Why it is no faster one, in words for people.
        root: Of a soft reboot; None with a dry run.
    """

    def __init__(
        self, host: Host, way: RestartWay, target: str, notes: tuple[str, ...] = (), *, root: PreparedRoot | None = None
    ) -> None:
        self.way = way
        self.notes = notes
        self._host = host
        self._target = target
        self._root = root
        self._is_committed = False

    def commit(self) -> None:
        """Put it in force, once the new boot order is on disk, and tell the journal; blocks.

        Raises:
            MountError: The next root cannot be attached; a full reboot enters the new order then.
        """
        self._is_committed = True
        try:
            clear_next_root(self._host, keep_kexec=self.way is RestartWay.KEXEC)
            if self._root is not None:
                self._root.attach()
        except MountError as error:
            error.hint = FULL_REBOOT_HINT
            raise
        self._forget()
        tell_prepared(self._host, self.way, self._target, self.notes)

    def _forget(self) -> None:
        """Drop a marker that would outlive what it stands for; what cannot be dropped, the next boot drops."""
        with suppress(BootcFastError, OSError):
            drop_outdated_marker(self._host, read_booted(self._host).digest)

    def undo(self) -> None:
        """Drop what was loaded, unless it is in force."""
        if self.way is RestartWay.KEXEC and not self._is_committed:
            unload_kexec(self._host)


def tell_prepared(host: Host, way: RestartWay, target: str, notes: tuple[str, ...]) -> None:
    """Tell the journal what was prepared; blocks, never raises.

    Args:
        host: Which.
        way: How.
        target: Into what: a digest, or an ostree deployment's name.
        notes: Why it is no faster one.
    """
    reasons = f" ({'; '.join(notes)})" if notes else ""
    send_journal(
        host,
        f"Prepared: `systemctl {way}` enters {target}{reasons}",
        message_id=message_ids.RESTART_PREPARED,
        fields={
            "BOOTC_FAST_OPERATION": "restart",
            "BOOTC_FAST_RESTART": way.value,
            "BOOTC_FAST_NEXT_BOOT": target,
            "BOOTC_FAST_RESTART_NOTES": "\n".join(notes) or None,
        },
        priority=PRIORITY_NOTICE,
    )


def clear_next_root(host: Host, *, keep_kexec: bool = False) -> bool:
    """Clear what was prepared before: a plain ``systemctl reboot`` would enter it, whatever boots next; blocks.

    Args:
        host: With a directory, nothing is done.
        keep_kexec: A loaded kernel stays.

    Returns:
        Whether there was anything.

    Raises:
        FileSystemError: The kernel refused.

    Source:
        systemctl(1), ``reboot``: a root at ``/run/nextroot`` makes it a soft reboot, a loaded kernel a kexec.
    """
    if not host.is_live:
        return False
    is_loaded = not keep_kexec and unload_kexec(host)
    is_mounted = nextroot.clear(host)
    # By this file libostree takes a next root for its own.
    host.remove_file(host.run / "ostree/nextroot-booted")
    return is_mounted or is_loaded


async def reset_restart(root: Path | str = "/") -> bool:
    """Clear what was prepared: the root at ``/run/nextroot``, and a loaded kernel.

    Cancellation: waits for the end.

    Returns:
        Whether there was anything.

    Raises:
        SoftRebootError: `root` is a directory: nothing is mounted there.
        MountError: The kernel refused.
    """
    host = await run_blocking(open_host, root)
    if not host.is_live:
        raise SoftRebootError("clearing the soft reboot: with --root nothing is mounted, so there is nothing to clear")
    # A thread's work is waited for, whoever cancels.
    return await run_blocking(clear_next_root, host)


async def prepare_restart(
    survey: Survey,
    look: BootLook,
    target: VerityDigest,
    stack: AsyncExitStack,
    *,
    mode: SoftRebootMode | None,
    dry_run: bool = False,
) -> Restart:
    """Choose a way into a deployment, and prepare it.

    Cancellation: at any moment; what was prepared goes with `stack`.

    Args:
        survey: The host's deployments.
        look: The boot directories.
        target: What boots next; not the booted deployment.
        stack: Holds what is prepared.
        mode: None asks for a full reboot.
        dry_run: Find out only. On a live host the next root is put together and dropped, kernel and initrd are read;
            nothing is attached, loaded or written.

    Raises:
        SoftRebootError: The way that was asked for is not possible; nothing has changed.
    """
    host = survey.host
    notes: list[str] = []
    if mode in (SoftRebootMode.AUTO, SoftRebootMode.REQUIRED):
        try:
            return await _prepare_soft(survey, look, target, stack, dry_run=dry_run)
        except SoftRebootError as error:
            if mode is SoftRebootMode.REQUIRED:
                raise
            notes.append(describe_error(error))
    if mode in (SoftRebootMode.AUTO, SoftRebootMode.KEXEC):
        try:
            restart = await _prepare_kexec(host, look, target, notes, dry_run=dry_run)
        except SoftRebootError as error:
            if mode is SoftRebootMode.KEXEC:
                raise
            notes.append(describe_error(error))
        else:
            stack.callback(restart.undo if not dry_run else _nothing)
            return restart
    if not dry_run:
        require_live(host)
    return Restart(host, RestartWay.FULL, target, tuple(notes))


def _nothing() -> None:
    """Undo a dry run."""


def require_live(host: Host) -> None:
    """Refuse to restart the machine for a host in a directory.

    Raises:
        SoftRebootError: It is one.
    """
    if not host.is_live:
        raise SoftRebootError(
            "preparing the restart: with --root nothing is mounted, loaded or restarted",
            hint="--dry-run says what would be done",
        )


async def _prepare_soft(
    survey: Survey, look: BootLook, target: VerityDigest, stack: AsyncExitStack, *, dry_run: bool
) -> Restart:
    verdict = await judge_soft_reboot(survey, look, target)
    if not verdict.is_possible:
        raise SoftRebootError(f"preparing a soft reboot to {shorten_digest(target)}: {verdict}", hint=FULL_REBOOT_HINT)
    if dry_run and not survey.host.is_live:
        return Restart(survey.host, RestartWay.SOFT, target)
    require_live(survey.host)
    try:
        root = await prepare_soft_reboot(survey, look, target, stack, is_trial=dry_run)
    except (BootcFastError, OSError) as error:
        message = f"preparing a soft reboot to {shorten_digest(target)}: {describe_error(error)}"
        raise SoftRebootError(message, hint=getattr(error, "hint", None) or FULL_REBOOT_HINT) from error
    return Restart(survey.host, RestartWay.SOFT, target, root=None if dry_run else root)


async def _prepare_kexec(
    host: Host, look: BootLook, target: VerityDigest, notes: list[str], *, dry_run: bool
) -> Restart:
    try:
        if not dry_run:
            require_live(host)
        await load_kexec(host, look, target, is_trial=dry_run)
    except SoftRebootError:
        raise
    except (BootcFastError, OSError) as error:
        raise SoftRebootError(f"preparing a kexec: {describe_error(error)}", hint=FULL_REBOOT_HINT) from error
    return Restart(host, RestartWay.KEXEC, target, tuple(notes))


async def start_restart(way: RestartWay, *, message: str) -> None:
    """Ask the service manager to restart; returns once it has taken the job.

    Cancellation: waits for systemctl, 30 s at most. The restart itself may end us with SIGTERM, which is no failure.

    Raises:
        CommandError: systemctl failed; the boot order is as it was made.
        FileSystemError: There is no systemctl.
    """
    argv = ["systemctl", way.value, *([f"--message={message}"] if way is RestartWay.FULL else [])]
    try:
        with anyio.fail_after(_COMMAND_TIMEOUT_S, shield=True):
            done = await anyio.run_process(argv, check=False, stdout=subprocess.DEVNULL)
    except (OSError, TimeoutError) as error:
        text = getattr(error, "strerror", None) or "it does not answer"
        raise CommandError(f"restarting: systemctl: {text}", tuple(argv), -1, "", hint=_hint(way)) from error
    # The shutdown that it asked for ends systemctl, too, where both belong to one unit or session.
    if done.returncode not in {0, -signal.SIGTERM}:
        said = escape_lines(done.stderr)
        last = said[-1] if said else f"exit status {done.returncode}"
        raise CommandError(
            f"restarting: `{' '.join(argv[:2])}`: {last}",
            tuple(argv),
            done.returncode,
            "\n".join(said),
            hint=_hint(way),
        )


def _hint(way: RestartWay) -> str:
    return f"the new boot order is on disk; `systemctl {way.value}` goes on from here"
