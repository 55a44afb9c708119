"""_rollback.py: swapping what boots next, on composefs hosts with entries and with user.cfg."""

from __future__ import annotations

import errno
import json
import os
import shutil
from typing import TYPE_CHECKING

import flowkit
import pytest

from bootc_fast import events, lab, rollback
from bootc_fast.boot.area.real import RealVolume
from bootc_fast.errors import FileSystemError
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from pathlib import Path

    from flowkit import Case


def _updated(
    directory: Path, capsys: pytest.CaptureFixture[str], loader: Loader, boot_type: BootType, **options: object
) -> Case:
    """A host that has been updated once: what was staged runs, what ran is the rollback deployment."""
    case = flowkit.make_case(directory, loader, boot_type, **options)
    assert flowkit.finalize(capsys, case)[0] == 0
    assert flowkit.run(capsys, "lab", "boot", case.root)[0] == 0
    return flowkit.Case(case.host, booted=case.staged, staged=case.booted)


def _roll_back(capsys: pytest.CaptureFixture[str], case: Case, *options: str) -> tuple[int, str, str]:
    return flowkit.run(capsys, "rollback", "--root", case.root, *options)


@pytest.mark.parametrize(("loader", "boot_type"), flowkit.COMBINATIONS)
def test_it_swaps_and_called_again_swaps_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader, boot_type: BootType
) -> None:
    case = _updated(tmp_path / "h", capsys, loader, boot_type)
    previous = case.staged
    code, out, err = _roll_back(capsys, case)
    assert (code, err) == (0, "")
    assert out.startswith("Next boot: rollback deployment\n")
    assert f"Verity: {previous[:16]}…\n" in out
    assert flowkit.next_boot(case.host) == previous
    code, out, _ = _roll_back(capsys, case)
    assert out.startswith("notice: Reverting queued rollback state\nNext boot: current deployment\n")
    assert flowkit.next_boot(case.host) == case.booted
    assert flowkit.run(capsys, "rollback", "--root", case.root)[0] == 0
    assert flowkit.run(capsys, "lab", "boot", case.root)[0] == 0
    assert case.host.booted == previous


@pytest.mark.parametrize(("old", "new"), [("43", "42"), ("9", "10"), ("10", "9"), ("1.0~rc1", "1.0")])
@pytest.mark.parametrize("loader", [Loader.GRUB, Loader.SYSTEMD_BOOT])
def test_versions_do_not_decide_what_boots(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader, old: str, new: str
) -> None:
    host = lab.make_host(tmp_path / "h", loader=loader, version=old)
    first, second = host.booted, lab.stage_files(host, version=new)
    case = flowkit.Case(host, first, second)
    assert flowkit.finalize(capsys, case)[0] == 0
    assert flowkit.run(capsys, "lab", "boot", host.root)[0] == 0
    assert host.booted == second
    assert _roll_back(capsys, case)[0] == 0
    assert flowkit.run(capsys, "lab", "boot", host.root)[0] == 0
    assert host.booted == first


def test_to_names_the_target_and_is_idempotent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = _updated(tmp_path / "h", capsys, *flowkit.COMBINATIONS[0])
    for name in ("previous", case.staged, case.staged[:8], case.staged.upper()):
        code, out, _ = _roll_back(capsys, case, "--to", name)
        assert (code, "rollback deployment" in out) == (0, True)
        assert flowkit.next_boot(case.host) == case.staged
    before = flowkit.snapshot(case.host.boot_dir)
    assert "(as before)" in _roll_back(capsys, case, "--to", "previous")[1]
    assert flowkit.snapshot(case.host.boot_dir) == before
    for name in ("booted", "booted", case.booted):
        assert _roll_back(capsys, case, "--to", name)[0] == 0
        assert flowkit.next_boot(case.host) == case.booted


def test_more_than_two_deployments_keep_their_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = _updated(tmp_path / "h", capsys, *flowkit.COMBINATIONS[0])
    oldest, older = case.staged, case.booted
    policy = case.root / "usr/lib/bootc-fast/boot.toml"
    policy.parent.mkdir(parents=True)
    policy.write_text("keep = 3\n")
    newest = lab.stage_files(case.host, {"third": "3"}, version="3")
    assert flowkit.run(capsys, "finalize", "--root", case.root)[0] == 0
    assert flowkit.run(capsys, "lab", "boot", case.root)[0] == 0
    assert case.host.booted == newest
    assert _roll_back(capsys, case)[0] == 0
    _, out, _ = flowkit.run(capsys, "status", "--root", case.root, "--json")
    status = json.loads(out)["status"]
    assert status["rollbackQueued"] is True
    assert status["rollback"]["composefs"]["verity"] == older
    assert [one["composefs"]["verity"] for one in status["otherDeployments"]] == [oldest]
    assert _roll_back(capsys, case, "--to", oldest)[0] == 0
    assert flowkit.next_boot(case.host) == oldest


