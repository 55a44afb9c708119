"""Whatever a host's names and texts hold, no command prints what a terminal obeys, nor sends it as a message."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from flowkit import EDITS, NEW, OLD, Case, make_case

from bootc_fast import lab, text
from bootc_fast.cli import main
from bootc_fast.cli.failure import render_error
from bootc_fast.cli.render import paint, print_lines
from bootc_fast.errors import BootcFastError
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from collections.abc import Callable

# A colour, CSI of C1 as UTF-8 and as a byte, a bell, a tab, DEL, right-to-left overrides, a byte order mark, half a
# character, markup in brackets; what follows a carriage return would overwrite the line.
EVIL = b"evil\x1b[31m\x07\t\xc2\x9b1m\x9b\x7f\xe2\x80\xae\xe2\x81\xa6\xef\xbb\xbf\xff[red]\rtail"
EVIL_LINES = EVIL + b"\nok: forged"
TEXT = EVIL.decode("utf-8", "ignore")


def _etc(case: Case) -> None:
    etc = os.fsencode(case.root / "etc")
    with open(os.path.join(etc, EVIL_LINES), "wb") as file:
        file.write(EVIL)
    os.symlink(EVIL_LINES, os.path.join(etc, b"link"))
    os.symlink(b"/" + EVIL_LINES, os.path.join(etc, b"link" + EVIL))
    os.mkdir(os.path.join(etc, b"dir" + EVIL))
    os.setxattr(os.path.join(etc, EVIL_LINES), "user.x", EVIL_LINES)


def _conflict(case: Case) -> None:
    with open(os.path.join(os.fsencode(case.root / "etc"), EVIL_LINES), "wb") as file:
        file.write(b"the admin's\n")


def _entries(case: Case) -> None:
    directory = os.fsencode(case.host.boot_dir / "loader/entries")
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        with open(path, "rb") as file:
            body = file.read()
        body = body.replace(b"\nversion ", b"\nversion " + EVIL).replace(b"title ", b"title " + EVIL)
        with open(path, "wb") as file:
            file.write(body.replace(b"\noptions ", b"\noptions " + EVIL + b" "))
        os.rename(path, os.path.join(directory, name.removesuffix(b"-1.conf") + EVIL_LINES + b"-1.conf"))
    with open(os.path.join(directory, b"zzz" + EVIL_LINES + b".conf"), "wb") as file:
        file.write(b"title " + EVIL + b"\nsort-key 0\nlinux /" + EVIL + b"\noptions " + EVIL + b"\n")
    with open(os.path.join(directory, b"torn" + EVIL_LINES + b".conf"), "wb"):
        pass


def _menuentries(case: Case) -> None:
    for path in case.host.boot_dir.glob("grub2/user.cfg*"):
        path.write_bytes(path.read_bytes().replace(b'menuentry "', b'menuentry "' + EVIL))


def _ukis(case: Case) -> None:
    directory = os.fsencode(case.host.esp / "EFI/Linux")
    shutil.copytree(directory, os.path.join(os.fsencode(case.host.esp), b"EFI", EVIL_LINES), dirs_exist_ok=True)
    with open(os.path.join(directory, EVIL_LINES + b".efi"), "wb") as file:
        file.write(b"MZ" + EVIL)
    for where, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(where, name)
            with open(path, "rb") as file:
                data = file.read()
            # Of the same length: sections stay where they are.
            found = data.find(b"PRETTY_NAME=")
            if found > 0:
                at = found + len(b'PRETTY_NAME="')
                with open(path, "wb") as file:
                    file.write(data[:at] + b"\x1b\xff\x9b" + data[at + 3 :])


def _origin(case: Case) -> None:
    for path in case.root.glob("sysroot/state/deploy/*/*.origin"):
        body = path.read_bytes().replace(b"container-image-reference = ", b"container-image-reference = " + EVIL)
        path.write_bytes(body.replace(b"manifest_digest = ", b"manifest_digest = " + EVIL))


def _odd_origin(case: Case) -> None:
    for path in case.root.glob("sysroot/state/deploy/*/*.origin"):
        path.write_bytes(b"[boot]\nboot_type = " + TEXT.encode() + b"\n[" + EVIL + b"\n")


def _names_of_deployments(case: Case) -> None:
    for where in ("sysroot/state/deploy", "sysroot/composefs/images"):
        os.mkdir(os.path.join(os.fsencode(case.root), os.fsencode(where), EVIL_LINES))


def _record(case: Case) -> None:
    record = {
        "version": 1,
        "result": "failed",
        "time": TEXT,
        "staged": TEXT,
        "errors": [{"message": TEXT, "chain": [TEXT, "\udc9b\n"], "hint": TEXT}],
        "warnings": [TEXT],
        "next_boot": TEXT,
    }
    path = case.root / "sysroot/state/bootc-fast/last-finalize.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


def _trials(case: Case) -> None:
    record = {"state": "failed", "time": TEXT, "number": 1, "tries": 3, "reasons": [TEXT, "\udc9b\n"]}
    path = case.root / "sysroot/state/bootc-fast/deployments.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"version": 1, "deployments": {case.booted: record, case.staged: record}}))


def _policy(case: Case) -> None:
    path = case.root / "etc/bootc-fast/merge.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"[[path]]\npattern = {json.dumps(TEXT)}\non-conflict = {json.dumps(TEXT)}\n")


def _policy_key(case: Case) -> None:
    path = case.root / "etc/bootc-fast/merge.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{json.dumps(TEXT)} = 1\n")


def _command_line(case: Case) -> None:
    path = case.root / "proc/cmdline"
    path.write_bytes(path.read_bytes().rstrip(b"\n") + b" " + EVIL + b"\n")


def _command_line_digest(case: Case) -> None:
    (case.root / "proc/cmdline").write_bytes(b"composefs=" + EVIL.replace(b"\t", b"").replace(b"\r", b"") + b"\n")
    (case.root / "proc/self/mountinfo").write_text("")


def _mounts(case: Case) -> None:
    path = case.root / "proc/self/mountinfo"
    path.write_bytes(path.read_bytes().replace(b"overlay composefs:", b"overlay composefs:" + EVIL.replace(b"\t", b"")))


def _marker(case: Case) -> None:
    case.host.marker.write_text(json.dumps({"depl_id": TEXT, "finalization_locked": False}))


def _loader_variables(case: Case) -> None:
    (case.root / "sys/firmware/efi/efivars").mkdir(parents=True, exist_ok=True)
    for name in ("LoaderInfo", "LoaderEntryDefault", "LoaderEntryOneShot", "LoaderEntrySelected"):
        case.host.write_efi_variable(name, TEXT)


def _loader_settings(case: Case) -> None:
    (case.host.esp / "loader").mkdir(exist_ok=True)
    (case.host.esp / "loader/loader.conf").write_bytes(b"default " + EVIL.replace(b"\r", b"") + b"*\n")
    grubenv = case.host.boot_dir / "grub2/grubenv"
    if grubenv.exists():
        grubenv.write_bytes(grubenv.read_bytes().replace(b"\n#", b"\nnext_entry=" + EVIL + b"\n#", 1))


def _marker_of_restarts(case: Case) -> None:
    path = case.root / "run/reboot-required"
    path.write_bytes(EVIL_LINES)


KINDS: dict[str, Callable[[Case], None]] = {
    name.removeprefix("_"): value
    for name, value in list(globals().items())
    if name.startswith("_") and not name.startswith("__") and callable(value)
}
# Where what was put in must be seen again, escaped: else this would test nothing.
SEEN = {
    "etc", "conflict", "entries", "origin", "record", "trials", "policy", "policy_key", "command_line_digest",
    "mounts", "marker", "loader_variables",
}  # fmt: skip


def _safe(output: str) -> bool:
    return all(line.isprintable() for line in output.split("\n")) and "\nok: forged" not in output


def _unsafe(output: str) -> list[str]:
    return [line for line in output.split("\n") if not line.isprintable() or line.startswith("ok: forged")]


def _commands(case: Case) -> list[list[str]]:
    on_host = ["--root", str(case.root)]
    show = ["lab", "show", str(case.root)]
    image = str(case.host.repository / "images" / case.staged)
    report = str(case.root / "run/report.json")
    return [
        [*on_host, "status"],
        [*on_host, "status", "-v"],
        [*on_host, "status", "--booted"],
        [*on_host, "status", "--json"],
        [*on_host, "status", "--format", "yaml"],
        show,
        [*show, "--json"],
        [*on_host, "etc", "diff", "--patch"],
        [*on_host, "etc", "diff", "--patch", "--json"],
        [*on_host, "etc", "merge", "--dry-run", "-vv"],
        [*on_host, "etc", "merge", "--dry-run", "--json"],
        ["image", "ls", "-R", image],
        ["image", "ls", "-R", "--json", image],
        [*on_host, "rollback", "--dry-run"],
        [*on_host, "rollback", "--dry-run", "--json"],
        [*on_host, "soft-reboot", "--dry-run", "-v"],
        [*on_host, "doctor", "-v"],
        [*on_host, "doctor", "--json"],
        [*on_host, "unstage", "--dry-run", "-v"],
        [*on_host, "unstage", "--dry-run", "--json"],
        [*on_host, "forget-failure", TEXT],
        [*on_host, "forget-failure", case.staged],
        [*on_host, "hold"],
        [*on_host, "hold", "--release"],
        [*on_host, "pin", TEXT],
        [*on_host, "pin", "booted"],
        [*on_host, "unpin", "booted"],
        [*on_host, "finalize", "--dry-run", "-v"],
        [*on_host, "finalize", "--report", report, "-vv"],
        [*on_host, "status", "-v"],
        [*on_host, "rollback", "-v"],
        [*on_host, "rollback", "--to", TEXT],
        [*on_host, "rollback", "-vv"],
        [*on_host, "doctor", "--repair", "-vv"],
        [*on_host, "boot-complete"],
        [*on_host, "unstage"],
        ["lab", "boot", str(case.root)],
        show,
        ["lab", "edit", str(case.root)],
    ]


def _play(case: Case, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Run every command; return all that they printed, and all messages that they sent."""
    said = []
    with _listen(case.root / "run/systemd/journal/socket") as journal, _listen(case.root / "notify") as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", str(case.root / "notify"))
        for argv in _commands(case):
            capfd.readouterr()
            main(argv)
            sys.stdout.flush()
            out, err = capfd.readouterr()
            if "--patch" in argv:
                # A diff of text files keeps its tabs.
                out = out.replace("\t", " ")
            assert _safe(out), (argv, _unsafe(out))
            assert _safe(err), (argv, _unsafe(err))
            if "--json" in argv and out:
                json.loads(out)
            if "yaml" in argv and out:
                yaml.safe_load(out)
            said += [out, err]
        for data in (*_drain(journal), *_drain(manager)):
            message = _message(data)
            assert _safe(message), message
            # A failure has several lines, each of them ours: no name makes one.
            first, *more = message.split("\n")
            assert not more or first.endswith(" failed:") or first.startswith("error: "), message
            assert all(line.startswith(_LINES) for line in more), message
            said.append(message)
    return "".join(said)


