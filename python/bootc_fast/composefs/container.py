"""What is known of a deployment's container image, from its origin and what bootc stored beside it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bootc_fast.composefs.splitstream import read_image
from bootc_fast.errors import BootcFastError
from bootc_fast.records import dataclass

if TYPE_CHECKING:
    from bootc_fast.machine.host import Host
    from bootc_fast.types import Deployment

_VERSION = "org.opencontainers.image.version"
_UNVERIFIED = "ostree-unverified"


@dataclass(frozen=True, slots=True)
class ImageName:
    """A container image reference, taken apart as bootc's ``status`` shows it.

    Attributes:
        transport: E.g. ``registry``, ``oci``, ``containers-storage``.
        image: E.g. ``registry.example/example/os:latest``.
        signature: ``containerPolicy``, ``{"ostreeRemote": …}``, or None for an unverified one.
    """

    transport: str
    image: str
    signature: str | dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """Facts of the container image; None where they cannot be read.

    Attributes:
        version: Of the image's annotation, else its label.
        timestamp: When it was built, ISO 8601.
        architecture: E.g. ``amd64``.
    """

    version: str | None = None
    timestamp: str | None = None
    architecture: str | None = None


def parse_image_reference(text: str) -> ImageName | None:
    """Take an origin's ``container-image-reference`` apart; None where it is none.

    Source:
        bootc ``ostree-ext/src/container/mod.rs``: ``SCHEME:[REMOTE:]TRANSPORT:NAME`` and its short forms.
    """
    scheme, _, rest = text.partition(":")
    signature: str | dict[str, str] | None = None
    if scheme.startswith("ostree-remote-"):
        remote, _, rest = rest.partition(":")
        signature = {"ostreeRemote": remote}
    elif scheme == "ostree-image-signed":
        signature = "containerPolicy"
    elif not scheme.startswith(_UNVERIFIED):
        return None
    if scheme.endswith("-registry"):
        return ImageName("registry", rest, signature) if rest else None
    transport, _, name = rest.partition(":")
    if transport == "docker":
        transport, name = "registry", name.removeprefix("//")
    return ImageName(transport, name, signature) if transport and name else None


def read_image_facts(host: Host, deployment: Deployment) -> ImageFacts:
    """Read version, time and architecture from the repository, or the ``.imginfo`` of older deployments. Blocks.

    Never raises: what cannot be read, or is not what its digest says, is None.
    """
    manifest_digest = deployment.origin.manifest_digest if deployment.origin else None
    if manifest_digest is not None:
        try:
            return _facts(*read_image(host, manifest_digest))
        except (OSError, BootcFastError, AttributeError, TypeError):
            return ImageFacts()
    path = host.state_dir(deployment.digest) / f"{deployment.digest}.imginfo"
    try:
        info = json.loads(host.read_bytes(path))
        return _facts(info.get("manifest") or {}, info.get("config") or {})
    except (OSError, BootcFastError, ValueError, AttributeError, TypeError, RecursionError):
        return ImageFacts()


def _facts(manifest: dict[str, Any], config: dict[str, Any]) -> ImageFacts:
    annotations = manifest.get("annotations") or {}
    # Builders that set no annotation have it as a label.
    labels = (config.get("config") or {}).get("Labels") or {}
    return ImageFacts(
        version=next((text for one in (annotations, labels) if (text := _text(one.get(_VERSION)))), None),
        timestamp=_timestamp(_text(config.get("created"))),
        architecture=_text(config.get("architecture")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _timestamp(text: str | None) -> str | None:
    """Keep only what a reader of the JSON can parse as a time."""
    from datetime import datetime

    if text is None:
        return None
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return None
    return text
