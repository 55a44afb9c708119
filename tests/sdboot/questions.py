"""What is asked of systemd-boot about counting boots, and in which words it answers."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sdboot.machine import Machine, Setup, make_program
from secureboot.files import build_pe

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sdboot.machine import Boot

# mov rax, EFI_LOAD_ERROR; ret
_RETURNS = b"\x48\xb8" + struct.pack("<Q", 0x8000000000000001) + b"\xc3"
OLD, TRIAL = "bootc_fedora-40-1", "bootc_fedora-41-1"
_GLOB = "bootc_fedora-41*"
Answer = list[dict[str, str]]


@dataclass(frozen=True)
class Question:
    """One disk, and how often it is booted.

    Attributes:
        counter: Of the trial's name; what comes after the name.
        key: What names its program.
        lines: Of its entry besides.
        program: What is there: ``works``, ``returns`` an error, is ``no program``, is ``missing``.
        settings: Of loader.conf.
        variables: EFI variables.
        old: The old entry's counter.
        trial_first: Its place before the old one.
        image: The trial has no entry, it is a UKI in EFI/Linux.
        boots: How many.
    """

    counter: str = "+3-0"
    key: str = "linux"
    lines: str = ""
    program: str = "works"
    settings: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    old: str = ""
    trial_first: bool = True
    image: bool = False
    boots: int = 1


_LEFT_0 = "+0-3"
# With what an override names the trial's entry, and what is written then.
_NAMES = {"name": f"{TRIAL}.conf", "counted name": f"{TRIAL}+0-3.conf", "glob": _GLOB}
_AT_3 = {**_NAMES, "counted name": f"{TRIAL}+3-0.conf"}


def _make_questions() -> dict[str, Question]:
    found = {f"counts {key}": Question(key=key) for key in ("linux", "efi", "uki")}
    found["counts image"] = Question(image=True)
    found["counts down"] = Question(counter="+2", boots=4)
    found["both at 0"] = Question(counter=_LEFT_0, old=_LEFT_0, boots=2)
    found["at 0"] = Question(counter=_LEFT_0)
    for how, value in _NAMES.items():
        found[f"at 0, default {how}"] = Question(counter=_LEFT_0, settings=f"default {value}")
        found[f"at 0, preferred {how}"] = Question(counter=_LEFT_0, settings=f"preferred {value}")
        found[f"at 0, LoaderEntryDefault {how}"] = Question(counter=_LEFT_0, variables={"LoaderEntryDefault": value})
    for how, value in _AT_3.items():
        found[f"one-shot {how}"] = Question(
            trial_first=False, variables={"LoaderEntryOneShot": value}, boots=2 if how == "name" else 1
        )
    found["one-shot uncounted"] = Question(
        counter="", trial_first=False, variables={"LoaderEntryOneShot": f"{TRIAL}.conf"}, boots=2
    )
    found["one-shot uncounted efi"] = Question(
        counter="", key="efi", trial_first=False, variables={"LoaderEntryOneShot": f"{TRIAL}.conf"}
    )
    found["one-shot, no program"] = Question(
        counter="",
        trial_first=False,
        program="no program",
        variables={"LoaderEntryOneShot": f"{TRIAL}.conf"},
        boots=2,
    )
    found["default old"] = Question(settings=f"default {OLD}.conf")
    for program in ("no program", "returns", "missing"):
        found[f"counted, {program}"] = Question(counter="+1-2", program=program, boots=2)
        found[f"uncounted, {program}"] = Question(counter="", program=program)
    for line in ("initrd", "devicetree"):
        found[f"counted, {line} missing"] = Question(counter="+1-2", lines=f"{line} /nothing\n", boots=2)
    return found


QUESTIONS = _make_questions()


def ask(question: Question, loader: Path, work: Path) -> Answer:
    """Ask; one row for each boot.

    Returns:
        ``starts``: ``old``, ``trial``, or where the boot ended (``reset``, ``firmware``); ``trial name``: what the
        trial's entry is called afterwards, without what all names have; ``slots``: how much longer the directory is;
        and of the loader's variables ``selected``, ``path`` and ``shows`` where they are there.
    """
    machine = Machine(work, loader, _make_setup(question, work))
    rows, slots = [], machine.look()[1]
    for _ in range(question.boots):
        boot = machine.boot()
        rows.append(_describe(boot, slots))
        slots = boot.slots
    return rows


def make_entries(question: Question) -> dict[str, str]:
    """The boot entries of a question, by name."""
    ranks = ("a", "b") if question.trial_first else ("b", "a")
    old = f"title old\nversion 40\nsort-key {ranks[1]}\nlinux /old.efi\n"
    trial = f"title trial\nversion 41\nsort-key {ranks[0]}\n{question.key} /trial.efi\n{question.lines}"
    entries = {f"{OLD}{question.old}.conf": old}
    return entries if question.image else {**entries, f"{TRIAL}{question.counter}.conf": trial}


def _make_setup(question: Question, work: Path) -> Setup:
    files = {"old.efi": make_program("old", work)}
    program = {
        "works": make_program("trial", work),
        "returns": build_pe(_RETURNS),
        "no program": b"no program\n" * 100,
    }.get(question.program)
    if question.image:
        sections = ((".osrel", b"ID=a\nNAME=a\nVERSION_ID=41\n"), (".cmdline", b"x\0"), (".linux", b"kernel"))
        files[f"EFI/Linux/{TRIAL}{question.counter}.efi"] = make_program("trial", work, *sections)
    elif program is not None:
        files["trial.efi"] = program
    return Setup(make_entries(question), files, question.settings, question.variables)


def _describe(boot: Boot, slots: int) -> dict[str, str]:
    row = {"starts": boot.said.get("BOOTED", "") if boot.ended == "program" else boot.ended}
    row["trial"] = " ".join(name for name in boot.entries if name.startswith(TRIAL)).replace(TRIAL, "")
    row["slots"] = f"+{boot.slots - slots}"
    for name, variable in (
        ("selected", "LoaderEntrySelected"),
        ("path", "LoaderBootCountPath"),
        ("shows", "LoaderEntries"),
        ("one-shot", "LoaderEntryOneShot"),
    ):
        if variable in boot.said:
            row[name] = boot.said[variable].replace(TRIAL, "TRIAL").replace(OLD, "OLD")
    return row
