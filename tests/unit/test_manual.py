"""Man pages: clean for mandoc and groff, found by man -k, complete, and with examples that their readers take."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bootc_fast.cli.parser import COMMANDS
from bootc_fast.errors import EXIT_CODES
from bootc_fast.report.policies import KINDS

ROOT = Path(__file__).parents[2]
VERB_SECTIONS = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES", "SEE ALSO"]
FILE_SECTIONS = ["NAME", "SYNOPSIS", "DESCRIPTION", "KEYS", "EXAMPLES", "SEE ALSO"]


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make install` puts into /usr/share."""
    out = tmp_path_factory.mktemp("share")
    subprocess.run([sys.executable, str(ROOT / "tools/make-docs"), str(out)], check=True)
    return out


@pytest.fixture(scope="module")
def pages(share: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted((share / "man").glob("man*/*"))}


def _run(*argv: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "80", "MANPAGER": "cat", **environment}
    return subprocess.run([str(word) for word in argv], capture_output=True, text=True, env=env, check=False)


def test_there_is_a_page_for_every_verb_every_alias_and_every_policy_file(pages: dict[str, Path]) -> None:
    names = {f"bootc-fast-{name}.8" for command in COMMANDS for name in (command.name, *command.aliases)}
    assert set(pages) == {"bootc-fast.8", *names, *(f"bootc-fast-{kind.name}.5" for kind in KINDS)}


def test_mandoc_and_groff_have_nothing_to_say(pages: dict[str, Path]) -> None:
    assert _run("mandoc", "-Tlint", "-Wstyle", *pages.values()).stdout == ""
    for path in pages.values():
        done = _run("man", "--warnings", "-E", "UTF-8", "-l", path)
        assert (done.returncode, done.stderr) == (0, ""), path.name
    # And both would speak.
    bad = pages["bootc-fast.8"].parents[1] / "bad.8"
    bad.write_text(".TH BAD 8\n.SH NAME\nbad\n.BX\n\\fZ\n")
    assert "WARNING" in _run("mandoc", "-Tlint", bad).stdout
    assert _run("man", "--warnings", "-E", "UTF-8", "-l", bad).stderr
    bad.unlink()


def test_every_page_has_its_header_its_sections_and_fits_80_columns(pages: dict[str, Path]) -> None:
    for name, path in pages.items():
        text = re.sub(r".\x08", "", _run("man", "-l", path, MANROFFOPT="-c", GROFF_NO_SGR="1").stdout)
        lines = text.splitlines()
        title = f"{path.resolve().stem.upper()}({name[-1]})"
        # The longest name has no room for a space between its two.
        assert (lines[0].startswith(title), lines[0].endswith(title)) == (True, True), name
        assert max(map(len, lines)) <= 80, name
        sections = [line for line in lines[1:-1] if line and not line.startswith(" ")]
        wanted = FILE_SECTIONS if name.endswith(".5") else VERB_SECTIONS
        assert [one for one in sections if one in wanted] == wanted, name
        # Nothing of roff is left, no option is split or has another hyphen than the one that can be typed.
        assert not re.search(r"\\[a-z(]|[\u2010\u2212]", text), name


def test_man_k_and_whatis_know_every_page(share: Path, pages: dict[str, Path]) -> None:
    man = share / "man"
    assert _run("mandb", "--create", "--quiet", man).returncode == 0
    for name in pages:
        title, section = name.rsplit(".", 1)
        found = _run("whatis", "-M", str(man), title).stdout
        assert f"({section})" in found, name
        assert "unknown subject" not in found
    assert "bootc-fast-rollback (8)" in _run("man", "-M", str(man), "-k", "previous deployment").stdout
    assert "bootc-fast-merge.toml (5)" in _run("man", "-M", str(man), "-k", "collide").stdout


def test_whatis_has_the_very_summary_of_help(pages: dict[str, Path]) -> None:
    for command in COMMANDS:
        found = _run("lexgrog", pages[f"bootc-fast-{command.name}.8"]).stdout
        assert f'"bootc-fast-{command.name} - {command.summary}"' in found


def test_the_main_page_is_an_overview(pages: dict[str, Path]) -> None:
    text = pages["bootc-fast.8"].read_text()
    assert len(text.splitlines()) < 200
    for option in ("dry", "progress", "keep\\-staged", "on\\-conflict"):
        assert f"\\-\\-{option}" not in text.replace("finalize\\-staged \\-\\-dry\\-run", "")
    assert [code for code in EXIT_CODES if f".TP\n\\fB{code}\\fR\n" not in text] == []
    # What the program asks its environment for, and nothing else.
    asked = set()
    for path in (ROOT / "python/bootc_fast").rglob("*.py"):
        asked |= set(re.findall(r"environ(?:\.get\(|\[)\"(\w+)\"", path.read_text()))
    documented = set(re.findall(r"^\\fB([A-Z_]+)\\fR$", text, re.MULTILINE))
    assert documented == asked


def test_every_verb_says_its_exit_codes_by_the_one_table(pages: dict[str, Path]) -> None:
    for command in COMMANDS:
        text = pages[f"bootc-fast-{command.name}.8"].read_text()
        codes = re.findall(r"\.TP\n\\fB(\d+)\\fR\n(.)", text.partition(".SH EXIT STATUS")[2].partition(".SH ")[0])
        assert {"0", "2"} <= {code for code, _ in codes}, command.name
        for code, first in codes:
            assert EXIT_CODES[int(code)][0].upper() == first


def test_every_see_also_leads_to_a_page(pages: dict[str, Path]) -> None:
    for path in pages.values():
        for name, section in re.findall(r"^\.BR \"(bootc\\-fast[^\"]*)\" \((\d)", path.read_text(), re.MULTILINE):
            assert f"{name.replace(chr(92) + '-', '-')}.{section}" in pages, path.name


def test_every_option_of_help_is_on_its_page_with_words(pages: dict[str, Path]) -> None:
    done = _run(sys.executable, "-m", "bootc_fast", "rollback", "--help", COLUMNS="100")
    options = re.findall(r"^  (?:-\w, )?(--[a-z-]+)", done.stdout, re.MULTILINE)
    text = pages["bootc-fast-rollback.8"].read_text().replace("\\-", "-")
    assert len(options) > 8
    assert [option for option in options if f"{option}\\fR" not in text] == []
    for path in pages.values():
        # Each item of each list has words below it.
        assert not re.search(r"\.TP\n[^\n]+\n\.?$|\.TP\n[^\n]+\n\.(TP|S)", path.read_text()), path.name


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_example_of_a_policy_file_is_one(pages: dict[str, Path], kind: object) -> None:
    assert isinstance(kind, type(KINDS[0]))
    text = pages[f"bootc-fast-{kind.name}.5"].read_text()
    examples = re.findall(r"\.EX\n(.*?)\.EE\n", text.partition(".SH EXAMPLES")[2], re.DOTALL)
    assert examples
    for example in examples:
        plain = example.replace("\\-", "-").replace("\\&", "").replace("\\(rs", "\\")
        changed = False
        for table in kind.tables:
            policy = table.parse(plain, what="the example", base=table.base)
            changed |= policy != table.base
        # An example that changes nothing shows nothing.
        assert changed, plain
    for table in kind.tables:
        assert [key.name for key in table.keys if f"\\fB{key.name}\\fR" not in text.replace("\\-", "-")] == []
