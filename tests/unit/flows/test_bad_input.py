"""Bad input gets a clear error with its exit code, and nothing is changed (issue 2, "Bad input gets")."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from typing import TYPE_CHECKING

import flowkit
import pytest

from bootc_fast import lab
from bootc_fast.cli import main
from bootc_fast.flows import finalize
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flowkit import Case

    Spoil = Callable[[Case], object]


def _fails(
    case: Case, capsys: pytest.CaptureFixture[str], code: int, *patterns: str, options: tuple[str, ...] = ()
) -> None:
    before = flowkit.snapshot(case.root)
    found, out, err = flowkit.finalize(capsys, case, *options)
    assert (found, out) == (code, ""), err
    assert err.startswith("error: ")
    assert "Traceback" not in err
    for pattern in patterns:
        assert re.search(pattern, err), err
    assert flowkit.snapshot(case.root) == before


def _write_marker(text: str | bytes) -> Spoil:
    return lambda case: case.host.marker.write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "{",
        "[]",
        "{}",
        '{"depl_id": 3}',
        '{"depl_id": "../../etc"}',
        "abc",
        "g" * 128,
        b"\xff" * 128,
        "a" * 127,
    ],
)
def test_a_malformed_marker(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | bytes) -> None:
    case = flowkit.make_case(tmp_path / "h")
    _write_marker(text)(case)
    _fails(case, capsys, 10, "staged-deployment", "hint: ")
    record = flowkit.read_record(case.root)
    assert (record["result"], record["exit_code"]) == ("failed", 10)


def test_an_unreadable_marker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    case.host.marker.unlink()
    case.host.marker.mkdir()
    _fails(case, capsys, 10, "staged-deployment.*not a regular file")


def _no_host(case: Case) -> None:
    (case.root / "proc/cmdline").write_text("quiet\n")
    (case.root / "proc/self/mountinfo").write_text("30 1 8:1 / / rw - ext4 /dev/vda1 rw\n")


def test_not_a_bootc_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    _no_host(case)
    _fails(case, capsys, 3, "not a host that bootc installed")
    assert not (case.root / "sysroot/state/bootc-fast").exists()
    assert not (case.root / "run/bootc-fast.lock").exists()


def test_an_ostree_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    _no_host(case)
    (case.root / "run/ostree-booted").touch()
    _fails(case, capsys, 3, "ostree host")


@pytest.mark.parametrize("digest", ["", "abc", "z" * 128, "../" * 20, "a" * 63])
def test_a_malformed_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], digest: str) -> None:
    case = flowkit.make_case(tmp_path / "h")
    (case.root / "proc/self/mountinfo").unlink()
    (case.root / "proc/cmdline").write_text(f"quiet composefs={digest}\n")
    _fails(case, capsys, 10, "cmdline")


def _drop(name: str) -> Spoil:
    def drop(case: Case) -> None:
        path = case.root / name.format(booted=case.booted, staged=case.staged)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

    return drop


def _empty(name: str) -> Spoil:
    return lambda case: (case.root / name.format(booted=case.booted, staged=case.staged)).write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "code", "pattern"),
    [
        (_drop("sysroot/composefs/images/{staged}"), 10, "missing .*images/"),
        (_drop("sysroot/composefs/images/{booted}"), 10, "images/.*no such file"),
        (_drop("sysroot/state/deploy/{staged}"), 10, "missing .*state/deploy/"),
        (_drop("sysroot/state/deploy/{staged}/etc"), 10, "missing .*/etc"),
        (_drop("efi/loader/entries.staged"), 7, "there is none"),
        (_drop("efi/EFI/Linux/bootc_composefs-{staged}/vmlinuz"), 7, "vmlinuz.*missing or empty"),
        (_drop("efi/EFI/Linux/bootc_composefs-{staged}/initrd"), 7, "initrd.*missing or empty"),
        (_empty("efi/EFI/Linux/bootc_composefs-{staged}/vmlinuz"), 7, "vmlinuz.*missing or empty"),
    ],
)
def test_missing_pieces_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Spoil, code: int, pattern: str
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    spoil(case)
    _fails(case, capsys, code, pattern)


def test_a_missing_uki(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h", boot_type=BootType.UKI)
    _drop("efi/EFI/Linux/bootc/bootc_composefs-{staged}.efi")(case)
    _fails(case, capsys, 7, r"\.efi.*missing or empty")


def test_a_missing_staged_user_cfg(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h", Loader.GRUB, BootType.UKI)
    (case.host.boot_dir / "grub2/user.cfg.staged").unlink()
    _fails(case, capsys, 7, "there is none")


def test_several_missing_pieces_are_all_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    _drop("sysroot/composefs/images/{staged}")(case)
    _drop("sysroot/state/deploy/{staged}")(case)
    _fails(case, capsys, 10, "missing .*state/deploy/.*images/")


def test_a_missing_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = lab.make_host(tmp_path / "h", files={"big": "old " * 100})
    (host.root / "etc/big").write_text("mine " * 100)
    staged = lab.stage_files(host, {"big": "new " * 1000})
    case = flowkit.Case(host, host.booted, staged)
    wanted = b"new " * 1000
    objects = [path for path in (host.repository / "objects").rglob("*") if path.is_file()]
    (target,) = [path for path in objects if path.read_bytes() == wanted]
    target.unlink()
    (host.state_dir(staged) / "etc/big").unlink()
    (host.root / "etc/big").write_text("old " * 100)
    _fails(case, capsys, 10, "object")


def test_a_kernel_that_is_not_the_staged_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    (case.host.esp / f"EFI/Linux/bootc_composefs-{case.staged}/vmlinuz").write_bytes(b"truncat")
    _fails(case, capsys, 11, "kernel and initrd are not those")


def _image_of(case: Case, digest: str) -> Path:
    return (case.host.repository / "images" / digest).resolve()


@pytest.mark.parametrize("which", ["booted", "staged"])
def test_an_image_whose_digest_does_not_match(tmp_path: Path, capsys: pytest.CaptureFixture[str], which: str) -> None:
    case = flowkit.make_case(tmp_path / "h")
    image = _image_of(case, getattr(case, which))
    data = bytearray(image.read_bytes())
    data[len(data) // 2] ^= 1
    image.write_bytes(data)
    _fails(case, capsys, 11, "verifying the image .*: its digest is ")


def test_a_tolerated_missing_verity_still_does_not_tolerate_a_wrong_digest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h", forms=lab.LabForms(missing_verity=True))
    image = _image_of(case, case.staged)
    image.write_bytes(image.read_bytes() + b"\0")
    _fails(case, capsys, 11, "verifying the image")


def _replace_image(case: Case, data: bytes) -> str:
    """Stage an image of which only the digest is right; every name moves along."""
    from bootc_fast import _core

    blob = case.root / "blob"
    blob.write_bytes(data)
    with blob.open("rb") as file:
        digest = _core.digest_fd(file.fileno(), algorithm="sha512")
    target = case.host.repository / "objects" / digest[:2] / digest[2:]
    target.parent.mkdir(exist_ok=True)
    blob.rename(target)
    (case.host.repository / "images" / digest).symlink_to(f"../objects/{digest[:2]}/{digest[2:]}")
    state = case.host.state_dir(case.staged)
    (state / f"{case.staged}.origin").rename(state / f"{digest}.origin")
    state.rename(case.host.state_dir(digest))
    for path in (case.host.boot_dir / "loader/entries.staged").iterdir():
        path.write_text(path.read_text().replace(f"composefs={case.staged}", f"composefs={digest}"))
    case.host.marker.write_text(json.dumps({"depl_id": digest}))
    return digest


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda data: data[:5000], 11),
        (lambda _data: b"", 6),
        (lambda data: b"\0" * len(data), 6),
        # The superblock's magic, its compression word (feature_incompat), the root's number.
        (lambda data: data[:1024] + b"\0\0\0\0" + data[1028:], 6),
        (lambda data: data[: 1024 + 80] + b"\x01\0\0\0" + data[1024 + 84 :], 6),
        (lambda data: data[: 1024 + 14] + b"\xff\xff" + data[1024 + 16 :], 6),
    ],
)
def test_images_that_cannot_be_walked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[bytes], bytes], code: int
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    digest = _replace_image(case, spoil(_image_of(case, case.staged).read_bytes()))
    _fails(flowkit.Case(case.host, case.booted, digest), capsys, code, ".")


def test_a_conflict_is_listed_with_both_sides_and_an_explicit_strategy_settles_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = lab.make_host(tmp_path / "h", files={"a": "1"})
    (host.root / "etc/a").write_text("mine")
    staged = lab.stage_files(host, {"a/b": "2"})
    case = flowkit.Case(host, host.booted, staged)
    _fails(case, capsys, 5, "conflict: /etc/a: here .*; new image .*", "hint: .*--on-conflict")
    assert flowkit.finalize(capsys, case, "--on-conflict", "new")[0] == 0
    assert flowkit.staged_etc(case) == {b"a/b": b"2", b"a.bootc-saved": b"mine"}


def test_a_malformed_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    (case.root / "etc/bootc-fast").mkdir()
    (case.root / "etc/bootc-fast/merge.toml").write_text("default = 3\n")
    _fails(case, capsys, 10, "merge.toml")


def test_a_malformed_origin_of_the_staged_deployment_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    (case.host.state_dir(case.staged) / f"{case.staged}.origin").write_bytes(b"\xff\xfe[")
    assert flowkit.finalize(capsys, case)[0] == 0
    assert flowkit.next_boot(case.host) == case.staged


@pytest.mark.parametrize("data", [b"", b"\7\0\0\0", b"\7\0\0\0s", b"\7\0\0\0\0\xd8\0\0"])
def test_malformed_efi_variables(tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes) -> None:
    case = flowkit.make_case(tmp_path / "h")
    (variable,) = (case.root / "sys/firmware/efi/efivars").glob("LoaderInfo-*")
    variable.write_bytes(data)
    _fails(case, capsys, 10, "LoaderInfo")


def test_an_unparsable_entry_file_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    entries = case.host.boot_dir / "loader/entries"
    (entries / "odd.conf").write_bytes(b"\0\xff\0")
    os.mkdir(os.fsencode(entries) + b"/dir-\xff.conf")
    code, _, err = flowkit.finalize(capsys, case)
    assert code == 0
    assert "warning: " in err
    assert (entries / "odd.conf").read_bytes() == b"\0\xff\0"
    assert flowkit.next_boot(case.host) == case.staged


def test_a_uki_that_boots_another_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h", boot_type=BootType.UKI)
    ukis = case.host.esp / "EFI/Linux/bootc"
    shutil.copy(ukis / f"bootc_composefs-{case.booted}.efi", ukis / f"bootc_composefs-{case.staged}.efi")
    _fails(case, capsys, 7, "cmdline names ")


def test_a_uki_that_is_no_pe_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h", boot_type=BootType.UKI)
    (case.host.esp / f"EFI/Linux/bootc/bootc_composefs-{case.staged}.efi").write_bytes(b"MZ garbage")
    _fails(case, capsys, 7, "PE|UKI")


def test_an_unsigned_uki_with_secure_boot_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h", boot_type=BootType.UKI)
    efivars = case.root / "sys/firmware/efi/efivars"
    (efivars / "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c").write_bytes(b"\6\0\0\0\1")
    _fails(case, capsys, 11, "UKI", "hint: ")
    assert flowkit.finalize(capsys, case, "--no-verify-signatures")[0] == 0


def test_a_held_lock_names_its_holder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    monkeypatch.setattr(finalize, "LOCK_TIMEOUT_S", 0.1)
    fd = os.open(case.root / "run/bootc-fast.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.write(fd, json.dumps({"pid": 4711, "command": "bootc-fast rollback"}).encode())
        # The kernel's word, not the file's: who wrote that may have died without emptying it.
        _fails(case, capsys, 8, f"process {os.getpid()} \\(.*\\) holds it")
    finally:
        os.close(fd)
    assert flowkit.finalize(capsys, case)[0] == 0


def test_a_root_that_is_no_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "absent"):
        code, _, err = flowkit.run(capsys, "finalize", "--root", tmp_path / name)
        assert (code, err.startswith("error: opening the host in")) == (2, True)


@pytest.mark.parametrize("options", [["--timeout", "0"], ["--timeout", "x"], ["--on-conflict", "both"], ["extra"]])
def test_wrong_usage(tmp_path: Path, options: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["finalize", "--root", str(tmp_path), *options])
    assert stopped.value.code == 2


def test_the_failure_is_in_the_record_and_in_the_report_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    _drop("efi/loader/entries.staged")(case)
    _fails(case, capsys, 7, options=("--report", str(tmp_path / "report")))
    record = flowkit.read_record(case.root)
    assert (record["result"], record["exit_code"], record["staged"]) == ("failed", 7, case.staged)
    report = json.loads((tmp_path / "report").read_text())
    assert report["errors"][0]["message"] == record["errors"][0]["message"]  # type: ignore[index]
