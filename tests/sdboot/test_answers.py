"""What systemd-boot answered in a machine (answers.json), against the loader's record, its rule, and the lab's loader.

``test_ask_systemd_boot.py`` asks again.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sdboot.questions import OLD, QUESTIONS, TRIAL, make_entries
from sdboot.record import ANSWERS

from bootc_fast import lab
from bootc_fast.boot.loaders import systemd_boot
from bootc_fast.boot.loaders.entry import parse_entry
from bootc_fast.boot.loaders.order import sort_entries
from bootc_fast.boot.loaders.override import find_default

if TYPE_CHECKING:
    from sdboot.questions import Question

LOADERS = json.loads(ANSWERS.read_text())["loaders"]
_PROGRAM = {"linux": "/trial.efi"}
_RENAMED = re.compile(r"\+(\d+)(?:-(\d+))?\.conf")


@dataclass(frozen=True)
class _Variables:
    """Of the boot loader interface, as a question has them."""

    info: str
    entry_default: str | None
    entry_oneshot: str | None
    features: int
    image_path: None = None
    entry_last_booted: None = None
    entry_preferred: None = None
    unread: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()


_BASE = {"counts linux", "counts efi", "counts uki", "counts down", "at 0, default name", "counted, no program"}


def test_every_version_was_asked_the_base_and_one_everything() -> None:
    versions = {int(info.split()[1].split(".")[0].split("-")[0]): answers for info, answers in LOADERS.items()}
    assert {*range(252, 259), 260, 262} <= set(versions)
    assert set(versions[257]) == set(QUESTIONS)
    for info, answers in LOADERS.items():
        assert _BASE <= set(answers) <= set(QUESTIONS), info


@pytest.mark.parametrize("info", LOADERS)
def test_the_record_says_how_this_version_counts(info: str) -> None:
    answers, record = LOADERS[info], systemd_boot.find_counting(info)
    for key in ("linux", "efi", "uki"):
        (row,) = answers[f"counts {key}"]
        is_counted = (row["starts"], "path" in row, row["trial"]) == ("trial", True, "+2-1.conf")
        assert is_counted is (key.encode() in record.keys), (key, row)
    assert record.has_counters_in_ids is ("+" in answers["counts linux"][0]["selected"])
    assert record.needs_power_cycle is (answers["counted, no program"][0]["starts"] == "firmware")
    is_shown = systemd_boot.find_version_without_uki_key(info) is None
    assert is_shown is (answers["counts uki"][0]["starts"] == "trial")


@pytest.mark.parametrize("info", LOADERS)
def test_the_path_is_the_name_after_the_rename_and_a_rename_takes_new_slots(info: str) -> None:
    (row,) = LOADERS[info]["counts linux"]
    assert row["path"] == "\\loader\\entries\\TRIAL+2-1.conf"
    # 25 characters: two slots with 13 each, and the short name's.
    assert row["slots"] == "+3"
    assert [one["slots"] for one in LOADERS[info]["counts down"]] == ["+3", "+3", "+0", "+0"]


def _play(info: str, question: Question) -> list[tuple[str, str]]:
    """What starts at each boot, and the trial's name afterwards, by the product's rule."""
    record = systemd_boot.find_counting(info)
    entries = {name: text.encode() for name, text in make_entries(question).items()}
    oneshot, rows = question.variables.get("LoaderEntryOneShot"), []
    features = 1 << 19 if int(re.findall(r"\d+", info)[0]) >= 260 else 0
    for _ in range(question.boots):
        variables = _Variables(info, question.variables.get("LoaderEntryDefault"), oneshot, features)
        read = [parse_entry(name.encode(), text, known=()) for name, text in entries.items()]
        is_there = question.program != "missing"
        read = [one for one in read if is_there or one.linux != b"/trial.efi"]
        shown = sort_entries(read, systemd_boot.RULE)
        if record.keys and b"uki" not in record.keys:
            shown = [one for one in shown if b"\nuki " not in one.raw]
        overrides = systemd_boot.RULE.collect_overrides(question.settings.encode(), variables)
        chosen = find_default(shown, systemd_boot.RULE, overrides).entry
        assert chosen is not None
        who = (chosen.title or b"").decode()
        name = chosen.file_name.decode()
        counters = _RENAMED.search(name)
        if counters is not None and question.key.encode() in record.keys:
            left, done = int(counters[1]), int(counters[2] or 0)
            entries[_RENAMED.sub(f"+{max(left - 1, 0)}-{done + 1}.conf", name)] = entries.pop(name)
        cannot_start = who == "trial" and (question.program in {"returns", "no program"} or question.lines)
        if cannot_start:
            left = chosen.tries_left or 0
            who = "reset" if left and not record.needs_power_cycle else "firmware"
        oneshot = None
        trial = " ".join(one for one in sorted(entries) if one.startswith(TRIAL)).replace(TRIAL, "")
        rows.append((who, trial))
    return rows


@pytest.mark.parametrize("info", LOADERS)
def test_the_rule_says_what_started(info: str) -> None:
    """Of versions whose ids have counters the rule knows the other form only: it is told which questions that are."""
    wrong = {}
    for key, question in QUESTIONS.items():
        if question.image or key not in LOADERS[info]:
            continue
        told = [(row["starts"], row["trial"]) for row in LOADERS[info][key]]
        if _play(info, question) != told:
            wrong[key] = (_play(info, question), told)
    by_name = {key for key in wrong if key.startswith(("at 0, ", "one-shot "))}
    if systemd_boot.find_counting(info).has_counters_in_ids:
        assert set(wrong) == by_name, wrong
        assert by_name
    else:
        assert wrong == {}


@pytest.mark.parametrize("info", [one for one in LOADERS if not systemd_boot.find_counting(one).has_counters_in_ids])
def test_the_labs_loader_renames_as_the_real_one(tmp_path: Path, info: str) -> None:
    host = lab.make_host(tmp_path / "h")
    entries = host.boot_dir / "loader/entries"
    (first,) = entries.glob("*.conf")
    first.rename(first.with_name(f"{OLD}.conf"))
    (entries / f"{TRIAL}+2.conf").write_text(
        (entries / f"{OLD}.conf").read_text().replace("sort-key bootc", "sort-key a")
    )
    for row in LOADERS[info]["counts down"]:
        bootup = lab.boot(host)
        who = "trial" if bootup.entry.startswith(TRIAL) else "old"
        names = [path.name.replace(TRIAL, "") for path in entries.glob(f"{TRIAL}*")]
        assert (who, names) == (row["starts"], [row["trial"]])
        assert host.read_efi_variable("LoaderEntrySelected") == row["selected"].replace("TRIAL", TRIAL).replace(
            "OLD", OLD
        )
        path = host.read_efi_variable("LoaderBootCountPath")
        assert path == (row["path"].replace("TRIAL", TRIAL) if "path" in row else None)
