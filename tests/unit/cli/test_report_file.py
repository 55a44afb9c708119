"""finalize --report: the owner's only, a whole one or none, never through a link."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING

import flowkit
import pytest

from bootc_fast.cli.report_file import write_report
from bootc_fast.errors import FileSystemError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def case(tmp_path: Path) -> flowkit.Case:
    return flowkit.make_case(tmp_path / "h")


def _finalize(capsys: pytest.CaptureFixture[str], case: flowkit.Case, report: Path) -> tuple[int, str, str]:
    return flowkit.run(capsys, "finalize", "--root", case.root, "--report", report)


def test_a_report_is_its_owners_only_whatever_the_umask_and_the_old_one(
    tmp_path: Path, case: flowkit.Case, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    report.write_text("old")
    report.chmod(0o666)
    before = os.umask(0)
    try:
        code, _, err = _finalize(capsys, case, report)
    finally:
        os.umask(before)
    assert (code, err) == (0, "")
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    assert json.loads(report.read_text())["result"] == "done"
    assert sorted(os.listdir(tmp_path)) == ["h", "report.json"]


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_in_its_place_is_neither_followed_nor_replaced(
    tmp_path: Path, case: flowkit.Case, capsys: pytest.CaptureFixture[str], *, is_there: bool
) -> None:
    victim, report = tmp_path / "shadow", tmp_path / "report.json"
    if is_there:
        victim.write_text("secret")
    report.symlink_to(victim)
    code, _, err = _finalize(capsys, case, report)
    # The update itself is done, and stays that.
    assert code == 0
    assert err.startswith(f"warning: writing the report {report}: it is a symbolic link")
    assert report.is_symlink()
    assert victim.exists() == is_there
    assert not is_there or victim.read_text() == "secret"
    assert flowkit.next_boot(case.host) == case.staged


def test_a_fifo_in_its_place_is_not_waited_for(
    tmp_path: Path, case: flowkit.Case, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report"
    os.mkfifo(report)
    code, _, err = _finalize(capsys, case, report)
    assert (code, "it is no regular file" in err) == (0, True)


@pytest.mark.parametrize("call", ["fsync", "rename", "fchmod"])
def test_a_failure_leaves_the_old_report_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    report = tmp_path / "report.json"
    report.write_text("old")

    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(FileSystemError, match="No space left on device"):
        write_report(str(report), {"result": "done"})
    monkeypatch.undo()
    assert report.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.json"]


def test_a_name_without_directory_and_a_missing_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_report("plain", {"result": "done"})
    assert json.loads((tmp_path / "plain").read_text()) == {"result": "done"}
    with pytest.raises(FileSystemError, match=r"writing the report no/such: No such file or directory"):
        write_report("no/such", {})
