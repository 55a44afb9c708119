"""Policy files: their form, their precedence, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bootc_fast.errors import InvalidStateError
from bootc_fast.etc.policy import MergePolicy, PolicyRule, make_rule, parse_policy, read_merge_policy
from bootc_fast.machine.host import open_host
from bootc_fast.types import Strategy

VENDOR = "usr/lib/bootc-fast/merge.toml"
ADMIN = "etc/bootc-fast/merge.toml"


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True)
    (root / name).write_text(text)


def test_without_files_every_conflict_is_fatal(tmp_path: Path) -> None:
    assert read_merge_policy(open_host(tmp_path)) == MergePolicy(Strategy.FAIL, ())


def test_the_documented_example_is_read() -> None:
    text = Path("docs/merge-policy.md").read_text().split("```toml\n")[1].split("```")[0]
    policy = parse_policy(text, what="reading the example")
    assert policy.default == Strategy.FAIL
    assert policy.rules == (
        PolicyRule("ssh/sshd_config.d/*", Strategy.CURRENT),
        PolicyRule("**/*.rules", Strategy.NEW),
    )


def test_entries_of_etc_come_before_those_of_usr_and_its_default_overrides(tmp_path: Path) -> None:
    write(tmp_path, VENDOR, 'default = "new"\n[[path]]\npattern = "a"\non-conflict = "new"\n')
    write(tmp_path, ADMIN, 'default = "fail"\n[[path]]\npattern = "a"\non-conflict = "current"\n')
    policy = read_merge_policy(open_host(tmp_path))
    assert policy.default == Strategy.FAIL
    assert [rule.strategy for rule in policy.rules] == [Strategy.CURRENT, Strategy.NEW]


def test_a_default_of_usr_stays_where_etc_names_none(tmp_path: Path) -> None:
    write(tmp_path, VENDOR, 'default = "new"\n')
    write(tmp_path, ADMIN, '[[path]]\npattern = "a"\non-conflict = "fail"\n')
    assert read_merge_policy(open_host(tmp_path)).default == Strategy.NEW


@pytest.mark.parametrize("strategy", list(Strategy))
def test_the_command_line_overrides_all_files_also_with_fail(tmp_path: Path, strategy: Strategy) -> None:
    write(tmp_path, VENDOR, 'default = "new"\n')
    write(tmp_path, ADMIN, '[[path]]\npattern = "**"\non-conflict = "current"\n')
    assert read_merge_policy(open_host(tmp_path), on_conflict=strategy) == MergePolicy(strategy, ())


@pytest.mark.parametrize("pattern", ["/etc/ssh/x", "/ssh/x", "ssh/x", "ssh/x/"])
def test_a_pattern_is_below_etc_however_it_is_written(pattern: str) -> None:
    assert make_rule(pattern, Strategy.NEW).pattern == "ssh/x"


@pytest.mark.parametrize("pattern", ["", "/", "/etc/", "a//b", "../x", "a/./b", "x" * 4097])
def test_a_pattern_that_can_match_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        make_rule(pattern, Strategy.NEW)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("default = ", "Invalid value"),
        ('default = "never"', "never"),
        ("default = 1", "'default' is 1, none of fail, current, new"),
        ('default = "curent"', "none of fail, current, new \\(did you mean 'current'\\?\\)"),
        ('defualt = "new"', "unknown key 'defualt' \\(did you mean 'default'\\?\\); valid keys: default, path"),
        ('[[path]]\npattern = "x"\non_conflict = "new"', "valid keys: pattern, on-conflict, on-both-changed"),
        ('path = "x"', "write \\[\\[path\\]\\]"),
        ("path = [1]", "write \\[\\[path\\]\\]"),
        ('[[path]]\npattern = "x"', "needs a pattern, and on-conflict"),
        ('[[path]]\npattern = 1\non-conflict = "new"', "needs a pattern, and on-conflict"),
        ('[[path]]\npattern = "x"\non-conflict = "mine"', "mine"),
        ('[[path]]\npattern = "x"\non-conflict = "new"\nelse = 1', "unknown key 'else'"),
        ('[[path]]\npattern = ".."\non-conflict = "new"', "a pattern has no"),
        ("a=" + "[" * 5000, "reading it"),
    ],
)
def test_a_malformed_policy_is_an_invalid_state_that_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(InvalidStateError, match=message) as raised:
        parse_policy(text, what="reading it")
    assert raised.value.exit_code == 10
    assert raised.value.hint


def test_a_malformed_policy_stops_a_run_with_an_explicit_strategy_too(tmp_path: Path) -> None:
    write(tmp_path, ADMIN, "nonsense")
    with pytest.raises(InvalidStateError, match=r"merge\.toml"):
        read_merge_policy(open_host(tmp_path), on_conflict=Strategy.CURRENT)


@pytest.mark.parametrize("make", [lambda path: path.write_bytes(b"\xff"), Path.mkdir, os.mkfifo])
def test_a_policy_that_is_no_text_file_is_an_invalid_state(tmp_path: Path, make: object) -> None:
    path = tmp_path / ADMIN
    path.parent.mkdir(parents=True)
    assert callable(make)
    make(path)
    with pytest.raises(InvalidStateError, match=r"merge\.toml"):
        read_merge_policy(open_host(tmp_path))
