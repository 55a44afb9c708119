"""marker_lock.py: the flag of bootc's marker is set, and every other byte of it stays."""

from __future__ import annotations

import itertools
import json
import os
import stat
from typing import TYPE_CHECKING, Any

import hosts
import pytest
from hosts import A
from hypothesis import given
from hypothesis import strategies as st

from bootc_fast.composefs.deployments import read_staged_marker
from bootc_fast.composefs.marker_lock import KEY, edit_lock, write_lock
from bootc_fast.errors import FileSystemError, InvalidStateError

if TYPE_CHECKING:
    from pathlib import Path

# As bootc writes it, and as nobody promised that it would not.
FORMS = {
    "bootc": '{"depl_id":"%s","finalization_locked":%s}',
    "spaced": ' {\n\t"finalization_locked" : %s\n,  "depl_id":"%s" }\n\n',
    "more keys": '{"depl_id":"%s","new":{"finalization_locked":[1,{"}":"\\""}]},"finalization_locked":%s,"z":1e3}',
    "escaped": '{"depl_id":"%s","\\u0066inalization_locked":%s,"ü":"\\u00fc\\n"}',
    "twice": '{"finalization_locked":%s,"depl_id":"%s","finalization_locked":%s}',
}


def _fill(form: str, value: str) -> str:
    words = form.split("%s")
    text = words[0]
    for before, after in itertools.pairwise(words):
        text += (A if before.endswith('"') else value) + after
    return text


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_only_the_flag_changes_whatever_else_there_is(form: str) -> None:
    off, on = _fill(form, "false"), _fill(form, "true")
    assert edit_lock(off, is_locked=True, what="x") == on
    assert edit_lock(on, is_locked=False, what="x") == off
    assert edit_lock(on, is_locked=True, what="x") == on


def test_a_marker_without_the_flag_gets_one() -> None:
    edited = edit_lock(f' {{"depl_id":"{A}", "k": 1}}', is_locked=True, what="x")
    assert edited == f' {{"finalization_locked":true,"depl_id":"{A}", "k": 1}}'
    assert json.loads(edited)["finalization_locked"] is True


VALUES = st.recursive(
    st.none() | st.text(max_size=5) | st.integers(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(
    st.dictionaries(st.text(max_size=5).filter(lambda key: key not in ("depl_id", KEY)), VALUES, max_size=4),
    st.permutations(["depl_id", KEY, "rest"]),
    st.sampled_from([{}, {"indent": 1}, {"indent": "\t"}, {"ensure_ascii": False}, {"separators": (" , ", " :\n")}]),
)
def test_any_object_keeps_all_that_is_not_the_flag(
    rest: dict[str, object], order: list[str], style: dict[str, Any]
) -> None:
    parts: dict[str, dict[str, object]] = {
        "depl_id": {"depl_id": A},
        KEY: {KEY: False},
        "rest": rest,
    }
    value = {key: one for name in order for key, one in parts[name].items()}
    text = json.dumps(value, **style)
    edited = edit_lock(text, is_locked=True, what="x")
    assert json.loads(edited) == {**value, KEY: True}
    assert edit_lock(edited, is_locked=False, what="x") == text


@pytest.mark.parametrize("text", [A, A + "\n"])
def test_a_bare_digest_cannot_be_locked(text: str) -> None:
    with pytest.raises(InvalidStateError, match="a bare digest, as bootc wrote it before 2026") as caught:
        edit_lock(text, is_locked=True, what="locking")
    assert "unstage" in (caught.value.hint or "")


@pytest.mark.parametrize("content", [b"", b"[]", b'{"depl_id": "../x"}', b"\xff", b'{"depl_id"', b"[" * 100_000])
def test_a_malformed_marker_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    host = hosts.make_host(tmp_path)
    host.staged_marker.write_bytes(content)
    with pytest.raises(InvalidStateError):
        write_lock(host, is_locked=True)
    assert host.staged_marker.read_bytes() == content


def test_the_file_is_replaced_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    host = hosts.make_host(tmp_path)
    hosts.add_marker(host, A)
    host.staged_marker.chmod(0o640)
    before = host.staged_marker.stat().st_ino
    assert write_lock(host, is_locked=True)
    status = host.staged_marker.stat()
    assert (status.st_ino != before, stat.S_IMODE(status.st_mode)) == (True, 0o640)
    marker = read_staged_marker(host)
    assert marker is not None
    assert (marker.digest, marker.finalization_locked) == (A, True)
    assert not write_lock(host, is_locked=True)
    assert os.listdir(host.staged_marker.parent) == ["staged-deployment"]


def test_no_marker_and_one_that_cannot_be_read_are_told_apart(tmp_path: Path) -> None:
    host = hosts.make_host(tmp_path)
    with pytest.raises(InvalidStateError, match="nothing is staged"):
        write_lock(host, is_locked=True)
    host.staged_marker.symlink_to("staged-deployment")
    with pytest.raises(FileSystemError, match="Too many levels of symbolic links"):
        write_lock(host, is_locked=True)
