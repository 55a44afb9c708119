"""A commit's container image, from the commit's metadata.

Source:
    bootc ``ostree-ext/src/container/store.rs``: the metadata of a merge commit, and its detached metadata for the
    update that was looked up last; ``lib/src/status.rs`` for what counts as version and time.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bootc_fast.ostree.deployment import OstreeImage
from bootc_fast.ostree.libostree import load_libostree

if TYPE_CHECKING:
    from datetime import datetime

_MANIFEST_DIGEST = "ostree.manifest-digest"
_IMAGE_CONFIG = "ostree.container.image-config"
_CACHED_DIGEST = "ostree-ext.cached.manifest-digest"
_CACHED_CONFIG = "ostree-ext.cached.config"
_VERSION_LABELS = ("org.opencontainers.image.version", "version")
_CREATED_LABEL = "org.opencontainers.image.created"


def read_commit_images(repo: Any, checksum: str) -> dict[str, Any]:  # noqa: ANN401 - untyped library
    """Read what a commit tells of its image and of the next one; blocks.

    Returns:
        ``image`` and ``cached_update``, or ``problems``, as `OstreeDeployment` has them.
    """
    from datetime import UTC, datetime

    ostree, _, glib = load_libostree()
    try:
        commit = repo.load_commit(checksum)[1]
        detached = repo.read_commit_detached_metadata(checksum, None)[1]
    except glib.Error as error:
        return {"problems": (f"its commit cannot be read: {error.message}",)}
    metadata = commit.get_child_value(0)
    seconds = ostree.commit_get_timestamp(commit)
    built = _format_time(datetime.fromtimestamp(seconds, UTC)) if seconds else None
    image = _parse_image(
        lookup_text(metadata, _MANIFEST_DIGEST),
        lookup_text(metadata, _IMAGE_CONFIG),
        version=lookup_text(metadata, "version"),
        timestamp=built,
    )
    digest = lookup_text(detached, _CACHED_DIGEST) if detached is not None else None
    cached = None if digest is None else _parse_image(digest, lookup_text(detached, _CACHED_CONFIG))
    return {"image": image, "cached_update": cached}


def lookup_text(dictionary: Any, key: str) -> str | None:  # noqa: ANN401 - untyped library
    """Look a string up in a GVariant of type ``a{sv}``; None where there is none of that type."""
    _, _, glib = load_libostree()
    value = dictionary.lookup_value(key, glib.VariantType("s"))
    return None if value is None else str(value.get_string())


def _parse_image(
    digest: str | None, config_text: str | None, *, version: str | None = None, timestamp: str | None = None
) -> OstreeImage:
    """Take the image's facts from its configuration; `version` and `timestamp` where it has none."""
    config = _parse_object(config_text)
    labels = _as_object(_as_object(config.get("config")).get("Labels"))
    versions = [labels.get(name) for name in _VERSION_LABELS] + [version]
    times = [_parse_time(one) for one in (labels.get(_CREATED_LABEL), config.get("created"))] + [timestamp]
    return OstreeImage(
        manifest_digest=digest,
        version=next((one for one in versions if isinstance(one, str)), None),
        timestamp=next((one for one in times if one is not None), None),
        architecture=config["architecture"] if isinstance(config.get("architecture"), str) else None,
    )


def _parse_time(text: object) -> str | None:
    """Return an RFC 3339 time in UTC; None where it is none."""
    from datetime import UTC, datetime

    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
        return _format_time(found.astimezone(UTC)) if found.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _format_time(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _parse_object(text: str | None) -> dict[str, Any]:
    try:
        return _as_object(json.loads(text)) if text else {}
    except (ValueError, RecursionError):
        return {}


def _as_object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
