"""What people see: nothing wider than their terminal, no whole digest, no control character, one name for one file."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import flowkit
import pytest
from terminals import play

from bootc_fast import lab
from bootc_fast.cli.render import SCREEN, wrap_line
from bootc_fast.text import shorten_digests

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = [sys.executable, "-m", "bootc_fast"]
# Every verb, in an order in which each has something to say.
STORY = [
    "status", "status --booted", "etc diff", "etc diff --patch", "config-diff", "etc merge --dry-run", "hold", "status",
    "hold --release", "composefs-finalize-staged --dry-run", "unstage --dry-run", "doctor", "health --dry-run",
    "health",
    "policy check", "composefs-finalize-staged", "composefs-finalize-staged", "status", "rollback --dry-run",
    "rollback", "rollback", "pin booted", "unpin booted", "forget-failure BOOTED", "soft-reboot --dry-run",
    "soft-reboot --reset", "boot-complete", "status --check", "image verify IMAGE", "lab show HOST", "lab boot HOST",
    "rollback --dry-run", "rollback --to nonsense", "unstage", "pin nonsense", "forget-failure nonsense", "hold",
    "digest /no/such/file", "image ls /etc/hostname", "etc diff --pristine nowhere", "no-such-verb", "status --frmat x",
]  # fmt: skip
_WHOLE = re.compile(r"(?<![0-9a-f])(?:[0-9a-f]{64}|[0-9a-f]{128})(?![0-9a-f])")


def _words(line: str, case: flowkit.Case) -> list[str]:
    image = str(case.host.root / "sysroot/composefs/images" / case.booted)
    known = {"IMAGE": image, "HOST": str(case.root), "BOOTED": case.booted}
    return [known.get(word, word) for word in line.split()]


def _check(line: str, columns: int) -> None:
    assert line.isprintable() or line.replace("\t", "").isprintable(), line
    assert not _WHOLE.search(line), line
    # A name that is longer than the line is the only thing that may be: it is not cut, to be copied.
    assert len(line) <= columns or max(map(len, line.split())) > columns - 30, line


@pytest.mark.parametrize("columns", [60, 80])
def test_every_command_fits_and_shows_what_people_read(tmp_path: Path, columns: int) -> None:
    case = flowkit.make_case(tmp_path / "h")
    told = 0
    for words in STORY:
        argv = _words(words, case)
        root = [] if argv[0] in ("digest", "image", "lab") or "nowhere" in argv else ["--root", str(case.root)]
        played = play([*COMMAND, *argv, *root], columns=columns, term="dumb", environment={"NO_COLOR": "1"})
        assert b"\x1b" not in played.raw, words
        told += len(played.screen.lines)
        for line in played.screen.lines:
            _check(line, columns)
    assert told > 150


def test_verbose_shows_digests_whole_and_json_always_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    short = flowkit.run(capsys, "rollback", "--to=booted", "--root", case.root)[1]
    whole = flowkit.run(capsys, "rollback", "--to=booted", "-v", "--root", case.root)[1]
    json = flowkit.run(capsys, "rollback", "--to=booted", "--json", "--root", case.root)[1]
    assert (case.booted in short, case.booted in whole, case.booted in json) == (False, True, True)
    assert f"Verity: {case.booted[:16]}…" in short
    # The next command is not told the last one's wish.
    assert flowkit.run(capsys, "rollback", "--to=booted", "--root", case.root)[1] == short
    assert not SCREEN.is_whole


def test_what_is_data_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "ab" * 32
    host = lab.make_host(tmp_path / "h", files={name: "x"})
    image = str(host.root / "sysroot/composefs/images" / host.booted)
    assert f"/etc/{name}" in flowkit.run(capsys, "image", "ls", image, "etc")[1]
    assert host.booted in flowkit.run(capsys, "digest", image)[1]


def test_a_path_of_etc_begins_with_etc_wherever_it_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = lab.make_host(tmp_path / "h", files={"a": "1", "b": "1"})
    lab.stage_files(host, {"a": "2", "b": "1", "new": lab.LabDir(), "new/x": "2"})
    (host.etc / "b").write_text("mine")
    (host.etc / "new").write_text("mine")
    root = ["--root", str(host.root)]
    for words in ("etc diff", "finalize --dry-run", "finalize", "etc merge --dry-run", "status -v"):
        code, out, err = flowkit.run(capsys, *words.split(), *root)
        assert not re.search(r"^(?:[A-Z]|  conflict:) +(?!/etc)\S", out + err, re.MULTILINE), (code, out, err)
    assert "conflict: /etc/new: " in flowkit.run(capsys, "finalize", *root)[2]
    code, out, _ = flowkit.run(capsys, "lab", "edit", str(host.root))
    assert all(line.startswith("/etc/") for line in out.splitlines())


def test_marks_are_explained_where_they_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = lab.make_host(tmp_path / "h", files={"a": "1", "d": lab.LabDir(), "d/x": "1", "gone": "1"})
    lab.stage_files(host, {"a": "2", "d": lab.LabDir(), "d/x": "1", "d/y": "2", "gone": "1"})
    (host.etc / "a").write_text("mine")
    (host.etc / "gone").unlink()
    (host.etc / "d/x").unlink()
    (host.etc / "d").rmdir()
    out = flowkit.run(capsys, "etc", "diff", "--root", str(host.root))[1]
    above, _, below = out.partition("\nmerge with the new image:\n")
    for part in (above, below):
        lines = part.strip().splitlines()
        marks = {line[0] for line in lines[:-1]}
        assert marks == set(re.findall(r"\((\w)\)", lines[-1]))
    # A is what was added here, and nothing else.
    assert not re.search(r"^A ", below, re.MULTILINE)


def test_the_rollback_names_a_command_that_lists_the_very_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = lab.make_host(tmp_path / "h", files={"a": "1", "b": "1"})
    lab.stage_files(host, {"a": "1", "b": "1"}, version="2")
    (host.etc / "before").write_text("x")
    root = ["--root", str(host.root)]
    assert flowkit.run(capsys, "finalize", *root)[0] == 0
    lab.boot(host)
    (host.etc / "after").write_text("x")
    (host.etc / "a").write_text("changed")
    out = flowkit.run(capsys, "rollback", *root)[1]
    hint = re.search(r"2 local changes in /etc .* \(`bootc-fast ([^`]*)` lists them\)", out)
    assert hint, out
    listed = flowkit.run(capsys, *hint[1].split(), *root)[1]
    changes = re.findall(r"^ +([AMD] /etc/\S+)", listed, re.MULTILINE)
    # Not what `etc diff` lists, which is all that was changed since the image.
    assert changes == ["M /etc/a", "A /etc/after"]
    assert "/etc/before" in flowkit.run(capsys, "etc", "diff", *root)[1]


def test_only_whole_digests_are_shortened() -> None:
    digest, commit = "0f" * 64, "a1" * 32
    text = f"/x/{digest}.origin sha256:{commit} {commit}.0 {digest}00 {'0f' * 40} deadbeef"
    short = shorten_digests(text)
    assert short == f"/x/{digest[:16]}*.origin sha256:{commit[:16]}… {commit[:16]}….0 {digest}00 {'0f' * 40} deadbeef"
    assert shorten_digests(short) == short


DIGEST, OTHER = "0123456789abcdef" * 8, "01234567" + "89abcdef" * 7
PLACES = [
    "sysroot/state/deploy/{}/etc", "sysroot/state/deploy/{}/{}.origin", "efi/EFI/Linux/bootc_os-{}.efi",
    "sysroot/ostree/deploy/os/deploy/{}.0/etc",
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("digest", [DIGEST, OTHER])
@pytest.mark.parametrize(
    "line", ["look into {}", "hint: `ls -d {}`", "it ({}) is there", "--report={} says so", "what is in '{}' stays"]
)
@pytest.mark.parametrize("root", ["plain", "with blank"])
def test_a_path_that_is_shown_can_be_pasted_into_a_shell(
    tmp_path: Path, place: str, digest: str, line: str, root: str
) -> None:
    path = tmp_path / root / place.replace("{}", digest)
    path.mkdir(parents=True)
    # What a shell must not take for it.
    (tmp_path / root / place.replace("{}", digest[:15] + "0" + digest[16:])).mkdir(parents=True)
    quoted = shlex.quote(str(path))
    (shown,) = re.findall(r"'/[^']*'|(?<=[ `(=])/[^\s`')]*", shorten_digests(line.replace("'", "").format(quoted)))
    assert (digest in shown) == (root == "with blank"), shown
    done = subprocess.run(["sh", "-c", f"printf '%s\\n' {shown}"], check=True, capture_output=True, text=True)
    assert done.stdout == f"{path}\n"


def test_what_only_looks_like_a_path_keeps_its_dots() -> None:
    digest = "a1" * 32
    for text in (f"registry.example/os@sha256:{digest}", f"loader/{digest}.conf", f"https://host.example/{digest}"):
        assert shorten_digests(text) == text.replace(digest, f"{digest[:16]}…")


@pytest.mark.parametrize(
    ("line", "width", "lines"),
    [
        ("a bb ccc dddd", None, ["a bb ccc dddd"]),
        ("a bb ccc dddd", 8, ["a bb ccc", "    dddd"]),
        ("  hint: do this", 10, ["  hint: do", "      this"]),
        ("x" * 20, 8, ["x" * 20]),
    ],
)
def test_lines_are_wrapped_between_words(line: str, width: int | None, lines: list[str]) -> None:
    assert wrap_line(line, width) == lines
