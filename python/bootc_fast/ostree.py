"""Deployments of an ostree host: read, and put into another order, through libostree.

Which one is booted: on a live host libostree says so, by the device and inode of ``/``. Under ``--root DIR`` nothing
is booted in libostree's eyes; there it is told by, in this order,

1. the mount at ``/`` in ``DIR/proc/self/mountinfo``, whose root is
   ``/ostree/deploy/<stateroot>/deploy/<commit>.<serial>``;
2. ``ostree=/ostree/boot.<0|1>/<stateroot>/<boot checksum>/<serial>`` in ``DIR/proc/cmdline``: the deployment with that
   stateroot and boot checksum. The link of that name is not followed: the first change of the order replaces it.
   Several deployments with the same kernel cannot be told apart this way, which is an error.

A staged deployment is libostree's on a live host; under ``--root`` it is ``DIR/run/ostree/staged-deployment``.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bootc_fast._cmdline import split_cmdline
from bootc_fast._libostree import load_libostree, lock_sysroot, open_sysroot, ostree_errors, run_ostree
from bootc_fast._mountinfo import find_mount, parse_mountinfo
from bootc_fast.deployments import read_booted
from bootc_fast.errors import FileSystemError, InvalidStateError, NotBootcHostError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bootc_fast.host import Host

__all__ = ["OstreeDeployment", "OstreeSurvey", "is_ostree_host", "read_ostree", "reorder_ostree"]

_MANIFEST_DIGEST = "ostree.manifest-digest"
_IMAGE_CONFIG = "ostree.container.image-config"
_VERSION_LABELS = ("org.opencontainers.image.version", "version")
# rpm-ostree writes them when packages are added to, or replaced in, what the image has.
_LAYERING_GROUPS = ("packages", "overrides", "modules")
_BOOT_ARGUMENT = re.compile(r"/?ostree/boot\.[01]/([^/]+)/([0-9a-f]{64})/\d+/?")
_BOOTED_ROOT = re.compile(r".*/ostree/deploy/([^/]+)/deploy/([0-9a-f]{64})\.(\d+)")
_STAGED_NAME = re.compile(r"([0-9a-f]{64})\.(\d+)")


@dataclass(frozen=True, slots=True)
class OstreeDeployment:
    """One deployment.

    Attributes:
        stateroot: Whose ``/var`` it has; also called osname.
        checksum: Of its commit, 64 hex digits.
        serial: Tells deployments of one commit apart.
        boot_checksum: Over its kernel and initrd; empty for a staged one under ``--root``.
        is_pinned: Never removed as garbage.
        is_staged: Becomes the default at shutdown.
        reference: ``container-image-reference`` of its origin; None where it did not come from a container.
        is_changed_locally: The origin names packages or overrides that the image does not have.
        manifest_digest: ``sha256:<hex>``, of its commit's metadata.
        version: Of the image, else of the commit.
        timestamp: When it was built, ISO 8601.
        architecture: E.g. ``amd64``.
        title: Of its boot entry.
        problems: What cannot be read, in words for people.
    """

    stateroot: str
    checksum: str
    serial: int
    boot_checksum: str = ""
    is_pinned: bool = False
    is_staged: bool = False
    reference: str | None = None
    is_changed_locally: bool = False
    manifest_digest: str | None = None
    version: str | None = None
    timestamp: str | None = None
    architecture: str | None = None
    title: str | None = None
    problems: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """``<commit>.<serial>``, unique in its stateroot, as `ostree admin status` prints it."""
        return f"{self.checksum}.{self.serial}"


@dataclass(frozen=True, slots=True)
class OstreeSurvey:
    """All deployments of a host.

    Attributes:
        booted: What runs.
        staged: What becomes the default at shutdown; None where nothing is staged.
        rollback: First of the booted stateroot's others; None where there is none.
        order: All but the staged one, in libostree's order; the first boots next.
        finalization_locked: The staged one stays unapplied until it is unlocked.
    """

    booted: OstreeDeployment
    staged: OstreeDeployment | None
    rollback: OstreeDeployment | None
    order: tuple[OstreeDeployment, ...]
    finalization_locked: bool = False

    @property
    def rollback_queued(self) -> bool:
        """The rollback deployment stands before the booted one."""
        return self.rollback is not None and self.order.index(self.rollback) < self.order.index(self.booted)

    def order_with_first(self, first: OstreeDeployment) -> tuple[OstreeDeployment, ...]:
        """`first`, then what runs (or, where that is first, the rollback deployment), then all others as they are."""
        second = self.rollback if first == self.booted else self.booted
        head = [first, *([second] if second is not None else [])]
        return (*head, *(one for one in self.order if one not in head))


def is_ostree_host(host: Host) -> bool:
    """Say whether the host booted with ostree, and not from a composefs image that bootc made.

    Raises:
        InvalidStateError: The mount at / or the command line name composefs, but no digest.

    Source:
        Spec host.md, "Which deployment is booted"; ostree-prepare-root, ``/run/ostree-booted``.
    """
    if host.find_status(host.ostree_booted) is None or host.find_status(host.sysroot / "ostree/repo") is None:
        return False
    try:
        read_booted(host)
    except NotBootcHostError:
        return True
    return False


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
            return _survey(host, sysroot, cancellable)

    load_libostree()
    return await run_ostree(read)


async def reorder_ostree(
    host: Host, choose: Callable[[OstreeSurvey], OstreeDeployment]
) -> tuple[OstreeSurvey, OstreeDeployment]:
    """Make the deployment that `choose` picks the first, under libostree's lock; a staged one is dropped.

    Cancellation: at libostree's next check; once the order on disk is the new one the call returns.

    Args:
        host: Whose deployments.
        choose: Called with what is there, in another thread; its exceptions pass.

    Returns:
        What was there before, and what was picked.

    Raises:
        BootcFastError: libostree is not installed.
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
            survey = _survey(host, sysroot, cancellable)
            first = choose(survey)
            _write_order(host, sysroot, survey, survey.order_with_first(first), cancellable)
            return survey, first

    load_libostree()
    return await run_ostree(reorder)


