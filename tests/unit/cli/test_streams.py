"""cli: readers that go away, streams without the characters, missing libraries, an interpreter without site."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

import bootc_fast
from bootc_fast import lab

COMMAND = [sys.executable, "-m", "bootc_fast"]
LAUNCHER = Path(__file__).parents[3] / "packaging/bootc-fast"


@pytest.fixture
def host(tmp_path: Path) -> lab.LabHost:
    # A name with letters that ASCII and Latin-1 lack, in what is printed: titles, paths, a patch.
    made = lab.make_host(tmp_path / "h", files={"motd": "1"}, version="43 ŝ ☃", os_id="fedora")
    (made.etc / "naïve ☃.conf").write_text("ŝ ☃\n")
    (made.etc / "motd").write_text("☃\n")
    lab.stage_files(made, {"motd": "1", "new ☃": "x"}, version="44 ŝ ☃")
    return made


def _bash(script: str, host: lab.LabHost, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {**os.environ, "HOST": str(host.root), "COMMAND": " ".join(COMMAND), **environment}
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, encoding=encoding, errors="surrogateescape", env=known, check=False
    )


def _write_many(directory: Path) -> Path:
    """A tree whose listing does not fit into a pipe."""
    for number in range(3000):
        (directory / f"a-rather-long-name-of-a-file-{number:05}").write_text("")
    return directory


@pytest.mark.parametrize(
    "command",
    ["status", "status --json", "finalize --dry-run --json", "doctor", "etc diff --patch",
     "image ls -R $IMAGE", "image ls -R --json $IMAGE", "image dump $IMAGE $IMAGE $IMAGE", "digest $IMAGE $IMAGE",
     "digest --json $IMAGE", "image verify $IMAGE", "image cat $IMAGE /etc/motd", "--help", "status --help"],
)  # fmt: skip
def test_a_reader_that_goes_away_makes_no_failure_of_a_success(host: lab.LabHost, command: str) -> None:
    image = next(host.root.glob(f"sysroot/composefs/images/{host.booted}"))
    # The reader ends before anything is written: `true` never reads.
    where = "" if command.startswith(("image", "digest", "--help")) else "--root $HOST"
    script = f"$COMMAND {command} {where} | true; echo ${{PIPESTATUS[0]}}"
    done = _bash(script, host, IMAGE=str(image))
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_a_failure_stays_one_where_nobody_reads_it(host: lab.LabHost) -> None:
    done = _bash("$COMMAND status --json --root /nowhere | true; echo ${PIPESTATUS[0]}", host)
    assert done.stdout == "2\n"
    assert "error: opening the host in /nowhere" in done.stderr


def test_the_exit_code_asked_for_stays_where_nobody_reads_the_difference(host: lab.LabHost) -> None:
    _write_many(host.etc)
    done = _bash("$COMMAND etc diff --exit-code --root $HOST | true; echo ${PIPESTATUS[0]}", host)
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_who_closes_standard_error_stops_no_work(host: lab.LabHost) -> None:
    # Each step is told there, to a reader that is gone before the first.
    done = _bash("{ $COMMAND finalize -v --root $HOST; echo $? >&3; } 3>&1 2>&1 >/dev/null | true", host)
    assert done.stdout == ""  # all of it went to `true`
    default = lab.read_boot_menu(host).default
    assert default is not None
    assert default.digest != host.booted
    assert _bash("$COMMAND status -v --root /nowhere 2>/dev/full; echo $?", host).stdout == "2\n"


@pytest.mark.parametrize(
    ("encoding", "command"),
    [
        *(("ascii", command) for command in (
            "status -v", "status --json", "status --format yaml", "etc diff --patch", "finalize --dry-run --json",
            "finalize -v", "rollback --to ☃", "etc diff ☃", "--help", "status --json --root ☃",
        )),
        *(("latin-1", command) for command in ("status", "etc diff --json", "finalize --dry-run", "status --root ☃")),
    ],
)  # fmt: skip
def test_a_stream_without_the_characters_gets_escapes(host: lab.LabHost, encoding: str, command: str) -> None:
    root = "" if "--root" in command or command == "--help" else "--root $HOST"
    done = _bash(f"$COMMAND {command} {root}", host, PYTHONIOENCODING=encoding)
    assert "UnicodeEncodeError" not in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode != 1, done.stderr
    if "patch" in command:
        # Through a pipe a patch has the files' very bytes: patch(1) would refuse others.
        assert "\n+ŝ ☃\n".encode().decode(encoding, "surrogateescape") in done.stdout
        done.stdout = "".join(line for line in done.stdout.splitlines(keepends=True) if not re.match(r"\+[^+]", line))
    assert (done.stdout + done.stderr).encode(encoding)
    if "json" in command:
        # The very data, whatever the stream can hold.
        expected = _bash(f"$COMMAND {command} {root}", host, PYTHONIOENCODING="utf-8")
        assert _without_times(json.loads(done.stdout)) == _without_times(json.loads(expected.stdout))
    if "yaml" in command:
        assert "☃" in yaml.safe_load(done.stdout)["status"]["booted"]["bootcFast"]["title"]


def _without_times(value: object) -> object:
    if isinstance(value, dict):
        return {name: _without_times(one) for name, one in value.items() if name != "phase_s"}
    return [_without_times(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("missing", ["trio", "anyio", "bootc_fast._core", "bootc_fast.flows.status", "yaml"])
def test_a_missing_library_is_one_line_and_no_traceback(host: lab.LabHost, missing: str) -> None:
    code = (
        f"import sys\nsys.modules[{missing!r}] = None\nfrom bootc_fast.cli import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    argv = [sys.executable, "-c", code, "status", "--format=yaml", "--root", str(host.root)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    first, hint = done.stderr.splitlines()
    assert re.match(rf"error: loading the library {re.escape(missing)}\b", first)
    wanted = "this is in the package bootc-fast-extras" if missing == "yaml" else "the installation is not complete"
    assert hint.startswith(f"hint: {wanted}")
    # JSON is YAML: also the failure is the object that was asked for.
    assert yaml.safe_load(done.stdout)["errors"][0]["message"] == first.removeprefix("error: ")
    assert done.returncode == 1


def _run_launcher(*argv: str) -> subprocess.CompletedProcess[str]:
    """What the launcher says, with this tree and this environment in the place of the installed ones."""
    text = LAUNCHER.read_text()
    assert text.startswith("#!/usr/bin/python3 -IS\n")
    package, libraries = Path(bootc_fast.__file__).parents[1], sysconfig.get_path("purelib")
    text = text.replace('"/usr/lib/bootc-fast"', repr(str(package)))
    text = text.replace('"/usr/lib/python3/dist-packages"', repr(libraries))
    return subprocess.run([sys.executable, "-IS", "-c", text, *argv], capture_output=True, text=True, check=False)


def test_the_launcher_needs_neither_site_nor_environment(host: lab.LabHost) -> None:
    root = f"--root={host.root}"
    for argv in (["status", root], ["finalize", root], ["rollback", "--json", root], ["doctor", root]):
        done = _run_launcher(*argv)
        assert (done.returncode, done.stderr) == (0, ""), argv


def test_the_launcher_names_every_place_itself() -> None:
    places = re.findall(r'"(/usr/lib[^"]*)"', LAUNCHER.read_text())
    assert places[0] == "/usr/lib/bootc-fast"
    assert any(place.endswith("dist-packages") for place in places)
    assert any(place.endswith("site-packages") for place in places)


@pytest.mark.parametrize(
    ("version", "built_for", "error"),
    [
        ((3, 9, 2), "", "error: bootc-fast needs Python 3.11 or newer, and /usr/bin/python3 is 3.9\n"),
        ((3, 10, 12), "3.10", "error: bootc-fast needs Python 3.11 or newer, and /usr/bin/python3 is 3.10\n"),
        ((3, 14, 0), "3.13", "error: bootc-fast was installed for Python 3.13, and /usr/bin/python3 is 3.14\n"),
        ((3, 14, 0), "", ""),
        ((3, 13, 1), "3.13", ""),
    ],
)
def test_the_launcher_refuses_a_python_that_cannot_serve_in_one_line(
    version: tuple[int, ...], built_for: str, error: str
) -> None:
    text = LAUNCHER.read_text()
    ast.parse(text, feature_version=(3, 7))  # else an older one prints a traceback before it gets there
    start = f"import sys\nsys.version_info = {version}"
    text = text.replace("import sys\n", start + "\n", 1).replace('BUILT_FOR = ""', f"BUILT_FOR = {built_for!r}")
    text = text.replace('LIBRARY = "/usr/lib/bootc-fast"', f"LIBRARY = {str(Path(bootc_fast.__file__).parents[1])!r}")
    done = subprocess.run([sys.executable, "-IS", "-c", text, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1 if error else 0, error)
    assert done.stdout == ("" if error else f"bootc-fast {bootc_fast.__version__}\n")
