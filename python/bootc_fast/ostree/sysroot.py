"""Deployments of an ostree host: read, and put into another order, through libostree.

How the booted one is told is in ``_ostree_survey``. A staged deployment is libostree's on a live host; under
``--root`` it is ``DIR/run/ostree/staged-deployment``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bootc_fast.errors import BootEntryError, FileSystemError, SoftRebootError
from bootc_fast.ostree.deployment import OstreeBoot, OstreeDeployment, OstreeImage, OstreeSurvey
from bootc_fast.ostree.libostree import load_libostree, lock_sysroot, open_sysroot, ostree_errors, run_ostree
from bootc_fast.ostree.survey import make_key, staged_file, survey_sysroot
from bootc_fast.text import shorten_digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bootc_fast.machine.host import Host

__all__ = [
    "OstreeBoot",
    "OstreeDeployment",
    "OstreeImage",
    "OstreeSurvey",
    "check_bootable",
    "clear_soft_reboot",
    "enter_ostree",
    "find_boot_file",
    "prepare_soft_reboot",
    "read_ostree",
    "reorder_ostree",
]


def find_boot_file(host: Host, name: str) -> Path:
    """Find a file that a boot entry names; paths there are from the root of the partition, which may have /boot in it.

    Raises:
        BootEntryError: It is not there.

    Source:
        libostree ``_ostree_sysroot_ensure_boot_fd``: on the running host /boot, else the sysroot's ``boot``.
    """
    boot = host.boot if host.is_live else host.sysroot / "boot"
    inside = name.lstrip("/")
    for candidate in (inside, inside.removeprefix("boot/")):
        if host.find_status(boot / candidate) is not None:
            return boot / candidate
    raise BootEntryError(f"looking for {name}: there is no such file in {boot}")


def check_bootable(host: Host, deployment: OstreeDeployment) -> None:
    """Refuse a deployment whose kernel, initrd or tree is missing; blocks.

    Raises:
        BootEntryError: It would not boot.
    """
    what = f"looking at the boot entry of {shorten_digest(deployment.name)}"
    if deployment.boot.linux is None:
        raise BootEntryError(f"{what}: it names no kernel")
    try:
        for name in (deployment.boot.linux, *deployment.boot.initrds):
            find_boot_file(host, name)
    except BootEntryError as error:
        raise BootEntryError(f"{what}: it would not boot: {error}") from error
    if host.find_status(host.sysroot / deployment.path / "usr") is None:
        raise BootEntryError(f"{what}: it would not boot: {deployment.path} has no usr")


async def read_ostree(host: Host) -> OstreeSurvey:
    """Read all deployments; writes nothing, takes no lock.

    Cancellation: at libostree's next check.

    Raises:
        BootcFastError: libostree is not installed.
        FileSystemError: libostree cannot read the sysroot; with its text.
        InvalidStateError: Which deployment is booted cannot be told.
    """

    def read(cancellable: Any) -> OstreeSurvey:  # noqa: ANN401 - untyped library
        with open_sysroot(host, cancellable, writable=False) as sysroot:
            return survey_sysroot(host, sysroot, cancellable)

    load_libostree()
    return await run_ostree(read)


async def reorder_ostree(
    host: Host,
    choose: Callable[[OstreeSurvey], OstreeDeployment],
    *,
    enter: Callable[[Any, OstreeDeployment], None] | None = None,
) -> tuple[OstreeSurvey, OstreeDeployment]:
    """Make the deployment that `choose` picks the first, under libostree's lock; a staged one is dropped.

    Cancellation: at libostree's next check; once the order on disk is the new one the call returns.

    Args:
        host: Whose deployments.
        choose: Called with what is there, in another thread; its exceptions pass.
        enter: Called in that thread with the sysroot and the first deployment as the new order has it, to prepare a
            restart into it; where it raises a `SoftRebootError`, the old order is written back.

    Returns:
        What was there before, and what was picked.

    Raises:
        BootcFastError: libostree is not installed.
        SoftRebootError: As from `enter`; the old order is back.
        LockedError: Another process holds the sysroot's lock.
        FileSystemError: libostree refused; with its text. The old order stays.
        InvalidStateError: Which deployment is booted cannot be told.

    Source:
        ostree ``ostree_sysroot_write_deployments``; bootc ``deploy.rs``, ``rollback``.
    """

    def reorder(cancellable: Any) -> tuple[OstreeSurvey, OstreeDeployment]:  # noqa: ANN401 - untyped library
        with (
            open_sysroot(host, cancellable, writable=True) as sysroot,
            lock_sysroot(host, sysroot, cancellable),
        ):
            survey = survey_sysroot(host, sysroot, cancellable)
            first = choose(survey)
            _write_order(host, sysroot, survey, survey.order_with_first(first), cancellable)
            if enter is not None:
                _enter(host, sysroot, survey, first, enter)
            return survey, first

    load_libostree()
    return await run_ostree(reorder)


async def enter_ostree(
    host: Host,
    choose: Callable[[OstreeSurvey], OstreeDeployment],
    enter: Callable[[Any, OstreeDeployment], None],
) -> None:
    """Prepare a restart into a deployment under libostree's lock; the order of the deployments stays.

    Cancellation: at libostree's next check before `enter`, which is waited for.

    Args:
        host: Whose deployments.
        choose: Called with what is there, in another thread; its exceptions pass.
        enter: Called in that thread with the sysroot and what was chosen; its exceptions pass.

    Raises:
        BootcFastError: libostree is not installed.
        LockedError: Another process holds the sysroot's lock.
        FileSystemError: libostree refused; with its text.
        InvalidStateError: Which deployment is booted cannot be told.
    """

    def prepare(cancellable: Any) -> None:  # noqa: ANN401 - untyped library
        with (
            open_sysroot(host, cancellable, writable=True) as sysroot,
            lock_sysroot(host, sysroot, cancellable),
        ):
            enter(sysroot, choose(survey_sysroot(host, sysroot, cancellable)))

    load_libostree()
    await run_ostree(prepare)


def _enter(
    host: Host,
    sysroot: Any,  # noqa: ANN401 - untyped library
    before: OstreeSurvey,
    first: OstreeDeployment,
    enter: Callable[[Any, OstreeDeployment], None],
) -> None:
    """Prepare the restart; no cancellation comes between it and the order it belongs to."""
    try:
        sysroot.load_if_changed(None)
        # The new order has given each deployment another link, which its command line names.
        now = survey_sysroot(host, sysroot, None)
        enter(sysroot, next(one for one in now.order if one.key == first.key))
    except SoftRebootError as error:
        sysroot.load_if_changed(None)
        _write_order(host, sysroot, survey_sysroot(host, sysroot, None), before.order, None)
        gone = "; the staged update is gone" if before.staged is not None else ""
        message = f"{error}; the order of the deployments is the old one again{gone}"
        raise SoftRebootError(message, hint=error.hint) from error


def _write_order(
    host: Host,
    sysroot: Any,  # noqa: ANN401 - untyped library
    survey: OstreeSurvey,
    order: tuple[OstreeDeployment, ...],
    cancellable: Any,  # noqa: ANN401 - untyped library
) -> None:
    wanted = [one.key for one in order]
    if wanted != [one.key for one in survey.order] or survey.staged is not None:
        by_key = {make_key(one): one for one in sysroot.get_deployments() if not one.is_staged()}
        try:
            with ostree_errors("writing the order of the deployments"):
                sysroot.write_deployments([by_key[key] for key in wanted], cancellable)
        except FileSystemError:
            # A cancellation or a full disk in the clean-up that follows the switch changes nothing about the switch.
            if not _is_written(host, wanted):
                raise
    if not host.is_live:
        # libostree drops the staged deployment of the machine that it runs on only.
        host.remove_file(staged_file(host))


def _is_written(host: Host, wanted: list[tuple[str, str, int]]) -> bool:
    with open_sysroot(host, None, writable=False) as sysroot:
        return [make_key(one) for one in sysroot.get_deployments()] == wanted


def prepare_soft_reboot(sysroot: Any, deployment: OstreeDeployment) -> None:  # noqa: ANN401 - untyped library
    """Let libostree mount a deployment at ``/run/nextroot``; blocks. For the `enter` of `reorder_ostree`.

    Raises:
        FileSystemError: libostree refused; with its text. Nothing is mounted.
    """
    handle = next(one for one in sysroot.get_deployments() if make_key(one) == deployment.key)
    with ostree_errors("libostree's preparation"):
        sysroot.deployment_set_soft_reboot(handle, False, None)  # noqa: FBT003 - C API


def clear_soft_reboot(sysroot: Any) -> None:  # noqa: ANN401 - untyped library
    """Let libostree forget a soft reboot that was prepared, into whichever deployment; blocks.

    Raises:
        FileSystemError: libostree refused; with its text.
    """
    # Older ones know of none.
    if hasattr(sysroot, "clear_soft_reboot"):
        with ostree_errors("clearing a soft reboot that was prepared"):
            sysroot.clear_soft_reboot(None)
