"""cli: every JSON has a schema that the package ships, and one key style; every failure is an object, too."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
from typing import TYPE_CHECKING, Any

import flowkit
import jsonschema
import pytest
from schemas import SCHEMAS, validate
from unit.cli.test_manners import _leaves

from bootc_fast import cli, lab
from bootc_fast.cli.parser import build_parser
from bootc_fast.errors import EtcConflictError, VerityMismatchError
from bootc_fast.types import BootType, EtcConflict, Loader, Strategy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# What every command with --json is called as, and the schema of what it prints.
CALLS = {
    "bootc-fast status": ("status", ["status", "--json", "--check"]),
    "bootc-fast composefs-finalize-staged": ("finalize", ["finalize", "--json"]),
    "bootc-fast rollback": ("rollback", ["rollback", "--json", "--to=booted"]),
    "bootc-fast unstage": ("unstage", ["unstage", "--json"]),
    "bootc-fast hold": ("hold", ["hold", "--json"]),
    "bootc-fast pin": ("pin", ["pin", "--json", "booted"]),
    "bootc-fast unpin": ("pin", ["unpin", "--json", "booted"]),
    "bootc-fast forget-failure": ("forget-failure", ["forget-failure", "--json", "BOOTED"]),
    "bootc-fast health": ("health", ["health", "--json"]),
    "bootc-fast doctor": ("doctor", ["doctor", "--json"]),
    "bootc-fast soft-reboot": ("soft-reboot", ["soft-reboot", "--json", "--dry-run"]),
    "bootc-fast etc diff": ("etc-diff", ["etc", "diff", "--json", "--patch"]),
    "bootc-fast etc merge": ("etc-merge", ["etc", "merge", "--json"]),
    "bootc-fast config-diff": ("etc-diff", ["config-diff", "--json"]),
    "bootc-fast policy check": ("policy-check", ["policy", "check", "--json"]),
    "bootc-fast self-test": ("self-test", ["self-test", "--json"]),
    "bootc-fast digest": ("digest", ["digest", "--json", "IMAGE"]),
    "bootc-fast image ls": ("image-ls", ["image", "ls", "--json", "-R", "IMAGE"]),
    "bootc-fast image verify": ("image-verify", ["image", "verify", "--json", "IMAGE"]),
    "bootc-fast lab boot": ("lab-boot", ["lab", "boot", "--json", "HOST"]),
    "bootc-fast lab show": ("lab-show", ["lab", "show", "--json", "HOST"]),
}


def _with_json() -> list[str]:
    return [
        parser.prog
        for parser in _leaves(build_parser(complete=True))
        if any("--json" in action.option_strings for action in parser._actions)
    ]


def _call(capsys: pytest.CaptureFixture[str], case: flowkit.Case, words: list[str]) -> tuple[int, Any, str]:
    image = str(case.host.root / "sysroot/composefs/images" / case.booted)
    known = {"IMAGE": image, "HOST": str(case.root), "BOOTED": case.booted}
    argv = [known.get(word, word) for word in words]
    if words[0] not in ("digest", "image", "lab"):
        argv += ["--root", str(case.root)]
    code, out, err = flowkit.run(capsys, *argv)
    return code, json.loads(out), err


def test_every_command_with_json_is_called_here() -> None:
    assert set(_with_json()) == set(CALLS)


@pytest.mark.parametrize("prog", CALLS)
@pytest.mark.parametrize("loader", [Loader.SYSTEMD_BOOT, Loader.GRUB])
def test_what_every_command_prints_is_valid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], prog: str, loader: Loader
) -> None:
    case = flowkit.make_case(tmp_path / "h", loader, BootType.BLS)
    schema, words = CALLS[prog]
    code, document, err = _call(capsys, case, words)
    if prog == "bootc-fast soft-reboot":
        # Nothing restarts in a directory: that is said in the form of every failure.
        assert (code, err.startswith("error: ")) == (9, True)
        validate("error", document)
        return
    if prog == "bootc-fast self-test":
        # A lab host is no image: what it lacks is said, in the form that has both.
        assert (code, document["exit_code"]) == (10, 10)
        validate(schema, document)
        return
    assert code == 0, err
    validate(schema, document)


def _make_wrong(document: object) -> Iterator[object]:
    """The document with each key of its first object left out in turn, and with one that nobody knows."""
    first = document[0] if isinstance(document, list) else document
    assert isinstance(first, dict)
    for key in first:
        less = copy.deepcopy(document)
        del (less[0] if isinstance(less, list) else less)[key]  # type: ignore[index]
        yield less
    more = copy.deepcopy(document)
    (more[0] if isinstance(more, list) else more)["surprise"] = 1  # type: ignore[index]
    yield more


@pytest.mark.parametrize("prog", [prog for prog in CALLS if "status" not in prog and "soft-reboot" not in prog])
def test_no_schema_lets_a_key_be_missing_or_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], prog: str
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    schema, words = CALLS[prog]
    _, document, _ = _call(capsys, case, words)
    for wrong in _make_wrong(document):
        with pytest.raises(jsonschema.ValidationError):
            validate(schema, wrong)


def _keys(schema: object) -> Iterator[str]:
    if isinstance(schema, dict):
        for name, value in schema.items():
            if name in ("properties", "dependentRequired") and isinstance(value, dict):
                yield from value
            yield from _keys(value)
    elif isinstance(schema, list):
        for one in schema:
            yield from _keys(one)


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_document_has_one_key_style(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])
    # What stands in bootc's own document follows bootc.
    style = r"[a-z][A-Za-z0-9]*" if name in ("status", "host-v1") else r"[a-z][a-z0-9_]*"
    assert [key for key in _keys(SCHEMAS[name]) if not re.fullmatch(style, key)] == []


def test_what_is_on_disk_and_in_the_report_is_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    report = tmp_path / "report.json"
    assert flowkit.run(capsys, "finalize", "--root", case.root, "--report", report)[0] == 0
    validate("finalize", json.loads(report.read_text()))
    validate("last-finalize", flowkit.read_record(case.root))
    for _ in range(2):
        case.host.marker.write_text("{")
        assert flowkit.run(capsys, "finalize", "--root", case.root, "--report", report)[0] == 10
        validate("error", json.loads(report.read_text()))
        validate("last-finalize", flowkit.read_record(case.root))


@pytest.mark.parametrize("prog", CALLS)
def test_every_command_fails_with_an_object(tmp_path: Path, capsys: pytest.CaptureFixture[str], prog: str) -> None:
    missing = tmp_path / "no-such ☃"
    words = [str(missing) if word in ("IMAGE", "HOST") else word for word in CALLS[prog][1]]
    if words[0] not in ("digest", "image", "lab"):
        words += ["--root", str(missing)]
    code, out, err = flowkit.run(capsys, *words)
    document = json.loads(out)
    validate("error", document)
    assert code == document["exit_code"] != 0
    assert err.splitlines()[0] == f"error: {document['errors'][0]['message']}"
    hint = document["errors"][0]["hint"]
    assert hint is None or f"hint: {hint}" in err.splitlines()
    assert str(missing) in document["errors"][0]["paths"] or str(missing) in document["errors"][0]["message"]


@pytest.mark.parametrize(
    "words",
    [["status", "--json", "--no-such"], ["--json", "nothing"], ["finalize", "--json", "--timeout", "soon"],
     ["status", "--format", "json", "--format-version", "9"], ["status", "--format=json", "extra"],
     ["etc", "merge", "--json", "--on-conflict=perhaps"], ["rollback", "--soft-reboot=never", "--json"]],
)  # fmt: skip
def test_a_command_line_that_is_wrong_is_an_object_too(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        flowkit.run(capsys, *words)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    document = json.loads(out)
    validate("error", document)
    assert (document["exit_code"], document["errors"][0]["type"]) == (2, "UsageError")
    assert f"error: {document['errors'][0]['message']}" in err.splitlines()


def test_a_signal_before_anything_was_begun_is_an_object_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "build_parser", interrupt)
    code, out, err = flowkit.run(capsys, "status", "--json")
    assert (code, err) == (8, "error: cancelled by SIGINT\n")
    validate("error", json.loads(out))
    assert flowkit.run(capsys, "status") == (8, "", "error: cancelled by SIGINT\n")


def test_without_json_a_failure_prints_nothing_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert flowkit.run(capsys, "status", "--root", "/nowhere")[1] == ""
    with pytest.raises(SystemExit):
        flowkit.run(capsys, "status", "--no-such")
    assert capsys.readouterr().out == ""


def test_a_conflict_is_one_document_with_failure_paths_and_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    (case.root / "etc/fresh").mkdir()
    for words, schema in ((["etc", "merge", "--json"], "etc-merge"), (["finalize", "--json"], "error")):
        code, document, _ = _call(capsys, case, words)
        assert code == document["exit_code"] == 5
        validate(schema, document)
        (error,) = document["errors"]
        assert error["conflicts"][0]["path"] in error["paths"]


def test_a_path_of_any_bytes_stands_in_the_object() -> None:
    from bootc_fast.cli.failure import encode_error

    name = b"\xff\x1b[31m"
    one = OSError(5, "Input/output error", b"/boot/" + name)
    two = VerityMismatchError("verifying", os.fsdecode(b"/image"), "aa", "bb")
    three = EtcConflictError("merging", (EtcConflict(name, "file", "directory", Strategy.FAIL),))
    document = encode_error(ExceptionGroup("all", [one, two, three]))
    validate("error", json.loads(json.dumps(document)))
    base64 = [error["paths"] for error in document["errors"]]
    assert base64 == [[{"base64": "L2Jvb3Qv/xtbMzFt"}], ["/image"], [{"base64": "/xtbMzFt"}]]
    assert document["exit_code"] == 11


def test_an_image_that_breaks_off_is_an_array_whose_last_member_is_the_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    from bootc_fast.cli import cmd_image

    real, seen = cmd_image._to_json, []

    def fail_later(entry: Any, path: bytes) -> dict[str, object]:
        if len(seen) == 3:
            raise OSError(5, "Input/output error", b"/image")
        seen.append(path)
        return real(entry, path)

    monkeypatch.setattr(cmd_image, "_to_json", fail_later)
    code, document, err = _call(capsys, case, ["image", "ls", "--json", "-R", "IMAGE"])
    assert (code, err.startswith("error: /image: Input/output error")) == (6, True)
    validate("image-ls", document)
    assert len(document) == 4
    validate("error", document[-1])


def test_another_system_as_the_default_is_a_failure_in_the_rollbacks_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    assert flowkit.finalize(capsys, case)[0] == 0
    assert flowkit.run(capsys, "lab", "boot", case.root)[0] == 0
    case.host.write_efi_variable("LoaderEntries", "auto-windows")
    case.host.write_efi_variable("LoaderEntryDefault", "auto-windows")
    code, document, _ = _call(capsys, case, ["rollback", "--json"])
    validate("rollback", document)
    assert (code, document["exit_code"], document["is_changed"]) == (7, 7, True)
    assert "auto-windows" in document["errors"][0]["message"]
    assert document["errors"][0]["hint"]


def test_a_broken_boot_partition_is_a_failure_in_the_doctors_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    entries = case.host.boot_dir / "loader/entries"
    (entry,) = entries.glob("*.conf")
    shutil.copy(entry, entries / "bootc_lab-1-9.conf")
    code, document, _ = _call(capsys, case, ["doctor", "--json"])
    validate("doctor", document)
    assert (code, document["exit_code"]) == (7, 7)
    assert len(document["errors"]) == len([one for one in document["remaining"] if not one["is_harmless"]])


def test_a_host_that_is_empty_of_everything_is_still_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = lab.make_host(tmp_path / "h", files={"motd": "1"})
    shutil.rmtree(host.esp)
    case = flowkit.Case(host, host.booted, "")
    _, document, _ = _call(capsys, case, ["status", "--json", "--check"])
    validate("status", document)
    assert [one["kind"] for one in document["bootcFast"]["check"]] == ["next-boot"]