_LINES = ("error: ", "hint: ", "  caused by: ", "  conflict: /etc/", "  and ")


def _listen(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    here = os.open(path.parent, os.O_PATH)
    made.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)
    made.settimeout(0)
    return made


def _drain(receiver: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(receiver.recv(1 << 20))
        except BlockingIOError:
            return found


def _message(data: bytes) -> str:
    """``MESSAGE`` of a journal entry, framed by its length; else a notification as it is."""
    if not data.startswith(b"MESSAGE\n"):
        return data.decode().replace("\n", "; ")
    at = len(b"MESSAGE\n") + 8
    size_bytes = int.from_bytes(data[at - 8 : at], "little")
    return data[at : at + size_bytes].decode()


# What depends on the loader; everything else is tried on one.
ON_UKIS = ("menuentries", "ukis", "loader_settings", "origin")
PLAYS = [(kind, Loader.SYSTEMD_BOOT, BootType.BLS) for kind in KINDS if kind not in ("menuentries", "ukis")]
PLAYS += [(kind, Loader.GRUB, BootType.UKI) for kind in ON_UKIS]
PLAYS += [("ukis", Loader.SYSTEMD_BOOT, BootType.UKI), ("entries", Loader.GRUB_CC, BootType.BLS)]


@pytest.mark.parametrize(("kind", "loader", "boot_type"), PLAYS)
def test_no_command_prints_what_a_terminal_obeys(  # noqa: PLR0917 fixtures and parameters
    tmp_path: Path,
    kind: str,
    loader: Loader,
    boot_type: BootType,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = (
        _make_conflict(tmp_path / "h", loader) if kind == "conflict" else make_case(tmp_path / "h", loader, boot_type)
    )
    KINDS[kind](case)
    said = _play(case, capfd, monkeypatch)
    if kind in SEEN:
        assert "evil\\x1b[31m" in said or "evil\\u001b[31m" in said


def _make_conflict(directory: Path, loader: Loader) -> Case:
    host = lab.make_host(directory, files={**OLD, EVIL_LINES: "1\n"}, loader=loader, version="\u202e1")
    (host.root / "etc/local.conf").write_bytes(EDITS["local.conf"])
    return Case(host, host.booted, lab.stage_files(host, {**NEW, EVIL_LINES: "2\n"}, os_id=f"x{TEXT}"))


def test_a_root_with_any_name_is_safe_to_print(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case(Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), EVIL_LINES))))
    assert "\\x1b[31m" in _play(case, capfd, monkeypatch)


