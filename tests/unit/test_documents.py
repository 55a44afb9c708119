"""The documents are true: every command in them is run, every link leads somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bootc_fast import lab
from bootc_fast.cli.parser import build_parser
from bootc_fast.errors import EXIT_CODES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = [ROOT / f"docs/{name}.md" for name in ("admin", "fleet", "developer")]
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# What differs from run to run, on both sides.
_CHANGING = (
    (re.compile(r"\b[0-9a-f]{12,16}…"), "DIGEST…"),
    (re.compile(r"\b20[23]\d-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "TIME"),
    (re.compile(r"\b\d+(?:\.\d)? m?s\b"), "SECONDS"),
    (re.compile(r"\S*/bootc-fast-demo\.\w+"), "DEMO"),
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        line: Where it begins.
        kind: ``console``, ``toml``, …
        text: What is in it.
        host: What the comment before it says: the host to run it on.
        file: The file it is, below that host.
    """

    line: int
    kind: str
    text: str
    host: str
    file: str


def _blocks(page: Path) -> Iterator[Block]:
    comments: dict[str, str] = {}
    lines = page.read_text().split("\n")
    number = 0
    while number < len(lines):
        line = lines[number]
        if found := re.fullmatch(r"<!-- (?:(host|file): (\S+)|same host) -->", line):
            comments[found[1] or "host"] = found[2] or "same"
        elif line.startswith("```"):
            end = lines.index("```", number + 1)
            text = "\n".join(lines[number + 1 : end])
            yield Block(number + 1, line[3:], text, comments.get("host", ""), comments.get("file", ""))
            comments = {}
            number = end
        number += 1


def _make(root: Path, *, conflict: bool = False) -> lab.LabHost:
    files: lab.LabFiles = {"motd": "1\n", "ssh/sshd_config": "Port 22\n"}
    host = lab.make_host(root, files=files)
    lab.stage_files(host, {**files, "motd": "2\n", "app.d": lab.LabDir(), "app.d/a.conf": "b\n"}, version="2")
    (host.etc / "ssh/sshd_config").write_text("Port 2222\n")
    (host.etc / "local.conf").write_text("mine\n")
    if conflict:
        (host.etc / "app.d").write_text("a file\n")
    return host


def _update(root: Path) -> None:
    host = _make(root)
    subprocess.run([*_COMMAND, "--root", str(root), "finalize"], check=True, capture_output=True)
    lab.boot(host)


_COMMAND = [sys.executable, "-m", "bootc_fast"]
HOSTS: dict[str, Callable[[Path], object]] = {
    "none": lambda root: root.mkdir(),
    "staged": _make,
    "conflict": lambda root: _make(root, conflict=True),
    "updated": _update,
}


def _commands(text: str) -> list[tuple[str, list[str]]]:
    found: list[tuple[str, list[str]]] = []
    for line in text.split("\n"):
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def _settle(line: str) -> str:
    for pattern, name in _CHANGING:
        line = pattern.sub(name, line)
    return line.rstrip()


def _matches(wanted: list[str], found: list[str]) -> bool:
    """Whether the lines are these; ``…`` alone on a line is any number of them, within a line any characters."""
    if not wanted:
        return not found
    if wanted[0].strip() == "…":
        return any(_matches(wanted[1:], found[skip:]) for skip in range(len(found) + 1))
    if not found:
        return False
    pattern = re.escape(_settle(wanted[0])).replace("DIGEST…", "DIGEST\0").replace("…", ".*").replace("\0", "…")
    return bool(re.fullmatch(pattern, _settle(found[0]))) and _matches(wanted[1:], found[1:])


