"""A container image's manifest and config, as ``bootc upgrade`` left them in the composefs repository.

Each is one object of its own, uncompressed, which a split stream of a known name refers to; the compressed parts of
that stream are not needed, and its header is. What is read counts only if it has the SHA-256 that it is known by.

Source:
    composefs-rs ``crates/composefs/src/splitstream.rs`` (header, info block) and ``composefs-oci/src/oci_image.rs``
    (names; manifest and config as single external objects); bootc ``bootc_composefs/status.rs``, ``get_imginfo``.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from typing import TYPE_CHECKING, Any

from bootc_fast.errors import InvalidStateError

if TYPE_CHECKING:
    from bootc_fast.machine.host import Host

_MAGIC = b"SplitStream"
# Magic, version, flags, algorithm, log2 of the block size, start and end of the info block.
_HEADER = struct.Struct("<11sBHBBQQ")
# Until bootc 1.15 the fields stood as its compiler happened to order them.
_OLD_HEADER = struct.Struct("<QQH11sBBB")
# Start and end of the references to streams and to objects, of the stream, and of the names; content type and size.
_INFO = struct.Struct("<8Q8sQ")
# By the kernel's number of the fs-verity algorithm.
_DIGEST_BYTES = {1: 32, 2: 64}
_LG_BLOCK_BYTES = 12
_MANIFEST_TYPE = b"ocimanif"
_CONFIG_TYPE = b"ociconfg"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def read_image(host: Host, manifest_digest: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read an image's manifest and config.

    Args:
        host: Where.
        manifest_digest: ``sha256:<hex>``, of the deployment's origin.

    Returns:
        The two JSON objects.

    Raises:
        InvalidStateError: They are not what their digests say, or not of this format.
        OSError: They are not there, or cannot be read.
    """
    manifest = _read_blob(host, "manifest", manifest_digest, _MANIFEST_TYPE)
    descriptor = manifest.get("config")
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    return manifest, _read_blob(host, "config", digest, _CONFIG_TYPE)


def _read_blob(host: Host, kind: str, digest: object, content_type: bytes) -> dict[str, Any]:
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise InvalidStateError(f"reading the image's {kind}: {str(digest)[:80]!r} is not sha256:<hex>")
    path = host.composefs / "streams" / f"oci-{kind}-{digest}"
    what = f"reading {path}"
    name = parse_object_name(host.read_bytes(path), content_type, what=what)
    data = host.read_bytes(host.objects / name[:2] / name[2:])
    if hashlib.sha256(data).hexdigest() != digest.removeprefix("sha256:"):
        raise InvalidStateError(f"{what}: the object {name} has another SHA-256")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidStateError(f"{what}: it is not JSON") from error
    if not isinstance(found, dict):
        raise InvalidStateError(f"{what}: it is not a JSON object")
    return found


def parse_object_name(raw: bytes, content_type: bytes, *, what: str) -> str:
    """Return the fs-verity digest, in hex, of the one object that a split stream refers to.

    Args:
        raw: The stream's file.
        content_type: What it has to hold, 8 bytes.
        what: What is being read, for the error.

    Raises:
        InvalidStateError: It is no split stream, of another type, or refers to another number of objects.
    """
    try:
        magic, version, _, algorithm, lg_block_bytes, start, end = _HEADER.unpack_from(raw)
        if magic != _MAGIC:
            start, end, _, magic, version, algorithm, lg_block_bytes = _OLD_HEADER.unpack_from(raw)
        block = _INFO.unpack_from(raw[start:end])
    except struct.error as error:
        raise InvalidStateError(f"{what}: it is cut short") from error
    if (magic, version, lg_block_bytes) != (_MAGIC, 0, _LG_BLOCK_BYTES) or algorithm not in _DIGEST_BYTES:
        raise InvalidStateError(f"{what}: it is no split stream of a known form")
    objects = raw[block[2] : block[3]]
    if block[8] != content_type:
        raise InvalidStateError(f"{what}: it holds {block[8]!r}, not {content_type!r}")
    if len(objects) != _DIGEST_BYTES[algorithm] or block[3] - block[2] != len(objects):
        raise InvalidStateError(f"{what}: it does not refer to one object")
    return objects.hex()
