"""Kernel arguments changed in the booted entry after staging: said by status, dry run and finalize."""

from __future__ import annotations

from typing import TYPE_CHECKING

import flowkit
import pytest
from unit.flows.test_rollback_oddities import Updated

from bootc_fast import lab
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from pathlib import Path

LOST = "kernel arguments that the booted entry got after it was booted are not in the new one: "
BACK = "kernel arguments that were taken out of the booted entry come back in the new one: "


def _change(updated: Updated, digest: str, old: str, new: str) -> None:
    directories = (updated.entries, updated.entries.with_name("entries.staged"))
    for path in [path for directory in directories if directory.exists() for path in directory.glob("*.conf")]:
        text = path.read_text()
        if f"composefs={digest}" in text:
            path.write_text(text.replace(old, new))


def _staged(directory: Path, capsys: pytest.CaptureFixture[str], loader: Loader) -> tuple[Updated, str]:
    updated = Updated(directory / "h", loader, BootType.BLS, capsys)
    return updated, lab.stage_files(updated.host, version="44", os_id="fedora")


def _told(updated: Updated) -> list[str]:
    """What all three say, each the same."""
    found = []
    for words in (("status",), ("finalize", "--dry-run"), ("finalize",)):
        _, out, err = flowkit.run(updated.capsys, words[0], "--root", updated.host.root, *words[1:])
        found.append(
            [line.removeprefix("warning: ").strip() for line in (out + err).splitlines() if "kernel arg" in line]
        )
    assert found[0] == found[1] == found[2]
    return found[0]


@pytest.mark.parametrize("loader", [Loader.SYSTEMD_BOOT, Loader.GRUB])
def test_added_arguments_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader) -> None:
    updated, _ = _staged(tmp_path, capsys, loader)
    _change(updated, updated.booted, "options ", 'options\t  mitigations=off "dyndbg=file a +p"  console=ttyS0\t')
    (told,) = _told(updated)
    assert told.startswith(f"{LOST}mitigations=off ")
    assert "console=ttyS0; add them to " in told


def test_what_the_staged_entry_has_too_is_not_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    updated, staged = _staged(tmp_path, capsys, Loader.SYSTEMD_BOOT)
    _change(updated, updated.booted, "options ", "options quiet quiet ")
    _change(updated, staged, "options ", "options quiet ")
    (told,) = _told(updated)
    assert told.startswith(f"{LOST}quiet; "), "once more than in the new one"


def test_arguments_taken_out_that_come_back_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    updated, staged = _staged(tmp_path, capsys, Loader.SYSTEMD_BOOT)
    cmdline = updated.host.root / "proc/cmdline"
    cmdline.write_text(cmdline.read_text().strip() + " nomodeset\n")
    _change(updated, staged, "options ", "options nomodeset ")
    assert _told(updated) == [f"{BACK}nomodeset"]


def test_nothing_is_said_of_what_differs_in_every_boot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    updated, _ = _staged(tmp_path, capsys, Loader.GRUB)
    cmdline = updated.host.root / "proc/cmdline"
    cmdline.write_text(f"BOOT_IMAGE=(hd0,gpt2)/x {cmdline.read_text().strip()} initrd=\\y tuned=1\n")
    _change(updated, updated.booted, "options ", "options BOOT_IMAGE=/z ")
    assert _told(updated) == []
