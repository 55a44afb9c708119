"""A container image's manifest and config in a lab host's repository, as ``bootc upgrade`` writes them.

Written independently of ``bootc_fast.composefs.splitstream``, so that a lab host checks that reader
instead of echoing it.

Source:
    composefs-rs ``crates/composefs/src/splitstream.rs``, ``SplitStreamWriter``; ``composefs-oci/src/oci_image.rs``.
    RFC 8878 (Zstandard): frames with raw blocks need no compressor.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
from typing import TYPE_CHECKING

from bootc_fast import _core
from bootc_fast.types import Algorithm

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_HEADER_BYTES = 32
_INFO_BYTES = 80
_MAX_RAW_BLOCK_BYTES = 128 << 10
# Frame header descriptor: single segment, content size in 4 bytes, no checksum.
_FRAME_DESCRIPTOR = 0xA0


def write_image(repository: Path, algorithm: Algorithm, *, version: str, created: str, old_header: bool = False) -> str:
    """Write manifest and config of an image of one small layer, and that layer.

    bootc's garbage collection walks from a manifest over its config to the layers.

    Args:
        repository: The composefs repository.
        algorithm: Of its digests.
        version: For the manifest's annotation.
        created: ISO 8601.
        old_header: The split streams' headers as bootc wrote them until 1.15.

    Returns:
        The manifest's digest, ``sha256:<hex>``.
    """
    layer = _make_layer(version, created)
    # Not compressed: what it is known by in the manifest and in the config is the same.
    diff_id = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": created,
        "config": {"Labels": {"org.opencontainers.image.version": version}},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }
    config_bytes = json.dumps(config).encode()
    config_digest = f"sha256:{hashlib.sha256(config_bytes).hexdigest()}"
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config_digest,
            "size": len(config_bytes),
        },
        "layers": [
            {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": diff_id, "size": len(layer)},
        ],
        "annotations": {"org.opencontainers.image.version": version},
    }
    manifest_bytes = json.dumps(manifest).encode()
    manifest_digest = f"sha256:{hashlib.sha256(manifest_bytes).hexdigest()}"
    writer = _Writer(repository, algorithm, old_header=old_header)
    layers = {diff_id: writer.write_layer(f"oci-layer-{diff_id}", layer)}
    stream = writer.write_stream(f"oci-config-{config_digest}", config_bytes, b"ociconfg", layers)
    refs = {f"config:{config_digest}": stream, **layers}
    writer.write_stream(f"oci-manifest-{manifest_digest}", manifest_bytes, b"ocimanif", refs)
    return manifest_digest


def _make_layer(version: str, created: str) -> bytes:
    """A tar archive of one file; the lab's trees are not made of it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        member = tarfile.TarInfo("lab-layer")
        # Short enough to stand in the stream itself, as composefs has it up to 64 bytes.
        data = f"{version} {created}\n".encode()[:64]
        member.size, member.mode = len(data), 0o644
        archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


class _Writer:
    def __init__(self, repository: Path, algorithm: Algorithm, *, old_header: bool) -> None:
        self.repository = repository
        self.algorithm = algorithm
        self.old_header = old_header

    def _add_object(self, data: bytes) -> str:
        descriptor = os.open(self.repository, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with tempfile.TemporaryFile() as file:
                file.write(data)
                file.flush()
                file.seek(0)
                return _core.RepositoryWriter(descriptor, algorithm=self.algorithm).add_object(file.fileno())
        finally:
            os.close(descriptor)

    def write_stream(self, name: str, data: bytes, content_type: bytes, refs: Mapping[str, str]) -> str:
        """Write a stream of one external object; `refs` are the streams that it keeps alive, by name."""
        # External chunk: the object's index.
        chunk = (0).to_bytes(8, "little")
        return self._write(name, chunk, self._add_object(data), size=len(data), content_type=content_type, refs=refs)

    def write_layer(self, name: str, data: bytes) -> str:
        """Write a layer's stream: all of it inline, which is a chunk of minus its length."""
        chunk = (-len(data)).to_bytes(8, "little", signed=True) + data
        return self._write(name, chunk, size=len(data), content_type=b"ocilayer", refs={})

    def _write(
        self, name: str, chunk: bytes, external: str = "", *, size: int, content_type: bytes, refs: Mapping[str, str]
    ) -> str:
        stream = _zstd(chunk)
        # The names: "<index>:<name>" each, ended by a zero byte.
        names = _zstd(b"".join(f"{index}:{key}\0".encode() for index, key in enumerate(sorted(refs))))
        stream_refs = b"".join(bytes.fromhex(refs[key]) for key in sorted(refs))
        parts = [stream_refs, bytes.fromhex(external), names, stream]
        ends = [_HEADER_BYTES + _INFO_BYTES]
        for part in parts:
            ends.append(ends[-1] + len(part))
        at = {key: (ends[index], ends[index + 1]) for index, key in enumerate(("refs", "objects", "names", "stream"))}
        ranges = b"".join(_pair(*at[key]) for key in ("refs", "objects", "stream", "names"))
        info = ranges + content_type + size.to_bytes(8, "little")
        digest = self._add_object(self._header() + info + b"".join(parts))
        (self.repository / "streams").mkdir(exist_ok=True)
        link = self.repository / "streams" / name
        link.unlink(missing_ok=True)
        link.symlink_to(f"../objects/{digest[:2]}/{digest[2:]}")
        return digest

    def _header(self) -> bytes:
        kernel_id = 1 if self.algorithm is Algorithm.SHA256 else 2
        info = _pair(_HEADER_BYTES, _HEADER_BYTES + _INFO_BYTES)
        if self.old_header:
            return info + b"\0\0" + b"SplitStream" + bytes((0, kernel_id, 12))
        return b"SplitStream" + b"\0" + b"\0\0" + bytes((kernel_id, 12)) + info


def _pair(start: int, end: int) -> bytes:
    return start.to_bytes(8, "little") + end.to_bytes(8, "little")


def _zstd(data: bytes) -> bytes:
    """A Zstandard frame of one raw block."""
    assert len(data) <= _MAX_RAW_BLOCK_BYTES  # noqa: S101 a bug of ours: names and indexes are short
    block = (len(data) << 3 | 1).to_bytes(3, "little") + data
    return b"\x28\xb5\x2f\xfd" + bytes((_FRAME_DESCRIPTOR,)) + len(data).to_bytes(4, "little") + block
