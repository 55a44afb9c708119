"""boot_complete.py: an update that was not applied makes a unit fail at the next boot, once, whatever the reason."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import flowkit
import pytest

from bootc_fast import lab
from bootc_fast.errors import FileSystemError
from bootc_fast.lab.layout import open_lab
from bootc_fast.machine.host import Host
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from pathlib import Path

RECORD = "sysroot/state/bootc-fast/last-finalize.json"


def _boot(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    """A boot through firmware and loader: /run is empty, the kernel has another boot id."""
    code, _, err = flowkit.run(capsys, "lab", "boot", root)
    assert code == 0, err


def _report(capsys: pytest.CaptureFixture[str], root: Path) -> tuple[int, str, str]:
    return flowkit.run(capsys, "boot-complete", "--root", root)


def test_a_failure_is_told_once_with_its_text_and_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    case.host.marker.write_text("{")
    _, _, error = flowkit.finalize(capsys, case)
    code, out, err = _report(capsys, case.root)
    assert (code, out) == (10, "")
    assert all(line in err for line in error.splitlines())
    assert _report(capsys, case.root) == (0, "", "")
    assert flowkit.read_record(case.root)["reported"] is True


def test_without_a_failure_nothing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    assert _report(capsys, case.root) == (0, "", "")
    assert flowkit.finalize(capsys, case)[0] == 0
    assert _report(capsys, case.root) == (0, "", "")


@pytest.mark.parametrize("is_booted", [True, False])
def test_an_interrupted_finalize_is_told_unless_its_deployment_has_booted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *, is_booted: bool
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    assert flowkit.finalize(capsys, case)[0] == 0
    path = case.root / RECORD
    path.write_text(json.dumps({**flowkit.read_record(case.root), "result": "interrupted"}))
    if is_booted:
        assert flowkit.run(capsys, "lab", "boot", case.root)[0] == 0
    code, _, err = _report(capsys, case.root)
    assert code == (0 if is_booted else 1)
    assert ("did not end" in err) is not is_booted


@pytest.mark.parametrize("content", ["no", "", '{"version": 7, "result": "failed", "time": "t"}', "\0" * 16384, None])
def test_a_record_that_is_not_readable_fails_visibly_once_and_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    record = case.root / RECORD
    record.parent.mkdir()
    if content is None:
        record.mkdir()
    else:
        record.write_text(content)
    code, _, err = _report(capsys, case.root)
    kept = record.with_name("last-finalize.json.unreadable")
    assert (code, str(kept) in err) == (10, True)
    assert kept.is_dir() if content is None else kept.read_text() == content
    assert _report(capsys, case.root) == (0, "", "")
    assert flowkit.finalize(capsys, case)[0] == 0
    assert flowkit.read_record(case.root)["result"] == "done"


@pytest.mark.parametrize("named", ["booted", "staged"])
def test_what_a_soft_reboot_outdates_is_removed_and_what_still_counts_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], named: str
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    digest = case.booted if named == "booted" else case.staged
    case.host.marker.write_text(json.dumps({"depl_id": digest}))
    reboot = case.root / "run/reboot-required"
    reboot.write_text(f"bootc: Reboot required for image: {digest}")
    assert _report(capsys, case.root) == (0, "", "")
    is_kept = named == "staged"
    assert (case.host.marker.exists(), reboot.exists()) == (is_kept, is_kept)


def test_another_programs_reboot_marker_stays_and_nothing_there_is_fine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    (case.root / "run/reboot-required").write_text("*** System restart required ***")
    assert _report(capsys, case.root) == (0, "", "")
    assert (case.root / "run/reboot-required").exists()
    (case.root / "run/reboot-required").unlink()
    case.host.marker.unlink()
    assert _report(capsys, case.root) == (0, "", "")


def test_after_a_reset_what_was_staged_is_missed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`reboot -f`: no finalize ran, nothing was written down."""
    case = flowkit.make_case(tmp_path / "h")
    _boot(capsys, case.root)
    code, _, err = _report(capsys, case.root)
    assert code == 1
    assert f"deployment {case.staged[:16]}… was staged and not applied" in err
    assert "hint: stage the update again" in err
    for _ in range(2):
        assert _report(capsys, case.root) == (0, "", "")
        _boot(capsys, case.root)


