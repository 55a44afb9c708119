"""status.py, status_document.py, cli/cmd_status.py: what is told, to people and to programs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flowkit
import jsonschema
import pytest
import yaml

from bootc_fast import finalize_staged, get_status, lab
from bootc_fast.cli.render_status import StatusText
from bootc_fast.composefs.container import ImageName, parse_image_reference
from bootc_fast.report.status import DeploymentStatus, HostStatus, NextBoot, StagedStatus
from bootc_fast.types import BootType, Deployment, Loader, VerityDigest

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowkit import Case

    from bootc_fast.machine.host import Host

    Spoil = Callable[[Case], object]

SCHEMA = json.loads((Path(__file__).parents[2] / "corpora/host-v1.schema.json").read_text())


def _document(capsys: pytest.CaptureFixture[str], root: Path, *options: str) -> dict[str, Any]:
    code, out, err = flowkit.run(capsys, "status", "--root", root, "--json", *options)
    assert (code, err) == (0, "")
    document: dict[str, Any] = json.loads(out)
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(SCHEMA, format_checker=checker).validate(document)
    return document


def _text(capsys: pytest.CaptureFixture[str], root: Path) -> str:
    code, out, err = flowkit.run(capsys, "status", "--root", root)
    assert (code, err) == (0, "")
    return out


@pytest.mark.parametrize(("loader", "boot_type"), flowkit.COMBINATIONS)
def test_the_document_is_valid_at_every_stage_of_an_update(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader, boot_type: BootType
) -> None:
    case = flowkit.make_case(tmp_path / "h", loader, boot_type)
    before = _document(capsys, case.root)
    status = before["status"]
    assert status["booted"]["composefs"]["verity"] == case.booted
    assert status["booted"]["composefs"]["bootType"] == {"bls": "Bls", "uki": "Uki"}[boot_type]
    expected = {Loader.SYSTEMD_BOOT: "systemd", Loader.GRUB: "grub", Loader.GRUB_CC: "grub-cc"}[loader]
    assert status["staged"]["composefs"]["bootloader"] == expected
    assert (status["rollback"], status["rollbackQueued"]) == (None, False)
    assert before["bootcFast"]["nextBoot"]["verity"] == case.booted
    assert flowkit.finalize(capsys, case)[0] == 0
    finalized = _document(capsys, case.root)
    assert finalized["bootcFast"]["nextBoot"]["verity"] == case.staged
    assert finalized["bootcFast"]["stagedUpdate"]["isFinalized"] is True
    assert flowkit.run(capsys, "lab", "boot", case.root)[0] == 0
    after = _document(capsys, case.root)
    assert after["status"]["booted"]["composefs"]["verity"] == case.staged
    assert after["status"]["rollback"]["composefs"]["verity"] == case.booted
    assert after["status"]["staged"] is None
    assert after["bootcFast"]["lastFinalize"]["result"] == "done"


def test_looking_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h", forms=lab.LabForms(old_entry_names=True, bare_sort_keys=True))
    before = flowkit.snapshot(case.root)
    _document(capsys, case.root)
    _text(capsys, case.root)
    assert flowkit.snapshot(case.root) == before
    assert not (case.root / "run/bootc-fast.lock").exists()


def test_the_text_fits_one_screen_and_says_what_boots_next_and_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    text = _text(capsys, case.root)
    assert "● Booted    registry.example/lab/os:latest  ← boots next" in text
    assert "Next boot: the booted deployment until the staged one is applied — bootc_lab-1-1.conf (systemd-boot" in text
    lines = text.splitlines()
    assert len(lines) < 25
    assert max(map(len, lines)) <= 120


def test_yaml_is_the_same_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    code, out, _ = flowkit.run(capsys, "status", "--root", case.root, "--format", "yaml", "--format-version", "1")
    assert code == 0
    assert yaml.safe_load(out) == _document(capsys, case.root)


def test_booted_only_leaves_the_others_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    document = _document(capsys, case.root, "--booted")
    assert document["status"]["staged"] is None
    _, out, _ = flowkit.run(capsys, "status", "--root", case.root, "--booted")
    assert ("Booted" in out, "Staged" in out) == (True, False)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda case: case.host.write_marker(case.staged, locked=True), "locked (download-only)"),
        (lambda case: shutil.rmtree(case.host.boot_dir / "loader/entries.staged"), "there is none in"),
        (lambda case: shutil.rmtree(case.host.state_dir(case.staged)), "missing "),
        (lambda case: (case.host.repository / "images" / case.staged).unlink(), "missing "),
    ],
)
def test_why_a_staged_update_will_not_be_applied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Spoil, reason: str
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    spoil(case)
    text = _text(capsys, case.root)
    assert "will NOT be applied at shutdown: " in text
    assert reason in text
    staged = _document(capsys, case.root)["bootcFast"]["stagedUpdate"]
    assert (staged["willBeApplied"], reason in " ".join(staged["reasons"])) == (False, True)


def test_a_conflict_will_keep_a_staged_update_from_being_applied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = lab.make_host(tmp_path / "h", files={"motd/a": "1"})
    (host.root / "etc/motd/a").write_text("mine")
    lab.stage_files(host, {"motd": "now a file"})
    assert "will NOT be applied at shutdown: merging /etc: 1 conflict" in _text(capsys, host.root)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda case: case.host.marker.write_text("{"), "the staged update cannot be told: "),
        (lambda case: shutil.rmtree(case.root / "efi"), "boot entries cannot be read"),
        (lambda case: (case.host.boot_dir / "loader/entries/torn.conf").write_bytes(b""), "torn.conf is empty"),
        (lambda case: (case.root / f"sysroot/state/deploy/{'c' * 128}").mkdir(), "Problem"),
        (lambda case: shutil.rmtree(case.host.state_dir(case.booted) / "etc"), "has no directory etc"),
    ],
)
def test_what_is_broken_is_said_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Spoil, said: str
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    spoil(case)
    assert said in _text(capsys, case.root)
    assert _document(capsys, case.root)["status"]["booted"]["composefs"]["verity"] == case.booted


def test_a_record_that_is_not_readable_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    record = case.root / "sysroot/state/bootc-fast/last-finalize.json"
    record.parent.mkdir()
    record.write_text("{")
    assert "warning: the last finalize cannot be told" in _text(capsys, case.root)


def test_the_last_failure_is_told_with_its_chain_and_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    shutil.rmtree(case.host.boot_dir / "loader/entries.staged")
    assert flowkit.finalize(capsys, case)[0] == 7
    text = _text(capsys, case.root)
    assert "FAILED" in text
    assert "  looking at the boot entry of the staged deployment" in text
    assert "    hint: stage the update again" in text


def test_not_a_bootc_host_exits_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = flowkit.run(capsys, "status", "--root", tmp_path)
    assert (code, out) == (3, "")
    assert err.startswith("error: finding the booted deployment: ")


async def test_imginfo_of_older_deployments_is_read(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h", forms=lab.LabForms(imginfo=True))
    info = {
        "config": {"architecture": "arm64", "created": "2026-01-02T03:04:05Z"},
        "manifest": {"annotations": {"org.opencontainers.image.version": "43.1"}},
    }
    (case.host.state_dir(case.booted) / f"{case.booted}.imginfo").write_text(json.dumps(info))
    facts = (await get_status(case.root)).booted.facts
    assert (facts.version, facts.timestamp, facts.architecture) == ("43.1", "2026-01-02T03:04:05Z", "arm64")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"config": 3}', '{"config": {"created": 5, "architecture": []}}'])
async def test_a_malformed_imginfo_leaves_the_facts_empty(tmp_path: Path, text: str) -> None:
    case = flowkit.make_case(tmp_path / "h", forms=lab.LabForms(imginfo=True))
    (case.host.state_dir(case.booted) / f"{case.booted}.imginfo").write_text(text)
    assert (await get_status(case.root)).booted.facts.version is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ostree-unverified-image:docker://q.io/a:1", ImageName("registry", "q.io/a:1")),
        ("ostree-unverified-registry:q.io/a:1", ImageName("registry", "q.io/a:1")),
        ("ostree-image-signed:oci:/var/x", ImageName("oci", "/var/x", "containerPolicy")),
        ("ostree-remote-image:fedora:registry:q.io/a", ImageName("registry", "q.io/a", {"ostreeRemote": "fedora"})),
        ("ostree-remote-registry:fedora:q.io/a", ImageName("registry", "q.io/a", {"ostreeRemote": "fedora"})),
        ("docker://q.io/a", None),
        ("", None),
        ("ostree-unverified-image:", None),
    ],
)
def test_image_references_are_taken_apart_as_bootc_does(text: str, expected: ImageName | None) -> None:
    assert parse_image_reference(text) == expected


def test_the_script_of_many_states_finds_all_documents_valid(tmp_path: Path) -> None:
    script = Path(__file__).parents[3] / "tools/show-states"
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("JSON and YAML: valid"), done.stdout.count("== ")) == (0, 14, 14), (
        done.stderr
    )
    assert "will NOT be applied at shutdown: merging /etc: 1 conflict" in done.stdout
    assert "(broken)" in done.stdout


def _updated(capsys: pytest.CaptureFixture[str], root: Path) -> Case:
    case = flowkit.make_case(root)
    assert flowkit.finalize(capsys, case)[0] == 0
    lab.boot(case.host)
    return case


def test_it_counts_what_a_rollback_would_change_in_etc_and_lists_it_with_v(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = _updated(capsys, tmp_path / "h")
    assert "/etc:        has every local change of the running /etc\n" in _text(capsys, case.root)
    (case.root / "etc/since").write_text("1")
    (case.root / os.fsdecode(b"etc/\xff\n")).write_text("1")
    assert "/etc:        lacks 2 local changes of the running /etc (-v lists them)\n" in _text(capsys, case.root)
    verbose = flowkit.run(capsys, "status", "-v", "--root", case.root)[1]
    assert "lacks 2 local changes of the running /etc\n" in verbose
    assert " A /etc/since  file added\n" in verbose
    assert " A /etc/\\xff\\n  file added\n" in verbose
    assert _document(capsys, case.root)["bootcFast"]["rollbackEtc"] == [
        {"change": "added", "path": "since", "reason": "file added", "detail": ""},
        {"change": "added", "path": {"base64": "/wo="}, "reason": "file added", "detail": ""},
    ]
    assert flowkit.run(capsys, "status", "--booted", "--root", case.root)[1].count("/etc:") == 0
    (case.root / "sysroot/composefs/images" / case.staged).unlink()
    code, out, _ = flowkit.run(capsys, "status", "-v", "--root", case.root)
    assert (code, "/etc:" in out, "warning: /etc was not compared: " in out) == (0, False, True)


def test_a_comparison_of_etc_that_takes_too_long_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = _updated(capsys, tmp_path / "h")
    monkeypatch.setattr("bootc_fast.cli.cmd_status.COMPARE_TIMEOUT_S", 0)
    out = _text(capsys, case.root)
    assert "warning: /etc was not compared: that takes longer than 0 s; `status -v` waits for it" in out
    assert _document(capsys, case.root)["bootcFast"]["rollbackEtc"] is None
    assert "/etc:" in flowkit.run(capsys, "status", "-v", "--root", case.root)[1]


def test_a_staged_update_that_will_be_applied_is_said_to_boot_next(tmp_path: Path) -> None:
    entry = NextBoot(VerityDigest("1" * 128), "a.conf", "first")
    text = "\n".join(StatusText(_staged_status(entry, applied=True), colour=False, verbose=False).lines())
    assert "Next boot: the staged deployment, once it is applied at shutdown\n  if that fails: the booted" in text
    text = "\n".join(StatusText(_staged_status(entry, applied=False), colour=False, verbose=False).lines())
    assert "Next boot: the booted deployment, NOT the staged one — a.conf (first)" in text


def _staged_status(next_boot: NextBoot, *, applied: bool) -> HostStatus:
    booted, staged = (
        DeploymentStatus(VerityDigest(digit * 128), Deployment(VerityDigest(digit * 128), None, has_image=True))
        for digit in "12"
    )
    return HostStatus(
        booted=booted,
        staged=staged,
        rollback=None,
        others=(),
        staged_status=StagedStatus(will_be_applied=applied, reasons=("a unit is there",)),
        next_boot=next_boot,
        rollback_queued=False,
        loader=None,
        missing_verity_allowed=False,
        last_finalize=None,
        is_read_only=True,
        warnings=("w " * 50,),
    )


def test_lines_are_wrapped_at_a_terminals_width_and_what_follows_is_indented() -> None:
    entry = NextBoot(VerityDigest("1" * 128), "a.conf", "many " * 30)
    lines = list(StatusText(_staged_status(entry, applied=True), colour=True, verbose=True, width=60).lines())
    plain = [re.sub("\x1b[^m]*m", "", line) for line in lines]
    # A digest is one word, and stays whole.
    assert [line for line in plain if len(line) > 60 and "1111" not in line and "2222" not in line] == []
    assert [line for line in plain if line.startswith("    many ")]
    assert plain[-1].startswith("  w w")


def test_the_entry_that_boots_next_comes_with_rule_and_override(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = _updated(capsys, tmp_path / "h")
    boot = _document(capsys, case.root)["bootcFast"]["nextBoot"]
    assert (boot["rule"], boot["override"]) == ("systemd-boot", None)
    old = next(one for one in case.host.boot_dir.glob("loader/entries/*.conf") if case.booted in one.read_text())
    case.host.write_efi_variable("LoaderEntryOneShot", old.name)
    boot = _document(capsys, case.root)["bootcFast"]["nextBoot"]
    assert (boot["verity"], boot["override"]) == (case.booted, "LoaderEntryOneShot")
    (case.host.boot_dir / "loader/entries/other.conf").write_text("title Other\nefi /EFI/other.efi\n")
    (case.host.esp / "EFI/other.efi").write_bytes(b"MZ")
    case.host.write_efi_variable("LoaderEntryOneShot", "other.conf")
    text = _text(capsys, case.root)
    assert "Next boot: NOT a deployment of this host — other.conf (LoaderEntryOneShot names other.conf" in text
    assert "warning: the loader boots" not in text


@pytest.mark.parametrize("which", ["booted", "staged", "unknown"])
def test_a_prepared_soft_reboot_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], which: str) -> None:
    case = _updated(capsys, tmp_path / "h")
    assert _document(capsys, case.root)["bootcFast"]["prepared"] is None
    # After the update, what was booted is the rollback deployment.
    source = {"booted": f"composefs:{case.booted}", "staged": f"transient:composefs={case.staged}", "unknown": "tmpfs"}
    with (case.root / "proc/self/mountinfo").open("a") as file:
        file.write(f"99 1 0:99 / /run/nextroot rw - overlay {source[which]} rw\n")
    prepared = _document(capsys, case.root)["bootcFast"]["prepared"]
    assert prepared == {"nextRoot": True, "kexec": False, "verity": getattr(case, which, None)}
    name = {"booted": "the rollback deployment", "staged": "the booted deployment", "unknown": "something"}[which]
    text = _text(capsys, case.root)
    assert f"Prepared: {name} is mounted at /run/nextroot" in text
    assert (", which is not what the loader boots next" in text) == (which != "staged")


def test_a_kernel_loaded_for_kexec_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    (case.root / "sys/kernel").mkdir(parents=True, exist_ok=True)
    (case.root / "sys/kernel/kexec_loaded").write_text("0\n")
    assert "Prepared:" not in _text(capsys, case.root)
    (case.root / "sys/kernel/kexec_loaded").write_text("1\n")
    assert "Prepared: a kernel is loaded for kexec: `systemctl reboot` starts it" in _text(capsys, case.root)
    assert _document(capsys, case.root)["bootcFast"]["prepared"]["kexec"] is True


def test_a_conflict_is_named_with_what_can_be_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = lab.make_host(tmp_path / "h", files={f"d{number}/a": "1" for number in range(5)})
    for number in range(5):
        (host.root / f"etc/d{number}/a").write_text("mine")
    lab.stage_files(host, {f"d{number}": "now a file" for number in range(5)})
    text = _text(capsys, host.root)
    assert "merging /etc: 5 conflicts: /etc/d0" in text
    assert " and 2 more\n" in text
    assert "hint: settle them in /etc, or choose with --on-conflict=current|new" in text
    assert _document(capsys, host.root)["bootcFast"]["stagedUpdate"]["hints"]


def test_a_broken_deployment_is_described_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = _updated(capsys, tmp_path / "h")
    shutil.rmtree(case.host.esp / f"EFI/Linux/bootc_composefs-{case.booted}")
    text = _text(capsys, case.root)
    assert text.count("vmlinuz") == 1
    assert "initrd: not there, or empty" in text
    *missing, doctor = _document(capsys, case.root)["bootcFast"]["warnings"]
    assert (len(missing), "doctor" in doctor) == (2, True)


async def test_systemd_is_asked_once_however_many_deployments_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = lab.make_host(tmp_path / "h")
    policy = host.root / "usr/lib/bootc-fast/boot.toml"
    policy.parent.mkdir(parents=True)
    policy.write_text("keep = 9\n")
    for number in range(3):
        lab.stage_files(host, {"a": str(number)}, version=str(number + 2))
        await finalize_staged(host.root)
        lab.boot(host)
    asked = []

    async def ask(host: Host) -> int:
        asked.append(host)
        return 257

    monkeypatch.setattr("bootc_fast.restart.soft.read_systemd_version", ask)
    status = await get_status(host.root)
    verdicts = [one.soft_reboot for one in (status.rollback, *status.others) if one is not None]
    assert len(verdicts) == 3
    assert all(verdict is not None and "kernel differs" in str(verdict) for verdict in verdicts)
    assert len(asked) == 1
