"""policy check: what holds, where it comes from, and what is wrong with every kind of policy file."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from schemas import validate

from bootc_fast.cli import main
from bootc_fast.report.policies import BUILT_IN, KINDS

if TYPE_CHECKING:
    from pathlib import Path

MERGE = '[[path]]\npattern = "ssh/*"\non-conflict = "current"\n'


def _write(root: Path, name: str, text: str | bytes) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def _check(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, tuple[object, str]], str]:
    code = main(["policy", "check", "--json", *words])
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    validate("policy-check", document)
    values = {
        f"{policy['name']}:{one['key']}": (one["value"], one["source"])
        for policy in document["policies"]
        for one in policy["values"]
    }
    return code, values, captured.err


def test_each_value_names_the_file_that_it_comes_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vendor = _write(tmp_path, "usr/lib/bootc-fast/merge.toml", 'default = "new"\n' + MERGE)
    admin = _write(tmp_path, "etc/bootc-fast/merge.toml", '[[path]]\npattern = "x"\non-both-changed = "new"\n')
    boot = _write(tmp_path, "etc/bootc-fast/boot.toml", "keep = 3\n")
    _write(tmp_path, "usr/lib/bootc-fast/trial.toml", "[health]\ntimeout = 9\nscript-timeout = 8\n")
    trial = _write(tmp_path, "etc/bootc-fast/trial.toml", "[health]\ntimeout = 7\n[trial]\ntries = 5\n")
    code, values, err = _check(capsys, "--root", str(tmp_path))
    assert (code, err) == (0, "")
    assert values["merge.toml:default"] == ("new", str(vendor))
    assert values['merge.toml:path."ssh/*".on-conflict'] == ("current", str(vendor))
    assert values['merge.toml:path."x".on-both-changed'] == ("new", str(admin))
    assert values['merge.toml:path."ld.so.cache".on-both-changed'] == ("machine-made", BUILT_IN)
    assert values["boot.toml:keep"] == (3, str(boot))
    assert values["boot.toml:pinned"] == ([], BUILT_IN)
    assert values["trial.toml:health.timeout"] == (7, str(trial))
    assert values["trial.toml:health.script-timeout"][0] == 8
    assert values["trial.toml:trial.tries"] == (5, str(trial))
    assert values["trial.toml:trial.method"] == ("auto", BUILT_IN)
    # What comes first counts first.
    rules = [key for key in values if key.startswith("merge.toml:path.")]
    assert rules.index('merge.toml:path."x".on-both-changed') < rules.index('merge.toml:path."ssh/*".on-conflict')


def test_people_get_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write(tmp_path, "etc/bootc-fast/boot.toml", "keep = 4\n")
    assert main(["policy", "check", "--root", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"  keep = 4  ({tmp_path}/etc/bootc-fast/boot.toml)" in lines
    assert f"  {tmp_path}/usr/lib/bootc-fast/boot.toml: not there" in lines
    assert '  default = "fail"  (built in)' in lines
    assert "  health.no-failed-units = false  (built in)" in lines


@pytest.mark.parametrize(
    ("name", "text", "valid", "meant"),
    [
        ("merge.toml", 'defalt = "new"', "valid keys: default, path", "default"),
        ("merge.toml", 'default = "nwe"', "none of fail, current, new", "new"),
        ("merge.toml", '[[path]]\npatern = "x"\non-conflict = "new"', "needs a pattern", None),
        ("merge.toml", '[[path]]\npattern = "x"\non-both-changed = "fail"', "none of current, new", None),
        ("boot.toml", "kep = 3", "valid keys: keep, pinned", "keep"),
        ("boot.toml", "keep = 1", "from 2 to 50", None),
        ("boot.toml", 'pinned = ["abc"]', "abc", None),
        ("trial.toml", "[helth]\ntimeout = 3", "valid keys: health, trial", "health"),
        ("trial.toml", "[health]\ntimeuot = 3", "valid keys: script-timeout, timeout, disabled", "timeout"),
        ("trial.toml", "[trial]\ntrise = 3", "valid keys: tries, method, require-counting", "tries"),
        ("trial.toml", '[trial]\nmethod = "one_shot"', "none of auto, counter, one-shot", "one-shot"),
        ("trial.toml", "[trial]\ntries = 99", "from 0 to", None),
        ("trial.toml", b"\xff", "not UTF-8", None),
        ("boot.toml", "keep = ", "Invalid value", None),
        ("merge.toml", "\x1b[31m = 1", "", None),
    ],
)
@pytest.mark.parametrize("is_named", [True, False])
def test_what_cannot_be_understood_is_said_with_what_may_stand_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *, name: str, text: str, valid: str, meant: str, is_named: bool
) -> None:
    path = _write(tmp_path, f"etc/bootc-fast/{name}", text)
    words = [str(path)] if is_named else ["--root", str(tmp_path)]
    code, _, err = _check(capsys, *words)
    assert code == 10
    assert f"error: reading {path}: " in err
    assert valid in err
    assert "\x1b" not in err
    assert meant is None or f"did you mean '{meant}'?" in err
    assert f"hint: bootc-fast-{name}(5) has its form" in err or "UTF-8" in err


def test_named_files_lie_on_top_of_each_other_and_nothing_else_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    low = _write(tmp_path, "a/boot.toml", "keep = 3\n")
    high = _write(tmp_path, "b/boot.toml", "keep = 5\n")
    code, values, _ = _check(capsys, str(low), str(high))
    assert code == 0
    assert values["boot.toml:keep"] == (5, str(high))
    assert {where for key, (_value, where) in values.items() if key != "boot.toml:keep"} == {BUILT_IN}


@pytest.mark.parametrize(("name", "hint"), [("mergee.toml", "merge.toml"), ("boot.conf", "boot.toml"), ("x", None)])
def test_a_file_that_is_no_policy_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, hint: str | None
) -> None:
    assert main(["policy", "check", str(_write(tmp_path, name, ""))]) == 2
    err = capsys.readouterr().err
    assert "a policy file is called merge.toml, boot.toml, trial.toml" in err
    assert hint is None or f"did you mean '{hint}'?" in err


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str], make: object) -> None:
    path = tmp_path / "etc/bootc-fast/trial.toml"
    path.parent.mkdir(parents=True)
    assert callable(make)
    make(path)
    assert main(["policy", "check", "--root", str(tmp_path)]) in (6, 10)
    assert main(["policy", "check", str(path)]) in (6, 10)
    assert f"error: reading {path}: " in capsys.readouterr().err


def test_every_key_is_one_of_the_policys_own() -> None:
    for kind in KINDS:
        for table in kind.tables:
            # Both ways: nothing that is read lacks its words, nothing that is described is not read.
            attributes = {key.attribute for key in table.keys}
            fields = set(getattr(type(table.base), "__slots__", ()))
            assert attributes == fields - {"preferences"}, kind.name