@pytest.mark.parametrize("clock", ["before 1980", "far ahead", "as it is"])
def test_a_clock_that_jumps_hides_no_missed_update(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], clock: str
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    case.host.marker.unlink()
    shutil.rmtree(case.host.state_dir(case.staged))
    assert _report(capsys, case.root)[0] == 0
    staged = lab.stage_files(case.host, {**flowkit.NEW, "later": "1\n"}, version="9")
    when = {"before 1980": 10, "far ahead": 1 << 32, "as it is": None}[clock]
    if when is not None:
        os.utime(case.host.state_dir(staged), (when, when))
    _boot(capsys, case.root)
    code, _, err = _report(capsys, case.root)
    assert (code, staged[:16] in err) == (1, True)


def test_an_update_staged_again_and_missed_again_is_told_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    _boot(capsys, case.root)
    assert _report(capsys, case.root)[0] == 1
    (case.host.state_dir(case.staged) / f"{case.staged}.origin").rename(case.root / "origin")
    (case.root / "origin").rename(case.host.state_dir(case.staged) / f"{case.staged}.origin")
    case.host.write_marker(case.staged)
    _boot(capsys, case.root)
    assert _report(capsys, case.root)[0] == 1


@pytest.mark.parametrize("how", ["applied", "rolled back", "dropped", "locked", "withdrawn", "waiting"])
def test_what_was_applied_dropped_or_held_back_on_purpose_is_not_missed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    if how in ("applied", "rolled back"):
        assert flowkit.finalize(capsys, case)[0] == 0
        _boot(capsys, case.root)
        assert _report(capsys, case.root) == (0, "", "")
    if how == "rolled back":
        assert flowkit.run(capsys, "rollback", "--root", case.root)[0] == 0
        _boot(capsys, case.root)
        assert case.host.booted == case.booted
    elif how == "dropped":
        # Finalized, then taken back before the reboot.
        assert flowkit.finalize(capsys, case)[0] == 0
        assert flowkit.run(capsys, "rollback", "--root", case.root)[0] == 0
        _boot(capsys, case.root)
        assert case.host.booted == case.booted
    elif how == "locked":
        case.host.write_marker(case.staged, locked=True)
        assert flowkit.finalize(capsys, case)[0] == 0
        _boot(capsys, case.root)
    elif how == "withdrawn":
        assert _report(capsys, case.root) == (0, "", "")
        case.host.marker.unlink()
    assert _report(capsys, case.root) == (0, "", "")


def test_an_update_that_was_finalized_and_passed_over_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    (old,) = (path.name for path in (case.host.boot_dir / "loader/entries").glob("*.conf"))
    assert flowkit.finalize(capsys, case)[0] == 0
    names = sorted(path.name for path in (case.host.boot_dir / "loader/entries").glob("*.conf"))
    chosen = next(name for name in names if case.booted in (case.host.boot_dir / "loader/entries" / name).read_text())
    case.host.write_efi_variable("LoaderEntryOneShot", chosen)
    _boot(capsys, case.root)
    assert case.host.booted == case.booted, old
    code, _, err = _report(capsys, case.root)
    assert (code, "was to boot next" in err) == (7, True)
    assert _report(capsys, case.root) == (0, "", "")


def _kill_at(case: flowkit.Case, call: str) -> None:
    """Finalize in a process of its own that is killed at its first call of a kind."""
    code = f"""
import os, sys
from bootc_fast import cli
from bootc_fast.machine import host
from bootc_fast.flows import finalize
def die(*args, **options):
    os.kill(os.getpid(), 9)
{call} = die
cli.main(["composefs-finalize-staged", "--root", sys.argv[1]])
"""
    done = subprocess.run([sys.executable, "-c", code, case.root], check=False, capture_output=True)
    assert done.returncode == -9, done


@pytest.mark.parametrize("call", ["finalize.take_snapshot", "finalize._begin_record", "finalize.publish_menu"])
def test_a_finalize_that_was_killed_at_once_is_missed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], call: str
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    _kill_at(case, call)
    if call != "finalize._begin_record":
        assert flowkit.read_record(case.root)["result"] == "interrupted"
    _boot(capsys, case.root)
    code, _, err = _report(capsys, case.root)
    assert (code, case.staged[:16] in err) == (1, True)
    assert _report(capsys, case.root) == (0, "", "")


