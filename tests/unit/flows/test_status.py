"""status.py, status_document.py, cli/cmd_status.py: what is told, to people and to programs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flowkit
import jsonschema
import pytest
import yaml

from bootc_fast import get_status, lab
from bootc_fast._imginfo import ImageName, parse_image_reference
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowkit import Case

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
    assert "Next boot: the booted deployment — bootc_lab-1-1.conf (systemd-boot: first by sort-key)" in text
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


def test_the_script_of_eight_states_finds_all_documents_valid(tmp_path: Path) -> None:
    script = Path(__file__).parents[3] / "tools/show-states"
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("JSON: valid"), done.stdout.count("\n== ")) == (0, 8, 7), done.stderr
    assert "will NOT be applied at shutdown: merging /etc: 1 conflict" in done.stdout
    assert "(broken)" in done.stdout


def test_with_v_it_says_what_a_rollback_would_change_in_etc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    assert flowkit.finalize(capsys, case)[0] == 0
    lab.boot(case.host)
    (case.root / "etc/since").write_text("1")
    assert "Changes:" not in _text(capsys, case.root)
    assert (
        "Changes: lacks 1 local change in the running /etc\n"
        in flowkit.run(capsys, "status", "-v", "--root", case.root)[1]
    )
    (case.root / "sysroot/composefs/images" / case.staged).unlink()
    code, out, _ = flowkit.run(capsys, "status", "-v", "--root", case.root)
    assert (code, "Changes:" in out, "warning: /etc was not compared: " in out) == (0, False, True)