@pytest.mark.parametrize(("loader", "boot_type"), flowkit.COMBINATIONS)
def test_a_staged_update_is_dropped_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader, boot_type: BootType
) -> None:
    case = _updated(tmp_path / "h", capsys, loader, boot_type)
    third = lab.stage_files(case.host, {"third": "3"}, version="3")
    code, out, _ = _roll_back(capsys, case)
    assert (code, f"The staged update {third[:16]}… was dropped" in out) == (0, True)
    assert flowkit.next_boot(case.host) == case.staged
    assert not case.host.marker.exists()
    assert not (case.host.boot_dir / "loader/entries.staged").exists()
    assert not (case.host.boot_dir / "grub2/user.cfg.staged").exists()
    assert flowkit.run(capsys, "finalize", "--root", case.root)[1] == "Nothing is staged: nothing to do\n"


def test_a_staged_update_stays_where_the_new_order_could_not_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = _updated(tmp_path / "h", capsys, *flowkit.COMBINATIONS[0])
    lab.stage_files(case.host, {"third": "3"}, version="3")

    async def fail(*_args: object, **_kwargs: object) -> None:
        raise FileSystemError("writing boot entries: no space")

    monkeypatch.setattr("bootc_fast.flows.backend_composefs.publish_menu", fail)
    before = flowkit.snapshot(case.root)
    assert _roll_back(capsys, case)[0] == 6
    assert flowkit.snapshot(case.root) == before


def test_after_a_finalize_it_goes_back_to_the_running_deployment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    assert flowkit.finalize(capsys, case)[0] == 0
    code, out, _ = _roll_back(capsys, case)
    assert (code, "Next boot: current deployment" in out) == (0, True)
    assert flowkit.next_boot(case.host) == case.booted
    assert flowkit.run(capsys, "finalize", "--root", case.root)[1] == "Nothing is staged: nothing to do\n"
    assert flowkit.next_boot(case.host) == case.booted


def test_it_tells_the_reboot_marker_the_mtime_and_how_many_etc_changes_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = _updated(tmp_path / "h", capsys, *flowkit.COMBINATIONS[0])
    (case.root / "etc/added-since").write_text("1")
    (case.root / "etc/motd").write_text("changed since")
    os.utime(case.root / "sysroot/state/deploy", (0, 0))
    _, out, _ = _roll_back(capsys, case)
    assert "2 local changes in /etc of the booted deployment are not in this one" in out
    marker = case.root / "run/reboot-required"
    assert marker.read_text().startswith("bootc: Reboot required for image: sha256:")
    assert (case.root / "sysroot/state/deploy").stat().st_mtime > 0
    assert _roll_back(capsys, case)[0] == 0
    assert not marker.exists()


