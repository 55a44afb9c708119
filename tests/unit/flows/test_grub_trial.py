"""A trial under GRUB from its finalize to its end, on lab hosts whose GRUB counts: blessed, fallen back, taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import flowkit
import pytest
import trio

from bootc_fast import finalize_staged, get_status, lab, rollback
from bootc_fast.errors import BootEntryError, TrialFailedError
from bootc_fast.flows import boot_complete
from bootc_fast.machine.host import open_host
from bootc_fast.trial.states import read_states
from bootc_fast.types import BootType, Loader, Result, VerityDigest

if TYPE_CHECKING:
    from pathlib import Path

    from flowkit import Case

    from bootc_fast.types import FinalizeOutcome

BOTH = pytest.mark.parametrize("boot_type", [BootType.BLS, BootType.UKI])
OTHERS = ("saved_entry=kept", "kernelopts=a=b quiet")


@pytest.fixture
def case(tmp_path: Path, boot_type: BootType) -> Case:
    case = flowkit.make_case(tmp_path / "h", Loader.GRUB, boot_type)
    grub = case.host.boot_dir / "grub2"
    text = "# GRUB Environment Block\n" + "".join(f"{line}\n" for line in OTHERS)
    (grub / "grubenv").write_text(text.ljust(1024, "#"))
    (grub / "custom.cfg").write_text("# an admin's\nset timeout=5")
    return case


def _variables(case: Case) -> list[str]:
    """Those of a trial; everybody else's are as they were."""
    lines = (case.host.boot_dir / "grub2/grubenv").read_text().split("\n")[1:-1]
    assert tuple(lines[: len(OTHERS)]) == OTHERS
    return lines[len(OTHERS) :]


def _boot(case: Case, count: int = 1) -> list[str]:
    names = {case.booted: "old", case.staged: "new"}
    return [names[lab.boot(case.host).digest] for _ in range(count)]


def _state(case: Case, digest: str) -> str | None:
    record = read_states(open_host(case.root))[0].get(VerityDigest(digest))
    return None if record is None else record.state.value


def _finalize(case: Case) -> FinalizeOutcome:
    return trio.run(finalize_staged, case.root)


