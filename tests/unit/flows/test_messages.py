"""The journal gets every message of the catalog from some flow, and only where it is true."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import flowkit
from unit.machine.test_journal import _fields, _listen

import bootc_fast
from bootc_fast import lab, message_ids

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    import pytest

EVERY = {name: value for name, value in vars(message_ids).items() if name.isupper() and isinstance(value, str)}
# Only a running machine can be restarted: tests/kernel/test_next_root.py.
NEEDS_A_KERNEL = {"RESTART_PREPARED"}


class Journal:
    """A host's journal socket, and what came since the last look."""

    def __init__(self, receiver: socket.socket) -> None:
        self._receiver = receiver
        receiver.settimeout(0)
        self.seen: set[str] = set()

    def take(self) -> list[tuple[str, dict[str, bytes]]]:
        """Names and fields of the messages, in their order."""
        names = {value.encode(): name for name, value in EVERY.items()}
        found = []
        while True:
            try:
                fields = _fields(self._receiver.recv(1 << 20))
            except BlockingIOError:
                return found
            name = names[fields["MESSAGE_ID"]]
            self.seen.add(name)
            found.append((name, fields))

    def take_names(self) -> list[str]:
        return [name for name, _fields in self.take()]


def _play_trials(case: flowkit.Case, journal: Journal, play: Callable[..., None]) -> None:
    """What the commands around trials tell; each says something once, and nothing where nothing changes."""
    for _ in range(2):
        play("pin", "booted")
    play("unpin", "booted")
    pinned, unpinned = journal.take()
    assert (pinned[0], pinned[1]["BOOTC_FAST_OPERATION"]) == ("PIN_CHANGED", b"pin")
    assert (unpinned[0], unpinned[1]["BOOTC_FAST_OPERATION"]) == ("PIN_CHANGED", b"unpin")
    play("rollback", "--to", case.staged)
    journal.take()
    for digest, counters in ((case.staged, "+0-2"), (case.booted, "+1-2")):
        entries = (case.host.boot_dir / "loader/entries").glob("*.conf")
        path = next(path for path in entries if f"composefs={digest}" in path.read_text())
        path.rename(path.with_name(f"{path.name.partition('+')[0].removesuffix('.conf')}{counters}.conf"))
    for _ in range(2):
        play("boot-complete")
    told = dict(found := [one for one in journal.take() if one[0] in {"TRIAL_FAILED", "TRIAL_PASSED", "FELL_BACK"}])
    assert len(found) == len(told) == 3
    assert told["TRIAL_FAILED"]["BOOTC_FAST_TRIES"] == b"2"
    assert {told[name]["BOOTC_FAST_BOOTED"] for name in ("TRIAL_PASSED", "FELL_BACK")} == {case.booted.encode()}
    for _ in range(2):
        play("forget-failure", case.staged)
    assert journal.take_names() == ["FAILURE_FORGOTTEN"]
    staged = lab.stage_files(case.host, {**flowkit.NEW, "more": "1\n"})
    play("hold")
    play("hold", "--release")
    assert [fields["BOOTC_FAST_HELD"] for _name, fields in journal.take()] == [b"yes", b"no"]
    for _ in range(2):
        play("unstage")
    ((name, fields),) = journal.take()
    assert (name, fields["BOOTC_FAST_STAGED"]) == ("UPDATE_UNSTAGED", staged.encode())
    play("health", "--dry-run")
    assert journal.take_names() == []
    play("health")
    ((name, fields),) = journal.take()
    assert (name, fields["BOOTC_FAST_HEALTHY"]) == ("HEALTH_JUDGED", b"yes")


def test_every_message_of_the_catalog_is_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    root = str(case.root)
    path = case.root / "run/systemd/journal/socket"
    path.parent.mkdir(parents=True)

    def play(*argv: str) -> None:
        flowkit.run(capsys, "--root", root, *argv)

    with _listen(path) as receiver:
        journal = Journal(receiver)
        play("finalize", "--dry-run")
        assert journal.take_names() == []
        (case.root / "etc/fresh").mkdir()
        play("finalize")
        assert journal.take_names() == ["FINALIZE_FAILED"]
        play("boot-complete")
        assert journal.take_names() == ["LAST_FINALIZE_FAILED"]
        play("finalize", "--on-conflict=new")
        (_, changed, _) = told = journal.take()
        assert [name for name, _ in told] == ["FINALIZE_STARTED", "BOOT_ORDER_CHANGED", "FINALIZE_DONE"]
        assert changed[1]["BOOTC_FAST_OPERATION"] == b"finalize"
        assert changed[1]["BOOTC_FAST_NEXT_BOOT"] == case.staged.encode()
        play("finalize", "--on-conflict=new")
        ((name, fields),) = journal.take()
        assert (name, fields["BOOTC_FAST_RESULT"]) == ("FINALIZE_NOTHING", b"already-done")
        play("rollback")
        rolled, changed = journal.take()
        assert (rolled[0], changed[0]) == ("ROLLBACK", "BOOT_ORDER_CHANGED")
        assert changed[1]["BOOTC_FAST_OPERATION"] == b"rollback"
        assert changed[1]["BOOTC_FAST_NEXT_BOOT"] == case.booted.encode()
        # What is named and boots next already is not changed, and what runs already is not rolled back to.
        play("rollback", "--to", "booted")
        play("rollback", "--dry-run")
        play("status")
        assert journal.take_names() == []
        _play_trials(case, journal, play)
        assert journal.seen == EVERY.keys() - NEEDS_A_KERNEL


