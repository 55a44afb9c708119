"""lab.edits: one edit of every kind."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from bootc_fast import lab
from bootc_fast.errors import UsageError
from bootc_fast.lab.edits import XATTR_NAME


def _make_etc(directory: Path) -> Path:
    files: dict[str | bytes, str | bytes | lab.LabFile | lab.LabDir | lab.LabLink] = {
        name: name for name in ("adduser.conf", "fstab", "issue.net", "shells", "opt/a")
    }
    lab.write_files(directory, files)
    return directory


def test_every_kind_of_edit_of_the_issue_is_made(tmp_path: Path) -> None:
    etc = _make_etc(tmp_path)
    lab.apply_edits(etc, hard=True)
    assert (etc / "adduser.conf").read_text() == "adduser.conf# changed by the administrator\n"
    assert "WantedBy=multi-user.target" in (etc / "systemd/system/lab-hello.service").read_text()
    link = etc / "systemd/system/multi-user.target.wants/lab-hello.service"
    assert os.readlink(link) == "/etc/systemd/system/lab-hello.service"
    assert not (etc / "issue.net").exists()
    assert stat.S_IMODE((etc / "fstab").stat().st_mode) == 0o600
    assert os.readlink(etc / "opt") == "opt.local"
    assert (etc / "opt/a").read_text() == "opt/a"
    assert len(os.getxattr(etc / "shells", XATTR_NAME)) == 200
    assert (etc / "lab-helper").stat().st_mode & stat.S_ISUID


def test_by_default_no_edit_is_one_that_bootcs_finalize_ends_at(tmp_path: Path) -> None:
    """Its buffer for an attribute has 128 bytes, and it merges no directory that the admin has made a symlink."""
    etc = _make_etc(tmp_path)
    lab.apply_edits(etc)
    assert 0 < len(os.getxattr(etc / "shells", XATTR_NAME)) <= 128
    assert (etc / "opt").is_dir()
    assert not (etc / "opt").is_symlink()


def test_reported_paths_are_those_that_changed(tmp_path: Path) -> None:
    etc = _make_etc(tmp_path)
    reported = {edit.path for edit in lab.apply_edits(etc, hard=True)}
    assert reported == {
        b"adduser.conf", b"systemd/system/lab-hello.service", b"issue.net", b"fstab", b"opt", b"opt.local", b"shells",
        b"systemd/system/multi-user.target.wants/lab-hello.service", b"lab-helper",
    }  # fmt: skip


def test_an_etc_without_the_usual_files_is_edited_where_something_fits(tmp_path: Path) -> None:
    lab.write_files(tmp_path, {"a": "", "b": "", "c": "", "d": "", "x/y": ""})
    names = [edit.path for edit in lab.apply_edits(tmp_path, hard=True)]
    assert {b"a", b"b", b"c", b"d", b"x"} <= set(names)


def test_a_second_round_of_edits_is_refused(tmp_path: Path) -> None:
    lab.apply_edits(_make_etc(tmp_path))
    with pytest.raises(UsageError, match="edited already"):
        lab.apply_edits(tmp_path)


def test_too_small_an_etc_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing left to edit"):
        lab.apply_edits(tmp_path)