def _end(case: Case, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code, _out, err = flowkit.run(capsys, "boot-complete", "--root", case.root)
    return code, err


@BOTH
def test_what_comes_up_is_blessed_and_stays(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = _finalize(case)
    assert (outcome.result, outcome.warnings) == (Result.DONE, ())
    assert [line for line in _variables(case) if "tries" in line] == [
        "bootc_fast_tries=3",
        "bootc_fast_tries_allowed=3",
        "bootc_fast_tries_seen=3",
    ]
    assert (case.host.boot_dir / "grub2/custom.cfg").read_text().startswith("# an admin's\nset timeout=5\n### BEGIN")
    assert _finalize(case).result is Result.ALREADY_DONE
    assert _boot(case) == ["new"]
    assert "bootc_fast_tries=2" in _variables(case)
    assert _end(case, capsys)[0] == 0
    assert (_variables(case), _state(case, case.staged)) == ([], "good")
    assert _boot(case, 4) == ["new"] * 4


@BOTH
def test_what_never_comes_up_is_tried_three_times_and_then_refused(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    _finalize(case)
    assert _boot(case, 5) == ["new", "new", "new", "old", "old"]
    code, said = _end(case, capsys)
    assert (code, "was tried 3 times and failed" in said) == (12, True), said
    assert (_variables(case), _state(case, case.staged)) == ([], "failed")
    # By the order of the entries too: nothing counts any more.
    assert _boot(case, 3) == ["old"] * 3
    assert _end(case, capsys)[0] == 0
    case.host.write_marker(VerityDigest(case.staged))
    with pytest.raises(TrialFailedError, match="was tried 3 times"):
        _finalize(case)


@BOTH
def test_a_rollback_in_the_middle_of_a_trial_ends_it(case: Case) -> None:
    _finalize(case)
    assert _boot(case) == ["new"]
    outcome = trio.run(rollback, case.root)
    assert outcome.next_boot
    assert _variables(case) == []
    assert _boot(case, 3) == ["old"] * 3
    status = trio.run(get_status, case.root)
    assert status.rollback_queued is False


@BOTH
def test_status_says_what_boots_next_and_why(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    _finalize(case)
    _boot(case, 3)
    _code, out, _err = flowkit.run(capsys, "status", "--root", case.root, "-v")
    assert "bootc_fast_fallback in grubenv" in out
    assert "strange" not in out
    code, out, err = flowkit.run(capsys, "doctor", "--root", case.root)
    assert "bootcfast" not in out + err, (code, out, err)


@BOTH
def test_where_it_cannot_count_that_is_said_or_refused(case: Case) -> None:
    (case.host.boot_dir / "grub2/grub.cfg").write_text("set timeout=1\n")
    (case.root / "etc/bootc-fast").mkdir()
    policy = case.root / "etc/bootc-fast/trial.toml"
    policy.write_text("[trial]\nrequire-counting = true\n")
    said = "this host cannot count boots: /grub2/grub.cfg does not read custom.cfg"
    with pytest.raises(BootEntryError, match=said):
        _finalize(case)
    assert _boot(case) == ["old"]
    case.host.write_marker(VerityDigest(case.staged))
    policy.write_text("[trial]\nrequire-counting = false\n")
    outcome = _finalize(case)
    assert any(said in warning for warning in outcome.warnings)
    assert (outcome.result, _variables(case)) == (Result.DONE, [])
    assert _boot(case, 4) == ["new"] * 4


@BOTH
def test_no_tries_leave_grubs_files_alone(case: Case) -> None:
    (case.root / "etc/bootc-fast").mkdir()
    (case.root / "etc/bootc-fast/trial.toml").write_text("[trial]\ntries = 0\n")
    grub = case.host.boot_dir / "grub2"
    before = {path.name: path.read_bytes() for path in grub.iterdir() if not path.name.startswith("user.cfg")}
    outcome = _finalize(case)
    assert outcome.warnings == ()
    assert before == {path.name: path.read_bytes() for path in grub.iterdir() if not path.name.startswith("user.cfg")}
    assert _boot(case, 4) == ["new"] * 4


@BOTH
def test_as_many_tries_as_the_policy_says(case: Case) -> None:
    (case.root / "etc/bootc-fast").mkdir()
    (case.root / "etc/bootc-fast/trial.toml").write_text("[trial]\ntries = 1\n")
    _finalize(case)
    assert _boot(case, 3) == ["new", "old", "old"]


@BOTH
def test_what_a_cut_left_of_a_trial_is_gone_after_the_next_complete_boot(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    grub = case.host.boot_dir / "grub2"
    left = "bootc_fast_trial=not there\nbootc_fast_fallback=nor there\nbootc_fast_tries=2\nbootc_fast_tries_allowed=3\n"
    text = "# GRUB Environment Block\n" + "".join(f"{line}\n" for line in OTHERS)
    (grub / "grubenv").write_text((text + left).ljust(1024, "#"))
    (grub / "bootcfast.cfg").write_text("")
    assert _boot(case) == ["old"]
    _end(case, capsys)
    assert _variables(case) == []


@BOTH
def test_a_good_deployment_that_is_finalized_again_is_not_counted_and_ends_the_trial_of_another(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    _finalize(case)
    assert _boot(case) == ["new"]
    assert _end(case, capsys)[0] == 0
    trio.run(rollback, case.root)
    assert _boot(case) == ["old"]
    assert _variables(case) == []


def test_two_entries_made_one_take_the_count_along(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entries get new names, in a boot that is not complete."""
    case = flowkit.make_case(tmp_path / "h", Loader.GRUB, BootType.BLS)
    _finalize(case)
    assert _boot(case) == ["new"]
    entries = case.host.boot_dir / "loader/entries"
    old = next(path for path in entries.iterdir() if case.booted in path.read_text())
    (entries / "bootc_zz-00000000-50.conf").write_bytes(old.read_bytes())

    async def is_complete(_host: object) -> bool:
        return False

    monkeypatch.setattr(boot_complete, "is_boot_complete", is_complete)
    _code, said = _end(case, capsys)
    assert "now it has one" in said
    names = {path.name.removesuffix(".conf") for path in entries.iterdir()}
    values = dict(line.split("=", 1) for line in (case.host.boot_dir / "grub2/grubenv").read_text().split("\n")[1:-1])
    assert {values["bootc_fast_trial"], values["bootc_fast_fallback"]} == names
    assert values["bootc_fast_tries"] == "2"
    assert _boot(case, 4) == ["new", "new", "old", "old"]
