"""The fallback entry: what is in ``custom.cfg``, what GRUB makes of it, and every cut while it is written."""

from __future__ import annotations

from dataclasses import replace

import pytest
from unit.boot.counting.test_grub_counter import BLS, CUSTOM, UKI, Host, _host
from unit.boot.fat_model import seeded
from unit.boot.fat_volume import FatVolume
from unit.boot.scenarios import HEADER, KNOWN, A, B, judge, menuentry

from bootc_fast.boot.counting.grub_script import add_block, put_fallback
from bootc_fast.boot.loaders.entry import MenuEntry
from bootc_fast.boot.loaders.grub_fallback import find_fallback, without_fallback
from bootc_fast.boot.loaders.user_cfg import parse_user_cfg, sets_esp
from bootc_fast.composefs.repair import is_esp_told

USER_CFG = b"/grub2/user.cfg"
TEXTS = [None, b"", b"# an admin's\nset timeout=5", b"menuentry 'mine' {\n  true\n}\n", b"\xff\r\n"]


def _entry(raw: bytes = menuentry(A)) -> MenuEntry:
    (found,) = [chunk.entry for chunk in parse_user_cfg(HEADER + raw, known=KNOWN) if chunk.entry is not None]
    return found


@pytest.mark.parametrize("custom", TEXTS)
@pytest.mark.parametrize("counts", [False, True], ids=["", "counts"])
def test_it_comes_once_before_the_block_that_counts_and_goes_without_a_trace(
    custom: bytes | None, *, counts: bool
) -> None:
    before = add_block(custom) if counts else custom
    with_it = put_fallback(before, _entry())
    assert with_it is not None
    assert put_fallback(with_it, _entry()) == with_it
    assert find_fallback(with_it, known=KNOWN) == _entry()
    assert not counts or with_it.endswith(add_block(b""))
    assert add_block(with_it) == (with_it if counts else with_it + add_block(b""))
    # The next good one takes its place.
    other = put_fallback(with_it, _entry(menuentry(B)))
    assert other is not None
    assert (A.encode() in other, find_fallback(other, known=KNOWN)) == (False, _entry(menuentry(B)))
    gone = put_fallback(other, None)
    end = b"" if not custom or custom.endswith(b"\n") else b"\n"
    assert gone == (before or b"") if counts else gone == (custom or b"") + end
    assert put_fallback(None, None) is None


@pytest.mark.parametrize(
    ("custom", "said"),
    [
        (b"if [ x = x ]; then\n", "ends inside"),
        (b"echo 'open\n", "ends inside"),
        (b"configfile /other.cfg\n", "may leave it before its end, at `configfile`"),
        (b"### BEGIN bootc-fast fallback ###\nif [ x ]; then\n", "was changed"),
        (b"### END bootc-fast fallback ###\n", "was changed"),
        (b"### BEGIN bootc-fast ###\nset x=1\n### END bootc-fast ###\n", "was changed"),
    ],
)
def test_what_grub_would_not_come_to_is_not_written(custom: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        put_fallback(custom, _entry())


@pytest.mark.parametrize("title", [b'"it\'s mine"', b'"a" --id "it\'s"'])
def test_a_name_that_cannot_be_chosen_is_said(title: bytes) -> None:
    with pytest.raises(ValueError, match="between quotes"):
        put_fallback(b"", _entry(b"menuentry " + title + b" {\nchainloader /EFI/Linux/x.efi\n}\n"))


@pytest.mark.parametrize(
    ("title", "name"),
    [(b'"a > b \\"c\\""', b'a >> b "c"'), (b"'x' --id '7'", b"7"), ('"Größe"'.encode(), "Größe".encode())],
)
def test_its_name_is_chosen_as_grub_takes_names(title: bytes, name: bytes) -> None:
    found = put_fallback(b"", _entry(b"menuentry " + title + b" {\nchainloader /EFI/Linux/x.efi\n}\n"))
    assert found is not None
    assert b"set default='" + name + b"'\n" in found


def test_what_it_says_of_the_esp_counts_for_no_other_menuentry() -> None:
    """Of a user.cfg that has lost its beginning nothing would be mended."""
    found = put_fallback(b"# mine\n", _entry(menuentry(A)))
    assert found is not None
    assert sets_esp(found)
    assert not sets_esp(without_fallback(found))
    host = _host(UKI)
    host.volume.model.start()  # type: ignore[attr-defined]
    _keep(host)
    assert not is_esp_told(host.volume)


def _keep(host: Host, *, is_wanted: bool = True) -> str:
    """Have it kept; returns why there is none."""
    context, _plan = host.look(order=(A, B))
    found = host.counter.plan_fallback(context, is_wanted=is_wanted)
    if found.write is not None:
        found.write()
        assert host.counter.plan_fallback(context, is_wanted=is_wanted) == replace(found, write=None)
    return found.reason


def test_without_it_something_foreign_boots_where_user_cfg_is_gone_and_with_it_what_was_good() -> None:
    host = _host(UKI)
    host.publish()
    assert _keep(host) == ""
    assert host.boots(5) == [B, B, B, A, A], "it changes nothing while user.cfg is there"
    context, _plan = host.look(order=(A, B))
    (directory, name) = (host.volume.open_directory(b"grub2"), b"user.cfg")
    assert directory is not None
    directory.unlink(name)
    directory.barrier()
    directory.close()
    menu = host.read()
    assert [one and one.title for one in (menu.default, menu.next_boot)] == [b"Memory test", _entry().title]
    # A trial's variables are there, and name what is gone: nothing is counted.
    before = host.variables()
    assert host.boots(3) == [A] * 3
    assert host.variables() == before
    context = replace(context, menu=menu)
    assert host.counter.plan_fallback(context, is_wanted=True).reason == "what runs has no menuentry in user.cfg"
    write = host.counter.plan_fallback(context, is_wanted=False).write
    assert write is not None
    write()
    assert host.boots() == [None], "the memory test"


@pytest.mark.parametrize("state", ["there", "not there", "other block"])
def test_any_cut_while_it_is_written_leaves_the_old_or_the_new_file(state: str) -> None:
    host = _host(UKI)
    if state != "not there":
        context, _plan = host.look(order=(A, B))
        (write,) = [host.counter.plan_fallback(context, is_wanted=True).write]
        assert write is not None
        write()
    is_wanted = state == "not there"
    before = host.volume.read_file(CUSTOM, 1 << 20)
    model = host.volume.model  # type: ignore[attr-defined]
    model.start()
    if state == "other block":
        is_wanted = True
        context, _plan = host.look(order=(A, B))
        found = host.counter.plan_fallback(replace(context, booted=B), is_wanted=True)
        assert "no menuentry in user.cfg" in found.reason, "B is staged only"
        host.publish()
    assert _keep(host, is_wanted=is_wanted) == ""
    after = host.volume.read_file(CUSTOM, 1 << 20)
    states = set()
    for disk in model.crash_states(seeded(31), subsets=10):
        cut = FatVolume(model.mount(disk))
        assert judge(cut.model, UKI) == []
        states.add(cut.read_file(CUSTOM, 1 << 20))
    # A name that FAT has before its file's first cluster: to GRUB as if it were not there.
    between = {"there": set(), "not there": {b""}, "other block": {add_block(before)}}[state]
    assert states == {before, after} | between


def test_who_has_no_menuentries_has_no_second_place() -> None:
    assert "no menuentry in user.cfg" in _keep(_host(BLS))
