"""Deployments: which one is staged, which there are, and what their origin files say."""

from __future__ import annotations

import re
import stat

from bootc_fast.errors import FileSystemError, InvalidStateError
from bootc_fast.machine.booted import has_image_file
from bootc_fast.machine.cmdline import parse_digest
from bootc_fast.machine.keyfile import KeyFileError, parse_key_file
from bootc_fast.text import escape, escape_bytes, reason_of
from bootc_fast.types import BootType, Deployment, Origin, StagedMarker

# Not from typing: importing that takes a tenth of the whole start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

    from bootc_fast.machine.host import Host
    from bootc_fast.types import Booted, VerityDigest

_MANIFEST_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_BOOT_DIGEST = re.compile(r"[0-9a-f]{64}")
NOT_HANDLED = frozenset({"aboot"})
"""Boot types that bootc knows and this program does not: Android's boot images lie in partitions of their own."""

_MARKER_HINT = "stage the update again with `bootc upgrade`, which writes it anew"


def _read_text(host: Host, path: Path, *, hint: str | None = None) -> str:
    """Read a state file; FileNotFoundError passes.

    Raises:
        FileSystemError: It cannot be read, which says nothing about what is in it.
        InvalidStateError: It is no text, or too long.
    """
    try:
        return host.read_bytes(path).decode("utf-8")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileSystemError(f"reading {path}: {reason_of(error)}") from error
    except UnicodeDecodeError as error:
        message = f"reading {path}: the byte at offset {error.start} is not UTF-8"
        raise InvalidStateError(message, hint=hint) from error


def parse_staged_marker(text: str, *, what: str) -> StagedMarker:
    """Parse the staged marker, today's JSON or the bare digest of before 2026.

    Raises:
        InvalidStateError: It is anything else.

    Source:
        Spec host.md, "Staged marker".
    """
    stripped = text.strip()
    if not stripped:
        raise InvalidStateError(f"{what}: it is empty", hint=_MARKER_HINT)
    if not stripped.startswith("{"):
        # Only one newline is dropped: bootc wrote the digest with or without it, and nothing else.
        return StagedMarker(_parse_marker_digest(text.removesuffix("\n"), what=what))
    try:
        import json

        fields = json.loads(stripped)
    except (ValueError, RecursionError) as error:
        raise InvalidStateError(f"{what}: it is not JSON: {error}", hint=_MARKER_HINT) from error
    digest, is_locked = fields.get("depl_id"), fields.get("finalization_locked", False)
    if not isinstance(digest, str):
        raise InvalidStateError(f"{what}: depl_id is missing or no string", hint=_MARKER_HINT)
    if not isinstance(is_locked, bool):
        raise InvalidStateError(f"{what}: finalization_locked is neither true nor false", hint=_MARKER_HINT)
    return StagedMarker(_parse_marker_digest(digest, what=what), is_locked)


def _parse_marker_digest(text: str, *, what: str) -> VerityDigest:
    try:
        return parse_digest(text, what=what)
    except InvalidStateError as error:
        error.hint = _MARKER_HINT
        raise


def read_staged_marker(host: Host) -> StagedMarker | None:
    """Read which deployment is staged; None where none is.

    Raises:
        InvalidStateError: The marker is there and malformed.
        FileSystemError: It cannot be read.
    """
    try:
        text = _read_text(host, host.staged_marker, hint=_MARKER_HINT)
    except FileNotFoundError:
        return None
    return parse_staged_marker(text, what=f"reading {host.staged_marker}")


def read_marker(host: Host, booted: Booted) -> StagedMarker | None:
    """Read what is staged: a marker that names the booted deployment, as a soft reboot leaves it, counts as none.

    Raises:
        InvalidStateError: The marker is malformed.
        FileSystemError: It cannot be read.
    """
    marker = read_staged_marker(host)
    return None if _is_outdated(marker, booted) else marker


def _is_outdated(marker: StagedMarker | None, booted: Booted) -> bool:
    """A marker that names what runs: /run is kept over a soft reboot into it."""
    return marker is not None and marker.digest == booted.digest


def drop_outdated_marker(host: Host, booted: Booted) -> bool:
    """Remove a staged marker that names the deployment that runs; blocks.

    After another soft reboot, back to where it was staged, it would be taken for an update, and finalized over that
    deployment's /etc.

    Returns:
        Whether there was one.

    Raises:
        InvalidStateError: The marker is malformed; it stays.
        FileSystemError: It cannot be removed.

    Source:
        systemd-soft-reboot.service(8): "/run/ … remains in place".
    """
    is_outdated = _is_outdated(read_staged_marker(host), booted)
    if is_outdated:
        remove_staged_marker(host)
    return is_outdated


