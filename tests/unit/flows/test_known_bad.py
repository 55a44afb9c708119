"""Known bad: what failed its trial is not taken again until somebody insists, or its failure is forgotten."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
from typing import TYPE_CHECKING

import flowkit
import pytest
import trio
from flowkit import NEW, Case
from schemas import validate

from bootc_fast import finalize_staged, forget_failure, get_status, lab, message_ids, rollback
from bootc_fast.errors import TrialFailedError, UsageError
from bootc_fast.machine.host import open_host
from bootc_fast.trial.states import TrialRecord, TrialState, change_states, find_states_file, read_states
from bootc_fast.types import BootType, Loader, Result, VerityDigest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FAILED = TrialRecord(TrialState.FAILED, tries=3, reasons=("db.service failed", "no DNS"))
SAID = "was tried 3 times and failed: db.service failed; no DNS"


def _note(case: Case, digest: str, record: TrialRecord) -> None:
    known = VerityDigest(digest)
    change_states(open_host(case.root), lambda before: {**before, known: record}, with_state={known}, time="now")


def _state(case: Case, digest: str) -> str | None:
    record = read_states(open_host(case.root))[0].get(VerityDigest(digest))
    return None if record is None else record.state.value


def _entry(case: Case, digest: str) -> Path:
    entries = (case.host.boot_dir / "loader/entries").glob("*.conf")
    return next(path for path in entries if digest in path.read_text())


def _boot_complete(case: Case, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code, _out, err = flowkit.run(capsys, "boot-complete", "--root", case.root)
    return code, err


@pytest.mark.parametrize(("loader", "boot_type"), flowkit.COMBINATIONS[2:4])
async def test_a_finalize_refuses_what_has_failed_and_changes_nothing(
    tmp_path: Path, loader: Loader, boot_type: BootType
) -> None:
    case = flowkit.make_case(tmp_path / "h", loader, boot_type)
    _note(case, case.staged, FAILED)
    before = flowkit.snapshot(case.root)
    for dry_run in (True, False):
        with pytest.raises(TrialFailedError, match=SAID) as caught:
            await finalize_staged(case.root, dry_run=dry_run)
        hint = caught.value.hint or ""
        assert (caught.value.exit_code, "--force" in hint) == (12, True)
        assert f"bootc-fast forget-failure {case.staged[:16]}" in hint
    assert flowkit.snapshot(case.root) == before
    status = await get_status(case.root)
    assert status.staged_status is not None
    assert status.staged_status.will_be_applied is False
    assert SAID in status.staged_status.reasons[0]


async def test_by_force_it_is_on_trial_again(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    _note(case, case.staged, FAILED)
    assert (await finalize_staged(case.root, force=True)).result is Result.DONE
    assert flowkit.next_boot(case.host) == case.staged
    assert _state(case, case.staged) == "trial"


async def test_once_forgotten_it_is_like_any_other(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    _note(case, case.staged, FAILED)
    assert (await forget_failure(case.root, case.staged[:10])).is_changed
    assert not (await forget_failure(case.root, case.staged)).is_changed
    assert _state(case, case.staged) == "new"
    assert (await finalize_staged(case.root)).result is Result.DONE


async def test_it_is_known_without_its_state_directory_and_can_be_forgotten_then(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    gone = "ab" * 64
    _note(case, gone, FAILED)
    assert (await forget_failure(case.root, gone[:8])).deployment == gone
    assert _state(case, gone) is None
    with pytest.raises(UsageError, match="there is no deployment"):
        await forget_failure(case.root, gone)
    with pytest.raises(UsageError):
        await forget_failure(case.root)


def test_an_update_is_new_then_on_trial_then_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")

    def shown(slot: str) -> str | None:
        document = json.loads(flowkit.run(capsys, "status", "--json", "--root", case.root)[1])
        validate("status", document)
        trial = document["status"][slot]["bootcFast"]["trial"]
        return None if trial is None else str(trial["state"])

    assert (shown("booted"), shown("staged")) == (None, "new")
    assert _boot_complete(case, capsys) == (0, "")
    assert shown("booted") == "good"
    assert flowkit.finalize(capsys, case)[0] == 0
    assert shown("staged") == "trial"
    lab.boot(case.host)
    text = flowkit.run(capsys, "status", "--root", case.root)[1]
    assert re.search(
        r"Trial:       on trial since \S+Z, until a boot of it is complete; 2 tries left, 1 done,", text
    ), text
    assert _boot_complete(case, capsys) == (0, "")
    assert (shown("booted"), shown("rollback")) == ("good", "good")
    document = json.loads(find_states_file(open_host(case.root)).read_text())
    validate("deployments", document)
    # Going back to what was good is no trial.
    assert flowkit.run(capsys, "rollback", "--root", case.root)[0] == 0
    assert _state(case, case.booted) == "good"


def _fall_back(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    """Finalize, and be a loader that gave up after three boots: the old deployment runs."""
    assert flowkit.finalize(capsys, case)[0] == 0
    path = _entry(case, case.staged)
    path.rename(path.with_name(path.name.removesuffix(".conf") + "+0-3.conf"))
    case.host.marker.unlink()
    (case.root / "proc/sys/kernel/random").mkdir(parents=True, exist_ok=True)
    (case.root / "proc/sys/kernel/random/boot_id").write_text("11111111-2222-3333-4444-555555555555\n")


def test_a_loader_that_gave_up_is_told_once_and_remembered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    journal = case.root / "run/systemd/journal"
    journal.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        directory_fd = os.open(journal, os.O_RDONLY | os.O_DIRECTORY)
        receiver.bind(f"/proc/self/fd/{directory_fd}/socket")
        os.close(directory_fd)
        _fall_back(case, capsys)
        code, err = _boot_complete(case, capsys)
        said = list(_drain(receiver))
    assert code == 12
    assert f"error: deployment {case.staged[:16]}… was tried 3 times and failed: the boot loader gave up on it" in err
    assert f"`bootc-fast forget-failure {case.staged[:16]}`" in err
    assert any(message_ids.TRIAL_FAILED.encode() in one for one in said)
    assert (_state(case, case.staged), _state(case, case.booted)) == ("failed", "good")
    assert _boot_complete(case, capsys) == (0, "")
    # The same update, staged again, when bootc's garbage collection has taken all of it.
    _entry(case, case.staged).unlink()
    shutil.rmtree(case.host.state_dir(case.staged))
    assert _boot_complete(case, capsys) == (0, "")
    assert lab.stage_files(case.host, NEW) == case.staged
    code, _out, err = flowkit.finalize(capsys, case)
    assert (code, "was tried 3 times and failed" in err) == (12, True)
    # It was the next boot once, and is not any more.
    assert "boots next all the same" not in err
    assert flowkit.next_boot(case.host) == case.booted


def _drain(receiver: socket.socket) -> Iterator[bytes]:
    receiver.settimeout(0)
    with contextlib.suppress(BlockingIOError):
        while True:
            yield receiver.recv(1 << 16)


def test_each_try_that_left_a_reason_is_told_when_the_loader_gave_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    check = case.root / "etc/greenboot/check/required.d/net.sh"
    check.parent.mkdir(parents=True)
    check.write_text("exit 3")
    # What is not on trial leaves no reason.
    assert flowkit.run(capsys, "health", "--root", case.root)[0] == 12
    assert _state(case, case.booted) is None
    check.unlink()
    assert flowkit.finalize(capsys, case)[0] == 0
    since = read_states(open_host(case.root))[0][VerityDigest(case.staged)].time
    command_line = (case.root / "proc/cmdline").read_text()
    mounts = (case.root / "proc/self/mountinfo").read_text()
    lab.boot(case.host)
    check = case.root / "etc/greenboot/check/required.d/net.sh"
    check.parent.mkdir(parents=True, exist_ok=True)
    check.write_text("exit 3")
    for _ in range(2):
        assert flowkit.run(capsys, "health", "--root", case.root)[0] == 12
    record = read_states(open_host(case.root))[0][VerityDigest(case.staged)]
    assert (record.state, record.time, len(record.reasons)) == (TrialState.TRIAL, since, 2)
    path = _entry(case, case.staged)
    path.rename(path.with_name(path.name.removesuffix(".conf") + "+0-3.conf"))
    (case.root / "proc/cmdline").write_text(command_line)
    (case.root / "proc/self/mountinfo").write_text(mounts)
    code, err = _boot_complete(case, capsys)
    assert code == 12
    assert "was tried 3 times and failed: " in err
    assert err.count("net.sh: it exited with 3") == 2


def test_a_counter_at_its_end_counts_without_any_note_and_can_be_forgiven(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    _fall_back(case, capsys)
    # Whoever counted, and whatever we noted: the record says that it is on trial.
    assert _state(case, case.staged) == "trial"
    options = ("--root", case.root, "--to", case.staged)
    assert flowkit.run(capsys, "rollback", *options)[0] == 12
    assert flowkit.run(capsys, "forget-failure", case.staged, "--root", case.root)[:2] == (
        0,
        f"Deployment {case.staged[:16]}…: its failed trial is forgotten\n",
    )
    assert _boot_complete(case, capsys)[0] != 12
    assert flowkit.run(capsys, "rollback", *options)[0] == 0
    assert flowkit.next_boot(case.host) == case.staged
    # It has an entry without that counter now; the next one that ends counts again.
    _boot_complete(case, capsys)
    record = read_states(open_host(case.root))[0][VerityDigest(case.staged)]
    assert not record.is_forgiven


async def test_a_rollback_to_what_has_failed_wants_force_and_begins_a_trial(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    await finalize_staged(case.root)
    lab.boot(case.host)
    _note(case, case.booted, FAILED)
    before = flowkit.snapshot(case.root)
    with pytest.raises(TrialFailedError, match=SAID):
        await rollback(case.root)
    assert flowkit.snapshot(case.root) == before
    await rollback(case.root, force=True)
    assert flowkit.next_boot(case.host) == case.booted
    assert _state(case, case.booted) == "trial"


async def test_what_was_finalized_and_taken_back_before_a_boot_is_new_again(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    await finalize_staged(case.root)
    await rollback(case.root)
    assert flowkit.next_boot(case.host) == case.booted
    assert _state(case, case.staged) == "new"
    await rollback(case.root)
    lab.boot(case.host)
    # What runs may be on trial still when it is rolled back from.
    _note(case, case.staged, TrialRecord(TrialState.TRIAL))
    await rollback(case.root)
    assert _state(case, case.staged) == "trial"


def test_what_failed_and_runs_all_the_same_stays_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    _note(case, case.booted, FAILED)
    assert _boot_complete(case, capsys) == (0, "")
    assert _state(case, case.booted) == "failed"
    assert SAID in flowkit.run(capsys, "status", "--root", case.root)[1].replace("\n", " ").replace("  ", "")


@pytest.mark.parametrize("text", ["", "[]", '{"version": 9, "deployments": {}}'])
def test_a_file_that_cannot_be_read_fails_no_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    path = find_states_file(open_host(case.root))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    code, _out, _err = flowkit.run(capsys, "status", "--root", case.root)
    assert code == 0
    assert path.read_text() == text
    code, _out, err = flowkit.finalize(capsys, case)
    assert (code, "deployments.json" in err) == (0, True)
    assert _state(case, case.staged) == "trial"
    assert path.with_name("deployments.json.unreadable").read_text() == text
    lab.boot(case.host)
    path.write_text(text)
    code, err = _boot_complete(case, capsys)
    assert (code, "kept as" in err) == (0, True)
    assert _state(case, case.staged) == "good"


def test_a_file_that_the_disk_does_not_give_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    path = find_states_file(open_host(case.root))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(path.name)
    code, _out, err = flowkit.finalize(capsys, case)
    assert (code, "noting the trial" in err) == (0, True)
    assert flowkit.next_boot(case.host) == case.staged


async def test_a_cancellation_before_the_write_forgets_nothing(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    _note(case, case.staged, FAILED)
    with trio.CancelScope() as scope:
        await forget_failure(case.root, case.staged, on_event=lambda _event: scope.cancel())
    assert scope.cancelled_caught
    assert _state(case, case.staged) == "failed"
