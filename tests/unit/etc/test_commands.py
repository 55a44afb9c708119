"""``bootc-fast etc diff`` and ``etc merge``: every option, and the exit codes."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

import pytest
from etc_trees import Sides, listing, make_sides, write

from bootc_fast import _core, lab
from bootc_fast.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    """Make a merge with every kind of line, and one conflict less than it could have."""
    sides = make_sides(tmp_path)
    for side in sides[:3]:
        write(side / "hosts", "one\ntwo\n")
        write(side / "gone", "x")
        write(side / "same", "x")
    write(sides.current / "hosts", "one\nmine\n")
    (sides.current / "gone").unlink()
    write(sides.current / "caf\udce9", "not UTF-8")
    write(sides.new / "same", "newer")
    return sides


def add_conflict(sides: Sides) -> None:
    for side in sides[:3]:
        write(side / "thing", "x")
    write(sides.current / "thing", "mine")
    (sides.new / "thing").unlink()
    write(sides.new / "thing/inside", "theirs")


def names(sides: Sides) -> list[str]:
    return ["--pristine", str(sides.pristine), "--current", str(sides.current), "--new", str(sides.new)]


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in argv])
    return code, *capsys.readouterr()


def run_json(capsys: pytest.CaptureFixture[str], *argv: object) -> Any:
    code, out, err = run(capsys, *argv, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_a_diff_lists_changes_and_exits_with_0(sides: Sides, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "etc", "diff", *names(sides)[:4])
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line[:11] for line in lines[:-1]] == ["A /etc/caf\\", "D /etc/gone", "M /etc/host"]
    assert lines[-1] == "1 added (A), 1 modified (M), 1 deleted (D)"


def test_a_diff_with_exit_code_exits_with_1_on_a_difference_only(
    sides: Sides, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "etc", "diff", *names(sides)[:4], "--exit-code")[0] == 1
    same = ["--pristine", sides.pristine, "--current", sides.pristine]
    assert run(capsys, "etc", "diff", *same, "--exit-code") == (0, "", "")


def test_config_diff_is_etc_diff(sides: Sides, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "config-diff", *names(sides)) == run(capsys, "etc", "diff", *names(sides))


def test_a_diff_with_a_new_image_tells_what_the_merge_makes_of_it(
    sides: Sides, capsys: pytest.CaptureFixture[str]
) -> None:
    add_conflict(sides)
    code, out, _ = run(capsys, "etc", "diff", *names(sides))
    assert code == 0
    assert "merge with the new image:" in out
    assert re.search(r"^C /etc/thing  here .*not decided$", out, re.MULTILINE)


def test_a_diff_as_json_has_paths_that_are_not_utf8_in_base64(sides: Sides, capsys: pytest.CaptureFixture[str]) -> None:
    value = run_json(capsys, "etc", "diff", *names(sides))
    assert [(each["change"], each["path"]) for each in value["changes"]] == [
        ("added", {"base64": "Y2Fm6Q=="}),
        ("deleted", "gone"),
        ("modified", "hosts"),
    ]
    assert value["merge"]["counts"]["kept"] == 2
    assert value["patches"] == []


def test_patches_are_unified_diffs_of_text_files(sides: Sides, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    write(sides.pristine / "binary", b"a\0b")
    write(sides.current / "binary", b"a\0c")
    write(sides.current / "esc", "\x1b[2Jx\ty")
    write(sides.new / "hosts", "one\ntheirs\n")
    assert main(["etc", "diff", *map(str, names(sides)), "--patch"]) == 0
    out = capsysbinary.readouterr().out
    assert b"--- pristine/hosts\n+++ current/hosts\n@@ -1,2 +1,2 @@\n one\n-two\n+mine\n" in out
    assert b"theirs" not in out
    assert b"--- pristine/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n\\ No newline at end of file\n" in out
    assert b"Binary files pristine/binary and current/binary differ\n" in out
    # Not text that is safe to show, and not escapes that a patch program would take for the content.
    assert b"Binary files /dev/null and current/esc differ\n" in out
    assert main(["etc", "diff", *map(str, names(sides)), "--patch=new"]) == 0
    out = capsysbinary.readouterr().out
    assert b"--- pristine/hosts\n+++ new/hosts\n@@ -1,2 +1,2 @@\n one\n-two\n+theirs\n" in out
    assert b"mine" not in out


def test_a_merge_makes_the_result_and_says_what_it_kept(sides: Sides, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "etc", "merge", *names(sides), "--into", sides.result)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "2 kept (K), 1 deleted (D)"
    assert {path: entry.content for path, entry in listing(sides.result).items()} == {
        b".": b"",
        b"caf\xe9": b"not UTF-8",
        b"hosts": b"one\nmine\n",
        b"same": b"newer",
    }


def test_a_dry_run_lists_the_operations_of_the_run_and_changes_nothing(
    sides: Sides, capsys: pytest.CaptureFixture[str]
) -> None:
    write(sides.result / "stale", "x")
    before = listing(sides.result)
    dry = run_json(capsys, "etc", "merge", *names(sides), "--into", sides.result, "--dry-run")
    _, text, _ = run(capsys, "etc", "merge", *names(sides), "--into", sides.result, "--dry-run")
    assert listing(sides.result) == before
    real = run_json(capsys, "etc", "merge", *names(sides), "--into", sides.result)
    assert dry["operations"] == real["operations"]
    assert dry["operations"][0] == {"action": "remove", "path": "stale", "entries": 1}
    assert "remove /etc/stale\n" in text
    assert real["report"]["counts"]["operations"] == len(real["operations"])
    assert set(real["report"]["phase_s"]) == {"scan", "plan", "compare", "apply", "sync"}


def test_a_verbose_merge_lists_its_operations(sides: Sides, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "etc", "merge", *names(sides), "--into", sides.result, "-v")
    assert "write-file /etc/hosts  9 bytes\n" in out


def test_a_second_merge_has_nothing_to_do(sides: Sides, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "etc", "merge", *names(sides), "--into", sides.result)
    assert run_json(capsys, "etc", "merge", *names(sides), "--into", sides.result)["operations"] == []


@pytest.mark.parametrize("options", [(), ("--on-conflict", "fail"), ("--dry-run",)])
def test_a_conflict_exits_with_5_lists_both_sides_and_writes_nothing(
    sides: Sides, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    add_conflict(sides)
    before = listing(sides.result)
    code, out, err = run(capsys, "etc", "merge", *names(sides), "--into", sides.result, *options)
    assert (code, out) == (5, "")
    assert re.search(r"conflict: /etc/thing: here .*file.*; new image .*directory", err)
    assert "hint: " in err
    assert listing(sides.result) == before


def test_a_conflict_with_json_still_prints_the_report(sides: Sides, capsys: pytest.CaptureFixture[str]) -> None:
    add_conflict(sides)
    code, out, _ = run(capsys, "etc", "merge", *names(sides), "--into", sides.result, "--json")
    assert code == 5
    assert [conflict["path"] for conflict in json.loads(out)["report"]["conflicts"]] == ["thing"]


def test_on_conflict_current_keeps_the_admins_version(sides: Sides, capsys: pytest.CaptureFixture[str]) -> None:
    add_conflict(sides)
    code, _, _ = run(capsys, "etc", "merge", *names(sides), "--into", sides.result, "--on-conflict", "current")
    assert code == 0
    assert (sides.result / "thing").read_text() == "mine"


def test_on_conflict_new_keeps_the_admins_version_beside_it(sides: Sides, capsys: pytest.CaptureFixture[str]) -> None:
    add_conflict(sides)
    code, out, _ = run(capsys, "etc", "merge", *names(sides), "--into", sides.result, "--on-conflict=new")
    assert code == 0
    assert (sides.result / "thing/inside").read_text() == "theirs"
    assert (sides.result / "thing.bootc-saved").read_text() == "mine"
    assert "new wins, the other kept as /etc/thing.bootc-saved" in out


def make_image(sides: Sides, which: str, base: Path) -> tuple[Path, Path]:
    """Put one of the trees into an image below etc/, its contents into objects/."""
    repository = base / "repository"
    repository.mkdir(exist_ok=True)
    root = base / f"root-{which}"
    root.mkdir()
    getattr(sides, which).rename(root / "etc")
    repo_fd, root_fd = (os.open(path, os.O_RDONLY) for path in (repository, root))
    try:
        writer = _core.RepositoryWriter(repo_fd)
        digest = writer.write_image(writer.ingest_directory(root_fd))
    finally:
        os.close(repo_fd)
        os.close(root_fd)
    return repository / "images" / digest, repository / "objects"


@pytest.mark.parametrize("subdir", [None, "etc", "/etc/"])
def test_images_with_their_objects_are_merged_like_directories(
    sides: Sides, tmp_path: Path, capsys: pytest.CaptureFixture[str], subdir: str | None
) -> None:
    write(sides.pristine / "large", "x" * 5000)
    write(sides.current / "large", "x" * 5000)
    write(sides.new / "large", "y" * 5000)
    run(capsys, "etc", "merge", *names(sides), "--into", sides.result)
    expected = listing(sides.result)
    pristine, objects = make_image(sides, "pristine", tmp_path)
    new, _ = make_image(sides, "new", tmp_path)
    (tmp_path / "again").mkdir()
    (tmp_path / "again").chmod(0o755)
    options = [] if subdir is None else ["--subdir", subdir]
    trees = ["--pristine", pristine, "--current", sides.current, "--new", new, "--objects", objects]
    code, out, err = run(capsys, "etc", "merge", *trees, *options, "--into", tmp_path / "again")
    assert (code, err) == (0, "")
    assert listing(tmp_path / "again") == expected
    _, out, _ = run(capsys, "etc", "diff", *trees, "--patch")
    assert "+mine\n" in out


def test_an_image_without_its_objects_is_a_usage_error_that_names_the_option(
    sides: Sides, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(sides.new / "large", "y" * 5000)
    new, _ = make_image(sides, "new", tmp_path)
    trees = ["--pristine", sides.pristine, "--current", sides.current, "--new", new]
    code, _, err = run(capsys, "etc", "merge", *trees, "--into", sides.result)
    assert code == 2
    assert "objects" in err


def test_a_missing_object_is_an_invalid_state(sides: Sides, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(sides.new / "large", "y" * 5000)
    new, _ = make_image(sides, "new", tmp_path)
    (tmp_path / "none").mkdir()
    trees = ["--pristine", sides.pristine, "--current", sides.current, "--new", new, "--objects", tmp_path / "none"]
    code, _, err = run(capsys, "etc", "merge", *trees, "--into", sides.result)
    assert code == 10
    assert "missing from the repository" in err


def test_an_image_without_the_subdirectory_is_refused(
    sides: Sides, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pristine, objects = make_image(sides, "pristine", tmp_path)
    trees = ["--pristine", pristine, "--current", sides.current, "--objects", objects, "--subdir", "usr/etc"]
    code, _, err = run(capsys, "etc", "diff", *trees)
    assert code == 6
    assert err.startswith("error: ")


def test_a_file_that_is_no_image_is_refused_as_such(
    sides: Sides, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = write(tmp_path / "bad", "x" * 8192)
    code, _, err = run(capsys, "etc", "diff", "--pristine", bad, "--current", sides.current)
    assert code == 6
    assert err.startswith("error: ")


@pytest.mark.parametrize(
    "argv",
    [
        ["etc", "nonsense"],
        ["etc", "diff", "--current", "."],
        ["etc", "diff", "--pristine", "."],
        ["etc", "merge", "--pristine", ".", "--current", "."],
        ["etc", "merge", "--pristine", ".", "--current", ".", "--new", "."],
        ["etc", "merge", "--on-conflict", "never"],
        ["etc", "diff", "--pristine", "/nonexistent", "--current", "."],
        ["etc", "diff", "--pristine", ".", "--current", "/dev/null"],
        ["etc", "diff", "--pristine", ".", "--current", ".", "--objects", "/dev/null"],
        ["etc", "merge", "--pristine", ".", "--current", ".", "--new", ".", "--into", "/nonexistent"],
    ],
)
def test_contradictions_on_the_command_line_exit_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(argv)
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    assert code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("where", ["current", "current/inside", ".", "new"])
def test_a_destination_that_overlaps_with_a_source_is_refused(
    sides: Sides, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    (sides.current / "inside").mkdir()
    into = {"current": sides.current, "current/inside": sides.current / "inside", "new": sides.new}
    before = listing(sides.current)
    code, _, err = run(capsys, "etc", "merge", *names(sides), "--into", into.get(where, sides.result.parent))
    assert code == 2
    assert "destination" in err
    assert listing(sides.current) == before


@pytest.mark.parametrize("argv", [["etc", "--help"], ["etc", "diff", "--help"], ["etc", "merge", "--help"]])
def test_help_has_examples(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 0
    assert "examples:\n  bootc-fast etc " in capsys.readouterr().out


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """Make a host with a staged update and an admin's edits; `thing` is a conflict."""
    made = lab.make_host(tmp_path / "host", files={"motd": "one", "thing": "old"})
    write(made.root / "etc/motd", "mine")
    write(made.root / "etc/thing", "mine")
    lab.stage_files(made, {"motd": "one", "thing/inside": "theirs"})
    return made.root


