"""_oci.py: what the composefs repository tells of a container image, and what of it is believed."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import pytest

from bootc_fast import get_status, lab
from bootc_fast.composefs.deployments import read_origin
from bootc_fast.composefs.splitstream import parse_object_name, read_image
from bootc_fast.errors import InvalidStateError
from bootc_fast.machine.host import Host, open_host
from bootc_fast.types import Algorithm

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TYPE = b"ocimanif"


def _make(directory: Path, **options: object) -> tuple[lab.LabHost, Host, str]:
    made = lab.make_host(directory, version="43.20251101", **options)  # type: ignore[arg-type]
    host = open_host(made.root)
    digest = read_origin(host, made.booted).manifest_digest
    assert digest is not None
    return made, host, digest


def _stream(made: lab.LabHost, digest: str, kind: str = "manifest") -> Path:
    return made.repository / f"streams/oci-{kind}-{digest}"


@pytest.mark.parametrize("old_header", [False, True], ids=["today's header", "the header until bootc 1.15"])
@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_version_time_and_architecture_are_those_of_the_image(
    tmp_path: Path, algorithm: Algorithm, *, old_header: bool
) -> None:
    forms = lab.LabForms(old_stream_header=old_header)
    made, host, digest = _make(tmp_path / "h", algorithm=algorithm, forms=forms)
    manifest, config = read_image(host, digest)
    assert manifest["config"]["digest"].startswith("sha256:")
    facts = (await get_status(made.root)).booted.facts
    assert (facts.version, facts.architecture) == ("43.20251101", "amd64")
    assert facts.timestamp == config["created"]


def _replace(path: Path, data: bytes) -> None:
    """Put other bytes where a link of the repository leads."""
    path.resolve().write_bytes(data)


def _rename_type(made: lab.LabHost, digest: str) -> None:
    path = _stream(made, digest)
    _replace(path, path.read_bytes().replace(TYPE, b"ociconfg"))


def _change_object(made: lab.LabHost, digest: str) -> None:
    name = parse_object_name(_stream(made, digest).read_bytes(), TYPE, what="x")
    path = made.repository / "objects" / name[:2] / name[2:]
    path.write_bytes(path.read_bytes().replace(b"43.20251101", b"44.20260101"))


def _remove_object(made: lab.LabHost, digest: str) -> None:
    name = parse_object_name(_stream(made, digest).read_bytes(), TYPE, what="x")
    (made.repository / "objects" / name[:2] / name[2:]).unlink()


def _remove_config(made: lab.LabHost, digest: str) -> None:
    manifest, _ = read_image(open_host(made.root), digest)
    _stream(made, manifest["config"]["digest"], "config").unlink()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda made, digest: _stream(made, digest).unlink(),
        lambda made, digest: _replace(_stream(made, digest), b""),
        lambda made, digest: _replace(_stream(made, digest), b"x" * 500),
        _rename_type,
        _change_object,
        _remove_object,
        _remove_config,
    ],
    ids=["no stream", "empty", "no split stream", "another type", "another object", "no object", "no config"],
)
async def test_what_is_not_there_or_not_what_its_digest_says_is_left_out(
    tmp_path: Path, spoil: Callable[[lab.LabHost, str], object]
) -> None:
    made, host, digest = _make(tmp_path / "h")
    spoil(made, digest)
    with pytest.raises((OSError, InvalidStateError)):
        read_image(host, digest)
    booted = (await get_status(made.root)).booted
    assert (booted.facts.version, booted.facts.timestamp, booted.facts.architecture) == (None, None, None)
    assert booted.problems == ()


@pytest.mark.parametrize(
    "config",
    [
        {"config": 3},
        {"config": {"digest": "sha256:../../../etc/passwd"}},
        {"config": {"digest": ["x"]}},
        {},
    ],
)
def test_a_manifest_that_names_no_config_is_refused(
    tmp_path: Path, config: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, host, digest = _make(tmp_path / "h")
    monkeypatch.setattr(json, "loads", lambda _data: config)
    with pytest.raises(InvalidStateError, match="is not sha256:<hex>"):
        read_image(host, digest)


def test_a_stream_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    made, _, digest = _make(tmp_path / "h")
    raw = _stream(made, digest).read_bytes()
    objects_end = struct.unpack_from("<Q", raw, 32 + 24)[0]
    for length in range(objects_end):
        with pytest.raises(InvalidStateError):
            parse_object_name(raw[:length], TYPE, what="reading")
    assert parse_object_name(raw[:objects_end], TYPE, what="reading")


def test_a_stream_with_any_byte_changed_is_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    made, _, digest = _make(tmp_path / "h")
    raw = _stream(made, digest).read_bytes()
    for at in range(112):
        for value in (0, 1, 0x7F, 0xFF):
            changed = raw[:at] + bytes((value,)) + raw[at + 1 :]
            try:
                name = parse_object_name(changed, TYPE, what="reading")
            except InvalidStateError:
                continue
            assert len(name) == 128
