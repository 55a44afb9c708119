"""Patches of /etc are what patch(1) takes: applied to the one tree, they make the other."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from etc_trees import listing, make_sides, write
from hypothesis import given, settings
from hypothesis import strategies as st

from bootc_fast import diff_etc
from bootc_fast.errors import ImageFormatError
from bootc_fast.etc.diff import EtcPatch, PathFilter
from bootc_fast.etc.trees import DirectorySource, ImageSource

if TYPE_CHECKING:
    from pathlib import Path

    from etc_trees import Sides

    from bootc_fast.etc.diff import EtcDiff, PatchSide
    from bootc_fast.etc.trees import EtcSource

LINES = st.lists(st.sampled_from([b"one", b"two", b"\ttab", b"caf\xe9", b"\x1b[31m", b"--- a", b"", b"\r"]), max_size=8)
TEXTS = st.tuples(LINES, st.booleans()).map(lambda text: b"\n".join(text[0]) + (b"\n" if text[1] else b""))
# The shape of a name that patch programs take: blanks, other letters, bytes that are no UTF-8, a leading dash.
NAMES = ["plain", "with blank", "grün", os.fsdecode(b"caf\xe9"), "-dash", "deep/er/file"]


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    return make_sides(tmp_path)


async def _diff(sides: Sides, *, patch: PatchSide | None = None, paths: tuple[str, ...] = ()) -> EtcDiff:
    fds = [os.open(side, os.O_RDONLY | os.O_DIRECTORY) for side in sides[:3]]
    try:
        return await diff_etc(*map(DirectorySource, fds), patch=patch, paths=paths)
    finally:
        for fd in fds:
            os.close(fd)


def _apply(tree: Path, data: bytes) -> None:
    done = subprocess.run(
        ["patch", "-p1", "--binary", "--quiet", "--no-backup-if-mismatch"], input=data, cwd=tree, check=False,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout, data)


def _files(tree: Path) -> dict[bytes, bytes]:
    found = {}
    for directory, _, names in os.walk(os.fsencode(tree)):
        for name in names:
            with open(os.path.join(directory, name), "rb") as file:
                found[os.path.relpath(os.path.join(directory, name), os.fsencode(tree))] = file.read()
    return found


@pytest.mark.parametrize("side", ["current", "new"])
@pytest.mark.parametrize("name", NAMES)
@given(before=TEXTS, after=TEXTS)
@settings(max_examples=8)
async def test_each_patch_applies(
    tmp_path_factory: pytest.TempPathFactory, name: str, side: PatchSide, before: bytes, after: bytes
) -> None:
    sides = make_sides(tmp_path_factory.mktemp("p"))
    for tree in sides[:3]:
        write(tree / name, before)
    write(getattr(sides, side) / name, after)
    (patch,) = (await _diff(sides, patch=side)).patches or (None,)
    if patch is not None:
        _apply(sides.pristine, patch.data)
    assert _files(sides.pristine)[os.fsencode(name)] == after
    assert (patch is None) == (before == after)


async def test_files_that_come_and_go_are_patched_in_and_out(sides: Sides) -> None:
    write(sides.pristine / "goes", "x\n")
    write(sides.new / "goes", "x\n")
    write(sides.current / "comes/here", "new\n")
    for patch in (await _diff(sides, patch="current")).patches:
        _apply(sides.pristine, patch.data)
    assert _files(sides.pristine) == _files(sides.current)


@pytest.mark.parametrize("side", ["pristine", "new"])
@pytest.mark.parametrize("content", [b"", b"no image", b"\0" * 5000])
async def test_an_error_says_which_tree_it_is_in(sides: Sides, tmp_path: Path, side: str, content: bytes) -> None:
    (tmp_path / "image").write_bytes(content)
    fds = {name: os.open(getattr(sides, name), os.O_RDONLY) for name in ("pristine", "current", "new")}
    image = os.open(tmp_path / "image", os.O_RDONLY)
    sources: dict[str, EtcSource] = {name: DirectorySource(fd) for name, fd in fds.items()}
    sources[side] = ImageSource(image, None)
    try:
        with pytest.raises(ImageFormatError, match=f"^reading the {side} /etc: ") as caught:
            await diff_etc(sources["pristine"], DirectorySource(fds["current"]), sources["new"])
    finally:
        for fd in (*fds.values(), image):
            os.close(fd)
    assert caught.value.exit_code in {6, 11}


def _write_deep(tree: Path, data: bytes) -> bytes:
    """Write a file that no single path leads to; returns its path."""
    name, depth = "d" * 200, 25
    fd = os.open(tree, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        parent, fd = fd, os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(parent)
    file = os.open("file", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=fd)
    os.write(file, data)
    os.close(file)
    os.close(fd)
    return os.fsencode("/".join([name] * depth + ["file"]))


async def test_a_path_that_is_longer_than_the_kernel_takes_is_patched(sides: Sides) -> None:
    path = _write_deep(sides.pristine, b"old\n")
    _write_deep(sides.new, b"old\n")
    _write_deep(sides.current, b"mine\n")
    assert len(path) > os.pathconf("/", "PC_PATH_MAX")
    (patch,) = (await _diff(sides, patch="current")).patches
    assert patch.path == path
    assert patch.data.endswith(b"@@ -1 +1 @@\n-old\n+mine\n")


HARD_NAMES = [
    "line\nbreak", "tab\tin it", "return\r", 'a "quote"', '"all quoted"', "back\\slash\\n", "ends in a blank ",
    " begins with one", "\x1b[31mred", "$HOME", "1970-01-01 00:00:00.0", "dev/null", "#hash", "a\vb\fc",
    os.fsdecode(b"\x9b\xff"),
    "\N{RIGHT-TO-LEFT OVERRIDE}txt", "new file mode 100644", "deep er/with\nbreak/x",
]  # fmt: skip


@pytest.mark.parametrize(
    "contents",
    [(None, "new"), (None, ""), ("one\n", "two\n"), ("one\n", ""), ("", "two"), ("one\n", None), ("", None)],
)
async def test_no_name_and_no_empty_file_is_beyond_a_patch(
    sides: Sides, contents: tuple[str | None, str | None]
) -> None:
    """All in one: what follows an empty file, too, is applied to what it is meant for."""
    for number, name in enumerate(HARD_NAMES):
        for side, content in zip((sides.pristine, sides.current), contents, strict=True):
            if content is not None:
                write(side / name, content, 0o600)
            write(side / f"{name}.between", "z\n" if number % 2 else os.path.basename(side))
    patches = (await _diff(sides, patch="current")).patches
    assert all(patch.is_plain for patch in patches)
    _apply(sides.pristine, b"".join(patch.data for patch in patches))
    assert _files(sides.pristine) == _files(sides.current)
    for name in HARD_NAMES if contents[1] is not None else ():
        assert (sides.pristine / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("names", [("old", "new"), ("new", "old")])
async def test_a_symlink_and_a_file_take_the_places_of_each_other(sides: Sides, names: tuple[str, str]) -> None:
    for side, name in zip((sides.pristine, sides.current), names, strict=True):
        if name == "old":
            (side / "x y").symlink_to("target \n")
        else:
            write(side / "x y", "text")
    (patch,) = (await _diff(sides, patch="current")).patches
    _apply(sides.pristine, patch.data)
    assert listing(sides.pristine)[b"x y"][5] == listing(sides.current)[b"x y"][5]
    assert (sides.pristine / "x y").is_symlink() == (sides.current / "x y").is_symlink()


@pytest.mark.parametrize(
    ("content", "is_whole"),
    [
        (b"a\r\nb\r\n", True), (b"caf\xe9\n", True), (b"page\f\n\tx\v\n", True), ("grün\n".encode(), True),
        (b"a\rb\n", False), (b"\x1b[31m\n", False), (b"\x9b31m\n", False), (b"\xe2\x80\xaex\n", False),
        ("\x9b31m\n".encode(), False), (b"\x07\n", False),
    ],
)  # fmt: skip
def test_a_pipe_gets_what_a_terminal_behind_it_would_not_act_on(content: bytes, *, is_whole: bool) -> None:
    assert EtcPatch(b"f", b"+" + content).is_plain is is_whole


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_what_a_pipe_gets_is_applied_whatever_the_encoding(sides: Sides, locale: str) -> None:
    write(sides.pristine / "f", "old\n")
    write(sides.current / "f", b"caf\xe9\r\n")
    write(sides.current / "grün", "ü\n")
    trees = ["--pristine", sides.pristine, "--current", sides.current]
    done = subprocess.run(
        [sys.executable, "-m", "bootc_fast", "etc", "diff", "--patch", *trees],
        check=True, capture_output=True, env={**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0"},
    )  # fmt: skip
    _apply(sides.pristine, done.stdout)
    assert _files(sides.pristine) == _files(sides.current)


async def test_modified_entries_tell_what_attributes_were_and_are(sides: Sides) -> None:
    for tree in sides[:3]:
        write(tree / "file", "same")
        (tree / "link").symlink_to("../old")
    (sides.current / "file").chmod(0o600)
    os.setxattr(sides.current / "file", "user.mine", b"1")
    (sides.current / "link").unlink()
    (sides.current / "link").symlink_to("../new\x1b")
    details = {entry.path: entry.detail for entry in (await _diff(sides)).entries}
    mode = (sides.pristine / "file").stat().st_mode & 0o7777
    assert details == {
        b"file": f"mode {mode:04o} → 0600, xattr user.mine added",
        b"link": "target ../old → ../new\\x1b",
    }


async def test_a_file_in_place_of_a_socket_is_added(sides: Sides) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(sides.pristine / "s"))
    write(sides.current / "s", "mine")
    assert [(entry.change, entry.path) for entry in (await _diff(sides)).entries] == [("added", b"s")]


async def test_paths_are_told_of_all_three_sides_and_others_are_not(sides: Sides) -> None:
    for tree in sides[:3]:
        write(tree / "a/one", "1\n")
        write(tree / "b", "1\n")
    write(sides.current / "a/one", "mine\n")
    write(sides.new / "a/one", "theirs\n")
    write(sides.new / "a/two", "added\n")
    write(sides.current / "b", "mine\n")
    for paths in (("a",), ("/etc/a/",), ("a/one", "etc/a/two")):
        diff = await _diff(sides, paths=paths)
        assert [entry.path for entry in diff.entries] == [b"a/one"]
        assert [(entry.change, entry.path) for entry in diff.image] == [("modified", b"a/one"), ("added", b"a/two")]
        assert diff.merge is not None
        assert [change.path for change in diff.merge.kept] == [b"a/one"]
    assert not (await _diff(sides, paths=("c",))).entries


@pytest.mark.parametrize(
    ("names", "wanted"),
    [(["/etc"], True), (["etc/"], True), (["."], True), ([], True), (["x"], False), (["et"], False)],
)
def test_the_whole_tree_has_many_names(names: list[str], wanted: bool) -> None:  # noqa: FBT001
    assert PathFilter.of(names).wants(b"ssh/sshd_config") is wanted


@pytest.mark.parametrize(
    "argv", [["--patch", "hosts"], ["hosts", "--patch"], ["--patch=current", "/etc/hosts"], ["--patch=new", "hosts"]]
)
def test_a_path_after_the_option_is_a_path(sides: Sides, argv: list[str]) -> None:
    for tree in sides[:3]:
        write(tree / "hosts", "x\n")
        write(tree / "other", "x\n")
    for tree in (sides.current, sides.new):
        write(tree / "hosts", "y\n")
        write(tree / "other", "y\n")
    trees = ["--pristine", sides.pristine, "--current", sides.current, "--new", sides.new]
    done = subprocess.run(
        [sys.executable, "-m", "bootc_fast", "etc", "diff", *argv, *trees], check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert b"+++ " in done.stdout
    assert b"other" not in done.stdout
