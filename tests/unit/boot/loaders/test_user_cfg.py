"""grub.py: user.cfg, whatever stands in it."""

from __future__ import annotations

import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.boot.scenarios import HEADER, KNOWN, A, B, C, menuentry, uki_path

from bootc_fast.boot.loaders.entry import MenuEntry
from bootc_fast.boot.loaders.grub_commands import has_open_end
from bootc_fast.boot.loaders.user_cfg import parse_user_cfg, render_user_cfg, sets_esp
from bootc_fast.boot.loaders.user_cfg_mend import mend_text


def _entries(raw: bytes) -> list[MenuEntry]:
    return [chunk.entry for chunk in parse_user_cfg(raw, known=KNOWN) if chunk.entry is not None]


def test_reads_what_bootc_writes() -> None:
    found = _entries(HEADER + menuentry(A) + menuentry(B))
    assert [entry.digest for entry in found] == [A, B]
    assert found[0].uki == uki_path(A)
    assert found[0].menu_id == f"Example Bootc UKI: ({A})".encode()
    assert found[0].is_own


def test_reads_older_ukis_without_a_prefix() -> None:
    raw = f'menuentry "x: ({A})" {{\n    chainloader /EFI/Linux/{A}.efi\n}}\n'.encode()
    assert _entries(raw)[0].digest == A


@pytest.mark.parametrize(
    "raw",
    [
        b"menuentry 'single \" quote' --class os --id my-id { chainloader /x.efi }\n",
        b'menuentry "a \\" quote }" --id=my-id {\n # a } comment\n if [ "${x}" = "}" ]; then\n echo "{"\n fi\n}\n',
        b"menuentry t --id my-id {\r\n\techo x\r\n}\r\n",
    ],
)
def test_quotes_options_nested_braces_and_comments_are_understood(raw: bytes) -> None:
    text = b"set a=1\n" + raw + b"set b=2\n"
    (entry,) = _entries(text)
    assert entry.menu_id == b"my-id"
    assert entry.raw == raw
    assert not entry.is_own


@pytest.mark.parametrize(
    "raw",
    [b"menuentry", b"menuentry {", b'menuentry "x', b'menuentry "x" {', b"}}}}", b"{", b"menuentryx a {}", b"\0\xff\n"],
)
def test_a_malformed_file_is_text(raw: bytes) -> None:
    assert b"".join(chunk.raw for chunk in parse_user_cfg(raw, known=KNOWN)) == raw
    assert _entries(raw) == []


def test_a_menuentry_in_a_submenu_is_text_and_one_in_a_condition_is_not() -> None:
    assert _entries(b'submenu "more" {\n' + menuentry(A) + b"}\n") == []
    assert len(_entries(b"if [ x = x ]; then\n" + menuentry(A) + b"fi\n")) == 1


def test_a_commented_menuentry_is_text() -> None:
    assert _entries(b"# " + menuentry(A).split(b"\n")[0] + b"\n") == []


def test_our_menuentries_take_the_places_of_ours() -> None:
    foreign = b'menuentry "other" {\n echo\n}\n'
    raw = HEADER + menuentry(A) + foreign + menuentry(C) + b"# end\n"
    one, two, three = (_entries(menuentry(digest))[0] for digest in (A, B, C))
    chunks = parse_user_cfg(raw, known=KNOWN)
    assert render_user_cfg(chunks, [one, three]) == raw
    assert render_user_cfg(chunks, [two, one, three]) == raw.replace(menuentry(A), menuentry(B) + menuentry(A))
    assert render_user_cfg(chunks, [three]) == HEADER + menuentry(C) + foreign + b"# end\n"
    assert render_user_cfg(chunks, []) == HEADER + foreign + b"# end\n"
    assert render_user_cfg(parse_user_cfg(b"x", known=KNOWN), [one]) == b"x\n" + menuentry(A)


@given(st.lists(st.sampled_from([b"menuentry ", b'"', b"'", b"{", b"}", b"\n", b" ", b"#", b"\\", b"${", b";", b"x"])))
def test_any_text_is_split_without_loss(pieces: list[bytes]) -> None:
    raw = b"".join(pieces)
    assert b"".join(chunk.raw for chunk in parse_user_cfg(raw, known=KNOWN)) == raw


@given(st.binary(max_size=200))
def test_any_bytes_are_split_without_loss(raw: bytes) -> None:
    assert b"".join(chunk.raw for chunk in parse_user_cfg(raw, known=KNOWN)) == raw


ADMINS = b"# an admin's\nset color_normal=white/blue\n"


@pytest.mark.parametrize("sector", [64, 100, 512])
@pytest.mark.parametrize("text", [b"", ADMINS], ids=["bootc's", "with an admin's"])
def test_whatever_sectors_never_arrived_what_is_whole_stays_and_grub_can_read_the_rest(
    sector: int, text: bytes
) -> None:
    entries = [menuentry(A), menuentry(B, "It's {another}")]
    whole = text + HEADER + entries[0] + b"# between\n" + entries[1]
    pieces = [whole[at : at + sector] for at in range(0, len(whole), sector)]
    rng = Random(7)  # noqa: S311 - to be had again
    masks = range(1, 1 << len(pieces)) if len(pieces) < 9 else [rng.randrange(1, 1 << len(pieces)) for _ in range(400)]
    for mask in masks:
        lost = [bytes(len(one)) if mask >> number & 1 else one for number, one in enumerate(pieces)]
        raw = b"".join(lost)
        chunks = mend_text(parse_user_cfg(raw, known=KNOWN), known=KNOWN, has_esp=False)
        mended = b"".join(chunk.raw for chunk in chunks)
        assert b"\0\0" not in mended, mended
        assert not has_open_end(mended), mended
        assert mended.count(b"{\n") == len(re.findall(rb"(?m)^\}$", mended)), mended
        found = [chunk.entry.raw for chunk in chunks if chunk.entry is not None]
        for entry in entries:
            assert (entry in found) is (entry in raw), (mask, raw)
        assert all(entry in entries for entry in found)
        assert not found or sets_esp(mended.split(b"menuentry", 1)[0])
        assert (text in mended) is (text in raw)
        outside = b"".join(chunk.raw for chunk in chunks if chunk.entry is None)
        assert b"chainloader" not in outside, mended
        again = mend_text(parse_user_cfg(mended, known=KNOWN), known=KNOWN, has_esp=False)
        assert b"".join(chunk.raw for chunk in again) == mended


def test_a_zero_alone_is_somebodys() -> None:
    raw = b"menuentry 'mine' {\n echo \0\n}\n"
    assert (
        b"".join(chunk.raw for chunk in mend_text(parse_user_cfg(raw, known=KNOWN), known=KNOWN, has_esp=True)) == raw
    )
