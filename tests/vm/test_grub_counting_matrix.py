"""GRUB's boot counting, the whole matrix: loaders, file systems, what fails and what cannot be loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from unit.boot.counting.test_grub_names import ANSWERS
from vm.grub_counting import (
    GRUB,
    HEEDS_NEXT,
    GrubHost,
    Machine,
    ask_names,
    ask_save_env,
    make_hanging,
    make_images,
    make_resetting,
    make_returning,
    start,
)

from bootc_fast.boot.loaders.grub_trial import FALLBACK, PLACE, TRIAL, TRIES
from bootc_fast.boot.loaders.grubenv import GRUBENV_HEADER

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

pytestmark = [pytest.mark.vm, pytest.mark.machines, pytest.mark.timeout(1200)]

LOADERS = [
    ("trixie", "uki", "ext4"),
    ("trixie", "uki", "fat"),
    ("forky", "bls", "ext4"),
    ("forky", "bls", "fat"),
    ("forky", "uki", "ext4"),
]
BOTH = [("trixie", "uki"), ("forky", "bls")]
# As grub-mkconfig's 41_custom reads it.
BY_DIRECTORY = """\
if [ -f ${config_directory}/custom.cfg ]; then
  source ${config_directory}/custom.cfg
elif [ -z "${config_directory}" -a -f $prefix/custom.cfg ]; then
  source $prefix/custom.cfg