def test_on_a_host_a_diff_takes_the_booted_image_etc_and_the_staged_image(
    host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value = run_json(capsys, "--root", host, "etc", "diff")
    assert {"motd", "thing"} <= {str(each["path"]) for each in value["changes"]}
    assert [each["path"] for each in value["merge"]["conflicts"]] == ["thing"]


def test_on_a_host_a_merge_goes_to_the_staged_deployments_etc(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    merge = ("--root", host, "etc", "merge", "--on-conflict", "new")
    dry = run_json(capsys, *merge, "--dry-run")
    assert dry["operations"]
    assert run_json(capsys, *merge)["operations"] == dry["operations"]
    assert run_json(capsys, *merge)["operations"] == []
    assert [path.read_text() for path in host.glob("sysroot/state/deploy/*/etc/thing.bootc-saved")] == ["mine"]


def test_on_a_host_a_merge_can_go_elsewhere(host: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "elsewhere").mkdir()
    into = ("--into", tmp_path / "elsewhere")
    assert run(capsys, "--root", host, "etc", "merge", "--on-conflict", "current", *into)[0] == 0
    assert (tmp_path / "elsewhere/thing").read_text() == "mine"


def test_on_a_host_the_policy_files_decide_and_the_command_line_overrides_them(
    host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merge = ("--root", host, "etc", "merge", "--dry-run")
    assert run(capsys, *merge)[0] == 5
    write(host / "usr/lib/bootc-fast/merge.toml", '[[path]]\npattern = "thing"\non-conflict = "new"\n')
    assert "new wins" in run(capsys, *merge)[1]
    write(host / "etc/bootc-fast/merge.toml", '[[path]]\npattern = "th*"\non-conflict = "current"\n')
    assert "current wins" in run(capsys, *merge)[1]
    assert "new wins" in run(capsys, *merge, "--on-conflict", "new")[1]
    assert run(capsys, *merge, "--on-conflict", "fail")[0] == 5
    write(host / "etc/bootc-fast/merge.toml", "nonsense")
    code, _, err = run(capsys, *merge)
    assert (code, "merge.toml" in err) == (10, True)


def test_a_directory_that_is_no_host_exits_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--root", tmp_path, "etc", "diff")[0] == 3


def test_without_a_staged_image_a_diff_works_and_a_merge_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.make_host(tmp_path / "host", files={"motd": "one"})
    assert run_json(capsys, "--root", tmp_path / "host", "etc", "diff")["merge"] is None
    assert run(capsys, "--root", tmp_path / "host", "etc", "merge")[0] == 2