def _conflict(case: flowkit.Case) -> None:
    """What the update brings as a file is the admin's directory."""
    (case.root / "etc/fresh").mkdir()
    (case.root / "etc/fresh/mine").write_text("mine\n")


def _fill_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No name and no block can be had on the physical root; /run is a disk of its own."""
    for method in (Host.write_file, Host.make_directory):

        def full(host: Host, path: Path, *args: object, method: Any = method, **options: object) -> object:
            if path.is_relative_to(host.sysroot):
                raise FileSystemError(f"writing {path}: No space left on device")
            return method(host, path, *args, **options)

        monkeypatch.setattr(Host, method.__name__, full)


def test_with_the_disk_full_a_failure_is_written_over_the_record_made_beforehand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    assert _report(capsys, case.root) == (0, "", "")
    _conflict(case)
    with monkeypatch.context() as patch:
        _fill_disk(patch)
        assert flowkit.finalize(capsys, case)[0] == 5
    _boot(capsys, case.root)
    code, _, err = _report(capsys, case.root)
    assert code == 5
    assert "conflict: /etc/fresh" in err


def test_a_record_that_cannot_be_written_is_a_warning_and_not_the_end_of_an_update(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    # A file where the directory should be: nobody can write there, root neither.
    (case.root / "sysroot/state/bootc-fast").write_text("")
    code, _, err = flowkit.finalize(capsys, case)
    assert code == 0, err
    assert "warning: writing how it goes to the record: " in err
    _boot(capsys, case.root)
    assert case.host.booted == case.staged
    assert _report(capsys, case.root)[0] == 6


@pytest.mark.parametrize("strategy", ["current", "new"])
def test_the_strategy_asked_for_an_update_is_taken_again_at_shutdown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], strategy: str
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    _conflict(case)
    assert flowkit.finalize(capsys, case, "--on-conflict", strategy)[0] == 0
    (case.root / "etc/late.conf").write_text("late\n")
    assert "will NOT be applied" not in flowkit.run(capsys, "status", "--root", case.root)[1]
    code, _, err = flowkit.finalize(capsys, case)
    assert (code, f"--on-conflict={strategy}" in err) == (0, True)
    merged = flowkit.staged_etc(case)
    assert merged[b"late.conf"] == b"late\n"
    assert (b"fresh/mine" in merged) is (strategy == "current")
    assert (merged.get(b"fresh") == b"new\n") is (strategy == "new")
    _boot(capsys, case.root)
    assert case.host.booted == case.staged
    assert _report(capsys, case.root) == (0, "", "")


def test_a_strategy_counts_for_its_update_only_and_an_explicit_one_wins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    _conflict(case)
    assert flowkit.finalize(capsys, case, "--on-conflict", "current")[0] == 0
    assert flowkit.finalize(capsys, case, "--on-conflict", "fail")[0] == 5
    lab.stage_files(case.host, {**flowkit.NEW, "third": "3\n"}, version="3")
    assert flowkit.finalize(capsys, case)[0] == 5


@pytest.mark.parametrize("ends", ["failed", "killed"])
def test_a_merge_that_fails_after_the_update_was_made_the_next_boot_is_told_as_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ends: str
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    assert flowkit.finalize(capsys, case)[0] == 0
    committed = flowkit.read_record(case.root)["time"]
    _conflict(case)
    (case.root / "etc/late.conf").write_text("late\n")
    if ends == "failed":
        code, _, err = flowkit.finalize(capsys, case)
        assert code == 5
        assert f"the update boots next all the same: with /etc as it was merged at {committed}" in err
    else:
        _kill_at(case, "finalize.take_snapshot")
    _boot(capsys, case.root)
    assert case.host.booted == case.staged
    code, _, err = _report(capsys, case.root)
    assert code == (5 if ends == "failed" else 1)
    assert f"runs nevertheless, with /etc as it was merged at {committed}" in err
    assert "unchanged" not in err
    assert f"{case.host.state_dir(case.booted).parent}/{case.booted[:16]}*/etc, that of the deployment before" in err
    assert _report(capsys, case.root) == (0, "", "")


_CUT = """
import errno, os, sys
from bootc_fast import cli
from bootc_fast.boot.area import real
left = int(sys.argv[2])
def no_exchange(*args):
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
def cut(real):
    def call(*args, **options):
        global left
        real(*args, **options)
        left -= os.fsencode(args[0]).endswith(b".conf") or os.fsencode(args[-1]).endswith(b".conf")
        if not left:
            os.kill(os.getpid(), 9)
    return call
