"""Images' manifests and configs, compared with the crate that bootc writes and reads them with (composefs-oci)."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from crosscheck import find_program

from bootc_fast import get_status, lab
from bootc_fast.composefs.deployments import read_origin
from bootc_fast.composefs.splitstream import read_image
from bootc_fast.errors import InvalidStateError
from bootc_fast.machine.host import open_host
from bootc_fast.types import Algorithm

if TYPE_CHECKING:
    from collections.abc import Mapping

MEDIA = "application/vnd.oci.image"

# The first one compiles the crate and all that it depends on.
pytestmark = pytest.mark.timeout(1800)


def _composefs_oci(*arguments: str | Path) -> str:
    program = find_program("composefs-oci")
    done = subprocess.run([program, *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _add_blob(layout: Path, data: bytes, media_type: str) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    (layout / "blobs/sha256" / digest).write_bytes(data)
    return {"mediaType": f"{MEDIA}.{media_type}", "digest": f"sha256:{digest}", "size": len(data)}


def _layer(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def _make_layout(layout: Path, *, layers: int, extra_labels: int = 0) -> tuple[bytes, bytes]:
    """Make an OCI layout as `skopeo copy … oci:` does; the manifest's and the config's bytes."""
    (layout / "blobs/sha256").mkdir(parents=True)
    # More than 64 bytes: stored as objects of their own, which the layer's stream then refers to.
    archives = [_layer({f"file-{number}": b"x" * (100 + number), "small": b"y"}) for number in range(layers)]
    config = {
        "created": "2026-01-02T03:04:05.678901234Z",
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Labels": {
                "org.opencontainers.image.version": "44.20260102",
                **{f"label-{number}": "ä" * 100 for number in range(extra_labels)},
            }
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in archives]},
    }
    config_bytes = json.dumps(config, indent=1).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{MEDIA}.manifest.v1+json",
        "config": _add_blob(layout, config_bytes, "config.v1+json"),
        "layers": [_add_blob(layout, one, "layer.v1.tar") for one in archives],
        "annotations": {"org.opencontainers.image.version": "44.1"},
    }
    manifest_bytes = json.dumps(manifest).encode()
    index = {"schemaVersion": 2, "manifests": [_add_blob(layout, manifest_bytes, "manifest.v1+json")]}
    (layout / "index.json").write_text(json.dumps(index))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return manifest_bytes, config_bytes


@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize(("layers", "extra_labels"), [(1, 0), (3, 0), (1, 200)], ids=["small", "layers", "long config"])
async def test_what_the_crate_wrote_is_read(
    tmp_path: Path, algorithm: Algorithm, layers: int, extra_labels: int
) -> None:
    made = lab.make_host(tmp_path / "h", algorithm=algorithm)
    manifest_bytes, config_bytes = _make_layout(tmp_path / "layout", layers=layers, extra_labels=extra_labels)
    digest = _composefs_oci("pull", algorithm.value, made.repository, tmp_path / "layout").strip()
    assert digest == f"sha256:{hashlib.sha256(manifest_bytes).hexdigest()}"
    host = open_host(made.root)
    assert read_image(host, digest) == (json.loads(manifest_bytes), json.loads(config_bytes))
    origin = made.state_dir(made.booted) / f"{made.booted}.origin"
    was = read_origin(host, made.booted).manifest_digest
    assert was is not None
    origin.write_text(origin.read_text().replace(was, digest))
    facts = (await get_status(made.root)).booted.facts
    assert (facts.version, facts.architecture) == ("44.1", "amd64")
    assert facts.timestamp == "2026-01-02T03:04:05.678901234Z"


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_a_layer_the_crate_wrote_is_not_taken_for_a_config(tmp_path: Path, algorithm: Algorithm) -> None:
    made = lab.make_host(tmp_path / "h", algorithm=algorithm)
    _, config_bytes = _make_layout(tmp_path / "layout", layers=1)
    digest = _composefs_oci("pull", algorithm.value, made.repository, tmp_path / "layout").strip()
    streams = made.repository / "streams"
    layer = json.loads(config_bytes)["rootfs"]["diff_ids"][0]
    (streams / f"oci-manifest-{digest}").unlink()
    (streams / f"oci-manifest-{digest}").symlink_to((streams / f"oci-layer-{layer}").readlink())
    with pytest.raises(InvalidStateError, match="it holds "):
        read_image(open_host(made.root), digest)


@pytest.mark.parametrize("old_header", [False, True], ids=["today's header", "the header until bootc 1.15"])
@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_the_crate_reads_what_the_lab_wrote(tmp_path: Path, algorithm: Algorithm, *, old_header: bool) -> None:
    forms = lab.LabForms(old_stream_header=old_header)
    made = lab.make_host(tmp_path / "h", algorithm=algorithm, forms=forms, version="43.20251101")
    host = open_host(made.root)
    digest = read_origin(host, made.booted).manifest_digest
    assert digest is not None
    shown = json.loads(_composefs_oci("show", algorithm.value, made.repository, digest))
    assert (shown["manifest"], shown["config"]) == read_image(host, digest)
    assert shown["config"]["config"]["Labels"]["org.opencontainers.image.version"] == "43.20251101"
