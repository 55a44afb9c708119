"""Help on terminals of any width, without arguments, and what is said to somebody who mistyped."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

import pytest

from bootc_fast.cli import main
from bootc_fast.cli.exit_status import EXIT_STATUS
from bootc_fast.cli.help_text import reflow
from bootc_fast.cli.parser import COMMANDS, build_parser
from bootc_fast.errors import EXIT_CODES, BootcFastError
from bootc_fast.text import suggest

if TYPE_CHECKING:
    from collections.abc import Iterator


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in dict.fromkeys(action.choices.values()):
                yield from _parsers(child)


ALL = list(_parsers(build_parser(complete=True)))


@pytest.mark.parametrize("parser", ALL, ids=lambda parser: parser.prog)
def test_no_word_of_help_is_cut_and_no_line_is_too_long(
    parser: argparse.ArgumentParser, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = []
    for columns in (40, 60, 80, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        text = parser.format_help()
        assert [line for line in text.splitlines() if len(line) > min(columns, 100)] == []
        words.append(text.split())
    # The same words in the same order, whatever the width.
    assert all(one == words[0] for one in words)


@pytest.mark.parametrize(
    "argv", [["--help"], ["rollback", "--help"], ["etc", "diff", "--help"], ["finalize", "-h"], ["lab", "demo", "-h"]]
)
def test_help_is_found_wherever_it_is_asked_for(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    captured = capsys.readouterr()
    assert (stopped.value.code, captured.err) == (0, "")
    assert captured.out.startswith("usage: bootc-fast ")


@pytest.mark.parametrize("argv", [[], ["etc"], ["image"], ["lab"]])
def test_without_a_command_the_help_lists_them(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    captured = capsys.readouterr()
    # A unit or a script that lost its command does not pass for one that did its work.
    assert (stopped.value.code, captured.out) == (2, "")
    assert captured.err.startswith(f"usage: {' '.join(['bootc-fast', *argv])} [OPTIONS] COMMAND ...\n")
    assert "positional arguments:" in captured.err


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["rolback"], "rollback"),
        (["staus"], "status"),
        (["finalise"], "finalize"),
        (["composefs-finalize-stage"], "composefs-finalize-staged"),
        (["softreboot"], "soft-reboot"),
        (["lab", "crate", "x"], "create"),
        (["etc", "dif"], "diff"),
        (["rollback", "--dryrun"], "--dry-run"),
        (["finalize", "--time-out=3"], "--timeout"),
        (["config-diff", "--pacth"], "--patch"),
        (["image", "ls", "--recursiv", "x"], "--recursive"),
        (["status", "--bootloader", "gurb"], "grub"),
        (["rollback", "--soft-reboot=autom"], "auto"),
        (["--rooot=/x", "status"], "--root"),
    ],
)
def test_what_was_mistyped_gets_a_suggestion(argv: list[str], meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    captured = capsys.readouterr()
    assert stopped.value.code == 2
    assert f"hint: did you mean '{meant}'?" in captured.err
    assert captured.out == ""


def test_what_is_like_nothing_gets_no_suggestion_and_json_has_it_all(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["rollback", "--zzzz", "--json"])
    captured = capsys.readouterr()
    assert "did you mean" not in captured.err
    assert json.loads(captured.out)["errors"][0]["hint"] == "try 'bootc-fast rollback --help'"
    assert suggest("zzzz", [command.name for command in COMMANDS]) is None


def test_config_diff_has_no_commands_of_another(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["config-diff", "--help"])
    out = capsys.readouterr().out
    assert out.startswith("usage: bootc-fast config-diff [OPTIONS] [PATH...]\n")
    assert "COMMAND" not in out


def test_every_exit_code_has_one_meaning_in_one_table() -> None:
    def classes(one: type[BootcFastError]) -> Iterator[type[BootcFastError]]:
        yield one
        for child in one.__subclasses__():
            yield from classes(child)

    assert {one.exit_code for one in classes(BootcFastError)} | {0} == set(EXIT_CODES)


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("a bb ccc\ndddd", 8, ["a bb ccc", "dddd"]),
        ("a\nb\n\nc", 8, ["a b", "", "c"]),
        ("examples:\n  run this thing now", 12, ["examples:", "  run this", "      thing", "      now"]),
        ("marks:\n  K  kept as it is here", 14, ["marks:", "  K  kept as", "     it is", "     here"]),
        ("x" * 30 + " y", 10, ["x" * 30, "y"]),
    ],
)
def test_paragraphs_are_filled_and_examples_kept(text: str, width: int, lines: list[str]) -> None:
    assert reflow(text, width) == lines


def test_the_help_of_every_command_has_its_exit_codes_of_the_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(EXIT_STATUS) == [command.name for command in COMMANDS]
    for command in COMMANDS:
        for name in (command.name, *command.aliases):
            with pytest.raises(SystemExit):
                main([name, "--help"])
            codes = ", ".join(map(str, sorted(EXIT_STATUS[command.name].codes)))
            assert f"exit codes: {codes} ('bootc-fast" in " ".join(capsys.readouterr().out.split())
        assert set(EXIT_STATUS[command.name].codes) <= set(EXIT_CODES)


def test_an_exit_code_that_a_command_does_not_have_fails_the_test_that_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bootc_fast.cli.cmd_digest.run", lambda _arguments: 4)
    with pytest.raises(AssertionError, match="digest ended with 4"):
        main(["digest", "x"])