def _run(command: str, place: Path, *, is_host: bool) -> list[str]:
    root = ["--root", str(place)] if is_host else []
    wrapper = place.parent / "bin/bootc-fast"
    wrapper.parent.mkdir(exist_ok=True)
    wrapper.write_text(f'#!/bin/sh\nexec {shlex.join([*_COMMAND, *root])} "$@"\n')
    wrapper.chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{wrapper.parent}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8",
        "PYTHONPATH": str(ROOT / "python"),
    }  # fmt: skip
    done = subprocess.run(
        ["bash", "-c", f"{{ {command}; }} 2>&1"],
        cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    # A page shows a host's own paths.
    return done.stdout.replace(f"{place}/etc", "/etc").replace(f"{place}/", "/").splitlines()


CASES = [(page, block) for page in RUN for block in _blocks(page) if block.kind == "console"]


def _name(one: Path | Block) -> str:
    return one.stem if isinstance(one, Path) else f"line-{one.line}"


@pytest.mark.parametrize(("page", "block"), CASES, ids=_name)
def test_each_command_does_what_the_page_says(tmp_path: Path, page: Path, block: Block) -> None:
    place = tmp_path / "host"
    blocks = [one for one in _blocks(page) if one.line <= block.line]
    assert block.host, f"{page}:{block.line}: on which host? <!-- host: … -->"
    if block.host == "same":
        last = max(index for index, one in enumerate(blocks) if one.host not in ("", "same"))
        blocks = blocks[last:]
    else:
        blocks = [block]
    HOSTS[blocks[0].host](place)
    for one in blocks:
        if one.file:
            (place / one.file).parent.mkdir(parents=True, exist_ok=True)
            target = lab.open_lab(place).etc / one.file[4:] if one.file.startswith("etc/") else place / one.file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(one.text + "\n")
    for command, wanted in _commands(block.text):
        found = _run(command, place, is_host=blocks[0].host != "none")
        while wanted and not wanted[-1]:
            wanted.pop()
        assert _matches(wanted, found), f"{page.name}:{block.line}: $ {command}\n" + "\n".join(found)


def _readme_block(words: str) -> list[str]:
    """The fenced block of the README that follows a paragraph with these words."""
    lines = (ROOT / "README.md").read_text().split("\n")
    begin = next(number for number, line in enumerate(lines) if words in line)
    first, last = [number for number in range(begin, len(lines)) if lines[number] == "```"][:2]
    return lines[first + 1 : last]


def test_the_readmes_middle_of_the_demo_is_what_the_demo_says() -> None:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "PYTHONPATH": str(ROOT / "python")}
    done = subprocess.run(
        [*_COMMAND, "lab", "demo"], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    wanted = _readme_block("The middle of its output")
    assert len(wanted) > 30
    # From its first line to its last one, and nothing between that the page has not.
    found = done.stdout.splitlines()
    first = next(number for number, line in enumerate(found) if _settle(line) == _settle(wanted[0]))
    assert [_settle(line) for line in found[first : first + len(wanted)]] == [_settle(line) for line in wanted]


def test_the_readmes_last_line_of_make_test_has_the_form_that_the_script_prints(tmp_path: Path) -> None:
    """The script's own lines, on counts as the tests write them."""
    script = (ROOT / "tools/test").read_text()
    counting = script[script.index("awk ") : script.index('exit "$code"')]
    (tmp_path / "counts.1").write_text("directory 4 0\nkernel 2 0\nmachine 0 0\n")
    (tmp_path / "counts.2").write_text("directory 1306 0\nkernel 0 1\nmachine 48 0\n")
    environment = {**os.environ, "BOOTC_FAST_TEST_COUNTS": str(tmp_path / "counts")}
    done = subprocess.run(["bash", "-euc", counting], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == (
        "tests of each kind, in all: directory 1310 ran 0 skipped, kernel 2 ran 1 skipped, machine 48 ran 0 skipped\n"
    )
    (shown,) = _readme_block("how many tests of each kind ran:")
    assert re.sub(r"\d+", "N", shown) == re.sub(r"\d+", "N", done.stdout.strip())
    assert re.findall(r"(\d+) skipped", shown) == ["0", "0", "0"]


def test_the_comparison_sees_a_difference() -> None:
    assert _matches(["a", "…", "b 0123456789abcdef…"], ["a", "x", "y", "b fedcba9876543210…"])
    assert _matches(["a … c"], ["a b c"])
    assert not _matches(["a"], ["a", "b"])
    assert not _matches(["a", "b"], ["a"])
    assert not _matches(["a 0123456789abcdef…"], ["a 0123"])
    assert not _matches(["…", "b"], ["a", "c"])


def test_commands_of_ours_stand_where_they_are_run() -> None:
    for page in RUN:
        for block in _blocks(page):
            assert block.kind in ("console", "toml"), f"{page.name}:{block.line}"


def _headings(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in _LINK.findall(page.read_text()):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in _headings(target), f"{page.name}: {link}"


def test_every_document_is_reachable_from_the_readme() -> None:
    seen: set[Path] = set()
    pending = [ROOT / "README.md"]
    while pending:
        page = pending.pop()
        if page in seen:
            continue
        seen.add(page)
        links = [link.partition("#")[0] for link in _LINK.findall(page.read_text()) if "://" not in link]
        pending += [(page.parent / link).resolve() for link in links if link.endswith(".md")]
    assert [page.name for page in PAGES if page not in seen] == []


def test_the_fleets_table_of_exit_codes_is_the_one_table() -> None:
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", (ROOT / "docs/fleet.md").read_text(), re.MULTILINE)
    assert {int(code): words.strip() for code, words in rows} == {
        code: words.replace("unexpected: ", "") for code, words in EXIT_CODES.items()
    }


def _inline(page: Path) -> list[str]:
    """Each command of ours that a text names, cut where a shell would go on with something else."""
    found = re.findall(r"`(bootc-fast [^`]*)`", " ".join(page.read_text().split()))
    fenced = "\n".join(block.text for block in _blocks(page))
    listed = re.findall(r"^(bootc-fast [a-z][^#\n]*?)(?: {2,}.*)?$", fenced, re.MULTILINE)
    return [re.split(r" [|>;&]|;", command)[0] for command in (*found, *listed)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_named_can_be_typed(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = build_parser(complete=True)
    for command in _inline(page):
        words = shlex.split(command)[1:]
        if "…" in command or "..." in command:
            continue
        code = 0
        try:
            parser.parse_args(words)
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        err = capsys.readouterr().err
        # A group of commands is named as such, or an argument is left out on purpose.
        is_named = "positional arguments" in err or "arguments are required" in err
        assert code == 0 or is_named, f"{page.name}: {command}: {err}"


def test_a_command_that_cannot_be_typed_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser(complete=True).parse_args(["rollback", "--no-such"])
    assert "takes no --no-such" in capsys.readouterr().err
    assert len([command for page in PAGES for command in _inline(page)]) > 40
