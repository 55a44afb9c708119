"""What GRUB itself makes of an entry's values: words, variables, quotes; one boot that runs all entries.

``linux`` and ``initrd`` are functions that print what they are given, in a GRUB without these commands; an entry that
loads nothing falls back to the next one, and the last one ends the machine.
"""

from __future__ import annotations

import re

import pytest
from unit.boot.loaders.test_grub_words import CASES
from vm import machine
from vm.grub import make_image

from bootc_fast.boot.loaders.entry import parse_entry
from bootc_fast.boot.loaders.grub_words import resolve_entry, split_words

pytestmark = [pytest.mark.vm, pytest.mark.machines, pytest.mark.timeout(1800)]

VARIABLES = {
    b"tuned_initrd": b"/tuned.img",
    b"two": b"/one /two",
    b"none": b"",
    b"x_1": b"y",
    b"tuned_params": b"skew_tick=1  isolcpus=1-3",
}
# Beside those of the unit tests: what TuneD and people write.
MORE = [
    b"/i.img $tuned_initrd",
    b"/i.img ${tuned_initrd}",
    b"/i.img $two",
    b'/i.img "$two"',
    b"/i.img$two",
    b"/i.img ${x_1}3 /p$x_1.img",
    b"/i.img $none",
    b'/i.img "$none"',
    b"/k$none",
    b"/i.img $unset_variable",
    b"/i.img '$two'",
    b"/i.img \\$two",
    b"/ucode.img /i.img",
    b"/a*b /c?d",
    b"/a{b,c}",
    b"/a=b ~/x !y [z]",
]
VALUES = [value for value, _ in CASES if value.strip()] + MORE

_CONFIG = """
serial --unit=0 --speed=115200
terminfo -g 250x100 serial vt100
terminal_output serial
function linux { for word in "$@"; do echo "linux<$word>"; done; echo "linux."; }
function initrd { for word in "$@"; do echo "initrd<$word>"; done; echo "initrd."; }
function reboot { echo "reboot."; }
SETTINGS
blscfg --path (hd0,gpt2)/boot/loader/entries
menuentry "the end" { echo "the end." ; halt }
set default=0
set fallback="FALLBACK"
set timeout=0
"""


def _entry(number: int, value: bytes) -> bytes:
    return b"title W%03d\nlinux /W%03d\ninitrd %s\noptions quiet $tuned_params\n" % (number, number, value)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, list[bytes]]]:
    """Words that ``linux`` and ``initrd`` were given, by the entry's number."""
    work = tmp_path_factory.mktemp("grub-words")
    lab = work / "host"
    (lab / "efi").mkdir(parents=True)
    entries = lab / "sysroot/boot/loader/entries"
    entries.mkdir(parents=True)
    for number, value in enumerate(VALUES):
        (entries / f"w{number:03}.conf").write_bytes(_entry(number, value))
    (lab / "sysroot/boot/grub2").mkdir()
    settings = "\n".join(f'set {name.decode()}="{value.decode()}"' for name, value in VARIABLES.items())
    text = _CONFIG.replace("SETTINGS", settings)
    text = text.replace("FALLBACK", " ".join(str(number + 1) for number in range(len(VALUES))))
    (lab / "sysroot/boot/grub2/grub.cfg").write_text(text)
    image = make_image("forky", work / "grub.efi", "blsuki", without=("linux", "reboot"))
    disk = work / "disk.raw"
    machine.make_disk(lab, disk, root_mib=64, esp_files={"EFI/BOOT/BOOTX64.EFI": image})
    # GRUB waits ten seconds after each of them, as it measures seconds beside other machines.
    run = machine.run_machine(disk, work, boots=1, boot_timeout_s=1600)
    disk.unlink()
    assert "the end." in run.console, run.console[-4000:]
    found: dict[int, dict[str, list[bytes]]] = {}
    current: dict[str, list[bytes]] = {}
    for kind, word in re.findall(r"(linux|initrd)<([^\r\n]*)>[\r\n\x1b]", run.console):
        started = re.fullmatch(r"(?:\(hd0,gpt2\))?/W(\d{3})", word)
        if kind == "linux" and started:
            current = found.setdefault(int(started[1]), {"linux": [], "initrd": []})
        current[kind].append(word.removeprefix("(hd0,gpt2)").encode())
    return found


def _is_no_sentence(value: bytes) -> bool:
    """GRUB runs no command with an open quote, or a ``$`` that no name follows."""
    return value in (b'"/open end', b"'/open end", b"/a$")


def test_grub_starts_every_entry_and_runs_no_command_that_is_no_sentence(
    told: dict[int, dict[str, list[bytes]]],
) -> None:
    assert sorted(told) == list(range(len(VALUES)))
    not_run = [VALUES[number] for number in range(len(VALUES)) if not told[number]["initrd"]]
    assert not_run == [value for value in VALUES if _is_no_sentence(value)]
    assert len(not_run) == 3


@pytest.mark.parametrize("number", range(len(VALUES)), ids=[repr(value) for value in VALUES])
def test_grub_splits_a_value_as_we_do(told: dict[int, dict[str, list[bytes]]], number: int) -> None:
    # An unset variable is an empty one for GRUB; for us it is unknown.
    known = {**VARIABLES, b"unset_variable": b""}
    ours = [word.text for word in split_words(VALUES[number], known)]
    if _is_no_sentence(VALUES[number]):
        # Looked for as it is written, and missing.
        assert (told[number]["initrd"], ours) == ([], [VALUES[number].strip(b"\"'")])
        return
    assert told[number]["initrd"] == ours


def test_options_are_split_and_expanded_too(told: dict[int, dict[str, list[bytes]]]) -> None:
    assert told[0]["linux"] == [b"/W000", b"quiet", b"skew_tick=1", b"isolcpus=1-3"]


def test_a_whole_entry_names_what_grub_loads(told: dict[int, dict[str, list[bytes]]]) -> None:
    for number, words in told.items():
        entry = resolve_entry(parse_entry(b"w.conf", _entry(number, VALUES[number]), known=()), VARIABLES)
        unknown = {b"/i.img $unset_variable": (b"$unset_variable",), b"/a{b,c}": (b"{b,c}",)}
        assert entry.linux == words["linux"][0] == b"/W%03d" % number
        assert entry.unknown == unknown.get(VALUES[number], ())
        if not _is_no_sentence(VALUES[number]):
            assert list(entry.initrd) == [word for word in words["initrd"] if word not in entry.unknown]
