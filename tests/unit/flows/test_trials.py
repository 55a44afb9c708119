"""A trial from beginning to end on lab hosts: counted, blessed, fallen back from; and whatever goes wrong meanwhile."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

import flowkit
import pytest
from flowkit import Case
from schemas import validate

from bootc_fast import bless, finalize_staged, get_status, lab, message_ids, rollback
from bootc_fast.boot.area.real import RealVolume
from bootc_fast.boot.counting.records import CountMethod
from bootc_fast.errors import BootEntryError
from bootc_fast.machine.host import open_host
from bootc_fast.trial.states import TrialState, find_states_file, read_states
from bootc_fast.types import BootType, Loader, Result, VerityDigest

if TYPE_CHECKING:
    from pathlib import Path

    from bootc_fast.events import Event


def _names(case: Case) -> list[str]:
    return sorted(path.name for path in (case.host.boot_dir / "loader/entries").glob("*.conf"))


def _counters(case: Case) -> list[str]:
    return [found[0] for name in _names(case) if (found := re.search(r"\+.*(?=\.conf)", name))]


def _state(case: Case, digest: str) -> str | None:
    record = read_states(open_host(case.root))[0].get(VerityDigest(digest))
    return None if record is None else record.state.value


def _complete(case: Case, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code, _out, err = flowkit.run(capsys, "boot-complete", "--root", case.root)
    return code, err


def _policy(case: Case, text: str) -> None:
    path = case.root / "usr/lib/bootc-fast/trial.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _tried(case: Case) -> str:
    """Boot, and nothing says that the boot was complete."""
    return lab.boot(case.host).digest


@pytest.mark.parametrize("boot_type", list(BootType))
def test_a_healthy_update_is_counted_then_blessed_and_a_second_boot_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], boot_type: BootType
) -> None:
    case = flowkit.make_case(tmp_path / "h", boot_type=boot_type)
    assert flowkit.finalize(capsys, case)[::2] == (0, "")
    assert _counters(case) == ["+3-0"]
    record = read_states(open_host(case.root))[0][VerityDigest(case.staged)]
    assert (record.state, record.method, record.allowed) == (TrialState.TRIAL, CountMethod.COUNTER, 3)
    validate("deployments", json.loads(find_states_file(open_host(case.root)).read_text()))
    assert _tried(case) == case.staged
    assert _counters(case) == ["+2-1"]
    document = json.loads(flowkit.run(capsys, "status", "--json", "--root", case.root)[1])
    validate("status", document)
    shown = document["status"]["booted"]["bootcFast"]["trial"]
    assert shown["counting"] == {"method": "counter", "triesLeft": 2, "triesDone": 1, "isGivenUp": False}
    text = " ".join(flowkit.run(capsys, "status", "--root", case.root)[1].split())
    assert "until a boot of it is complete; 2 tries left, 1 done, then the boot loader falls back" in text
    assert _complete(case, capsys) == (0, "")
    assert _counters(case) == []
    assert (_state(case, case.staged), _tried(case)) == ("good", case.staged)
    before = flowkit.snapshot(case.root)
    assert _complete(case, capsys) == (0, "")
    assert flowkit.snapshot(case.root) == before


def test_blessed_on_its_last_try_it_is_the_default_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    flowkit.finalize(capsys, case)
    assert [_tried(case) for _ in range(3)] == [case.staged] * 3
    assert _counters(case) == ["+0-3"]
    text = " ".join(flowkit.run(capsys, "status", "--root", case.root)[1].split())
    assert "this is its last try, 3 done" in text
    assert "was tried" not in text
    assert _complete(case, capsys) == (0, "")
    assert (_counters(case), _state(case, case.staged), _tried(case)) == ([], "good", case.staged)


@pytest.mark.parametrize("boot_type", list(BootType))
def test_grub_counts_is_blessed_and_falls_back_for_good(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], boot_type: BootType
) -> None:
    host = lab.make_host(tmp_path / "h", loader=Loader.GRUB, boot_type=boot_type)
    case = Case(host, host.booted, lab.stage_files(host, {"motd": "v2\n"}, version="2"))
    grubenv = host.boot_dir / "grub2/grubenv"
    assert flowkit.finalize(capsys, case)[::2] == (0, "")
    assert b"bootc_fast_tries=3" in grubenv.read_bytes()
    assert _tried(case) == case.staged
    text = " ".join(flowkit.run(capsys, "status", "--root", case.root)[1].split())
    assert "2 tries left, 1 done, then the boot loader falls back" in text
    assert _complete(case, capsys) == (0, "")
    assert (b"bootc_fast" in grubenv.read_bytes(), _state(case, case.staged)) == (False, "good")
    newest = lab.stage_files(host, {"motd": "v3\n"}, version="3")
    assert flowkit.finalize(capsys, case)[0] == 0
    assert [_tried(case) for _ in range(5)] == [*[newest] * 3, *[case.staged] * 2]
    code, err = _complete(case, capsys)
    assert (code, err.count("error: "), "was tried 3 times and failed" in err) == (12, 1, True)
    assert (b"bootc_fast" in grubenv.read_bytes(), _state(case, newest)) == (False, "failed")
    assert [_tried(case) for _ in range(2)] == [case.staged] * 2, "without any variable, too"
    assert _complete(case, capsys) == (0, "")


@pytest.mark.parametrize(("loader", "boot_type"), flowkit.COMBINATIONS[:4])
@pytest.mark.parametrize("method", ["auto", "one-shot"])
@pytest.mark.parametrize("is_tried", [False, True])
async def test_a_rollback_ends_what_was_counted_and_nothing_boots_but_its_target(
    tmp_path: Path, loader: Loader, boot_type: BootType, method: str, *, is_tried: bool
) -> None:
    case = flowkit.make_case(tmp_path / "h", loader, boot_type)
    _policy(case, f"[trial]\nmethod = '{method}'\n")
    await finalize_staged(case.root)
    if is_tried:
        assert _tried(case) == case.staged
    outcome = await rollback(case.root, to=case.booted)
    assert (outcome.next_boot, outcome.warnings) == (case.booted, ())
    assert [_tried(case) for _ in range(3)] == [case.booted] * 3


@pytest.mark.parametrize("boot_type", list(BootType))
def test_after_three_tries_the_old_one_boots_is_the_regular_default_again_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], boot_type: BootType
) -> None:
    case = flowkit.make_case(tmp_path / "h", boot_type=boot_type)
    flowkit.finalize(capsys, case)
    assert [_tried(case) for _ in range(4)] == [*[case.staged] * 3, case.booted]
    code, err = _complete(case, capsys)
    assert code == 12
    assert f"deployment {case.staged[:16]}… was tried 3 times and failed: the boot loader gave up on it" in err
    assert f"deployment {case.booted[:16]}… runs" in err
    assert err.count("error: ") == 1
    assert flowkit.next_boot(case.host) == case.booted, "first by its sort-key, whatever counters say"
    assert (_counters(case), _state(case, case.staged), _state(case, case.booted)) == (["+0-3"], "failed", "good")
    before = flowkit.snapshot(case.root)
    assert _complete(case, capsys) == (0, "")
    assert flowkit.snapshot(case.root) == before
    assert _tried(case) == case.booted


def test_by_one_shot_it_is_tried_once_and_a_good_boot_makes_it_the_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    _policy(case, "[trial]\nmethod = 'one-shot'\n")
    code, out, err = flowkit.finalize(capsys, case)
    assert (code, err) == (0, "")
    assert flowkit.next_boot(case.host) == case.booted, "the old one stays first"
    assert flowkit.finalize(capsys, case)[0] == 0
    assert (_counters(case), _state(case, case.staged)) == ([], "trial")
    text = " ".join(flowkit.run(capsys, "status", "--root", case.root)[1].split())
    assert "one try, by LoaderEntryOneShot" in text
    assert _tried(case) == case.staged
    text = " ".join(flowkit.run(capsys, "status", "--root", case.root)[1].split())
    assert "this is its only try" in text
    assert "bootc takes for a queued change" in text
    assert _complete(case, capsys) == (0, "")
    assert flowkit.next_boot(case.host) == case.staged
    assert (_state(case, case.staged), _tried(case)) == ("good", case.staged)
    del out


def test_by_one_shot_what_does_not_come_up_has_failed_at_the_next_boot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    _policy(case, "[trial]\nmethod = 'one-shot'\n")
    flowkit.finalize(capsys, case)
    assert [_tried(case), _tried(case)] == [case.staged, case.booted]
    code, err = _complete(case, capsys)
    assert (code, "was tried 1 time and failed" in err) == (12, True)
    assert (_state(case, case.staged), flowkit.next_boot(case.host)) == ("failed", case.booted)
    assert _complete(case, capsys) == (0, "")


def test_an_override_of_our_own_entry_leads_to_the_one_shot_and_the_notes_say_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    case.host.write_efi_variable("LoaderEntryDefault", _names(case)[0])
    code, _out, err = flowkit.finalize(capsys, case)
    assert code == 0
    assert "one try instead of 3: the new deployment would be booted without any tries left" in err
    assert [_tried(case), _tried(case)] == [case.staged, case.booted]


@pytest.mark.parametrize("requires", [False, True])
async def test_where_boots_cannot_be_counted_it_is_said_or_refused_as_the_policy_has_it(
    tmp_path: Path, *, requires: bool
) -> None:
    case = flowkit.make_case(tmp_path / "h", Loader.GRUB_CC)
    _policy(case, f"[trial]\nrequire-counting = {str(requires).lower()}\n")
    before = flowkit.snapshot(case.root)
    if requires:
        status = await get_status(case.root)
        assert status.staged_status is not None
        assert "this host cannot count boots" in status.staged_status.reasons[0]
        with pytest.raises(BootEntryError, match="this host cannot count boots") as caught:
            await finalize_staged(case.root)
        assert "require-counting = false" in (caught.value.hint or "")
        assert flowkit.snapshot(case.root) == before
        return
    outcome = await finalize_staged(case.root)
    assert outcome.result is Result.DONE
    assert any("this host cannot count boots" in warning for warning in outcome.warnings)


async def test_no_tries_count_nothing(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    _policy(case, "[trial]\ntries = 0\n")
    outcome = await finalize_staged(case.root)
    assert (outcome.warnings, _counters(case), flowkit.next_boot(case.host)) == ((), [], case.staged)


def test_a_policy_that_is_none_is_passed_over_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    _policy(case, "[trial]\ntries = 'many'\n")
    code, _out, err = flowkit.finalize(capsys, case)
    assert (code, "'tries' is no whole number" in err, _counters(case)) == (0, True, ["+3-0"])


async def test_what_did_not_just_boot_is_never_blessed(tmp_path: Path) -> None:
    """After a soft reboot the loader's variable names another deployment than the one that runs."""
    case = flowkit.make_case(tmp_path / "h")
    await finalize_staged(case.root)
    case.host.write_efi_variable("LoaderBootCountPath", f"\\loader\\entries\\{_names(case)[-1]}")
    outcome = await bless(case.root)
    assert (outcome.booted, outcome.is_blessed, _counters(case)) == (case.booted, False, ["+3-0"])
    assert (_state(case, case.booted), _state(case, case.staged)) == ("good", "trial")


