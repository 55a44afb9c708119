"""What stands against a soft reboot into an ostree deployment, as far as libostree and the deployments tell.

Source:
    ostree ``ostree_sysroot_deployment_can_soft_reboot`` and ``ostree-soft-reboot.c``; bootc ``status.rs``,
    ``has_soft_reboot_capability``.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from bootc_fast.machine.cmdline import describe_argument_change, split_cmdline
from bootc_fast.machine.keyfile import KeyFileError, parse_key_file
from bootc_fast.ostree.libostree import load_libostree
from bootc_fast.text import reason_of, shorten_digest

if TYPE_CHECKING:
    from bootc_fast.machine.host import Host
    from bootc_fast.ostree.deployment import OstreeDeployment

# ostree_sysroot_deployment_set_soft_reboot came with it.
NEEDED_RELEASE = "2025.3"
# Which link leads to the deployment: another one for each of them.
_NOT_COMPARED = "ostree="
_COMPOSEFS_ARGUMENT = "ostree.prepare-root.composefs="
# "maybe" does not do: libostree refuses what may not become one.
_COMPOSEFS_ON = frozenset({"yes", "true", "1", "signed", "verity"})
_PREPARE_ROOT = "ostree/prepare-root.conf"


def find_soft_reboot_obstacles(
    host: Host,
    sysroot: Any,  # noqa: ANN401 - untyped library
    booted: OstreeDeployment,
    target: OstreeDeployment,
    handle: Any,  # noqa: ANN401 - untyped library
) -> tuple[str, ...]:
    """Name all that is known to stand against a soft reboot from `booted` to `target`; blocks, writes nothing.

    Args:
        host: Theirs.
        sysroot: Loaded.
        booted: What runs.
        target: Another deployment.
        handle: libostree's deployment for `target`.

    Returns:
        Reasons in words for people; empty where libostree would do it.
    """
    found = (
        _find_missing_function(),
        _compare_kernels(booted, target),
        _compare_arguments(booted, target),
        _find_missing_composefs(host, target),
        _compare_policies(host, booted, target),
    )
    reasons = tuple(one for one in found if one is not None)
    if not reasons and host.is_live and not sysroot.deployment_can_soft_reboot(handle):
        return ("libostree says that it cannot",)
    return reasons


def _find_missing_function() -> str | None:
    ostree, _, _ = load_libostree()
    if hasattr(ostree.Sysroot, "deployment_set_soft_reboot"):
        return None
    return f"libostree {ostree.YEAR_VERSION}.{ostree.RELEASE_VERSION} cannot prepare one, {NEEDED_RELEASE} can"


def _compare_kernels(booted: OstreeDeployment, target: OstreeDeployment) -> str | None:
    if booted.boot_checksum == target.boot_checksum:
        return None
    runs, wanted = (shorten_digest(one.boot_checksum, 12) for one in (booted, target))
    return f"kernel differs: {runs} runs, this one has {wanted}"


def _compare_arguments(booted: OstreeDeployment, target: OstreeDeployment) -> str | None:
    if target.is_staged and not target.boot.options:
        # They are made from those of what runs when it is finalized.
        return None
    for one in (booted, target):
        # Before 2025.7 libostree aborts the process on such a one.
        if _NOT_COMPARED not in one.boot.options:
            return f"the boot entry of {shorten_digest(one.name)} has no {_NOT_COMPARED}"
    running, wanted = (
        [text for text in split_cmdline(one.boot.options) if not text.startswith(_NOT_COMPARED)]
        for one in (booted, target)
    )
    return describe_argument_change(running, wanted)


def _find_missing_composefs(host: Host, target: OstreeDeployment) -> str | None:
    """Libostree makes the next root from a composefs image only."""
    with suppress(OSError):
        line = host.read_bytes(host.proc_cmdline).decode("utf-8", "surrogateescape")
        values = [one for one in split_cmdline(line) if one.startswith(_COMPOSEFS_ARGUMENT)]
        if values:
            is_on = values[-1].removeprefix(_COMPOSEFS_ARGUMENT) in _COMPOSEFS_ON
            return None if is_on else f"{values[-1]} switches composefs off, and libostree wants it"
    for directory in ("etc", "usr/lib"):
        with suppress(OSError, KeyFileError, UnicodeDecodeError):
            text = host.read_bytes(host.sysroot / target.path / directory / _PREPARE_ROOT).decode()
            value = parse_key_file(text).get("composefs", "enabled", fallback="no").strip()
            return None if value in _COMPOSEFS_ON else _no_composefs(f"{directory}/{_PREPARE_ROOT}")
    return _no_composefs(f"usr/lib/{_PREPARE_ROOT}")


def _no_composefs(path: str) -> str:
    return f"{path} does not enable composefs, and libostree wants it"


def _compare_policies(host: Host, booted: OstreeDeployment, target: OstreeDeployment) -> str | None:
    """A policy is not loaded again by a soft reboot."""
    ostree, gio, glib = load_libostree()
    with suppress(OSError):
        if host.find_status(host.root / "sys/fs/selinux/enforce") is None:
            return None
    checksums = []
    for one in (booted, target):
        try:
            with host.open_directory(host.sysroot / one.path) as fd:
                checksums.append(ostree.SePolicy.new(gio.File.new_for_path(f"/proc/self/fd/{fd}"), None).get_csum())
        except (OSError, glib.Error) as error:
            text = error.message if isinstance(error, glib.Error) else reason_of(error)
            return f"the SELinux policy of {shorten_digest(one.name)} cannot be read: {text}"
    return None if checksums[0] == checksums[1] else "SELinux policy differs"