def test_a_reboot_marker_of_somebody_else_stays_after_a_revert(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = _updated(tmp_path / "h", capsys, *flowkit.COMBINATIONS[0])
    assert _roll_back(capsys, case)[0] == 0
    (case.root / "run/reboot-required").write_text("*** System restart required ***\n")
    assert _roll_back(capsys, case)[0] == 0
    assert (case.root / "run/reboot-required").exists()


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = _updated(tmp_path / "h", capsys, *flowkit.COMBINATIONS[0])
    before = flowkit.snapshot(case.root)
    code, out, _ = _roll_back(capsys, case, "--dry-run")
    assert (code, out.startswith("Would be next boot: rollback deployment\n")) == (0, True)
    document = json.loads(_roll_back(capsys, case, "--dry-run", "--json")[1])
    assert (document["next_boot"], document["is_changed"], document["dry_run"]) == (case.staged, True, True)
    assert flowkit.snapshot(case.root) == before


def _fails(case: Case, capsys: pytest.CaptureFixture[str], code: int, said: str, *options: str) -> None:
    before = flowkit.snapshot(case.root)
    found, out, err = _roll_back(capsys, case, *options)
    assert (found, out, said in err) == (code, "", True), err
    assert flowkit.snapshot(case.root) == before


def test_with_one_deployment_there_is_no_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    _fails(case, capsys, 4, "there is no other deployment")
    _fails(case, capsys, 4, "there is no other deployment", "--to", "previous")
    _fails(case, capsys, 4, "has no boot entry", "--to", case.staged)


def test_unusable_targets_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = _updated(tmp_path / "h", capsys, *flowkit.COMBINATIONS[0])
    _fails(case, capsys, 2, "there is no deployment", "--to", "0123456789")
    _fails(case, capsys, 2, "there is no deployment", "--to", "")
    _fails(case, capsys, 2, "there is no deployment", "--to", "../..")
    (case.host.repository / "images" / case.staged).unlink()
    _fails(case, capsys, 10, "its image is missing")


def test_a_target_without_its_kernel_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = _updated(tmp_path / "h", capsys, Loader.GRUB, BootType.BLS)
    shutil.rmtree(case.host.boot_dir / f"bootc_composefs-{case.staged}")
    _fails(case, capsys, 7, "vmlinuz", "--to", case.staged)


def test_not_a_bootc_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = flowkit.run(capsys, "rollback", "--root", tmp_path)
    assert (code, "error: finding the booted deployment" in err) == (3, True)
    assert os.listdir(tmp_path) == []


async def test_the_library_returns_an_outcome_and_tells_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    from bootc_fast import finalize_staged

    await finalize_staged(case.root)
    seen: list[str] = []
    outcome = await rollback(
        case.root, on_event=lambda event: seen.append(event.step) if isinstance(event, events.StepDone) else None
    )
    assert (outcome.next_boot, outcome.is_revert, outcome.dropped_staged) == (case.booted, True, case.staged)
    assert seen == ["look", "commit", "tidy"]


def _fill_boot_partition_until_gone(monkeypatch: pytest.MonkeyPatch, garbage: Path) -> None:
    """A boot partition without a free byte as long as a directory is there."""
    monkeypatch.setattr(RealVolume, "free_bytes", lambda _self: (0 if garbage.exists() else 1 << 20, 4096))


@pytest.mark.parametrize("verb", ["finalize", "rollback"])
def test_on_a_full_boot_partition_kernels_that_nobody_needs_go_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    case = _updated(tmp_path / "h", capsys, *flowkit.COMBINATIONS[0])
    third = lab.stage_files(case.host, {"third": "3"}, version="3")
    kernels = case.host.kernel_area()[0]
    # A finalize lets the deployment before the booted one fall out of the set.
    kept = (case.booted, third) if verb == "finalize" else (case.booted, case.staged, third)
    wanted = [kernels / f"bootc_composefs-{digest}" for digest in kept]
    garbage = kernels / f"bootc_composefs-{'e' * 128}"
    # As left by an update that was interrupted: the state is there, an entry is not.
    for directory in (garbage, case.host.state_dir("e" * 128)):
        directory.mkdir()
    (garbage / "vmlinuz").write_bytes(b"k" * 9000)
    _fill_boot_partition_until_gone(monkeypatch, garbage)
    code, _, err = flowkit.run(capsys, verb, "--root", case.root)
    assert (code, garbage.exists()) == (0, False), err
    assert [path.name for path in wanted if not (path / "vmlinuz").stat().st_size] == []
    assert flowkit.next_boot(case.host) == (third if verb == "finalize" else case.staged)


@pytest.mark.parametrize("verb", ["finalize", "rollback"])
def test_on_a_full_boot_partition_what_may_yet_boot_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    case = _updated(tmp_path / "h", capsys, *flowkit.COMBINATIONS[0])
    third = lab.stage_files(case.host, {"third": "3"}, version="3")
    monkeypatch.setattr(RealVolume, "free_bytes", lambda _self: (0, 4096))
    # No entry names it any more, but it belongs to the deployment that runs.
    spare = case.host.esp / f"EFI/Linux/bootc/bootc_composefs-{case.booted}.efi"
    spare.parent.mkdir(exist_ok=True)
    spare.write_bytes(b"u")
    before = flowkit.snapshot(case.host.boot_dir)
    code, _, err = flowkit.run(capsys, verb, "--root", case.root)
    assert (code, "bytes are needed and 0 are free" in err) == (6, True)
    assert flowkit.snapshot(case.host.boot_dir) == before
    assert case.host.marker.exists()
    assert (case.host.kernel_area()[0] / f"bootc_composefs-{third}/vmlinuz").is_file()


def test_what_goes_wrong_after_the_new_order_is_in_force_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = _updated(tmp_path / "h", capsys, *flowkit.COMBINATIONS[0])

    def refuse(_self: object, _path: bytes) -> None:
        raise OSError(errno.EIO, "Input/output error")

    lab.stage_files(case.host, {"third": "3"}, version="3")
    monkeypatch.setattr(RealVolume, "remove_directory", refuse)
    code, out, err = _roll_back(capsys, case)
    assert (code, out.splitlines()[1]) == (0, "Next boot: rollback deployment")
    assert "warning: removing the staged boot entries: Input/output error\n" in err
    assert flowkit.next_boot(case.host) == case.staged
