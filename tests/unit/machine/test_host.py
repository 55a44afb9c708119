"""host.py: paths, and access that never leaves --root DIR (spec commands.md)."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hosts import A, make_host

from bootc_fast import _core
from bootc_fast.errors import FileSystemError, InvalidStateError, UsageError
from bootc_fast.machine.host import open_host


def test_this_machine_is_live_and_a_directory_is_not(tmp_path: Path) -> None:
    assert open_host().is_live
    assert open_host("/.").is_live
    assert not open_host(tmp_path).is_live


@pytest.mark.parametrize("name", ["missing", "file", "loop"])
def test_a_root_that_is_no_directory_is_a_usage_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    os.symlink("loop", tmp_path / "loop")
    with pytest.raises(UsageError, match=name):
        open_host(tmp_path / name)


@pytest.mark.parametrize("call", ["os.path.realpath", "os.stat"])
def test_a_root_on_a_failing_disk_is_no_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(call, fail)
    with pytest.raises(FileSystemError, match=r"opening the host in .*: Input/output error"):
        open_host(tmp_path)


def test_a_relative_root_that_is_a_symlink_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_host(tmp_path / "real", cmdline="quiet")
    os.symlink("real", tmp_path / "link")
    monkeypatch.chdir(tmp_path)
    host = open_host("link")
    monkeypatch.chdir("/")
    assert host.read_bytes(host.proc_cmdline) == b"quiet"


@pytest.mark.parametrize("target", ["/secret", "../../../../../../../../../secret", "{outside}"])
def test_a_symlink_that_leads_out_ends_inside(tmp_path: Path, target: str) -> None:
    outside = tmp_path / "secret"
    outside.write_text("outside")
    host = make_host(tmp_path / "root")
    (host.root / "secret").write_text("inside")
    os.symlink(target.format(outside=outside), host.run / "link")
    if target == "{outside}":
        with pytest.raises(FileNotFoundError):
            host.read_bytes(host.run / "link")
    else:
        assert host.read_bytes(host.run / "link") == b"inside"


def test_a_directory_symlink_that_leads_out_is_not_written_through(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    host = make_host(tmp_path / "root")
    os.symlink(outside, host.root / "boot")
    with pytest.raises(FileSystemError):
        host.write_file(host.boot / "name", b"x")
    assert list(outside.iterdir()) == []


def test_the_etc_of_a_lab_host_is_followed_inside(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    (host.state_deploy / A / "etc").mkdir(parents=True)
    (host.state_deploy / A / "etc/hostname").write_text("lab")
    os.symlink(f"sysroot/state/deploy/{A}/etc", host.etc)
    assert host.read_bytes(host.etc / "hostname") == b"lab"
    with host.open_directory(host.etc) as fd:
        assert os.listdir(fd) == ["hostname"]


def test_a_path_of_another_root_is_a_bug(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="subpath"):
        make_host(tmp_path).read_bytes(Path("/etc/passwd"))


def test_reading_a_fifo_does_not_wait(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    os.mkfifo(host.staged_marker)
    with pytest.raises(InvalidStateError, match="not a regular file"):
        host.read_bytes(host.staged_marker)


def test_a_file_longer_than_its_limit_is_refused(tmp_path: Path) -> None:
    host = make_host(tmp_path, cmdline="x" * 11)
    assert len(host.read_bytes(host.proc_cmdline, max_bytes=11)) == 11
    with pytest.raises(InvalidStateError, match="longer than 10 bytes"):
        host.read_bytes(host.proc_cmdline, max_bytes=10)


def test_procfs_of_the_live_host_can_be_read() -> None:
    host = open_host()
    assert b" - " in host.read_bytes(host.mountinfo)


def test_writing_replaces_whole_files_and_leaves_no_temporary_name(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    host.write_file(host.staged_marker, b"one")
    host.write_file(host.staged_marker, b"two", mode=0o600)
    assert host.staged_marker.read_bytes() == b"two"
    assert host.staged_marker.stat().st_mode & 0o777 == 0o600
    assert host.list_directory(host.staged_marker.parent) == [b"staged-deployment"]


def test_a_write_that_fails_keeps_the_old_file_and_removes_the_new(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    (host.run / "name").mkdir()
    with pytest.raises(FileSystemError, match="directory"):
        host.write_file(host.run / "name", b"x")
    assert host.list_directory(host.run) == [b"composefs", b"name"]


def test_directories_are_made_all_the_way_down_and_kept(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    host.make_directory(host.last_finalize.parent)
    host.make_directory(host.last_finalize.parent)
    assert host.last_finalize.parent.is_dir()


def test_removing_says_whether_the_name_was_there(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    host.staged_marker.write_text("x")
    assert host.remove_file(host.staged_marker)
    assert not host.remove_file(host.staged_marker)


def test_an_absent_directory_has_no_names_and_no_status(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    assert host.list_directory(host.efivars) == []
    assert host.find_status(host.efivars) is None


def test_names_that_are_not_utf8_are_listed_as_bytes(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    (Path(os.fsdecode(os.fsencode(host.run) + b"/\xff\xfe"))).write_text("")
    assert host.list_directory(host.run) == [b"composefs", b"\xff\xfe"]


def test_a_sandbox_without_openat2_serves_this_machine_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(_core, "open_in_root", refuse)
    lab = make_host(tmp_path, cmdline="quiet")
    with pytest.raises(OSError, match="not implemented"):
        lab.read_bytes(lab.proc_cmdline)
    live = replace(lab, is_live=True)
    assert live.read_bytes(live.proc_cmdline) == b"quiet"


def test_errors_of_the_core_carry_errno_text_and_file_name(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        host.open_file(host.proc_cmdline)
    assert (caught.value.errno, caught.value.strerror) == (2, "No such file or directory")
    assert caught.value.filename == str(host.proc_cmdline)
