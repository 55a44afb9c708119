"""The journal gets every message of the catalog from some flow, and only where it is true."""

from __future__ import annotations

from typing import TYPE_CHECKING

import flowkit
from unit.machine.test_journal import _fields, _listen

import bootc_fast
from bootc_fast import message_ids

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    import pytest

EVERY = {name: value for name, value in vars(message_ids).items() if name.isupper()}
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
        play("rollback", "--to", "booted")
        assert journal.take_names() == ["ROLLBACK"]
        play("rollback", "--dry-run")
        play("status")
        assert journal.take_names() == []
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
