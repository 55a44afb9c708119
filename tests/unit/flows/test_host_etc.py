"""diff_host: a host's own /etc compared by the library, as `etc diff` prints it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import flowkit
import pytest
import trio
from schemas import validate

import bootc_fast
from bootc_fast.etc.render import encode_diff
from bootc_fast.machine.host import open_host
from bootc_fast.machine.lock import hold_lock

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_hosts_changes_and_what_the_next_merge_makes_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    before = flowkit.snapshot(case.root)
    diff = await bootc_fast.diff_host(case.root, patch="current")
    assert {entry.path: entry.change for entry in diff.entries} == {
        b"gone": "deleted",
        b"local.conf": "added",
        b"name-\xff": "added",
        b"ssh/sshd_config": "modified",
    }
    assert diff.merge is not None
    assert any(patch.path == b"ssh/sshd_config" for patch in diff.patches)
    assert flowkit.snapshot(case.root) == before
    case.host.marker.unlink()
    assert (await bootc_fast.diff_host(case.root)).merge is None


@pytest.mark.parametrize("what", ["nowhere", "no host", "no image"])
async def test_errors_are_the_packages(tmp_path: Path, what: str) -> None:
    root, expected = tmp_path / "nowhere", bootc_fast.UsageError
    if what == "no host":
        root.mkdir()
        expected = bootc_fast.BootcFastError  # type: ignore[assignment]
    elif what == "no image":
        case = flowkit.make_case(tmp_path / "h")
        (case.root / "sysroot/composefs/images" / case.booted).unlink()
        root, expected = case.root, bootc_fast.InvalidStateError  # type: ignore[assignment]
    with pytest.raises(expected):
        await bootc_fast.diff_host(root)


async def test_the_command_and_the_library_say_the_same(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    argv = [sys.executable, "-m", "bootc_fast", "etc", "diff", "--json", "--root", str(case.root)]
    done = await trio.run_process(argv, capture_stdout=True)
    found = encode_diff(await bootc_fast.diff_host(case.root))
    printed = json.loads(done.stdout)
    for document in (printed, found):
        del document["merge"]["phase_s"]
    assert printed == json.loads(json.dumps(found))


async def test_the_json_of_a_hosts_status_is_what_status_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    document = bootc_fast.make_document(await bootc_fast.get_status(case.root, compare_etc=True))
    validate("status", document)
    assert document["status"]["booted"]["composefs"]["verity"] == case.booted


async def test_a_merge_into_the_staged_deployment_changes_nothing_that_boots(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    before = flowkit.next_boot(case.host)
    planned = await bootc_fast.merge_host(case.root, dry_run=True)
    assert flowkit.staged_etc(case) != flowkit.MERGED
    applied = await bootc_fast.merge_host(case.root)
    assert planned.operations == applied.operations != ()
    assert flowkit.staged_etc(case) == flowkit.MERGED
    assert flowkit.next_boot(case.host) == before == case.booted
    # Once more is nothing more.
    assert (await bootc_fast.merge_host(case.root)).operations == ()


async def test_a_merge_is_refused_with_conflicts_with_nothing_staged_and_while_somebody_is_at_it(
    tmp_path: Path,
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    (case.root / "etc/fresh").mkdir()
    untouched = flowkit.staged_etc(case)
    with pytest.raises(bootc_fast.EtcConflictError):
        await bootc_fast.merge_host(case.root)
    assert flowkit.staged_etc(case) == untouched
    assert (await bootc_fast.merge_host(case.root, on_conflict=bootc_fast.Strategy.NEW)).report.conflicts
    async with hold_lock(open_host(case.root)):
        with trio.move_on_after(0.3) as scope:
            await bootc_fast.merge_host(case.root)
    assert scope.cancelled_caught
    case.host.marker.unlink()
    with pytest.raises(bootc_fast.UsageError, match="nothing is staged"):
        await bootc_fast.merge_host(case.root)


async def test_a_soft_reboot_and_boot_complete_are_in_the_library(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    with pytest.raises(bootc_fast.SoftRebootError):
        await bootc_fast.enter_next_boot(case.root)
    with pytest.raises(bootc_fast.SoftRebootError):
        await bootc_fast.reset_restart(case.root)
    assert await bootc_fast.report_last_finalize(case.root) is None
