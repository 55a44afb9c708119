"""finalize.py: what a finalize does on every kind of host, and what a second one leaves alone."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import flowkit
import pytest

from bootc_fast import events, finalize_staged, lab
from bootc_fast.types import BootType, Loader, Result

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("loader", "boot_type"), flowkit.COMBINATIONS)
def test_the_staged_deployment_boots_next_with_the_merged_etc(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader, boot_type: BootType
) -> None:
    case = flowkit.make_case(tmp_path / "h", loader, boot_type)
    code, out, err = flowkit.finalize(capsys, case)
    assert (code, err) == (0, "")
    assert "The staged deployment boots next" in out
    assert flowkit.next_boot(case.host) == case.staged
    assert flowkit.staged_etc(case) == flowkit.MERGED
    assert not (tmp_path / "h/var/.updated").exists()
    record = flowkit.read_record(case.root)
    assert (record["result"], record["booted"], record["staged"]) == ("done", case.booted, case.staged)


@pytest.mark.parametrize(("loader", "boot_type"), flowkit.COMBINATIONS)
def test_a_second_run_finds_nothing_to_do_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader, boot_type: BootType
) -> None:
    case = flowkit.make_case(tmp_path / "h", loader, boot_type)
    assert flowkit.finalize(capsys, case)[0] == 0
    record = flowkit.read_record(case.root)
    before = flowkit.snapshot(case.root)
    code, out, _ = flowkit.finalize(capsys, case)
    assert (code, "finalized already" in out) == (0, True)
    assert flowkit.snapshot(case.root) == before
    assert flowkit.read_record(case.root) == record


def test_an_edit_made_after_a_finalize_is_carried_over_by_the_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    assert flowkit.finalize(capsys, case)[0] == 0
    (case.root / "etc/late").write_bytes(b"late\n")
    assert flowkit.finalize(capsys, case)[0] == 0
    assert flowkit.staged_etc(case) == {**flowkit.MERGED, b"late": b"late\n"}
    assert flowkit.next_boot(case.host) == case.staged


def test_booted_and_staged_may_differ_in_boot_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = lab.make_host(tmp_path / "h", files=flowkit.OLD)
    staged = lab.stage_files(host, flowkit.NEW, boot_type=BootType.UKI)
    assert flowkit.run(capsys, "finalize", "--root", host.root)[0] == 0
    texts = [path.read_text() for path in (host.boot_dir / "loader/entries").iterdir()]
    assert sorted(staged in text for text in texts) == [False, True]


@pytest.mark.parametrize(
    "forms",
    [
        lab.LabForms(old_entry_names=True, bare_sort_keys=True, bare_marker=True, imginfo=True),
        lab.LabForms(prefix=False, missing_verity=True),
        lab.LabForms(efi_staged=True, uki_addon=True, uki_key="efi"),
    ],
)
@pytest.mark.parametrize("boot_type", list(BootType))
def test_hosts_in_older_forms_are_finalized(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], forms: lab.LabForms, boot_type: BootType
) -> None:
    case = flowkit.make_case(tmp_path / "h", boot_type=boot_type, forms=forms)
    code, _, err = flowkit.finalize(capsys, case)
    assert (code, err) == (0, "")
    assert flowkit.next_boot(case.host) == case.staged
    assert not [name for name in flowkit.read_tree(case.host.esp) if name.endswith(b".staged")]


def test_nothing_staged_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = lab.make_host(tmp_path / "h", files=flowkit.OLD)
    before = flowkit.snapshot(host.root)
    code, out, _ = flowkit.run(capsys, "composefs-finalize-staged", "--root", host.root)
    assert (code, out) == (0, "Nothing is staged: nothing to do\n")
    assert flowkit.snapshot(host.root) == before
    assert not (host.root / "run/bootc-fast.lock").exists()


def test_a_marker_that_names_the_booted_deployment_counts_as_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = lab.make_host(tmp_path / "h", files=flowkit.OLD)
    host.write_marker(host.booted)
    assert flowkit.run(capsys, "finalize", "--root", host.root)[:2] == (0, "Nothing is staged: nothing to do\n")


def test_a_locked_deployment_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = lab.make_host(tmp_path / "h", files=flowkit.OLD)
    lab.stage_files(host, flowkit.NEW, locked=True)
    before = flowkit.snapshot(host.root)
    code, out, _ = flowkit.run(capsys, "finalize", "--root", host.root)
    assert (code, "locked (download-only)" in out) == (0, True)
    assert flowkit.snapshot(host.root) == before


@pytest.mark.parametrize(("loader", "boot_type"), flowkit.COMBINATIONS)
def test_a_dry_run_tells_everything_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader, boot_type: BootType
) -> None:
    case = flowkit.make_case(tmp_path / "h", loader, boot_type)
    before = flowkit.snapshot(case.root)
    report = tmp_path / "report.json"
    code, out, _ = flowkit.finalize(capsys, case, "--dry-run", "--json", "--report", str(report))
    document = json.loads(out)
    assert (code, document["result"], document["staged"]) == (0, "dry-run", case.staged)
    assert {"base64": "bmFtZS3/"} in [change["path"] for change in document["etc"]["kept"]]
    assert json.loads(report.read_text()) == document
    assert flowkit.snapshot(case.root) == before
    assert not (case.root / "sysroot/state/bootc-fast").exists()
    assert not (case.root / "run/bootc-fast.lock").exists()


def test_with_a_transient_etc_nothing_is_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    mountinfo = case.root / "proc/self/mountinfo"
    mountinfo.write_text(mountinfo.read_text() + "40 30 0:44 / /etc rw,relatime shared:9 - tmpfs tmpfs rw\n")
    before = flowkit.staged_etc(case)
    code, _, err = flowkit.finalize(capsys, case)
    assert code == 0
    assert "warning: /etc is transient" in err
    assert flowkit.staged_etc(case) == before
    assert flowkit.next_boot(case.host) == case.staged


def test_foreign_entries_and_a_broken_third_deployment_stop_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    entries = case.host.boot_dir / "loader/entries"
    (entries / "zz-memtest.conf").write_bytes(b"title Memtest\r\nefi /memtest.efi\r\nodd\tkey\r\nsort-key zz\r\n")
    broken = case.root / f"sysroot/state/deploy/{'c' * 128}"
    broken.mkdir()
    (broken / f"{'c' * 128}.origin").write_bytes(b"\xff\0[")
    code, _, _ = flowkit.finalize(capsys, case)
    assert code == 0
    assert (entries / "zz-memtest.conf").read_bytes().startswith(b"title Memtest\r\nefi")
    assert flowkit.next_boot(case.host) == case.staged
    assert broken.exists()


def test_kernels_of_deployments_that_are_gone_are_removed_and_no_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    area = case.host.esp / "EFI/Linux"
    stale = area / f"bootc_composefs-{'d' * 128}"
    stale.mkdir()
    (stale / "vmlinuz").write_text("old")
    (area / "mine.efi").write_text("not yours")
    assert flowkit.finalize(capsys, case)[0] == 0
    left = sorted(os.listdir(area))
    assert left == sorted([f"bootc_composefs-{case.booted}", f"bootc_composefs-{case.staged}", "mine.efi"])


async def test_the_library_tells_steps_in_order_and_returns_the_outcome(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    seen: list[events.Event] = []
    outcome = await finalize_staged(case.root, on_event=seen.append)
    assert (outcome.result, outcome.booted, outcome.staged) == (Result.DONE, case.booted, case.staged)
    assert outcome.etc is not None
    assert {change.path for change in outcome.etc.kept} == {b"local.conf", b"name-\xff", b"ssh/sshd_config"}
    assert {change.path for change in outcome.etc.deleted} == {b"gone"}
    assert list(outcome.phase_s) == ["lock", "look", "decide", "prepare", "commit", "tidy"]
    started = [event.step for event in seen if isinstance(event, events.StepStarted)]
    done = [event.step for event in seen if isinstance(event, events.StepDone)]
    assert [step for step in started if "." not in step] == list(outcome.phase_s)
    assert sorted(started) == sorted(done)
    assert {"look.images", "look.etc", "look.boot"} <= set(started)


def test_verbose_tells_the_steps_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    code, _, err = flowkit.finalize(capsys, case, "-v")
    assert code == 0
    assert "commit: Replacing the boot entries\ncommit: done in " in err