def _write_order(
    host: Host,
    sysroot: Any,  # noqa: ANN401 - untyped library
    survey: OstreeSurvey,
    order: tuple[OstreeDeployment, ...],
    cancellable: Any,  # noqa: ANN401 - untyped library
) -> None:
    if order != survey.order or survey.staged is not None:
        by_key = {_key(one): one for one in sysroot.get_deployments() if not one.is_staged()}
        wanted = [(one.stateroot, one.checksum, one.serial) for one in order]
        try:
            with ostree_errors("writing the order of the deployments"):
                sysroot.write_deployments([by_key[key] for key in wanted], cancellable)
        except FileSystemError:
            # A cancellation or a full disk in the clean-up that follows the switch changes nothing about the switch.
            if not _is_written(host, wanted):
                raise
    if not host.is_live:
        # libostree drops the staged deployment of the machine that it runs on only.
        host.remove_file(_staged_file(host))


def _is_written(host: Host, wanted: list[tuple[str, str, int]]) -> bool:
    with open_sysroot(host, None, writable=False) as sysroot:
        return [_key(one) for one in sysroot.get_deployments()] == wanted


def _key(one: Any) -> tuple[str, str, int]:  # noqa: ANN401 - untyped library
    return one.get_osname(), one.get_csum(), one.get_deployserial()


def _survey(host: Host, sysroot: Any, cancellable: Any) -> OstreeSurvey:  # noqa: ANN401 - untyped library
    with ostree_errors("reading the deployments"):
        repo = sysroot.get_repo(cancellable)[1]
        described = [_describe(one, repo) for one in sysroot.get_deployments()]
        live = sysroot.get_booted_deployment()
    order = tuple(one for one in described if not one.is_staged)
    staged = next((one for one in described if one.is_staged), None)
    if host.is_live:
        booted = next((one for one in order if live and (one.stateroot, one.checksum, one.serial) == _key(live)), None)
        if booted is None:
            raise InvalidStateError("finding the booted deployment: libostree knows none that runs")
    else:
        booted = _find_booted(host, order)
        staged = _read_staged(host, repo)
    rollback = next((one for one in order if one != booted and one.stateroot == booted.stateroot), None)
    is_locked = host.find_status(host.run / "ostree/staged-deployment-locked") is not None
    return OstreeSurvey(booted, staged, rollback, order, finalization_locked=staged is not None and is_locked)


def _find_booted(host: Host, order: tuple[OstreeDeployment, ...]) -> OstreeDeployment:
    """Find what runs in a host laid out in a directory; see the module's text."""
    what = "finding the booted deployment"
    mount = find_mount(parse_mountinfo(_read_or_empty(host, host.mountinfo)), b"/")
    named = _BOOTED_ROOT.fullmatch(mount.root.decode("utf-8", "replace")) if mount else None
    if named:
        key = (named[1], named[2], int(named[3]))
        found = [one for one in order if (one.stateroot, one.checksum, one.serial) == key]
    else:
        text = _read_or_empty(host, host.proc_cmdline).decode("utf-8", "surrogateescape")
        arguments = [one.removeprefix("ostree=") for one in split_cmdline(text) if one.startswith("ostree=")]
        named = _BOOT_ARGUMENT.fullmatch(arguments[-1]) if arguments else None
        if named is None:
            raise InvalidStateError(
                f"{what}: neither {host.mountinfo} nor an ostree= argument in {host.proc_cmdline} names one"
            )
        found = [one for one in order if (one.stateroot, one.boot_checksum) == (named[1], named[2])]
    if len(found) == 1:
        return found[0]
    if found:
        raise InvalidStateError(
            f"{what}: {len(found)} deployments have the kernel that {host.proc_cmdline} names",
            hint=f"name it by the root of the mount at / in {host.mountinfo}",
        )
    raise InvalidStateError(f"{what}: there is no deployment {named[0]}")