async def test_nothing_staged_and_a_locked_update_are_told_as_what_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    path = case.root / "run/systemd/journal/socket"
    path.parent.mkdir(parents=True)
    with _listen(path) as receiver:
        journal = Journal(receiver)
        case.host.marker.write_text(f'{{"depl_id": "{case.staged}", "finalization_locked": true}}')
        await bootc_fast.finalize_staged(case.root)
        ((name, fields),) = journal.take()
        assert (name, fields["BOOTC_FAST_RESULT"]) == ("FINALIZE_NOTHING", b"finalization-locked")
        assert fields["BOOTC_FAST_STAGED"] == case.staged.encode()
        case.host.marker.unlink()
        # The flow, and the look that the command line has before it.
        await bootc_fast.finalize_staged(case.root)
        assert flowkit.finalize(capsys, case)[0] == 0
        for name, fields in (found := journal.take()):
            assert (name, fields["BOOTC_FAST_RESULT"]) == ("FINALIZE_NOTHING", b"nothing-staged")
            assert fields["BOOTC_FAST_BOOTED"] == case.booted.encode()
        assert len(found) == 2
        await bootc_fast.finalize_staged(case.root, dry_run=True)
        assert flowkit.finalize(capsys, case, "--dry-run")[0] == 0
        assert journal.take() == []


DOCUMENTED = Path(__file__).parents[3] / "docs/journal.md"


def _documented(message_id: str) -> set[str]:
    row = next(line for line in DOCUMENTED.read_text().splitlines() if line.startswith(f"| `{message_id}`"))
    return set(re.findall(r"BOOTC_[A-Z_]+[A-Z]", row)) - {"BOOTC_FAST_COUNT"}


def test_a_failure_has_every_field_that_is_documented_and_a_line_for_everything_that_was_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    path = case.root / "run/systemd/journal/socket"
    path.parent.mkdir(parents=True)
    # One thing that only the merge finds, and one that only the boot entries show.
    (case.root / "etc/fresh").mkdir()
    shutil.rmtree(case.host.boot_dir / "loader/entries.staged")
    with _listen(path) as receiver:
        journal = Journal(receiver)
        code, _, err = flowkit.finalize(capsys, case)
        ((name, fields),) = journal.take()
        assert (code, name) == (7, "FINALIZE_FAILED")
        assert _documented(message_ids.FINALIZE_FAILED) - fields.keys() == {"BOOTC_FAST_CONFLICTS"}
        said = fields["MESSAGE"].decode().splitlines()
        assert len([line for line in said if line.startswith("error: ")]) == 1
        assert set(filter(None, err.splitlines())) <= set(said)
        lab.stage_files(case.host, {**flowkit.NEW, "again": "1\n"})
        code, _, err = flowkit.finalize(capsys, case)
        ((_, fields),) = journal.take()
        assert code == 5
        assert fields.keys() >= _documented(message_ids.FINALIZE_FAILED)
        assert fields["BOOTC_FAST_RESULT"] == b"failed"
        assert fields["BOOTC_FAST_EXIT_CODE"] == b"5"
        assert fields["BOOTC_FAST_CONFLICTS"] == b"fresh"
        assert b"  conflict: /etc/fresh" in fields["MESSAGE"].splitlines()
        assert f"hint: {fields['BOOTC_FAST_HINT'].decode()}" in fields["MESSAGE"].decode().splitlines()
        flowkit.run(capsys, "boot-complete", "--root", case.root)
        ((name, told),) = journal.take()
        assert name == "LAST_FINALIZE_FAILED"
        assert told.keys() >= _documented(message_ids.LAST_FINALIZE_FAILED)
        assert told["BOOTC_FAST_EXIT_CODE"] == b"5"
        assert told["BOOTC_FAST_ERROR_CHAIN"] == fields["BOOTC_FAST_ERROR_CHAIN"]
