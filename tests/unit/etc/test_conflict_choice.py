"""``--on-conflict PATTERN=STRATEGY``: paths of one merge, before the policy files, and taken again at shutdown."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import flowkit
import pytest
from etc_trees import make_sides, write
from hypothesis import given
from hypothesis import strategies as st

from bootc_fast import ConflictChoice, lab
from bootc_fast.cli import main
from bootc_fast.etc.policy import decode_choice, encode_choice, make_rule, read_merge_policy, to_choice
from bootc_fast.machine.host import open_host
from bootc_fast.types import Strategy

if TYPE_CHECKING:
    from pathlib import Path

FAIL, CURRENT, NEW = Strategy


def _policy(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "etc/bootc-fast/merge.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("words", "default", "rules"),
    [
        (["current"], CURRENT, ()),
        (["ssh/**=new"], None, (make_rule("ssh/**", NEW),)),
        (["/etc/a=fail", "new", "b=current"], NEW, (make_rule("a", FAIL), make_rule("b", CURRENT))),
        # The last = counts.
        (["a=b=new"], None, (make_rule("a=b", NEW),)),
    ],
)
def test_words_are_a_strategy_for_all_or_for_a_pattern(
    words: list[str], default: Strategy | None, rules: tuple[object, ...]
) -> None:
    choice = ConflictChoice.parse(words)
    assert (choice.default, choice.rules) == (default, rules)
    assert ConflictChoice.parse(choice.words) == choice


@pytest.mark.parametrize(
    "words", [["both"], ["a=both"], [""], ["=new"], ["..=new"], ["a//b=new"], ["new", "current"], ["a" * 9000 + "=new"]]
)
def test_other_words_are_refused(words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"."):
        ConflictChoice.parse(words)


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda name: name not in {".", ".."}
)
RULES = st.lists(st.tuples(NAMES, st.sampled_from(Strategy)), max_size=4)


@given(rules=RULES, default=st.none() | st.sampled_from(Strategy))
def test_a_choice_comes_back_from_a_record(rules: list[tuple[str, Strategy]], default: Strategy | None) -> None:
    choice = ConflictChoice(default, tuple(make_rule(name, strategy) for name, strategy in rules))
    plain = json.loads(json.dumps(encode_choice(choice)))
    assert to_choice(decode_choice(plain)) == choice


def test_rules_come_before_the_files_and_a_strategy_alone_in_their_place(tmp_path: Path) -> None:
    _policy(tmp_path, '[[path]]\npattern = "a/**"\non-conflict = "current"\n')
    host = open_host(tmp_path)
    own, file = make_rule("a/b", NEW), make_rule("a/**", CURRENT)
    assert read_merge_policy(host, on_conflict=ConflictChoice(None, (own,))).rules == (own, file)
    both = read_merge_policy(host, on_conflict=ConflictChoice(CURRENT, (own,)))
    assert (both.default, both.rules) == (CURRENT, (own,))
    assert read_merge_policy(host).rules == (file,)


def test_a_merge_of_directories_takes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sides = make_sides(tmp_path)
    # A directory here, and a directory there, where the image had none: no content can be both.
    for name in ("a", "b"):
        write(sides.current / name, "mine")
        write(sides.new / name / "inside", "theirs")
    trees = ["--pristine", sides.pristine, "--current", sides.current, "--new", sides.new, "--into", sides.result]
    merge = ["etc", "merge", *map(os.fspath, trees), "--on-conflict"]
    assert main([*merge, "a=current"]) == 5
    assert not list(sides.result.iterdir())
    assert main([*merge, "a=current", "--on-conflict", "new"]) == 0
    assert (sides.result / "a").read_text() == "mine"
    assert (sides.result / "b/inside").read_text() == "theirs"
    capsys.readouterr()
    assert main([*merge, "new", "--on-conflict", "current"]) == 2
    assert "new and current are both for every path" in capsys.readouterr().err


def test_what_was_asked_for_an_update_is_taken_again_at_shutdown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    (case.root / "etc/fresh").mkdir()
    root = ["--root", case.root]
    assert flowkit.run(capsys, "finalize", *root)[0] == 5
    code, _, err = flowkit.run(capsys, "finalize", *root, "--on-conflict", "fresh=new")
    assert code == 0, err
    record = json.loads((case.root / "sysroot/state/bootc-fast/last-finalize.json").read_text())
    assert record["on_conflict"] == ["fresh=new"]
    # A later edit, and the unit runs without the option.
    (case.root / "etc/late").write_text("edit\n")
    code, _, err = flowkit.run(capsys, "finalize", *root)
    assert code == 0, err
    assert "as an earlier run for this update, --on-conflict=fresh=new" in err
    code, out, _ = flowkit.run(capsys, "status", *root, "--json")
    assert code == 0
    assert json.loads(out)["status"]["staged"] is None or "fresh=new" in out
    lab.boot(case.host)
    assert (case.root / "etc/late").read_text() == "edit\n"


@pytest.mark.parametrize("words", [["x=both"], ["=new"], ["new", "--on-conflict", "fail"]])
def test_a_mistake_is_told_though_nothing_is_staged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    case.host.marker.unlink()
    try:
        code = main(["finalize", "--root", str(case.root), "--on-conflict", *words])
    except SystemExit as stopped:
        code = stopped.code  # type: ignore[assignment]
    assert code == 2
    assert "--on-conflict" in capsys.readouterr().err