@pytest.mark.parametrize(
    "argv",
    [
        ["ARG"], ["--root", "ARG", "status"], ["--root", "ARG", "finalize"], ["status", "--bootloader", "ARG"],
        ["finalize", "--on-conflict", "ARG"], ["finalize", "--timeout", "ARG"], ["rollback", "--soft-reboot", "ARG"],
        ["etc", "ARG"], ["etc", "diff", "--pristine", "ARG", "--current", "ARG"], ["digest", "ARG"],
        ["digest", "--salt", "ARG", "x"], ["image", "ls", "ARG"], ["image", "cat", "ARG", "x"],
        ["image", "verify", "--digest", "ARG", "x"], ["lab", "show", "ARG"], ["lab", "create", "/proc/ARG"],
        ["lab", "create", "DIR/new", "--from", "ARG"], ["--root", "ARG", "boot-complete"],
        ["--root", "ARG", "soft-reboot", "-vv"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_arguments_are_escaped_in_errors(argv: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    evil = os.fsdecode(EVIL_LINES)
    try:
        code = main([word.replace("ARG", evil).replace("DIR", str(tmp_path)) for word in argv])
    except SystemExit as error:
        code = int(error.code or 0)
    sys.stdout.flush()
    out, err = capfd.readouterr()
    assert _safe(out)
    assert _safe(err), err
    if "boot-complete" not in argv:
        assert code


def test_json_is_the_data_and_nothing_that_a_terminal_obeys() -> None:
    value = {"text": f"{TEXT}\n\u00e9\U0001f600\U000e0041 \\u", "half": "\udc9b", "list": ["\x7f\x85\u2028"]}
    for indent in (2, None):
        dumped = text.dump_json(value, indent=indent)
        assert _safe(dumped)
        assert json.loads(dumped) == value
        assert "\u00e9\U0001f600" in dumped
        dumped.encode()


def test_escaping_twice_is_escaping_once() -> None:
    once = text.escape(os.fsdecode(EVIL_LINES))
    assert _safe(once)
    assert "\n" not in once
    assert text.escape(once) == once


def test_a_painted_line_keeps_our_style_and_loses_that_of_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    print_lines([paint("a\x1b[31mb", "bold", enabled=True), "\x1b[1mplain\nforged"])
    assert capsys.readouterr().out == "\x1b[1ma\\x1b[31mb\x1b[0m\n\\x1b[1mplain\\nforged\n"


def test_a_traceback_is_escaped() -> None:
    try:
        raise BootcFastError(f"reading {TEXT}\nforged") from OSError(5, TEXT, EVIL_LINES)
    except BootcFastError as error:
        shown = render_error(error, verbosity=2)
    assert _safe(shown)
    assert "Traceback" in shown


@pytest.mark.parametrize(
    ("digest", "short"),
    [("ab" * 32, "abababababababab…"), ("sha256:" + "ab" * 32, "sha256:abababababababab…"), ("abc", "abc")],
)
def test_digests_are_shortened_in_one_way(digest: str, short: str) -> None:
    assert text.shorten_digest(digest) == short


def test_nobody_but_text_turns_names_into_text() -> None:
    package = Path(text.__file__).parent
    others = [path for path in package.rglob("*.py") if path.name != "text.py"]
    # Reading what is parsed may put a mark in the place of what is not text; showing it may not.
    found = [f"{path.relative_to(package)}" for path in others if "backslashreplace" in path.read_text()]
    assert found == []
    # A digest is cut by its owner: nowhere else stands one with an ellipsis after it.
    assert [f"{path.name}" for path in others if re.search(r"\[:\s*\d+\]\}…", path.read_text())] == []