def _read_or_empty(host: Host, path: Path) -> bytes:
    try:
        return host.read_bytes(path)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise InvalidStateError(f"reading {path}: {error.strerror}") from error


def _staged_file(host: Host) -> Path:
    return host.run / "ostree/staged-deployment"


def _read_staged(host: Host, repo: Any) -> OstreeDeployment | None:  # noqa: ANN401 - untyped library
    data = _read_or_empty(host, _staged_file(host))
    if not data:
        return None
    _, _, glib = load_libostree()
    # An untrusted GVariant: whatever does not fit its type reads as that type's default.
    outer = glib.Variant.new_from_bytes(glib.VariantType("a{sv}"), glib.Bytes.new(data), False)  # noqa: FBT003 - C API
    target = outer.lookup_value("target", glib.VariantType("a{sv}"))
    name = _STAGED_NAME.fullmatch(_lookup(target, "name") or "") if target else None
    stateroot = _lookup(target, "osname") if target else None
    if name is None or not stateroot:
        raise InvalidStateError(f"reading {_staged_file(host)}: it names no deployment")
    origin_path = host.sysroot / f"ostree/deploy/{stateroot}/deploy/{name[0]}.origin"
    origin = glib.KeyFile.new()
    with suppress(glib.Error):
        origin.load_from_bytes(glib.Bytes.new(_read_or_empty(host, origin_path)), glib.KeyFileFlags.NONE)
    return OstreeDeployment(
        stateroot, name[1], int(name[2]), is_staged=True, **_origin_facts(origin), **_commit_facts(repo, name[1])
    )


def _describe(one: Any, repo: Any) -> OstreeDeployment:  # noqa: ANN401 - untyped library
    stateroot, checksum, serial = _key(one)
    config = one.get_bootconfig()
    return OstreeDeployment(
        stateroot,
        checksum,
        serial,
        boot_checksum=one.get_bootcsum() or "",
        is_pinned=one.is_pinned(),
        is_staged=one.is_staged(),
        title=config.get("title") if config else None,
        **_origin_facts(one.get_origin()),
        **_commit_facts(repo, checksum),
    )


def _origin_facts(origin: Any) -> dict[str, Any]:  # noqa: ANN401 - untyped library
    _, _, glib = load_libostree()
    if origin is None:
        return {}
    try:
        reference = str(origin.get_string("origin", "container-image-reference")) or None
    except glib.Error:
        reference = None
    return {"reference": reference, "is_changed_locally": any(origin.has_group(name) for name in _LAYERING_GROUPS)}


def _commit_facts(repo: Any, checksum: str) -> dict[str, Any]:  # noqa: ANN401 - untyped library
    _, _, glib = load_libostree()
    try:
        return _read_commit(repo, checksum)
    except glib.Error as error:
        return {"problems": (f"its commit cannot be read: {error.message}",)}


def _read_commit(repo: Any, checksum: str) -> dict[str, Any]:  # noqa: ANN401 - untyped library
    """Read what the commit tells of its image.

    Source:
        bootc ``ostree-ext/src/container/store.rs``: the metadata of a merge commit.
    """
    from datetime import UTC, datetime

    ostree, _, _ = load_libostree()
    commit = repo.load_commit(checksum)[1]
    metadata = commit.get_child_value(0)
    config = _parse_object(_lookup(metadata, _IMAGE_CONFIG))
    labels = _as_object(_as_object(config.get("config")).get("Labels"))
    versions = [labels.get(name) for name in _VERSION_LABELS] + [_lookup(metadata, "version")]
    seconds = ostree.commit_get_timestamp(commit)
    return {
        "manifest_digest": _lookup(metadata, _MANIFEST_DIGEST),
        "version": next((one for one in versions if isinstance(one, str)), None),
        "timestamp": datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z") if seconds else None,
        "architecture": config["architecture"] if isinstance(config.get("architecture"), str) else None,
    }


def _lookup(dictionary: Any, key: str) -> str | None:  # noqa: ANN401 - untyped library
    _, _, glib = load_libostree()
    value = dictionary.lookup_value(key, glib.VariantType("s"))
    return None if value is None else str(value.get_string())


def _parse_object(text: str | None) -> dict[str, Any]:
    try:
        return _as_object(json.loads(text)) if text else {}
    except (ValueError, RecursionError):
        return {}


def _as_object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
