"""What GRUB makes of a value: words, variables, quotes; and what of it is a file."""

from __future__ import annotations

import pytest
from unit.boot.fat_model import FatModel
from unit.boot.fat_volume import FatVolume
from unit.boot.scenarios import A, bls_text, kernel_directory

from bootc_fast.boot.entries.menu import read_volumes
from bootc_fast.boot.loaders.entry import parse_entry
from bootc_fast.boot.loaders.grub_words import expand_variables, has_variable, resolve_entry, split_words
from bootc_fast.types import Loader

CASES = [
    (b"/a", [b"/a"]),
    (b"/a  /b\t/c ", [b"/a", b"/b", b"/c"]),
    (b'"/a b" /c', [b"/a b", b"/c"]),
    (b"'/a $b'", [b"/a $b"]),
    (rb"/a\ b \$c", [b"/a b", b"$c"]),
    (rb'"/a\$b\"c\x"', [rb'/a$b"c\x']),
    (b"/a$", [b"/a$"]),
    (b"/x.img;reboot", [b"/x.img"]),
    (b"/x # a note", [b"/x"]),
    (b"/x#y", [b"/x#y"]),
    (b'/a""', [b"/a"]),
    (b"", []),
    (b"   ", []),
    (b'"/open end', [b"/open end"]),
    (b"'/open end", [b"/open end"]),
    (b"/back\\", [b"/back"]),
]
UNKNOWN = [b"$tuned_initrd", b"${tuned_initrd}", b'"$x"', b"/boot$x", b"a$1b", b"(hd0,gpt2)/x", b"($root)/x", b"$?"]


@pytest.mark.parametrize(("value", "words"), CASES)
def test_a_value_is_split_as_grubs_script_is(value: bytes, words: list[bytes]) -> None:
    assert [(word.text, word.is_known) for word in split_words(value)] == [(word, True) for word in words]


def test_a_word_with_a_variable_or_a_device_names_no_file_that_is_known() -> None:
    for value in UNKNOWN:
        (word,) = split_words(value)
        assert not word.is_known, value


def test_a_block_is_a_word_of_its_own_and_no_file() -> None:
    for value, words in [
        (b"/a{b,c}", [(b"/a", True), (b"{b,c}", False)]),
        (b"/a {b} /c", [(b"/a", True), (b"{b}", False), (b"/c", True)]),
        (b"/a '{b}' \\{c", [(b"/a", True), (b"{b}", True), (b"{c", True)]),
        (b"/a{b", [(b"/a", True), (b"{b", False)]),
    ]:
        assert [(word.text, word.is_known) for word in split_words(value)] == words, value


def test_known_variables_are_put_in_and_split_only_outside_of_quotes() -> None:
    variables = {b"a": b"/one /two", b"none": b"", b"x_1": b"y"}
    for value, words in [
        (b"$a", [b"/one", b"/two"]),
        (b'"$a"', [b"/one /two"]),
        (b"/p$a", [b"/p/one", b"/two"]),
        (b"${a}3", [b"/one", b"/two3"]),
        (b"$none", []),
        (b'"$none"', [b""]),
        (b"/k$none", [b"/k"]),
        (b"$x_1.img", [b"y.img"]),
    ]:
        assert [word.text for word in split_words(value, variables) if word.is_known] == words, value
    assert expand_variables("ro $x_1 ${none}$other \\$x_1", variables) == "ro y $other \\$x_1"
    assert has_variable("ro $other")
    assert not has_variable("ro \\$other 5$")


def _resolve(raw: bytes, variables: dict[bytes, bytes] | None = None):  # noqa: ANN202 - MenuEntry
    return resolve_entry(parse_entry(b"x.conf", raw, known=()), variables)


def test_an_entry_names_what_grub_loads() -> None:
    entry = _resolve(
        b"linux /k quiet $p\ninitrd /u.img /i.img $tuned_initrd\ninitrd '/o p'\ndevicetree $dt\nextra /e\n"
    )
    assert entry.linux == b"/k"
    assert entry.linux_arguments == (b"quiet", b"$p")
    assert entry.initrd == (b"/u.img", b"/i.img", b"/o p")
    assert entry.unknown == (b"$tuned_initrd", b"$dt")
    assert entry.paths == (b"/k", b"/u.img", b"/i.img", b"/o p")
    known = _resolve(b"linux $k\ninitrd $tuned_initrd\n", {b"k": b"/v", b"tuned_initrd": b"/t.img"})
    assert (known.linux, known.initrd, known.unknown) == (b"/v", (b"/t.img",), ())


def test_grub_reads_no_further_than_it_reads() -> None:
    assert _resolve(b"linux /k\ninitrd /a\n\ninitrd /b\n").initrd == (b"/a",)


@pytest.mark.parametrize("loader", [Loader.GRUB, Loader.GRUB_CC])
def test_what_grub_expands_is_not_missing_and_a_second_initrd_is_looked_for(loader: Loader) -> None:
    home = kernel_directory(A, loader)
    for added, missing in [
        (b" $tuned_initrd", ()),
        (b" /u.img", ()),
        (b"\t'/u.img'  ${x}", ()),
        (b" /gone.img $x", (b"/gone.img",)),
        (b" /u.img\r", ()),
    ]:
        raw = bls_text(A, "1", "bootc-a-0", loader).replace(b"/initrd\n", b"/initrd" + added + b"\n")
        raw = raw.replace(b" rw ", b" rw $tuned_params ")
        volume = FatVolume(FatModel())
        for path in (home + b"/vmlinuz", home + b"/initrd", b"/u.img"):
            volume.put(path, b"k")
        volume.put(b"/loader/entries/bootc_a-1-1.conf", raw)
        menu = read_volumes(volume, volume, loader=loader, known={A})
        assert menu.live.entries[0].missing == missing, added
        assert menu.own_order == (A,)


def test_systemd_boot_takes_a_value_as_one_path() -> None:
    volume = FatVolume(FatModel())
    volume.put(b"/k one.efi", b"k")
    volume.put(b"/loader/entries/a.conf", b"linux /k one.efi\ninitrd /i $x\n")
    menu = read_volumes(volume, volume, loader=Loader.SYSTEMD_BOOT, known={A})
    (entry,) = menu.live.entries
    assert (entry.linux, entry.missing, entry.unknown) == (b"/k one.efi", (b"/i $x",), ())
