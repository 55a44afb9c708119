"""What GRUB takes a name for: our account of it, which `tests/vm/test_grub_counting.py` asks real GRUBs about."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bootc_fast.boot.counting.grub_names import find_name, find_name_trouble
from bootc_fast.boot.loaders.grub_trial import quote_name
from bootc_fast.boot.loaders.user_cfg import parse_user_cfg

if TYPE_CHECKING:
    from bootc_fast.boot.loaders.entry import MenuEntry

# Titles as they are written, and the value of `default`; the place of the item that GRUB 2.12 and 2.14 boot.
ANSWERS: list[tuple[list[str], bytes, int]] = [
    (['"New: (aa)"', '"Old: (bb)"'], b"Old: (bb)", 1),
    (['"New: (aa)"', '"Old: (bb)"'], b"none", 0),
    (['"New: (aa)"', '"Old: (bb)"'], b"", 0),
    (['"New: (aa)"', '"Old: (bb)"'], b"old: (bb)", 0),
    (['"New: (aa)"', '"Old: (bb)"'], b"Old: (bb) ", 0),
    (['"n"', '"z"'], b"1", 1),
    (['"n"', '"z"'], b" 1", 1),
    (['"n"', '"z"'], b"7", 0),
    (['"n"', '"Old > b"'], b"Old > b", 0),
    (['"n"', '"Old > b"'], b"Old >> b", 1),
    (['"n"', '"Old >> b"'], b"Old >>>> b", 1),
    (['"n"', '">"'], b">>", 1),
    (['"Same"', '"x"', '"Same"'], b"Same", 0),
    (['"y"', '"z" --id y'], b"y", 0),
    (['"n" --id y', '"y"'], b"y", 0),
    (['"n"', '"z" --id y'], b"y", 1),
    (['"n"', '"z" --id y'], b"z", 1),
    (['"n"', '"z"', '"0 Old"'], b"0 Old", 0),
    (['"n"', '"z"', '" 1 Old"'], b" 1 Old", 1),
    (['"n"', '"z"', '"9 Lives"'], b"9 Lives", 0),
    (['"n"', '"z"', '"0x1 y"'], b"0x1 y", 1),
    (['"n"', '"z"', '"99999999999999999999 x"'], b"99999999999999999999 x", 0),
    (['"n"', '"z"', '"-0 Old"'], b"-0 Old", 2),
    (['"n"', '"z"', '"+1 Old"'], b"+1 Old", 2),
    (['"n"', '"é 0"'], "é 0".encode(), 1),
    (['"n"', '"it\'s \\"q\\" \\\\ b"'], b'it\'s "q" \\ b', 1),
    (['"n"', "'a \"b\" ; {c} #d & | * ?'"], b'a "b" ; {c} #d & | * ?', 1),
    (['"n"', '"  lead"'], b"  lead", 1),
    (['"n"', '"trail "'], b"trail ", 1),
    (['"n"', '"${grub_platform}"'], b"efi", 1),
    (['"n"', '"${grub_platform}"'], b"${grub_platform}", 0),
]


def make_menu(titles: list[str]) -> list[MenuEntry]:
    raw = "".join(f"menuentry {title} {{\n chainloader /x.efi\n}}\n" for title in titles).encode()
    return [chunk.entry for chunk in parse_user_cfg(raw, known=()) if chunk.entry is not None]


@pytest.mark.parametrize(("titles", "value", "place"), ANSWERS, ids=[repr(row[1]) for row in ANSWERS])
def test_a_name_that_we_take_for_good_is_the_one_by_which_grub_finds_the_item(
    titles: list[str], value: bytes, place: int
) -> None:
    menu = make_menu(titles)
    for number, entry in enumerate(menu):
        if quote_name(find_name(entry)) != value:
            continue
        if find_name_trouble(entry, menu) is None:
            assert number == place


def test_most_of_these_names_are_good_and_each_kind_of_bad_one_is_told() -> None:
    told = []
    good = 0
    for titles, _value, _place in ANSWERS:
        menu = make_menu(titles)
        troubles = [find_name_trouble(entry, menu) for entry in menu]
        told += [trouble for trouble in troubles if trouble is not None]
        good += troubles.count(None)
    assert good > 40
    for words in ("begins with a digit", "is the name of more than one item", "has a variable in it"):
        assert any(words in trouble for trouble in told), words


@pytest.mark.parametrize(
    ("title", "said"),
    [
        ('""', "is empty"),
        ('"  "', "is empty"),
        ('"a\nb"', "has a control character in it"),
        ("'a\x1b[31mb'", "has a control character in it"),
        ('"\t9"', "has a control character in it"),
        ('"a$b"', "has a variable in it"),
    ],
)
def test_other_names_that_nothing_can_be_said_of_are_refused(title: str, said: str) -> None:
    menu = make_menu([title, '"other"'])
    assert said in (find_name_trouble(menu[0], menu) or "")