async def test_what_is_not_complete_is_not_blessed_and_nothing_restarts(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    await finalize_staged(case.root)
    _tried(case)
    before = flowkit.snapshot(case.root)
    outcome = await bless(case.root, is_complete=False)
    assert (outcome.is_blessed, outcome.failed, _state(case, case.staged)) == (False, {}, "trial")
    assert flowkit.snapshot(case.root) == before


async def test_both_bad_stays_up_with_the_old_one(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    await finalize_staged(case.root)
    assert [_tried(case) for _ in range(4)][-1] == case.booted
    outcome = await bless(case.root, is_complete=False)
    assert (outcome.is_restored, set(outcome.failed), outcome.is_complete) == (True, {case.staged}, False)
    assert _state(case, case.booted) is None, "nothing says that it is good"
    assert [_tried(case) for _ in range(3)] == [case.booted] * 3
    again = await bless(case.root, is_complete=False)
    assert (again.is_restored, again.failed, again.warnings) == (False, {}, ())


async def test_a_boot_partition_that_takes_nothing_leaves_the_trial_for_the_next_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    await finalize_staged(case.root)
    _tried(case)
    with monkeypatch.context() as full:
        full.setattr(RealVolume, "free_bytes", lambda _self: (0, 4096))
        outcome = await bless(case.root)
    assert not outcome.is_blessed
    assert "it is tried again at the next boot" in outcome.warnings[0]
    assert (_counters(case), _state(case, case.staged)) == (["+2-1"], "trial")
    assert (await bless(case.root)).is_blessed
    assert (_counters(case), _state(case, case.staged)) == ([], "good")


@pytest.mark.parametrize("content", [b"", b"[]", b'{"version": 99}', b"\xff" * 100])
async def test_unreadable_states_stop_neither_trial_nor_blessing(tmp_path: Path, content: bytes) -> None:
    case = flowkit.make_case(tmp_path / "h")
    path = find_states_file(open_host(case.root))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    outcome = await finalize_staged(case.root)
    assert outcome.result is Result.DONE
    assert any("deployments.json" in warning for warning in outcome.warnings)
    assert _counters(case) == ["+3-0"]
    _tried(case)
    path.write_bytes(content)
    assert (await bless(case.root)).is_blessed
    assert _state(case, case.staged) == "good"
    assert path.with_name("deployments.json.unreadable").read_bytes() == content


@pytest.mark.parametrize("counters", ["+", "+x", "+3-", "+-1", "+3-0-0", "+99999999999999999999", "+3+"])
async def test_a_counter_that_nobody_can_parse_counts_nothing_and_stops_nothing(tmp_path: Path, counters: str) -> None:
    case = flowkit.make_case(tmp_path / "h")
    await finalize_staged(case.root)
    path = next(path for path in (case.host.boot_dir / "loader/entries").iterdir() if "+3-0" in path.name)
    path.rename(path.with_name(path.name.replace("+3-0", counters)))
    case.host.marker.unlink()
    before = _names(case)
    outcome = await bless(case.root)
    assert (outcome.is_blessed, outcome.failed, _names(case)) == (False, {}, before)
    assert (await get_status(case.root)).next_boot.digest == case.staged


async def test_a_clock_of_1970_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bootc_fast.flows.trial_notes.now_text", lambda: "1970-01-01T00:00:03Z")
    case = flowkit.make_case(tmp_path / "h")
    await finalize_staged(case.root)
    assert [_tried(case) for _ in range(4)][-1] == case.booted
    assert set((await bless(case.root)).failed) == {case.staged}
    assert (await bless(case.root)).failed == {}


async def test_what_runs_and_was_never_blessed_is_the_next_updates_fallback(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    await finalize_staged(case.root)
    _tried(case)
    newest = lab.stage_files(case.host, {"motd": "v3\n"}, version="3")
    await finalize_staged(case.root)
    assert _counters(case) == ["+3-0"]
    assert [_tried(case) for _ in range(6)] == [newest] * 3 + [case.staged] * 3


async def test_a_rollback_to_a_good_one_is_not_counted_and_to_the_trial_keeps_its_counter(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    await bless(case.root)
    await finalize_staged(case.root)
    _tried(case)
    await bless(case.root)
    await rollback(case.root)
    assert (_counters(case), _tried(case)) == ([], case.booted)


async def test_a_cancelled_blessing_leaves_the_trial_or_ends_it(tmp_path: Path) -> None:
    import anyio

    case = flowkit.make_case(tmp_path / "h")
    await finalize_staged(case.root)
    _tried(case)
    seen: list[Event] = []
    with anyio.CancelScope() as scope:

        def stop(event: Event) -> None:
            seen.append(event)
            scope.cancel()

        await bless(case.root, on_event=stop)
    assert seen
    assert (_counters(case), _state(case, case.staged)) in ((["+2-1"], "trial"), ([], "good"))
    await bless(case.root)
    assert (_counters(case), _state(case, case.staged)) == ([], "good")


async def test_the_journal_is_told_of_both_ends(tmp_path: Path) -> None:
    import socket

    case = flowkit.make_case(tmp_path / "h")
    await finalize_staged(case.root)
    _tried(case)
    journal = case.root / "run/systemd/journal"
    journal.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        directory_fd = os.open(journal, os.O_RDONLY | os.O_DIRECTORY)
        receiver.bind(f"/proc/self/fd/{directory_fd}/socket")
        os.close(directory_fd)
        await bless(case.root)
        said = receiver.recv(1 << 16)
    assert message_ids.TRIAL_PASSED.encode() in said
    assert case.staged.encode() in said


@pytest.mark.parametrize(
    "resets", ["systemd-boot 258.10", "systemd-boot 259.8", "systemd-boot 260", "systemd-boot 262"]
)
def test_a_host_that_would_not_notice_a_panic_or_a_hang_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], resets: str
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    flowkit.finalize(capsys, case)
    case.host.write_efi_variable("LoaderInfo", resets)
    text = " ".join(flowkit.run(capsys, "status", "--root", case.root)[1].split())
    assert "a kernel panic of it does not end: `panic=30`" in text
    assert "a hang of it does not end: `RuntimeWatchdogSec=`" in text
    assert "needs a power cycle" not in text
    entry = next(path for path in (case.host.boot_dir / "loader/entries").iterdir() if "+3-0" in path.name)
    entry.write_text(re.sub(r"(?m)^(options .*)$", r"\1 panic=5", entry.read_text()))
    conf = case.root / "etc/systemd/system.conf.d/watchdog.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text("[Manager]\nRuntimeWatchdogSec=30s\n")
    case.host.write_efi_variable("LoaderInfo", "systemd-boot 257.9")
    text = " ".join(flowkit.run(capsys, "status", "--root", case.root)[1].split())
    assert "does not end" not in text
    assert "a kernel of it that does not load needs a power cycle (systemd-boot 257.9)" in text
    conf.with_name("zz.conf").write_text("[Manager]\nRuntimeWatchdogSec=off\n")
    assert "a hang of it" in " ".join(flowkit.run(capsys, "status", "--root", case.root)[1].split())
