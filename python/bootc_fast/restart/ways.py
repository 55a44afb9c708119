"""How the machine gets into the deployment that boots next: found out and prepared before anything is swapped."""

from __future__ import annotations

import enum
import signal
import subprocess
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import anyio

from bootc_fast import message_ids
from bootc_fast.errors import BootcFastError, CommandError, SoftRebootError
from bootc_fast.machine.host import open_host
from bootc_fast.machine.journal import PRIORITY_NOTICE, send_journal
from bootc_fast.machine.native import run_blocking
from bootc_fast.restart import nextroot
from bootc_fast.restart.kexec import find_kexec_obstacle, load_pieces, unload_kexec
from bootc_fast.text import describe_error, escape_lines

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from bootc_fast.machine.host import Host
    from bootc_fast.restart.kexec import KexecPieces

_COMMAND_TIMEOUT_S = 30.0
FULL_REBOOT_HINT = "`systemctl reboot` boots it through the firmware"
"""What is left where no faster way is possible."""

OrderT_contra = TypeVar("OrderT_contra", contravariant=True)


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


class Way(Protocol[OrderT_contra]):
    """One way into one deployment. Each back end has its own soft reboot and kexec.

    Attributes:
        kind: Which it is.
        what: For errors and notes, e.g. ``"preparing a kexec"``.
    """

    kind: RestartWay
    what: str

    async def find(self) -> str | None:
        """Find what is known to stand against it, in words for people; writes nothing.

        Cancellation: at any moment.
        """
        ...

    async def prepare(self, *, is_trial: bool) -> None:
        """Do what can be done before the boot order is changed; with `is_trial` find out only whether that goes.

        Cancellation: at any moment; `undo` drops what was done.

        Raises:
            BootcFastError, OSError: It is not possible.
        """
        ...

    def commit(self, order: OrderT_contra) -> None:
        """Put it in force; the boot order is on disk. Blocks.

        Args:
            order: What the back end has to hand over of it.

        Raises:
            SoftRebootError: It is not possible after all, and the next one may be tried.
            MountError: It is not possible, and nothing else is prepared.
        """
        ...

    def undo(self) -> None:
        """Drop what was prepared, unless it is in force; blocks."""
        ...


class FullReboot:
    """Through the firmware: always possible, nothing to prepare."""

    kind: RestartWay = RestartWay.FULL
    what: str = "preparing a full reboot"

    async def find(self) -> str | None:
        """Nothing stands against it."""
        return None

    async def prepare(self, *, is_trial: bool) -> None:
        """Nothing is to be done."""

    def commit(self, order: object) -> None:
        """Nothing is to be done."""

    def undo(self) -> None:
        """Nothing was done."""


class KexecWay:
    """What the kexecs of both back ends have in common: what the kernel says of it, and that it can be taken back."""

    kind: RestartWay = RestartWay.KEXEC

    def __init__(self, host: Host) -> None:
        self._host = host
        self._is_loaded = False

    async def find(self) -> str | None:
        """Look at what the kernel says of kexec."""
        return await run_blocking(find_kexec_obstacle, self._host)

    def undo(self) -> None:
        """Unload it."""
        if self._is_loaded:
            unload_kexec(self._host)

    def _load_pieces(self, pieces: KexecPieces) -> None:
        load_pieces(pieces)
        # Here, since a cancellation waits for the thread, and may be what is seen of it.
        self._is_loaded = True


class Ways(Generic[OrderT_contra]):
    """The ways into a deployment that may be taken, the fastest first; each is struck when it turns out impossible.

    Attributes:
        notes: Why it is no faster one, in words for people.
        warnings: What could not be cleared away.

    Args:
        host: Which.
        ways: What may be taken; none where no restart is wanted.
        target: Into what: a digest, or an ostree deployment's name.
    """

    def __init__(self, host: Host, ways: Iterable[Way[OrderT_contra]], *, target: str) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self._host = host
        self._ways = list(ways)
        self._target = target
        self._taken: Way[OrderT_contra] | None = None
        self._prepared: list[Way[OrderT_contra]] = []

    @property
    def kind(self) -> RestartWay | None:
        """The fastest one that is left; None where no restart is wanted."""
        return self._ways[0].kind if self._ways else None

    async def prepare(self, *, dry_run: bool) -> None:
        """Find the fastest way that is possible, and prepare it.

        Cancellation: at any moment; `undo` drops what was prepared.

        Args:
            dry_run: Find out only. On a live host the next root is put together and dropped, kernel and initrd are
                read; nothing is attached, loaded or written.

        Raises:
            SoftRebootError: None is left, or the host is laid out in a directory; nothing has changed.
        """
        if self._ways and not dry_run:
            require_live(self._host)
        while self._ways:
            way = self._ways[0]
            try:
                obstacle = await way.find()
                if obstacle is None:
                    self._prepared.append(way)
                    await way.prepare(is_trial=dry_run)
                    return
            except (BootcFastError, OSError) as error:
                self._strike(describe_error(error), error)
            else:
                self._strike(obstacle)

    def commit(self, order: OrderT_contra) -> None:
        """Put the fastest way that is left in force, once the new boot order is on disk; blocks.

        Raises:
            SoftRebootError: None is left; nothing is prepared.
            MountError: The next root cannot be attached; a full reboot enters the new order then.
        """
        while self._ways:
            try:
                self._ways[0].commit(order)
            except SoftRebootError as error:
                self._strike(describe_error(error), error)
            else:
                self._taken = self._ways[0]
                return

    def finish(self) -> None:
        """Clear what others have prepared, unless it is what was asked for, and tell the journal; blocks.

        Raises:
            MountError, FileSystemError: It cannot be cleared, and a restart would enter it.
        """
        kind = self.kind
        if kind is RestartWay.SOFT:
            unload_kexec(self._host)
        else:
            try:
                clear_next_root(self._host, keep_kexec=kind is RestartWay.KEXEC)
            except BootcFastError as error:
                if kind is not None:
                    error.hint = FULL_REBOOT_HINT
                    raise
                text = f"the next `systemctl reboot` may enter what was prepared before: {describe_error(error)}"
                self.warnings.append(text)
        if kind is not None:
            report_prepared(self._host, kind, self._target, tuple(self.notes))

    async def undo(self) -> None:
        """Drop what was prepared, unless it is in force. Cancellation waits for it."""
        prepared = [way for way in self._prepared if way is not self._taken]
        if prepared:
            with anyio.CancelScope(shield=True):
                for way in prepared:
                    await run_blocking(way.undo)

    def _strike(self, why: str, error: BaseException | None = None) -> None:
        """Give the fastest way up; the reason becomes a note, or where no other is allowed the error."""
        text = f"{self._ways.pop(0).what}: {why}"
        if not self._ways:
            hint = getattr(error, "hint", None) or FULL_REBOOT_HINT
            raise SoftRebootError(text, hint=hint) from error
        self.notes.append(text)


def choose_ways(
    mode: SoftRebootMode | None, *, soft: Way[OrderT_contra], kexec: Way[OrderT_contra]
) -> tuple[Way[OrderT_contra], ...]:
    """Choose the ways that a mode allows, the fastest first; None asks for a full reboot."""
    full: Way[OrderT_contra] = FullReboot()
    return {
        SoftRebootMode.AUTO: (soft, kexec, full),
        SoftRebootMode.REQUIRED: (soft,),
        SoftRebootMode.KEXEC: (kexec,),
        None: (full,),
    }[mode]


def report_prepared(host: Host, way: RestartWay, target: str, notes: tuple[str, ...]) -> None:
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
