"""Reports, operations and differences as text and as JSON."""

from __future__ import annotations

import json

from bootc_fast.etc.diff import EtcDiff, EtcDiffEntry, EtcPatch
from bootc_fast.etc.render import (
    encode_diff,
    encode_operations,
    encode_report,
    render_diff,
    render_operations,
    render_report,
)
from bootc_fast.text import encode_bytes
from bootc_fast.types import EtcAction, EtcChange, EtcConflict, EtcOperation, EtcReport, Strategy

REPORT = EtcReport(
    kept=(EtcChange(b"a", "content"), EtcChange(b"new\nline\x1b[2J", "added")),
    deleted=(EtcChange(b"caf\xc3\xa9"),),
    image_changes_ignored=(EtcChange(b"\xff", "mode"),),
    image_additions_kept=(EtcChange(b"d/x"),),
    conflicts=(
        EtcConflict(b"x", "file, changed", "directory", Strategy.FAIL),
        EtcConflict(b"y", "file, changed", "file, added", Strategy.CURRENT, b"y.bootc-new"),
    ),
    warnings=(EtcChange(b"s\xc3\xa9\n", "a socket"),),
    dangling_links=(EtcChange(b"l", "leads to /nowhere"),),
    counts={"kept": 2},
    bytes_copied=7,
    phase_s={"scan": 0.0012345678},
)

OPERATIONS = (
    EtcOperation(EtcAction.REMOVE, b"old", entries=3),
    EtcOperation(EtcAction.REMOVE, b"leaf", entries=1),
    EtcOperation(EtcAction.WRITE_FILE, b"-rf", size_bytes=0),
    EtcOperation(EtcAction.LINK, b"\xff", link_to=b"a\tb"),
    EtcOperation(EtcAction.SET_ATTRIBUTES, b"", attributes=("owner", "mtime")),
)


SUMMARY = (
    "2 kept (K), 1 deleted (D), 1 image change ignored (I), 1 image addition kept (N), 2 conflicts (C), "
    "1 dangling link (L), 1 warning (W)"
)


def test_a_report_has_one_line_a_path_with_mark_and_reason_and_control_characters_escaped() -> None:
    assert render_report(REPORT) == [
        "K /etc/a  content",
        "K /etc/new\\nline\\x1b[2J  added",
        "D /etc/café",
        "I /etc/\\xff  mode",
        "N /etc/d/x",
        "C /etc/x  here file, changed; new image directory; not decided",
        "C /etc/y  here file, changed; new image file, added; current wins, the other kept as /etc/y.bootc-new",
        "L /etc/l  leads to /nowhere",
        "W /etc/sé\\n  a socket",
        SUMMARY,
    ]


def test_a_report_without_findings_says_so() -> None:
    assert render_report(EtcReport()) == ["no local changes"]


def test_a_report_becomes_json_with_paths_that_are_not_utf8_in_base64() -> None:
    value = json.loads(json.dumps(encode_report(REPORT)))
    assert value["kept"] == [{"path": "a", "reason": "content"}, {"path": "new\nline\x1b[2J", "reason": "added"}]
    assert value["image_changes_ignored"] == [{"path": {"base64": "/w=="}, "reason": "mode"}]
    assert value["conflicts"][1] == {
        "path": "y",
        "current": "file, changed",
        "new": "file, added",
        "strategy": "current",
        "saved_as": "y.bootc-new",
    }
    assert value["conflicts"][0]["saved_as"] is None
    assert value["counts"] == {"kept": 2}
    assert value["bytes_copied"] == 7
    assert value["phase_s"] == {"scan": 0.001235}
    assert value["warnings"] == [{"path": "sé\n", "reason": "a socket"}]


def test_a_path_that_is_utf8_is_text_in_json() -> None:
    assert encode_bytes("é\x00".encode()) == "é\x00"
    assert encode_bytes(b"\xc3") == {"base64": "ww=="}


def test_operations_are_printed_one_a_line() -> None:
    assert render_operations(OPERATIONS) == [
        "remove /etc/old  3 entries",
        "remove /etc/leaf",
        "write-file /etc/-rf  0 bytes",
        "link /etc/\\xff  to /etc/a\\tb",
        "set-attributes /etc  owner, mtime",
    ]


def test_operations_become_json_with_only_what_they_have() -> None:
    assert json.loads(json.dumps(encode_operations(OPERATIONS))) == [
        {"action": "remove", "path": "old", "entries": 3},
        {"action": "remove", "path": "leaf", "entries": 1},
        {"action": "write-file", "path": "-rf", "size_bytes": 0},
        {"action": "link", "path": {"base64": "/w=="}, "link_to": "a\tb"},
        {"action": "set-attributes", "path": "", "attributes": ["owner", "mtime"]},
    ]


def test_a_diff_is_printed_with_marks_and_followed_by_the_merge() -> None:
    entries = (
        EtcDiffEntry("added", b"a", "added"),
        EtcDiffEntry("deleted", b"d"),
        EtcDiffEntry("modified", b"m", "mode"),
    )
    diff = EtcDiff(entries, (EtcChange(b"w", "x\x07"),), REPORT)
    lines = render_diff(diff)
    assert lines.pop(4) == "1 added (A), 1 modified (M), 1 deleted (D)"
    assert lines[:4] == ["A /etc/a  added", "D /etc/d", "M /etc/m  mode", "W /etc/w  x\\x07"]
    assert lines[4:6] == ["", "merge with the new image:"]
    assert lines[6:] == render_report(REPORT)


def test_a_diff_becomes_json() -> None:
    diff = EtcDiff((EtcDiffEntry("modified", b"\xff", "mode"),), (), None, (EtcPatch(b"\xff", b"--- a\n"),))
    assert json.loads(json.dumps(encode_diff(diff))) == {
        "changes": [{"change": "modified", "path": {"base64": "/w=="}, "reason": "mode", "detail": ""}],
        "warnings": [],
        "merge": None,
        "image": [],
        "patches": [{"path": {"base64": "/w=="}, "text": "--- a\n"}],
    }
