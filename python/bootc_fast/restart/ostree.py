"""The ways into an ostree deployment that go around the firmware.

What is possible is found out before the order of the deployments is written. What is prepared is prepared after it:
the new order gives each deployment another link, which its command line names; and libostree's next root is in force
at once. Where that last step fails and nothing slower was allowed, the old order is written back.

Source:
    Spec commands.md, "rollback", ``--soft-reboot``; bootc ``cli.rs``, ``handle_soft_reboot``.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from bootc_fast.errors import BootcFastError, BootEntryError, SoftRebootError
from bootc_fast.machine.native import run_blocking
from bootc_fast.ostree.sysroot import clear_soft_reboot, find_boot_file, prepare_soft_reboot
from bootc_fast.restart.kexec import (
    FULL_REBOOT_HINT,
    KexecPieces,
    check_pieces,
    find_kexec_obstacle,
    join_initrds,
    load_pieces,
    unload_kexec,
)
from bootc_fast.restart.soft import SoftRebootVerdict, find_systemd_obstacle
from bootc_fast.restart.ways import RestartWay, SoftRebootMode, clear_next_root, require_live, tell_prepared
from bootc_fast.text import describe_error, shorten_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from bootc_fast.machine.host import Host
    from bootc_fast.ostree.sysroot import OstreeDeployment

_WAYS = {
    SoftRebootMode.AUTO: (RestartWay.SOFT, RestartWay.KEXEC, RestartWay.FULL),
    SoftRebootMode.REQUIRED: (RestartWay.SOFT,),
    SoftRebootMode.KEXEC: (RestartWay.KEXEC,),
    None: (RestartWay.FULL,),
}
_NAMES = {RestartWay.SOFT: "a soft reboot", RestartWay.KEXEC: "a kexec"}


def judge_ostree_soft_reboot(target: OstreeDeployment, obstacle: str | None) -> SoftRebootVerdict | None:
    """Say whether a soft reboot leads to a deployment; None for the one that runs, and where it cannot be told.

    Args:
        target: The deployment.
        obstacle: What is wrong with the running systemd.
    """
    if target.soft_reboot_obstacles is None:
        return None
    return SoftRebootVerdict((*target.soft_reboot_obstacles, *([] if obstacle is None else [obstacle])))


class OstreeRestart:
    """A way into the deployment that boots next, chosen before the new order is on disk.

    Attributes:
        way: How; None where no restart was asked for.
        notes: Why it is no faster one, in words for people.
        warnings: What could not be cleared away.

    Args:
        host: Which.
        mode: What was asked for.
        is_wanted: A restart was asked for at all.
    """

    def __init__(self, host: Host, mode: SoftRebootMode | None, *, is_wanted: bool) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self._host = host
        self._ways = list(_WAYS[mode]) if is_wanted else []
        self._is_loaded = False
        self._is_entered = False

    @property
    def way(self) -> RestartWay | None:
        """The fastest one that nothing is known against."""
        return self._ways[0] if self._ways else None

    async def find_way(self, target: OstreeDeployment, *, dry_run: bool) -> None:
        """Strike the ways that are not possible; whether the kernel takes a kexec is found out by loading one.

        Cancellation: at any moment; `undo` drops what was loaded.

        Raises:
            SoftRebootError: None is left, or the host is laid out in a directory; nothing has changed.
        """
        if self._ways and not dry_run:
            require_live(self._host)
        if RestartWay.SOFT in self._ways:
            verdict = judge_ostree_soft_reboot(target, await find_systemd_obstacle(self._host))
            if verdict is None or not verdict.is_possible:
                self._strike(RestartWay.SOFT, target, str(verdict or "no: it is the deployment that runs"))
        if self.way is RestartWay.KEXEC:
            obstacle = await run_blocking(find_kexec_obstacle, self._host)
            if obstacle is not None:
                self._strike(RestartWay.KEXEC, target, obstacle)
            else:
                await run_blocking(self._try, RestartWay.KEXEC, target, lambda: self._load(target, is_trial=dry_run))

    def enter(self, sysroot: Any, target: OstreeDeployment) -> None:  # noqa: ANN401 - untyped library
        """Prepare the fastest way that is left, now that the new order is on disk; blocks.

        Args:
            sysroot: libostree's, locked.
            target: As the new order has it.

        Raises:
            SoftRebootError: None is left; nothing is prepared.
        """
        try:
            # A plain `systemctl reboot` would enter it in place of what boots next.
            clear_soft_reboot(sysroot)
        except BootcFastError as error:
            self.warnings.append(describe_error(error))
        steps = {
            RestartWay.SOFT: lambda: prepare_soft_reboot(sysroot, target),
            RestartWay.KEXEC: lambda: self._load(target),
        }
        while self.way in steps and not self._try(self.way, target, steps[self.way]):
            pass
        self._is_entered = True

    def finish(self, target: OstreeDeployment) -> None:
        """Clear what others have prepared, unless it is what was asked for, and tell the journal; blocks."""
        if self.way is RestartWay.SOFT:
            unload_kexec(self._host)
        else:
            try:
                clear_next_root(self._host, keep_kexec=self.way is RestartWay.KEXEC)
            except BootcFastError as error:
                text = f"the next `systemctl reboot` may enter what was prepared before: {describe_error(error)}"
                self.warnings.append(text)
        if self.way is not None:
            tell_prepared(self._host, self.way, target.name, tuple(self.notes))

    def undo(self) -> None:
        """Drop a kernel that was loaded, unless it is the way that was taken; blocks."""
        if self._is_loaded and not (self._is_entered and self.way is RestartWay.KEXEC):
            unload_kexec(self._host)
            self._is_loaded = False

    def _try(self, way: RestartWay, target: OstreeDeployment, step: Callable[[], None]) -> bool:
        try:
            step()
        except (BootcFastError, OSError) as error:
            self._strike(way, target, describe_error(error).removeprefix("preparing a kexec: "))
            return False
        return True

    def _strike(self, way: RestartWay, target: OstreeDeployment, why: str) -> None:
        """Give a way up; the reason becomes a note, or where no other is allowed the error."""
        self._ways.remove(way)
        text = f"preparing {_NAMES[way]} to {shorten_digest(target.name)}: {why}"
        if not self._ways:
            raise SoftRebootError(text, hint=FULL_REBOOT_HINT)
        self.notes.append(text)

    def _load(self, target: OstreeDeployment, *, is_trial: bool = False) -> None:
        with ExitStack() as stack:
            pieces = assemble_ostree_kexec(self._host, target, stack)
            check_pieces(pieces)
            if not is_trial:
                load_pieces(pieces)
                self._is_loaded = True


def assemble_ostree_kexec(host: Host, target: OstreeDeployment, stack: ExitStack) -> KexecPieces:
    """Open what a deployment's boot entry starts; blocks.

    Args:
        host: Whose.
        target: The deployment.
        stack: Closes the descriptors.

    Raises:
        BootEntryError: The entry names no kernel, or files that are not there.
        OSError: A file cannot be read.
    """
    boot = target.boot
    if boot.linux is None:
        raise BootEntryError(f"assembling the kexec of {shorten_digest(target.name)}: its boot entry names no kernel")
    kernel, *initrds = [host.open_file(find_boot_file(host, name)) for name in (boot.linux, *boot.initrds)]
    for fd in (kernel, *initrds):
        stack.callback(os.close, fd)
    return KexecPieces(kernel, join_initrds(initrds, stack), boot.options.encode("utf-8", "surrogateescape"))
