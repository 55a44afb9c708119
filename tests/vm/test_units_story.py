"""The units in a machine: isolated targets, an ESP that is an expired automount or not mounted, and the sandboxes.

Nothing is emulated: systemd isolates, expires, and puts the program into what the unit files say.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from vm.story import SYSTEMD_BOOT, Story, add_console, play, prepare_host, prepare_tree

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.vm, pytest.mark.machines, pytest.mark.timeout(3600)]


def play_story(work: Path) -> Story:
    """Isolate, edit and go down twice; see guest_units.py."""
    host = prepare_host(work, prepare_tree(work, guest="guest_units"), loader="systemd-boot", boot_type="bls")
    add_console(host.lab / "efi/loader")
    files = {"EFI/BOOT/BOOTX64.EFI": host.root / SYSTEMD_BOOT, "loader/loader.conf": "timeout 0\n"}
    return play(host, work, esp_files=files, boots=3)


def _verity(said: dict[str, object], slot: str) -> str:
    assert said["code"] == 0, said
    found = json.loads(str(said["stdout"]))["status"][slot]["composefs"]["verity"]
    assert isinstance(found, str)
    return found


@pytest.mark.parametrize(("number", "target"), [(0, "rescue"), (1, "emergency")])
def test_isolating_a_target_finalizes_nothing_while_the_system_stays_up(story: Story, number: int, target: str) -> None:
    isolated = story.facts(number, "isolated")
    assert isolated["multi_user"]["stdout"] == "inactive\n", (target, isolated)  # type: ignore[index]
    assert isolated["unit"]["stdout"] == "active\n", (target, isolated)  # type: ignore[index]
    assert isolated["marker_is_there"] is True


def test_what_is_edited_after_isolating_is_there_after_the_update(story: Story) -> None:
    assert story.second in str(story.phase(1)["cmdline"]), story.phase(1)["journal"]
    assert story.phase(1)["motd"] == "edited in rescue.target\n"
    assert story.first in str(story.phase(2)["cmdline"]), story.phase(2)["journal"]
    assert story.phase(2)["motd"] == "edited in emergency.target\n"


@pytest.mark.parametrize(("number", "point"), [(0, "/efi"), (1, "/boot")])
def test_an_automounted_esp_that_has_expired_before_shutdown_is_no_obstacle(
    story: Story, number: int, point: str
) -> None:
    automount = story.facts(number, "automount")
    assert (automount["inside"], automount["after"]) == (["autofs", "vfat"], ["autofs"])
    assert {"EFI", "loader"} <= set(automount["names"])  # type: ignore[call-overload]
    assert _verity(story.facts(number + 1, "json"), "booted") == (story.second, story.first)[number]


def test_an_esp_that_nobody_has_mounted_is_no_obstacle(story: Story) -> None:
    """At the last boot nothing asks for the ESP, and status tells what is on it."""
    assert " vfat " not in str(story.phase(2)["mounts"])
    assert json.loads(str(story.facts(2, "json")["stdout"]))["bootcFast"]["nextBoot"]["verity"] == story.first


def test_every_command_says_under_the_sandbox_what_it_says_without(story: Story) -> None:
    everything = story.phase(1)["everything"]
    assert isinstance(everything, list)
    assert len(everything) == 8
    for one in everything:
        assert one["bare"]["code"] == 0, one
        bare, inside = one["bare"], one["inside"]
        assert (inside["code"], inside["stderr"]) == (bare["code"], bare["stderr"]), one["argv"]
        assert _without_times(inside["stdout"]) == _without_times(bare["stdout"]), one["argv"]


def _without_times(text: str) -> str:
    return re.sub(r'"[a-z_.]+": \d+(\.\d+(e-\d+)?|e-\d+),?|in \d+(\.\d+)? m?s', "", text)


def test_boot_complete_makes_one_entry_of_two_within_its_sandbox_and_the_default_moves_along(story: Story) -> None:
    duplicate = story.facts(1, "duplicate")
    names = [name for name, text in duplicate["before"].items() if story.second in text]  # type: ignore[attr-defined]
    assert len(names) == 2
    left = [name for name, text in duplicate["after"].items() if story.second in text]  # type: ignore[attr-defined]
    assert len(left) == 1, duplicate
    journal = str(duplicate["journal"]["stdout"])  # type: ignore[index]
    assert "had 2 boot entries, as a cut leaves them: now it has one" in journal
    assert "EFI variable" not in journal, journal
    assert duplicate["default"] in left, (duplicate["default"], left)
    assert duplicate["restart"]["code"] == 0  # type: ignore[index]
    document = json.loads(str(duplicate["json"]["stdout"]))  # type: ignore[index]
    assert document["bootcFast"]["nextBoot"]["verity"] == story.second


@pytest.mark.parametrize("name", ["finalize", "boot_complete"])
def test_the_sandbox_is_what_the_unit_asks_for_and_lets_selinux_change_the_domain(story: Story, name: str) -> None:
    shown = dict(line.split("=", 1) for line in str(story.facts(1, name)["stdout"]).splitlines())
    assert shown["NoNewPrivileges"] == "no"
    assert shown["MemoryDenyWriteExecute"] == "yes"
    assert shown["ProtectProc"] == "invisible"
    assert set(shown["IPAddressDeny"].split()) == {"::/0", "0.0.0.0/0"}
    assert (shown["Result"], shown["ExecMainStatus"], shown["ActiveState"]) == ("success", "0", "active")


@pytest.mark.parametrize(
    ("unit", "bounding"),
    [
        # CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, LINUX_IMMUTABLE, SYS_RAWIO, SYS_ADMIN, MKNOD, SETFCAP,
        # MAC_ADMIN; of the other one DAC_OVERRIDE, LINUX_IMMUTABLE, SYS_RAWIO, SYS_ADMIN.
        ("bootc-fast-finalize-staged.service", {0, 1, 2, 3, 4, 9, 17, 21, 27, 31, 33}),
        ("bootc-fast-boot-complete.service", {1, 9, 17, 21}),
    ],
)
def test_a_process_in_the_sandbox_has_these_capabilities_and_may_gain_a_domain(
    story: Story, unit: str, bounding: set[int]
) -> None:
    shown = story.facts(1, "process")[unit]
    assert isinstance(shown, dict)
    rows = dict(line.split(":", 1) for line in str(shown["stdout"]).splitlines() if ":" in line)
    found = int(rows["CapBnd"], 16)
    assert {number for number in range(64) if found >> number & 1} == bounding
    assert (rows["NoNewPrivs"].strip(), rows["Seccomp"].strip()) == ("0", "2")


def test_no_unit_of_ours_failed_at_any_boot(story: Story) -> None:
    for number in range(3):
        assert "bootc-fast" not in str(story.facts(number, "failed")["stdout"])


def test_esp_is_a_clean_fat_afterwards(story: Story) -> None:
    assert story.esp_check == (0, "clean")
