"""Reading an ostree host's deployments from a loaded sysroot.

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

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from bootc_fast.errors import FileSystemError, InvalidStateError
from bootc_fast.machine.cmdline import split_cmdline
from bootc_fast.machine.mountinfo import find_mount, parse_mountinfo
from bootc_fast.ostree.commit import lookup_text, read_commit_images
from bootc_fast.ostree.deployment import OstreeBoot, OstreeDeployment, OstreeSurvey
from bootc_fast.ostree.libostree import load_libostree, ostree_errors
from bootc_fast.ostree.obstacles import find_soft_reboot_obstacles
from bootc_fast.records import replace
from bootc_fast.text import reason_of

if TYPE_CHECKING:
    from pathlib import Path

    from bootc_fast.machine.host import Host

# rpm-ostree writes them when packages are added to, or replaced in, what the image has.
_LAYERING_GROUPS = ("rpmostree", "packages", "overrides", "modules")
_BOOT_ARGUMENT = re.compile(r"/?ostree/boot\.[01]/([^/]+)/([0-9a-f]{64})/\d+/?")
_BOOTED_ROOT = re.compile(r".*/ostree/deploy/([^/]+)/deploy/([0-9a-f]{64})\.(\d+)")
_STAGED_NAME = re.compile(r"([0-9a-f]{64})\.(\d+)")


def make_key(one: Any) -> tuple[str, str, int]:  # noqa: ANN401 - untyped library
    """Stateroot, commit and serial of libostree's deployment."""
    return one.get_osname(), one.get_csum(), one.get_deployserial()


def staged_file(host: Host) -> Path:
    """Where libostree keeps what it finalizes at shutdown."""
    return host.run / "ostree/staged-deployment"


def survey_sysroot(host: Host, sysroot: Any, cancellable: Any) -> OstreeSurvey:  # noqa: ANN401 - untyped library
    """Describe all deployments; blocks.

    Args:
        host: Whose.
        sysroot: Loaded.
        cancellable: A ``Gio.Cancellable`` or None.

    Raises:
        FileSystemError: libostree refused.
        InvalidStateError: Which deployment is booted cannot be told.
    """
    with ostree_errors("reading the deployments"):
        repo = sysroot.get_repo(cancellable)[1]
        handles = sysroot.get_deployments()
        described = [_describe(one, repo) for one in handles]
        live = sysroot.get_booted_deployment()
    order = tuple(one for one in described if not one.is_staged)
    staged = next((one for one in described if one.is_staged), None)
    if host.is_live:
        booted = next((one for one in order if live and one.key == make_key(live)), None)
        if booted is None:
            raise InvalidStateError("finding the booted deployment: libostree knows none that runs")
    else:
        booted = _find_booted(host, order)
        staged = _read_staged(host, repo)
    if staged is not None and host.find_status(host.run / "ostree/staged-deployment-locked") is not None:
        staged = replace(staged, is_finalization_locked=True)
    by_key = {make_key(one): one for one in handles}

    def judge(one: OstreeDeployment) -> OstreeDeployment:
        handle = by_key.get(one.key)
        if one.key == booted.key or handle is None:
            return one
        found = find_soft_reboot_obstacles(host, sysroot, booted, one, handle)
        return replace(one, soft_reboot_obstacles=found)

    judged = tuple(map(judge, order))
    rollback = next((one for one in judged if one != booted and one.stateroot == booted.stateroot), None)
    return OstreeSurvey(booted, None if staged is None else judge(staged), rollback, judged)


def _find_booted(host: Host, order: tuple[OstreeDeployment, ...]) -> OstreeDeployment:
    """Find what runs in a host laid out in a directory; see the module's text."""
    what = "finding the booted deployment"
    mount = find_mount(parse_mountinfo(_read_or_empty(host, host.mountinfo)), b"/")
    named = _BOOTED_ROOT.fullmatch(mount.root.decode("utf-8", "replace")) if mount else None
    if named:
        found = [one for one in order if one.key == (named[1], named[2], int(named[3]))]
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
        raise FileSystemError(f"reading {path}: {reason_of(error)}") from error


def _read_staged(host: Host, repo: Any) -> OstreeDeployment | None:  # noqa: ANN401 - untyped library
    """Read what libostree would, did the machine it runs on have this file."""
    data = _read_or_empty(host, staged_file(host))
    if not data:
        return None
    _, _, glib = load_libostree()
    # An untrusted GVariant: whatever does not fit its type reads as that type's default.
    outer = glib.Variant.new_from_bytes(glib.VariantType("a{sv}"), glib.Bytes.new(data), False)  # noqa: FBT003 - C API
    target = outer.lookup_value("target", glib.VariantType("a{sv}"))
    name = _STAGED_NAME.fullmatch(lookup_text(target, "name") or "") if target else None
    stateroot = lookup_text(target, "osname") if target else None
    if name is None or not stateroot:
        raise InvalidStateError(f"reading {staged_file(host)}: it names no deployment")
    origin_path = host.sysroot / f"ostree/deploy/{stateroot}/deploy/{name[0]}.origin"
    origin = glib.KeyFile.new()
    with suppress(glib.Error):
        origin.load_from_bytes(glib.Bytes.new(_read_or_empty(host, origin_path)), glib.KeyFileFlags.NONE)
    locked = outer.lookup_value("locked", glib.VariantType("b"))
    return OstreeDeployment(
        stateroot,
        name[1],
        int(name[2]),
        is_staged=True,
        is_finalization_locked=locked is not None and locked.get_boolean(),
        **_origin_facts(origin),
        **read_commit_images(repo, name[1]),
    )


def _describe(one: Any, repo: Any) -> OstreeDeployment:  # noqa: ANN401 - untyped library
    ostree, _, _ = load_libostree()
    stateroot, checksum, serial = make_key(one)
    config = one.get_bootconfig()
    is_staged = one.is_staged()
    # Since 2023.8; before, the lock file alone said it.
    is_locked = is_staged and hasattr(one, "is_finalization_locked") and one.is_finalization_locked()
    return OstreeDeployment(
        stateroot,
        checksum,
        serial,
        boot_checksum=one.get_bootcsum() or "",
        is_pinned=one.is_pinned(),
        is_staged=is_staged,
        is_finalization_locked=is_locked,
        unlocked=ostree.Deployment.unlocked_state_to_string(one.get_unlocked()),
        title=config.get("title") if config else None,
        boot=_read_boot(config) if config else OstreeBoot(),
        **_origin_facts(one.get_origin()),
        **read_commit_images(repo, checksum),
    )


def _read_boot(config: Any) -> OstreeBoot:  # noqa: ANN401 - untyped library
    first = config.get("initrd")
    overlays = config.get_overlay_initrds() or []
    return OstreeBoot(config.get("linux"), (*([first] if first else []), *overlays), config.get("options") or "")


def _origin_facts(origin: Any) -> dict[str, Any]:  # noqa: ANN401 - untyped library
    _, _, glib = load_libostree()
    if origin is None:
        return {}
    try:
        reference = str(origin.get_string("origin", "container-image-reference")) or None
    except glib.Error:
        reference = None
    return {"reference": reference, "is_changed_locally": any(origin.has_group(name) for name in _LAYERING_GROUPS)}