def remove_staged_marker(host: Host) -> None:
    """Remove the marker; an absent one is fine.

    Raises:
        FileSystemError: It is there and cannot be removed.
    """
    host.remove_file(host.staged_marker)


def parse_origin(text: str, *, what: str) -> Origin:
    """Parse an origin file.

    Args:
        text: A key file.
        what: What is being read, for the error.

    Raises:
        InvalidStateError: It is not INI, or a value is not of its kind.

    Source:
        Spec host.md, "Origin file".
    """
    try:
        parser = parse_key_file(text)
    except KeyFileError as error:
        raise InvalidStateError(f"{what}: {str(error).splitlines()[0]}") from error
    boot_digest = parser.get("boot", "digest", fallback=None)
    if boot_digest is not None and not _BOOT_DIGEST.fullmatch(boot_digest):
        raise InvalidStateError(f"{what}: [boot] digest {boot_digest[:140]!r} is not SHA-256 in hex")
    manifest = parser.get("image", "manifest_digest", fallback=None)
    if manifest is not None and not _MANIFEST_DIGEST.fullmatch(manifest):
        raise InvalidStateError(f"{what}: [image] manifest_digest {manifest[:140]!r} is not sha256:<hex>")
    kind = parser.get("boot", "boot_type", fallback=None)
    not_handled = kind if kind in NOT_HANDLED else None
    try:
        boot_type = None if kind is None or not_handled else BootType(kind)
    except ValueError as error:
        raise InvalidStateError(f"{what}: [boot] boot_type {kind!r} is neither bls nor uki") from error
    reference = parser.get("origin", "container-image-reference", fallback=None)
    return Origin(reference, boot_type, boot_digest, manifest, not_handled)


def read_origin(host: Host, digest: VerityDigest) -> Origin:
    """Read a deployment's origin file.

    Raises:
        InvalidStateError: It is missing or malformed.
        FileSystemError: It cannot be read.
    """
    path = host.origin_file(digest)
    try:
        text = _read_text(host, path)
    except FileNotFoundError as error:
        raise InvalidStateError(f"reading {path}: there is no such file") from error
    return parse_origin(text, what=f"reading {path}")


def _read_deployment(host: Host, digest: VerityDigest) -> Deployment:
    problems: list[str] = []
    origin: Origin | None = None
    origin_unread: str | None = None
    try:
        origin = read_origin(host, digest)
    except InvalidStateError as error:
        problems.append(str(error))
    except FileSystemError as error:
        origin_unread = str(error)
        problems.append(origin_unread)
    # What cannot be looked at is not missing: a deployment must not lose its place in the menu for it.
    has_image, has_etc, mtime_s, unread = True, True, 0.0, ""
    try:
        has_image = has_image_file(host, digest)
        state = host.find_status(host.state_dir(digest), follow=False)
        mtime_s = 0.0 if state is None else state.st_mtime
        etc = host.find_status(host.state_dir(digest) / "etc", follow=False)
        has_etc = etc is not None and stat.S_ISDIR(etc.st_mode)
        if not has_etc:
            problems.append(f"{host.state_dir(digest)} has no directory etc")
    except OSError as error:
        unread = f"looking at {escape(error.filename or str(host.state_dir(digest)))}: {reason_of(error)}"
        problems.append(unread)
    if not has_image:
        problems.append(f"there is no image {host.image_file(digest)}")
    return Deployment(
        digest,
        origin,
        has_image,
        tuple(problems),
        mtime_s,
        has_etc=has_etc,
        unread=unread or None,
        origin_unread=origin_unread,
    )


def list_deployments(host: Host) -> list[Deployment]:
    """List every state directory, in the order of their digests.

    A broken one is listed with its problems; a name that is no digest is no deployment.

    Raises:
        FileSystemError: The directory that holds them cannot be read; an absent one holds none.
    """
    try:
        names = host.list_directory(host.state_deploy)
    except OSError as error:
        raise FileSystemError(f"listing {host.state_deploy}: {reason_of(error)}") from error
    found: list[Deployment] = []
    for name in names:
        try:
            digest = parse_digest(escape_bytes(name), what=f"listing {host.state_deploy}")
        except InvalidStateError:
            continue
        found.append(_read_deployment(host, digest))
    return found
