"""Soft reboots: whether one is possible, and preparing the root that it starts.

Source:
    Spec commands.md, "rollback", ``--soft-reboot``; systemd-soft-reboot.service(8); bootc
    ``bootc_composefs/soft_reboot.rs`` and ``status.rs``.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from bootc_fast import _core
from bootc_fast.composefs.kernel import comparable_arguments, read_boot_digest, read_command_line, require_entry
from bootc_fast.composefs.survey import open_image
from bootc_fast.errors import BootcFastError, InvalidStateError, SoftRebootError
from bootc_fast.machine.cmdline import describe_argument_change, parse_composefs_arguments
from bootc_fast.machine.mounts import hold_mount
from bootc_fast.machine.native import run_blocking
from bootc_fast.records import dataclass
from bootc_fast.restart.running import compare_policies, is_unseen_by_init, read_systemd_version
from bootc_fast.text import describe_error, shorten_digest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AsyncExitStack

    from bootc_fast.composefs.boot_snapshot import BootSnapshot
    from bootc_fast.composefs.survey import Survey
    from bootc_fast.machine.host import Host
    from bootc_fast.types import VerityDigest

MIN_SYSTEMD_VERSION = 254


@dataclass(frozen=True, slots=True)
class SoftRebootVerdict:
    """Whether a deployment can be reached by a soft reboot.

    Attributes:
        reasons: Why not, in words for people; empty where it can.
    """

    reasons: tuple[str, ...] = ()

    @property
    def is_possible(self) -> bool:
        """There is nothing against it."""
        return not self.reasons

    def __str__(self) -> str:
        """Return ``yes``, or ``no:`` and the reasons."""
        return "yes" if self.is_possible else f"no: {'; '.join(self.reasons)}"


async def find_systemd_obstacle(host: Host) -> str | None:
    """Say what is wrong with the running systemd for a soft reboot; None where nothing is.

    Cancellation: at any moment.
    """
    version = await read_systemd_version(host)
    if version is None:
        return "the version of the running systemd cannot be told"
    if version < MIN_SYSTEMD_VERSION:
        return f"systemd {version} runs, soft reboots need {MIN_SYSTEMD_VERSION}"
    return None


async def judge_soft_reboot(survey: Survey, look: BootSnapshot, target: VerityDigest) -> SoftRebootVerdict:
    """Find out whether a soft reboot leads to a deployment; as ``judge_soft_reboots``."""
    return (await judge_soft_reboots(survey, look, (target,)))[target]


async def judge_soft_reboots(
    survey: Survey, look: BootSnapshot, targets: Iterable[VerityDigest]
) -> dict[VerityDigest, SoftRebootVerdict]:
    """Find out to which deployments a soft reboot leads; writes nothing, never raises for a broken one.

    Compared are the running kernel's command line, the booted deployment's kernel and initrd, and the running
    SELinux policy with the target's; the most expensive comes last, and only where nothing spoke against it before.
    On a live host image and init must have the fs-verity that they will be mounted with. Nothing is mounted.
    systemd is asked for its version once. Cancellation: within 50 ms; nothing is left behind.
    """
    obstacle = await find_systemd_obstacle(survey.host)
    return {target: await _judge(survey, look, target, obstacle) for target in targets}


async def _judge(survey: Survey, look: BootSnapshot, target: VerityDigest, obstacle: str | None) -> SoftRebootVerdict:
    if target == survey.booted.digest:
        return SoftRebootVerdict(("it is the deployment that runs",))
    reasons = [] if obstacle is None else [obstacle]
    for compare in (_compare_kernels, _compare_arguments, _find_unsealed, _compare_selinux):
        try:
            found = await compare(survey, look, target)
        except (BootcFastError, OSError) as error:
            found = describe_error(error)
        if found is not None:
            reasons.append(found)
            break
    return SoftRebootVerdict(tuple(reasons))


async def _compare_kernels(survey: Survey, look: BootSnapshot, target: VerityDigest) -> str | None:
    require_entry(look, target)
    running = await read_boot_digest(survey, look, survey.booted.digest)
    wanted = await read_boot_digest(survey, look, target)
    return (
        None
        if running == wanted
        else f"kernel differs: {shorten_digest(running, 12)} runs, this one has {shorten_digest(wanted, 12)}"
    )


async def _compare_arguments(survey: Survey, look: BootSnapshot, target: VerityDigest) -> str | None:
    raw = await run_blocking(survey.host.read_bytes, survey.host.proc_cmdline)
    running = comparable_arguments(raw.decode("utf-8", "surrogateescape"))
    wanted = comparable_arguments(await read_command_line(look, require_entry(look, target)))
    return describe_argument_change(running, wanted)


async def _compare_selinux(survey: Survey, _look: BootSnapshot, target: VerityDigest) -> str | None:
    found = await compare_policies(survey, target)
    return None if found is None else f"SELinux policy differs: {found}"


async def _find_unsealed(survey: Survey, look: BootSnapshot, target: VerityDigest) -> str | None:
    if not survey.host.is_live:
        return None
    line = await read_command_line(look, require_entry(look, target))
    named = [one for one in parse_composefs_arguments(line, what="reading the command line") if one.digest == target]
    if any(one.missing_verity_allowed for one in named):
        return None
    return await run_blocking(_look_for_unsealed, survey.host, target)


def _look_for_unsealed(host: Host, target: VerityDigest) -> str | None:
    # Who may not read them is told by the preparation, which is root's.
    from bootc_fast.restart import nextroot

    with suppress(OSError), ExitStack() as stack:
        image_fd = host.open_file(host.image_file(target))
        stack.callback(os.close, image_fd)
        if _core.measure_fd(image_fd) is None:
            return "its image has no fs-verity, and must have it"
        with _core.Image.open(image_fd) as image:
            init = image.lookup(nextroot.INIT[0])
        if init is not None and init.digest is not None:
            object_fd = host.open_file(host.objects / init.digest[:2] / init.digest[2:])
            stack.callback(os.close, object_fd)
            if _core.measure_fd(object_fd) is None:
                return "its init has no fs-verity, and must have it"
    return None


class PreparedRoot:
    """A next root, put together and not attached yet.

    Args:
        host: A live one.
        tree_fd: The detached tree.
    """

    def __init__(self, host: Host, tree_fd: int) -> None:
        self._host = host
        self._tree_fd = tree_fd

    def attach(self) -> None:
        """Attach it at ``/run/nextroot``; blocks.

        Raises:
            MountError: The kernel refused; nothing is attached then.
        """
        from bootc_fast.restart import nextroot

        nextroot.attach(self._host, self._tree_fd)


async def prepare_soft_reboot(
    survey: Survey, look: BootSnapshot, target: VerityDigest, stack: AsyncExitStack, *, is_trial: bool = False
) -> PreparedRoot:
    """Put the target's root together, as the initramfs would, without attaching it.

    The image is verified before; its objects are read with ``verity=require``, unless the target's digest stands
    with ``?`` on its command line. Cancellation: at any moment; the kernel drops the mounts with `stack`.

    Args:
        survey: Of a live host.
        look: The boot directories.
        target: A deployment that is not the booted one.
        stack: Holds the mounts until they are attached.
        is_trial: Find out whether it goes; nothing at all is written then.

    Raises:
        SoftRebootError: The target is the booted deployment, or the host is laid out in a directory.
        InvalidStateError: Image, state or ``setup-root-conf.toml`` are missing or malformed, or the image is no system.
        VerityMismatchError: The image is not what its digest says, or its init cannot be read.
        MountError: The kernel refused.
    """
    from bootc_fast.restart import nextroot

    host = survey.host
    if target == survey.booted.digest:
        raise SoftRebootError("preparing a soft reboot: the deployment that runs is no target")
    if not host.is_live:
        raise SoftRebootError("preparing a soft reboot: with --root nothing is mounted")
    if await run_blocking(is_unseen_by_init, host):
        raise SoftRebootError(
            "preparing a soft reboot: this process has a mount namespace of its own, whose mounts systemd does not see",
            hint="`nsenter --target=1 --mount` enters systemd's",
        )
    line = await read_command_line(look, require_entry(look, target))
    arguments = parse_composefs_arguments(line, what="preparing a soft reboot")
    named = [one for one in arguments if one.digest == target]
    if not named:
        raise InvalidStateError(
            f"preparing a soft reboot: the command line of {shorten_digest(target)} names another image"
        )
    image = await open_image(host, target, stack)
    require_verity = not any(one.missing_verity_allowed for one in named)
    if require_verity and not image.has_kernel_verity:
        raise InvalidStateError(
            f"preparing a soft reboot: the image {shorten_digest(target)} has no fs-verity, and must have it"
        )
    wanted = nextroot.NextRoot(host, target, image.fd, require_verity, line, is_trial)
    tree = hold_mount("the next root", lambda held: held.add(nextroot.assemble(wanted)))
    return PreparedRoot(host, await stack.enter_async_context(tree))
