"""deployments.py: booted, staged, origin (spec host.md)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hosts import SHORT, A, B, add_deployment, add_image, add_marker, make_host, mount_line
from hypothesis import given
from hypothesis import strategies as st

from bootc_fast.composefs import deployments
from bootc_fast.errors import InvalidStateError, NotBootcHostError
from bootc_fast.machine.booted import is_etc_transient, read_booted
from bootc_fast.machine.cmdline import parse_composefs_arguments, parse_digest
from bootc_fast.types import BootType, StagedMarker

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("text", [A, SHORT])
def test_accepts_both_digest_lengths(text: str) -> None:
    assert parse_digest(text, what="test") == text


@pytest.mark.parametrize(
    "text", ["", "a", A[:-1], A + "a", A.upper(), "../" + A[3:], A[:-1] + "/", A[:-1] + "\n", "٣" * 64]
)
def test_rejects_what_is_no_digest(text: str) -> None:
    with pytest.raises(InvalidStateError, match="test: "):
        parse_digest(text, what="test")


def test_the_mount_wins_over_the_command_line(tmp_path: Path) -> None:
    host = make_host(tmp_path, cmdline=f"composefs={B}", mountinfo=mount_line("/", f"composefs:{A}"))
    booted = read_booted(host)
    assert (booted.digest, booted.source, booted.transient_root) == (A, "mountinfo", False)


def test_the_topmost_of_two_mounts_at_the_root_counts(tmp_path: Path) -> None:
    lines = mount_line("/", f"composefs:{B}") + mount_line("/", f"composefs:{A}") + mount_line("/etc", "x")
    assert read_booted(make_host(tmp_path, mountinfo=lines)).digest == A


def test_a_transient_root_is_recognised(tmp_path: Path) -> None:
    booted = read_booted(make_host(tmp_path, mountinfo=mount_line("/", f"transient:composefs={A}")))
    assert (booted.digest, booted.transient_root) == (A, True)


@pytest.mark.parametrize(
    ("cmdline", "options", "allowed"),
    [
        (f"composefs=?{A}", "ro", True),
        (f"composefs={A}", "ro", False),
        (f"composefs=?{A}", "ro,verity=require", True),
        (f"composefs=?{B}", "ro", True),
        (f"composefs=?{B}", "ro,verity=require", False),
        ("quiet", "ro", False),
        ("composefs=garbage", "ro", False),
    ],
)
def test_the_question_mark_is_found_beside_a_mounted_root(
    tmp_path: Path, cmdline: str, options: str, *, allowed: bool
) -> None:
    mountinfo = mount_line("/", f"composefs:{A}", options=options)
    booted = read_booted(make_host(tmp_path, cmdline=cmdline, mountinfo=mountinfo))
    assert booted.missing_verity_allowed is allowed


def test_of_several_versioned_digests_the_first_with_an_image_counts(tmp_path: Path) -> None:
    cmdline = f"quiet composefs={A} composefs.digest=v1-sha256-12:{SHORT} composefs.digest=?v2-sha512-12:{B}"
    host = make_host(tmp_path, cmdline=cmdline)
    add_image(host, B)
    booted = read_booted(host)
    assert (booted.digest, booted.missing_verity_allowed, booted.source) == (B, True, "cmdline")


def test_composefs_counts_where_no_versioned_digest_has_an_image(tmp_path: Path) -> None:
    host = make_host(tmp_path, cmdline=f"composefs.digest=v1-sha256-12:{SHORT} composefs=?{A}")
    booted = read_booted(host)
    assert (booted.digest, booted.missing_verity_allowed) == (A, True)


def test_several_digests_without_any_image_are_an_invalid_state(tmp_path: Path) -> None:
    host = make_host(tmp_path, cmdline=f"composefs.digest=v1-sha256-12:{SHORT} composefs.digest=v1-sha512-12:{B}")
    with pytest.raises(InvalidStateError, match="none has an image") as caught:
        read_booted(host)
    assert caught.value.hint is not None


def test_quoted_arguments_do_not_hide_or_make_arguments(tmp_path: Path) -> None:
    host = make_host(tmp_path, cmdline=f'dyndbg="file x composefs={B} +p" "composefs={A}"\n')
    assert read_booted(host).digest == A


@pytest.mark.parametrize(
    "argument",
    [
        "composefs=",
        f"composefs={A[:-1]}",
        "composefs=../../etc",
        "composefs.digest=",
        f"composefs.digest={A}",
        f"composefs.digest=v3-sha512-12:{A}",
        f"composefs.digest=v1-md5-12:{A}",
        f"composefs.digest=v1-sha256-12:{A}",
        f"composefs.digest=v1-sha512-12:{A.upper()}",
        f"composefs.digest=??v1-sha512-12:{A}",
    ],
)
def test_malformed_arguments_are_an_invalid_state(tmp_path: Path, argument: str) -> None:
    with pytest.raises(InvalidStateError, match="cmdline: composefs"):
        read_booted(make_host(tmp_path, cmdline=f"quiet {argument} rw"))


@pytest.mark.parametrize("source", ["composefs:", "composefs:xyz", f"transient:composefs={A}/..", "composefs:\\040"])
def test_a_composefs_mount_without_a_digest_is_an_invalid_state(tmp_path: Path, source: str) -> None:
    with pytest.raises(InvalidStateError, match="mount at /"):
        read_booted(make_host(tmp_path, cmdline=f"composefs={A}", mountinfo=mount_line("/", source)))


def test_a_torn_mount_table_is_an_invalid_state(tmp_path: Path) -> None:
    with pytest.raises(InvalidStateError, match="lacks fields"):
        read_booted(make_host(tmp_path, mountinfo="30 1 0:25 / / ro\n"))


def test_a_host_without_composefs_is_no_bootc_host(tmp_path: Path) -> None:
    host = make_host(tmp_path, cmdline="quiet", mountinfo=mount_line("/", "/dev/vda3", fstype="ext4"))
    with pytest.raises(NotBootcHostError, match="not a host that bootc installed"):
        read_booted(host)
    host.ostree_booted.write_text("")
    with pytest.raises(NotBootcHostError, match="ostree host"):
        read_booted(host)


def test_an_empty_directory_is_no_bootc_host(tmp_path: Path) -> None:
    with pytest.raises(NotBootcHostError):
        read_booted(make_host(tmp_path))


@pytest.mark.parametrize(
    ("text", "is_locked"),
    [
        (f'{{"depl_id": "{A}", "finalization_locked": true}}', True),
        (f'{{"depl_id": "{A}", "finalization_locked": false, "new": [1]}}\n', False),
        (f'{{"depl_id": "{A}"}}', False),
        (A, False),
        (A + "\n", False),
    ],
)
def test_reads_both_forms_of_the_staged_marker(tmp_path: Path, text: str, *, is_locked: bool) -> None:
    host = make_host(tmp_path)
    host.staged_marker.write_text(text)
    assert deployments.read_staged_marker(host) == StagedMarker(A, is_locked)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b"{",
        b'{"depl_id": 1}',
        b'{"depl_id": null}',
        b'{"depl_id": "../../etc"}',
        b'{"depl_id": "' + A.encode() + b'", "finalization_locked": 1}',
        b'{"depl_id": ' + b"[" * 100_000,
        A.encode() + b"\n\n",
        b" " + A.encode(),
        A.encode() + b" " + B.encode(),
    ],
)
def test_any_other_marker_is_an_invalid_state_with_a_hint(tmp_path: Path, data: bytes) -> None:
    host = make_host(tmp_path)
    host.staged_marker.write_bytes(data)
    with pytest.raises(InvalidStateError, match="staged-deployment: ") as caught:
        deployments.read_staged_marker(host)
    assert caught.value.hint is not None
    assert caught.value.exit_code == 10


def test_a_marker_that_is_a_directory_is_an_invalid_state(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    host.staged_marker.mkdir()
    with pytest.raises(InvalidStateError, match="not a regular file"):
        deployments.read_staged_marker(host)


def test_no_marker_is_nothing_staged_and_removing_it_twice_is_fine(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    assert deployments.read_staged_marker(host) is None
    add_marker(host, A)
    deployments.remove_staged_marker(host)
    deployments.remove_staged_marker(host)
    assert deployments.read_staged_marker(host) is None


@given(st.text(max_size=300))
def test_no_marker_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    try:
        marker = deployments.parse_staged_marker(text, what="test")
    except InvalidStateError:
        return
    assert len(marker.digest) in (64, 128)


@given(st.text(max_size=300))
def test_no_origin_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    try:
        deployments.parse_origin(text, what="test")
    except InvalidStateError:
        return


@given(st.text(max_size=300))
def test_no_command_line_does_anything_but_parse_or_be_refused(text: str) -> None:
    try:
        parse_composefs_arguments(text, what="test")
    except InvalidStateError:
        return


FULL_ORIGIN = f"""# made by bootc
[origin]
container-image-reference = ostree-unverified-image:docker://registry.example/example/os:latest
[boot]
boot_type = uki
digest = {SHORT}
[image]
manifest_digest=sha256:{SHORT}
[another]
key = 100%
"""


def test_reads_all_of_an_origin(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    add_deployment(host, A, FULL_ORIGIN)
    origin = deployments.read_origin(host, parse_digest(A, what="test"))
    assert origin.image_reference == "ostree-unverified-image:docker://registry.example/example/os:latest"
    assert (origin.boot_type, origin.boot_digest) == (BootType.UKI, SHORT)
    assert origin.manifest_digest == f"sha256:{SHORT}"


@pytest.mark.parametrize("blank", [" ", "\t", "\v", "\f", "  \t"])
def test_an_indented_line_is_a_line_of_its_own(blank: str) -> None:
    """Found by fuzzing: a whole group was taken for more of the value before it."""
    text = f"[origin]\ncontainer-image-reference=docker://x:1\n{blank}[boot]\n{blank}boot_type=uki\n{blank}# comment\n"
    origin = deployments.parse_origin(text, what="x")
    assert (origin.image_reference, origin.boot_type) == ("docker://x:1", BootType.UKI)


def test_an_origin_of_an_older_version_may_lack_everything() -> None:
    assert deployments.parse_origin("[origin]\n", what="test") == deployments.Origin()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("key = value\n", "no section headers"),
        ("[boot\n", "no section headers"),
        ("[boot]\nboot_type\n", "parsing errors"),
        ("[boot]\nboot_type = grub\n", "neither bls nor uki"),
        ("[boot]\ndigest = 12\n", "not SHA-256"),
        ("[image]\nmanifest_digest = sha512:1\n", "not sha256:<hex>"),
    ],
)
def test_a_malformed_origin_is_an_invalid_state(text: str, words: str) -> None:
    with pytest.raises(InvalidStateError, match=words):
        deployments.parse_origin(text, what="test")


def test_broken_deployments_are_listed_with_their_problems(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    add_deployment(host, A)
    add_deployment(host, B, "garbage")
    (host.images / B).unlink()
    (host.state_deploy / SHORT).write_text("not a directory")
    (host.state_deploy / "lost+found").mkdir()
    good, bad, file = deployments.list_deployments(host)
    assert (good.digest, good.has_image, good.problems) == (A, True, ())
    assert good.mtime_s > 0
    assert (bad.digest, bad.has_image, bad.origin) == (B, False, None)
    assert any("no image" in problem for problem in bad.problems)
    assert file.digest == SHORT
    assert any("has no directory etc" in problem for problem in file.problems)


def test_an_image_that_is_a_dangling_link_is_no_image(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    add_deployment(host, A)
    (host.objects / A[:2] / A[2:]).unlink()
    assert not deployments.list_deployments(host)[0].has_image


def test_a_host_without_state_has_no_deployments(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert deployments.list_deployments(deployments_host(tmp_path)) == []


def deployments_host(path: Path) -> deployments.Host:
    from bootc_fast.machine.host import open_host

    return open_host(path)


@pytest.mark.parametrize(
    ("lines", "is_transient"),
    [
        ([("/", f"composefs:{A}", "overlay", "ro")], False),
        ([("/", f"transient:composefs={A}", "overlay", "rw")], True),
        ([("/", f"composefs:{A}", "overlay", "ro"), ("/etc", "/dev/vda3", "ext4", "rw")], False),
        ([("/", f"transient:composefs={A}", "overlay", "rw"), ("/etc", "/dev/vda3", "ext4", "rw")], False),
        ([("/", f"composefs:{A}", "overlay", "ro"), ("/etc", "tmpfs", "tmpfs", "rw")], True),
        ([("/", f"composefs:{A}", "overlay", "ro"), ("/etc", "transient", "overlay", "rw")], True),
        ([("/etc", "overlay", "overlay", "rw,lowerdir=/x,upperdir=/y,workdir=/z,volatile")], True),
        ([("/run", "tmpfs", "tmpfs", "rw"), ("/etc", "overlay", "overlay", "rw,upperdir=/run/up,workdir=/z")], True),
        ([("/", "/dev/vda3", "ext4", "rw"), ("/etc", "overlay", "overlay", "rw,upperdir=/runs/up")], False),
        ([("/etc", "overlay", "overlay", "rw,upperdir=up")], False),
    ],
)
def test_tells_a_transient_etc_from_a_kept_one(
    tmp_path: Path, lines: list[tuple[str, str, str, str]], *, is_transient: bool
) -> None:
    text = "".join(mount_line(point, source, fstype=kind, options=options) for point, source, kind, options in lines)
    assert is_etc_transient(make_host(tmp_path, mountinfo=text)) is is_transient


def test_octal_escapes_in_the_mount_table_are_undone() -> None:
    from bootc_fast.machine.mountinfo import parse_mountinfo

    (mount,) = parse_mountinfo(rb"30 1 0:25 /a\040b /c\011d\134e rw - ext4 /dev/x\012y rw,up\054per=1" + b"\n")
    assert (mount.root, mount.mount_point, mount.source) == (b"/a b", b"/c\td\\e", b"/dev/x\ny")
    assert mount.super_options == (b"rw", b"up,per=1")


def test_nothing_outside_the_root_is_read_for_a_marker_that_is_a_link(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(A)
    host = make_host(tmp_path / "root")
    os.symlink(secret, host.staged_marker)
    assert deployments.read_staged_marker(host) is None