real.RealDirectory.exchange = no_exchange
os.rename, os.unlink = cut(os.rename), cut(os.unlink)
cli.main(["--root", sys.argv[1], "rollback"])
"""


def _own_entries(case: flowkit.Case) -> list[str]:
    """The deployments of the live entries, by our own look."""
    texts = [path.read_text() for path in (case.host.boot_dir / "loader/entries").glob("*.conf")]
    return sorted(digest for text in texts for digest in (case.booted, case.staged) if f"composefs={digest}" in text)


@pytest.mark.parametrize(("loader", "boot_type"), [one for one in flowkit.COMBINATIONS if one[1] is BootType.BLS])
def test_two_entries_for_a_deployment_as_a_cut_leaves_them_are_one_after_the_next_boot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader, boot_type: BootType
) -> None:
    template = tmp_path / "template"
    case = flowkit.make_case(template, loader, boot_type)
    assert flowkit.finalize(capsys, case)[0] == 0
    _boot(capsys, case.root)
    # Nothing is on trial any more.
    assert _report(capsys, case.root)[0] == 0
    once = sorted([case.booted, case.staged])
    had_two = 0
    for number in range(1, 9):
        root = tmp_path / str(number)
        shutil.copytree(template, root, symlinks=True)
        cut = flowkit.Case(open_lab(root), case.booted, case.staged)
        done = subprocess.run([sys.executable, "-c", _CUT, root, str(number)], check=False, capture_output=True)
        if done.returncode == 0:
            break
        is_double = len(_own_entries(cut)) > len(set(_own_entries(cut)))
        had_two += is_double
        first = flowkit.next_boot(cut.host)
        code, _, err = _report(capsys, root)
        assert (code, "boot entries, as a cut leaves them: now it has one" in err) == (0, is_double), err
        assert (_own_entries(cut), flowkit.next_boot(cut.host)) == (once, first)
        assert _report(capsys, root) == (0, "", "")
    assert had_two >= 1


def test_an_old_set_beside_the_live_one_is_gone_after_the_next_boot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a cut after the exchange leaves: nothing else of the menu is touched, and nothing need be told."""
    case = flowkit.make_case(tmp_path / "h")
    loader = case.host.boot_dir / "loader"
    shutil.copytree(loader / "entries", loader / "BFSET3")
    before = {path.relative_to(loader): path.read_bytes() for path in loader.rglob("*") if path.is_file()}
    assert _report(capsys, case.root) == (0, "", "")
    after = {path.relative_to(loader): path.read_bytes() for path in loader.rglob("*") if path.is_file()}
    assert after == {path: raw for path, raw in before.items() if path.parts[0] != "BFSET3"}
    assert not (loader / "BFSET3").exists()


def test_an_entry_that_boots_a_deployment_in_another_way_is_no_duplicate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    (path,) = (case.host.boot_dir / "loader/entries").glob("*.conf")
    other = path.with_name("rescue.conf")
    other.write_text(path.read_text().replace("options ", "options systemd.unit=rescue.target "))
    before = {one.name: one.read_text() for one in path.parent.iterdir()}
    assert _report(capsys, case.root) == (0, "", "")
    assert {one.name: one.read_text() for one in path.parent.iterdir()} == before


def test_an_update_that_waits_keeps_its_staged_set_when_duplicates_are_mended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    (path,) = (case.host.boot_dir / "loader/entries").glob("*.conf")
    path.with_name("bootc_lab-1-0.conf").write_text(path.read_text())
    code, _, err = _report(capsys, case.root)
    assert (code, "now it has one" in err) == (0, True), err
    assert _own_entries(case) == [case.booted]
    assert flowkit.finalize(capsys, case)[0] == 0
    assert flowkit.next_boot(case.host) == case.staged