fi
"""
# As 00_header has it for GRUB_DEFAULT=saved.
SAVED = 'if [ "${saved_entry}" ]; then\n  set default="${saved_entry}"\nfi\n'


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return make_images(tmp_path_factory.mktemp("grubs"))


def _play(machine: Machine, boots: int) -> list[tuple[str, bytes]]:
    """What each boot started, and the tries left after it."""
    found = []
    for _ in range(boots):
        said = machine.boot()
        found.append((" ".join(said), machine.variables()[TRIES]))
    return found


@pytest.mark.parametrize(("suite", "kind", "file_system"), LOADERS)
def test_power_cycles(suite: str, kind: str, file_system: str, images: Mapping[str, Path], tmp_path: Path) -> None:
    host = GrubHost(suite, kind, file_system, custom=BY_DIRECTORY)
    host.put_on_trial()
    machine = start(tmp_path, host, images[suite])
    assert _play(machine, 5) == [("new", b"2"), ("new", b"1"), ("new", b"0"), ("old", b"0"), ("old", b"0")]
    machine.check()


@pytest.mark.parametrize(("suite", "kind", "file_system"), LOADERS)
def test_resets_without_a_power_cycle(
    suite: str, kind: str, file_system: str, images: Mapping[str, Path], tmp_path: Path
) -> None:
    host = GrubHost(suite, kind, file_system)
    host.programs["new"] = make_resetting("new")
    host.put_on_trial()
    machine = start(tmp_path, host, images[suite])
    assert machine.boot(timeout_s=300) == ["new", "new", "new", "old"]
    assert machine.variables()[TRIES] == b"0"


@pytest.mark.parametrize(("suite", "kind"), BOTH)
def test_what_hangs_is_counted_by_whoever_takes_the_power_away(
    suite: str, kind: str, images: Mapping[str, Path], tmp_path: Path
) -> None:
    host = GrubHost(suite, kind, "ext4")
    host.programs["new"] = make_hanging("new")
    host.put_on_trial()
    machine = start(tmp_path, host, images[suite])
    assert [machine.boot(until="new") for _ in range(3)] == [["new"]] * 3
    assert machine.boot() == ["old"]


@pytest.mark.parametrize("value", [b"0", b"4", b"", b"x", b"-1", b"03", b"1 ", b"10"])
def test_what_is_no_number_of_tries_boots_the_old_one(value: bytes, images: Mapping[str, Path], tmp_path: Path) -> None:
    host = GrubHost("trixie", "uki", "ext4")
    host.put_on_trial(value)
    machine = start(tmp_path, host, images["trixie"])
    assert _play(machine, 1) == [("old", value)]


@pytest.mark.parametrize(("suite", "kind"), BOTH)
@pytest.mark.parametrize("program", ["missing", "junk", "returns"])
def test_what_cannot_be_loaded_falls_back_by_its_place_with_the_try_counted(
    program: str, suite: str, kind: str, images: Mapping[str, Path], tmp_path: Path
) -> None:
    host = GrubHost(suite, kind, "ext4")
    host.programs["new"] = {"missing": None, "junk": b"\x55" * 9000, "returns": make_returning("new")}[program]
    host.put_on_trial()
    machine = start(tmp_path, host, images[suite])
    said = machine.boot(timeout_s=300)
    assert said[-1:] == ["old"], machine.console[-2000:]
    assert machine.variables()[TRIES] == b"2"


def test_without_a_place_what_cannot_be_loaded_ends_in_the_menu(images: Mapping[str, Path], tmp_path: Path) -> None:
    host = GrubHost("trixie", "uki", "ext4")
    host.programs["new"] = None
    host.put_on_trial(**{PLACE.decode(): None})
    machine = start(tmp_path, host, images["trixie"])
    assert machine.boot(timeout_s=60) == []
    assert machine.variables()[TRIES] == b"2"


@pytest.mark.parametrize(("suite", "kind"), BOTH)
@pytest.mark.parametrize("header", ["", HEEDS_NEXT], ids=["not heeded by grub.cfg", "heeded by grub.cfg"])
def test_a_choice_for_one_boot(header: str, suite: str, kind: str, images: Mapping[str, Path], tmp_path: Path) -> None:
    host = GrubHost(suite, kind, "ext4", header=header)
    host.put_on_trial(next_entry=host.names[1])
    machine = start(tmp_path, host, images[suite])
    assert _play(machine, 3) == [("old", b"3"), ("new", b"2"), ("new", b"1")]


@pytest.mark.parametrize(("suite", "kind"), BOTH)
def test_what_is_saved_loses_to_the_trial(suite: str, kind: str, images: Mapping[str, Path], tmp_path: Path) -> None:
    host = GrubHost(suite, kind, "ext4", header=SAVED)
    host.put_on_trial(1, allowed=1, saved_entry=host.names[0])
    machine = start(tmp_path, host, images[suite])
    assert _play(machine, 2) == [("new", b"0"), ("old", b"0")]


def test_a_default_that_is_set_behind_custom_cfg_wins_so_that_it_is_not_counted(
    images: Mapping[str, Path], tmp_path: Path
) -> None:
    host = GrubHost("trixie", "uki", "ext4", footer="set default=0\n")
    host.put_on_trial(0)
    assert start(tmp_path, host, images["trixie"]).boot() == ["new"]


@pytest.mark.parametrize(("suite", "kind"), BOTH)
def test_a_cut_before_the_entries_boots_the_first_one(
    suite: str, kind: str, images: Mapping[str, Path], tmp_path: Path
) -> None:
    host = GrubHost(suite, kind, "ext4")
    host.put_on_trial(**{TRIAL.decode(): b"not there yet", FALLBACK.decode(): b"nor there"})
    machine = start(tmp_path, host, images[suite])
    # By its own order it is the new one that comes first here.
    assert _play(machine, 1) == [("new", b"2")]


@pytest.mark.parametrize(("suite", "file_system"), [("trixie", "ext4"), ("trixie", "fat"), ("forky", "ext4")])
def test_a_disk_that_takes_no_write(suite: str, file_system: str, images: Mapping[str, Path], tmp_path: Path) -> None:
    host = GrubHost(suite, "uki", file_system)
    host.put_on_trial()
    machine = start(tmp_path, host, images[suite])
    assert machine.boot(read_only=True) == ["old"]
    assert machine.variables()[TRIES] == b"3"
    assert _play(machine, 1) == [("new", b"2")]


@pytest.mark.parametrize("suite", ["trixie", "forky"])
def test_titles_with_angle_brackets_and_quotes(suite: str, images: Mapping[str, Path], tmp_path: Path) -> None:
    host = GrubHost(suite, "uki", "ext4", titles=('a >> "b": (aaaa)', "it's > 'old' \\ {x}; #: (bbbb)"))
    host.put_on_trial(1, allowed=1)
    machine = start(tmp_path, host, images[suite])
    assert _play(machine, 2) == [("new", b"0"), ("old", b"0")]


@pytest.mark.parametrize("suite", ["trixie", "forky"])
def test_names(suite: str, images: Mapping[str, Path], tmp_path: Path) -> None:
    questions = [(titles, value) for titles, value, _place in ANSWERS]
    assert ask_names(tmp_path, images[suite], suite, questions) == [place for _titles, _value, place in ANSWERS]


def _block(text: bytes, size: int = 1024) -> bytes:
    return (GRUBENV_HEADER + text).ljust(size, b"#")


# Whether ``save_env`` succeeds; on ext4 zeros are a hole, since mkfs makes one of them.
STATES: dict[str, tuple[bytes | None, bool]] = {
    "whole": (_block(b"x=1\n"), True),
    "without the variable": (_block(b""), True),
    "absent": (None, False),
    "empty": (b"", False),
    "zeros": (b"\0" * 1024, False),
    "no header": (b"x=1\n".ljust(1024, b"#"), False),
    "short, value of the same length": (_block(b"x=1\n", 29), True),
    "short, longer value": (_block(b"x=\n", 28), False),
    "full": (_block(b"y=" + b"z" * 996 + b"\n"), False),
    "full, value of the same length": (_block(b"x=1\ny=" + b"z" * 992 + b"\n"), True),
    "of two blocks": (_block(b"x=1\n", 8192), True),
}


@pytest.mark.parametrize("file_system", ["ext4", "fat"])
@pytest.mark.parametrize("suite", ["trixie", "forky"])
def test_which_environment_blocks_are_written(
    suite: str, file_system: str, images: Mapping[str, Path], tmp_path: Path
) -> None:
    host = GrubHost(suite, "uki", file_system)
    names = [f"s{number}.env" for number in range(len(STATES))]
    for name, (raw, _wanted) in zip(names, STATES.values(), strict=True):
        host.files[f"{GRUB}/{name}"] = raw
    wanted = [wanted for _raw, wanted in STATES.values()]
    if file_system == "ext4":
        # A link is followed on the same file system; an absolute one from its root, which is not the system's.
        host.files["boot/real.env"] = _block(b"x=1\n")
        host.links |= {
            f"{GRUB}/near.env": "../real.env",
            f"{GRUB}/far.env": "/boot/real.env",
            f"{GRUB}/no.env": "/no.env",
        }
        names += ["near.env", "far.env", "no.env"]
        wanted += [True, True, False]
    found = ask_save_env(tmp_path, images[suite], host, names)
    labels = [*STATES, "near link", "absolute link", "link to nothing"]
    assert dict(zip(labels, found, strict=False)) == dict(zip(labels, wanted, strict=False))
