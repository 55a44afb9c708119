"""Every recording that is kept: power is cut everywhere, and readers and loaders of the tests' own look at the rest."""

from __future__ import annotations

import functools
import os
import random
from typing import TYPE_CHECKING

import pytest
from powercut.configurations import CONFIGURATIONS
from powercut.cuts import cut_everywhere
from powercut.judge import Judge, States
from powercut.recording import Flush, Mark, Recording, Write, load
from powercut.replay import RECORDINGS, judged_states, replay
from powercut.rerun import choose, judge_repairs, read_staged

from bootc_fast.errors import FileSystemError, TrialFailedError

if TYPE_CHECKING:
    from pathlib import Path

# `make powercut` takes 200 random subsets of each epoch, and a seed of its own.
RANDOMS = int(os.environ.get("BOOTC_FAST_POWERCUT_RANDOMS", "10"))
SEED = int(os.environ.get("BOOTC_FAST_POWERCUT_SEED", "1"))
REPAIRS = 6
# `loader` has no slot for one more name: it must not grow. A fallback is told. What `fsck.fat` has to mend is.
CODES = {"fill": (7,), "fallback": (TrialFailedError.exit_code,), "doctor": (FileSystemError.exit_code,)}
# The boot loader's own writes, in what we have made, are ours to answer for.
OURS = [name for name, one in CONFIGURATIONS.items() if one.who != "bootc"]
PEER = [name for name, one in CONFIGURATIONS.items() if one.who == "bootc"]
FIRMWARE = [name for name, one in CONFIGURATIONS.items() if one.who == "firmware"]
REPAIRED = [name for name, one in CONFIGURATIONS.items() if name.startswith("doctor-bootc-")]


@functools.cache
def all_recordings() -> dict[str, Recording]:
    return {name: one for path in sorted(RECORDINGS.glob("*.xz")) for name, one in load(path).items()}


def test_every_configuration_is_recorded_as_it_is() -> None:
    found = {name: one.facts for name, one in all_recordings().items()}
    assert found.keys() == CONFIGURATIONS.keys()
    for name, one in CONFIGURATIONS.items():
        assert (found[name]["size_mib"], tuple(found[name]["steps"])) == (one.size_mib, one.steps)


@pytest.mark.parametrize("name", OURS)
def test_whenever_power_fails_an_old_or_a_new_default_boots_whole(name: str) -> None:
    recording = all_recordings()[name]
    # A journal makes long epochs: of its states every fourth, which `make powercut` looks at all of.
    result = replay(recording, randoms=RANDOMS, seed=SEED, every=1 if recording.facts["options"] else 4)
    assert result.states
    assert not result.bad, f"seed {SEED}, {RANDOMS} random subsets\n{result.describe()}"
    said = all_recordings()[name].facts["said"]
    codes = {code for code, _text in said.values()}
    assert codes <= {0, *CODES.get(name[: name.find("-")], ())}, said


@pytest.mark.parametrize("name", [name for name in OURS if CONFIGURATIONS[name].options])
def test_what_fsck_makes_of_a_good_state_is_good(name: str, tmp_path: Path) -> None:
    """systemd-fsck runs ``fsck.fat -a`` at the next boot; states of every class, those with something shared first."""
    recording = all_recordings()[name]
    again = judge_repairs(recording, choose(recording, REPAIRS, randoms=5, seed=SEED), tmp_path / "image")
    assert again.repairs
    assert not again.spoiled, again.describe()


@pytest.mark.parametrize("name", PEER)
def test_the_same_judge_finds_what_the_sequence_without_barriers_loses(name: str) -> None:
    recording = all_recordings()[name]
    result = replay(recording, randoms=RANDOMS, seed=SEED, every=1 if recording.facts["options"] else 8)
    lost = {"no entry of ours", "user.cfg is missing or cannot be read", "user.cfg is torn"}
    assert result.bad > result.states // 10
    assert lost.intersection(result.reasons)


def test_there_are_ten_thousand_states() -> None:
    count = 0
    for name in OURS:
        rng = random.Random(SEED)  # noqa: S311
        count += sum(1 for _ in cut_everywhere(all_recordings()[name].events, rng, RANDOMS))
    assert count >= 10_000


