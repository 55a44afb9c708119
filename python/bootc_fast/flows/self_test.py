"""What an image lacks for bootc-fast to do its work when that image runs: asked while the image is built.

Whatever is imported only in some cases, as with Secure Boot, is imported here: what is missing is to stop the build,
not some shutdown. With a root other than / nothing of it is run, and files are looked at alone.

Source:
    Spec packaging.md; bootc's ``container lint`` for the place that this has in a build.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

from bootc_fast.boot.loaders.table import record_of
from bootc_fast.errors import BootcFastError
from bootc_fast.flows.self_test_labels import check_labels
from bootc_fast.flows.self_test_python import check_byte_code, check_imports, check_versions
from bootc_fast.records import dataclass
from bootc_fast.report.policies import check_host
from bootc_fast.text import describe_error, hint_of
from bootc_fast.types import Loader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bootc_fast.machine.host import Host

UNITS = ("bootc-fast-finalize-staged.service", "bootc-fast-boot-complete.service")
BOOTC_DROP_IN = "bootc-finalize-staged.service.d/50-bootc-fast.conf"
COMMAND = "usr/bin/bootc-fast"
_PACKAGE_UNITS, _ADMIN_UNITS = "usr/lib/systemd/system", "etc/systemd/system"
_REINSTALL = "install the package bootc-fast again"
# Of no bytes at all, in blocks of 4096: fsverity-utils prints the same.
_EMPTY_DIGESTS = {
    "sha256": "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95",
    "sha512": "ccf9e5aea1c2a64efa2f2354a6024b90dffde6bbc017825045dce374474e13d1"
    "0adb9dadcc6ca8e17a3c075fbd31336e8f266ae6fa93a6c3bed66f9e784e5abf",
}


@dataclass(frozen=True, slots=True)
class SelfTestResult:
    """What one check found.

    Attributes:
        name: Of the check: ``command``, ``python``, ``libraries`` …
        state: ``ok``, ``warning``, which passes, or ``failed``, which does not.
        message: One line.
        hint: What to do; None where all is well.
    """

    name: str
    state: str
    message: str
    hint: str | None = None


def self_test(host: Host) -> tuple[SelfTestResult, ...]:
    """Run every check; none stops another.

    Args:
        host: The image's root. Of ``/`` everything that can be imported is imported, and the core computes.

    Returns:
        One result or more for each check, in a fixed order. An error of a check is its result.

    Source:
        Spec packaging.md, "Units".
    """
    checks: dict[str, Callable[[Host], Iterator[tuple[str, str, str | None]]]] = {
        "command": _check_command,
        "python": check_versions,
        "libraries": check_imports,
        "core": _check_core,
        "byte-code": check_byte_code,
        "units": _check_units,
        "policy": _check_policies,
        "kernel": _check_kernel,
        "loader": _check_loader,
        "selinux": check_labels,
    }
    found: list[SelfTestResult] = []
    for name, check in checks.items():
        try:
            found += [SelfTestResult(name, state, message, hint) for state, message, hint in check(host)]
        except (OSError, BootcFastError) as error:
            found.append(SelfTestResult(name, "failed", describe_error(error), hint_of(error)))
    return tuple(found)


def _check_command(host: Host) -> Iterator[tuple[str, str, str | None]]:
    path = host.root / COMMAND
    status = host.find_status(path)
    if status is None:
        yield "failed", f"/{COMMAND} is not there", _REINSTALL
        return
    first = host.read_bytes(path).split(b"\n", 1)[0]
    if not status.st_mode & 0o111:
        yield "failed", f"/{COMMAND} is not executable", _REINSTALL
    elif first != b"#!/usr/bin/python3 -IS":
        yield "failed", f"/{COMMAND} is not the launcher of this package", "let no other package or pip own it"
    else:
        yield "ok", f"/{COMMAND}", None


def _check_core(host: Host) -> Iterator[tuple[str, str, str | None]]:
    if not host.is_live:
        yield "ok", "not run under --root", None
        return
    core = importlib.import_module("bootc_fast._core")
    for algorithm, expected in _EMPTY_DIGESTS.items():
        (digest,) = core.digest_many([b""], algorithm=algorithm)
        if digest != expected:
            yield "failed", f"the core computes a wrong {algorithm} digest: {digest}", "this processor is not served"
            return
    yield "ok", "the core loads and computes", None


def _check_units(host: Host) -> Iterator[tuple[str, str, str | None]]:
    admin, package = host.root / _ADMIN_UNITS, host.root / _PACKAGE_UNITS
    for unit in UNITS:
        if _is_masked(admin / unit):
            yield "ok", f"{unit} is masked", None
        elif host.find_status(package / unit) is None:
            yield "failed", f"{unit} is not there", _REINSTALL
        elif not any(
            host.find_status(place / "multi-user.target.wants" / unit, follow=False) for place in (package, admin)
        ):
            hint = f"ln -s ../{unit} /{_PACKAGE_UNITS}/multi-user.target.wants/"
            yield "failed", f"{unit} is not started: no link in multi-user.target.wants", hint
        else:
            yield "ok", f"{unit} is on", None
    if _is_masked(admin / BOOTC_DROP_IN):
        yield "ok", "bootc's own finalize is in charge", None
    elif host.find_status(package / BOOTC_DROP_IN) is None:
        yield "failed", f"the drop-in {BOOTC_DROP_IN} is not there: bootc's own unit would finalize, too", _REINSTALL
    elif _is_masked(admin / UNITS[0]):
        hint = "mask the drop-in, too: docs/image-builder.md"
        yield "warning", f"{UNITS[0]} is masked, and bootc's own unit still runs bootc-fast", hint


def _is_masked(path: Path) -> bool:
    try:
        return os.readlink(path) == os.devnull
    except OSError:
        return False


def _check_policies(host: Host) -> Iterator[tuple[str, str, str | None]]:
    errors = [error for report in check_host(host) for error in report.errors]
    for error in errors:
        yield "failed", describe_error(error), hint_of(error)
    if not errors:
        yield "ok", "every policy file can be understood", None


def _check_kernel(host: Host) -> Iterator[tuple[str, str, str | None]]:
    modules = host.root / "usr/lib/modules"
    versions = [os.fsdecode(name) for name in host.list_directory(modules)]
    whole = [name for name in versions if host.find_status(modules / name / "vmlinuz") is not None]
    if len(whole) == 1:
        yield "ok", f"kernel {whole[0]}", None
    elif whole:
        yield "warning", f"more than one kernel: {', '.join(whole)}", "bootc takes one; remove the others"
    else:
        hint = "bootc needs the kernel there; an image that others are built on may have none"
        yield "warning", "no usr/lib/modules/VERSION/vmlinuz", hint


def _check_loader(host: Host) -> Iterator[tuple[str, str, str | None]]:
    found = [
        str(record.loader)
        for record in map(record_of, Loader)
        if any(host.list_directory(host.root / place) for place in record.package_directories)
    ]
    if found:
        yield "ok", f"loader: {', '.join(found)}", None
    else:
        hint = "install systemd-boot, or GRUB with bootupd; a host that is installed already keeps the one it has"
        yield "warning", "no boot loader that bootc-fast knows", hint
