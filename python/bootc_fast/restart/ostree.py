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
from bootc_fast.ostree.sysroot import find_boot_file, prepare_soft_reboot
from bootc_fast.records import dataclass
from bootc_fast.restart.kexec import (
    KexecPieces,
    check_pieces,
    join_initrds,
)
from bootc_fast.restart.soft import SoftRebootVerdict, find_systemd_obstacle
from bootc_fast.restart.ways import KexecWay, RestartWay, Ways, choose_ways
from bootc_fast.text import describe_error, shorten_digest

if TYPE_CHECKING:
    from bootc_fast.machine.host import Host
    from bootc_fast.ostree.sysroot import OstreeDeployment
    from bootc_fast.restart.ways import SoftRebootMode


def judge_ostree_soft_reboot(target: OstreeDeployment, obstacle: str | None) -> SoftRebootVerdict | None:
    """Say whether a soft reboot leads to a deployment; None for the one that runs, and where it cannot be told.

    Args:
        target: The deployment.
        obstacle: What is wrong with the running systemd.
    """
    if target.soft_reboot_obstacles is None:
        return None
    return SoftRebootVerdict((*target.soft_reboot_obstacles, *([] if obstacle is None else [obstacle])))


@dataclass(frozen=True, slots=True)
class OstreeOrder:
    """The new order, for a way that is put in force with it.

    Attributes:
        sysroot: libostree's, locked.
        target: The deployment as the new order has it.
    """

    sysroot: Any
    target: OstreeDeployment


def make_ostree_ways(host: Host, target: OstreeDeployment, *, mode: SoftRebootMode | None) -> Ways[OstreeOrder]:
    """Make the ways into a deployment of an ostree host.

    Args:
        host: Which.
        target: What boots next; not the booted deployment.
        mode: None asks for a full reboot.
    """
    soft, kexec = OstreeSoftReboot(host, target), OstreeKexec(host, target)
    return Ways(host, choose_ways(mode, soft=soft, kexec=kexec), target=target.name)


class OstreeSoftReboot:
    """A next root that libostree mounts, which is in force at once: with the new order, and not before."""

    kind: RestartWay = RestartWay.SOFT

    def __init__(self, host: Host, target: OstreeDeployment) -> None:
        self.what: str = f"preparing a soft reboot to {shorten_digest(target.name)}"
        self._host = host
        self._target = target

    async def find(self) -> str | None:
        """Ask systemd's version, and for libostree's own conditions."""
        verdict = judge_ostree_soft_reboot(self._target, await find_systemd_obstacle(self._host))
        if verdict is None:
            return "no: it is the deployment that runs"
        return None if verdict.is_possible else str(verdict)

    async def prepare(self, *, is_trial: bool) -> None:
        """Nothing: what libostree prepares is in force."""

    def commit(self, order: OstreeOrder) -> None:
        """Let libostree mount it.

        Raises:
            SoftRebootError: libostree refused; with its text.
        """
        try:
            prepare_soft_reboot(order.sysroot, order.target)
        except (BootcFastError, OSError) as error:
            raise SoftRebootError(describe_error(error)) from error

    def undo(self) -> None:
        """Nothing was done."""


class OstreeKexec(KexecWay):
    """The kernel that a deployment's boot entry names: loaded to try it, and again as the new order names it."""

    def __init__(self, host: Host, target: OstreeDeployment) -> None:
        super().__init__(host)
        self.what: str = f"preparing a kexec to {shorten_digest(target.name)}"
        self._target = target

    async def prepare(self, *, is_trial: bool) -> None:
        """Load it, so that the kernel says whether it takes it; as a trial read all of it."""
        await run_blocking(self._load, self._target, is_trial=is_trial)

    def commit(self, order: OstreeOrder) -> None:
        """Load it anew: the new order gives its deployment another link, which the command line names.

        Raises:
            SoftRebootError: It cannot be read, or the kernel refuses.
        """
        try:
            self._load(order.target, is_trial=False)
        except SoftRebootError:
            raise
        except (BootcFastError, OSError) as error:
            raise SoftRebootError(describe_error(error)) from error

    def _load(self, target: OstreeDeployment, *, is_trial: bool) -> None:
        with ExitStack() as stack:
            pieces = assemble_ostree_kexec(self._host, target, stack)
            check_pieces(pieces)
            if not is_trial:
                self._load_pieces(pieces)


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