def write(sector: int, text: bytes) -> Write:
    return Write(sector, text.ljust(512, b"\0"))


def test_cuts_are_all_subsets_since_the_last_flush() -> None:
    one, two, three = write(1, b"one"), write(2, b"two"), write(1, b"three")
    events = [Mark("start"), one, two, Flush(), three, Mark("end")]
    cuts = list(cut_everywhere(events, random.Random(1), 5))  # noqa: S311
    found = {(cut.step, cut.is_done, tuple(sorted(cut.changed.items()))) for cut in cuts}
    both = ((1, one.data), (2, two.data))
    assert found == {
        ("start", True, ()),
        ("start", False, ()),
        ("start", False, both[:1]),
        ("start", False, both[1:]),
        ("start", False, both),
        ("end", True, both),
        ("end", True, ((1, three.data), both[1])),
    } | {("start", False, ((1, three.data), both[1]))}


def test_a_damaged_foreign_file_and_a_lost_entry_are_bad(tmp_path: Path) -> None:
    recording = all_recordings()["long-512"]
    states = States(recording)
    judge = Judge(recording.facts)
    whole = states.read({})
    assert not judge.judge(whole).problems
    assert judge.judge(whole).boots == "old"
    for path, problem in (
        ("EFI/other/o.efi", "foreign EFI/other/o.efi is missing or differs"),
        (next(path for path in whole.files if "/1-long" in path), "foreign entries are not in their order"),
    ):
        damaged = type(whole)({**whole.files, path: b"x"}, (), ())
        assert problem in judge.judge(damaged).problems
    kernels = {path: None if path.endswith("vmlinuz") else raw for path, raw in whole.files.items()}
    assert any("default: kernel" in problem for problem in judge.judge(type(whole)(kernels, (), ())).problems)


@pytest.mark.parametrize("name", [name for name in OURS if name.startswith("stage-")])
def test_states_that_are_taken_up_have_all_that_bootc_staged(name: str) -> None:
    recording = all_recordings()[name]
    states = States(recording)
    staged = read_staged(recording, states)
    assert {path.rpartition("/")[2] for path in staged} >= {"vmlinuz", "initrd"}
    assert sum(path.startswith("loader/entries.staged/") for path in staged) == 2
    every = choose(recording, 100_000, randoms=5, seed=SEED)
    old = [cut for cut, verdict in every if verdict.boots == "old"]
    assert old
    for cut in old:
        found = states.read(cut.changed).files
        assert all(found.get(path) == raw for path, raw in staged.items()), cut.name
    lost = [
        cut for cut, verdict in judged_states(recording, randoms=5, seed=SEED)
        if cut.step == "stage" and cut.epoch and verdict.boots == "old"
        and any(states.read(cut.changed).files.get(path) != raw for path, raw in staged.items())
    ]  # fmt: skip
    assert lost, "no cut loses what is on its way: there is nothing to leave out"


@pytest.mark.parametrize("name", FIRMWARE)
def test_the_loader_itself_starts_what_the_judge_says_at_each_try(name: str) -> None:
    """In OVMF: three starts of the new deployment, then the old one."""
    recording = all_recordings()[name]
    facts, states = recording.facts, States(recording)
    judge, changed, boots = states.make_judge(), dict[int, bytes](), list[str]()
    for event in recording.events:
        match event:
            case Write(sector, data):
                changed[sector] = data
            case Mark():
                boots.append(judge.judge(states.read(changed)).boots or "none")
            case _:
                pass
    assert [{facts["old"]: "old", facts["new"]: "new"}[facts["tried"][step]] for step in facts["steps"]] == boots[:-1]
    assert boots == ["new", "new", "new", "old", "old"]


def test_the_starts_of_repairs_are_cuts_that_boot_nothing_and_others() -> None:
    starts = [all_recordings()[name].facts for name in REPAIRED]
    dead = [facts for facts in starts if facts["endured"]]
    assert len(dead) > len(starts) // 2
    assert any("no entry of ours" in facts["endured"] for facts in dead)
