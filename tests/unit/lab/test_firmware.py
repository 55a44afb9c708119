"""lab.firmware, lab.show, cli.cmd_lab: booting, and looking."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bootc_fast import lab
from bootc_fast.cli import main
from bootc_fast.errors import BootEntryError, InvalidStateError
from bootc_fast.machine.booted import read_booted
from bootc_fast.machine.host import open_host
from bootc_fast.types import BootType, Loader

ALL = [(loader, boot_type) for loader in Loader for boot_type in BootType]


def _publish_staged(host: lab.LabHost) -> None:
    """What a finalize ends in, by hand."""
    grub = host.boot_dir / "grub2"
    if (grub / "user.cfg.staged").exists():
        (grub / "user.cfg.staged").rename(grub / "user.cfg")
        return
    loader = host.boot_dir / "loader"
    (loader / "entries").rename(loader / "entries.old")
    (loader / "entries.staged").rename(loader / "entries")


@pytest.mark.parametrize(("loader", "boot_type"), ALL)
def test_the_loaders_first_entry_is_booted(tmp_path: Path, loader: Loader, boot_type: BootType) -> None:
    host = lab.make_host(tmp_path / "h", files={"a": "1"}, loader=loader, boot_type=boot_type)
    first = host.booted
    staged = lab.stage_files(host, {"a": "2"})
    assert lab.boot(host).digest == first
    _publish_staged(host)
    bootup = lab.boot(host)
    assert (bootup.digest, bootup.previous) == (staged, first)
    assert host.booted == staged
    assert (host.etc / "a").read_text() == "2"
    assert read_booted(open_host(host.root)).digest == staged


def test_a_boot_clears_what_a_reboot_clears(tmp_path: Path) -> None:
    host = lab.make_host(tmp_path / "h")
    lab.stage_files(host)
    (host.root / "run/reboot-required").touch()
    lab.boot(host)
    assert os.listdir(host.root / "run") == []
    assert host.read_efi_variable("LoaderEntrySelected") == "bootc_lab-1-1.conf"


def test_a_one_shot_counts_once(tmp_path: Path) -> None:
    host = lab.make_host(tmp_path / "h", files={"a": "1"})
    staged = lab.stage_files(host, {"a": "2"})
    _publish_staged(host)
    host.write_efi_variable("LoaderEntryOneShot", "bootc_lab-1-0.conf")
    assert lab.boot(host).digest != staged
    assert lab.boot(host).digest == staged


@pytest.mark.parametrize(
    ("victim", "boot_type", "error"),
    [
        ("efi/EFI/Linux/bootc_composefs-{}/initrd", BootType.BLS, BootEntryError),
        ("efi/EFI/Linux/bootc/bootc_composefs-{}.efi", BootType.UKI, BootEntryError),
        ("sysroot/composefs/images/{}", BootType.BLS, InvalidStateError),
    ],
)
def test_a_boot_that_would_fail_is_an_error_and_changes_nothing(
    tmp_path: Path, victim: str, boot_type: BootType, error: type[Exception]
) -> None:
    host = lab.make_host(tmp_path / "h", files={"a": "1"}, boot_type=boot_type)
    staged = lab.stage_files(host, {"a": "2"})
    (host.root / victim.format(host.booted)).unlink()
    before = host.booted
    with pytest.raises(error):
        lab.boot(host)
    assert host.booted == before
    assert staged in host.marker.read_text()


def test_a_uki_that_is_none_is_an_error(tmp_path: Path) -> None:
    host = lab.make_host(tmp_path / "h", boot_type=BootType.UKI)
    (host.esp / f"EFI/Linux/bootc/bootc_composefs-{host.booted}.efi").write_bytes(b"MZ, but no more")
    with pytest.raises(BootEntryError, match="no UKI"):
        lab.boot(host)


def test_a_foreign_default_is_an_error(tmp_path: Path) -> None:
    host = lab.make_host(tmp_path / "h")
    (host.esp / "loader/entries/memtest.conf").write_text("title Memtest\nefi /memtest.efi\nsort-key aaa\n")
    (host.esp / "memtest.efi").write_bytes(b"x")
    with pytest.raises(BootEntryError):
        lab.boot(host)


def test_no_entry_at_all_is_an_error(tmp_path: Path) -> None:
    host = lab.make_host(tmp_path / "h")
    (host.esp / "loader/entries/bootc_lab-1-1.conf").unlink()
    with pytest.raises(BootEntryError, match="nothing to boot"):
        lab.boot(host)


def test_the_command_line_creates_stages_edits_boots_and_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = str(tmp_path / "h")
    for argv in (["create", "--loader", "grub"], ["edit"], ["stage", "--download-only"], ["boot"], ["stage"]):
        assert main(["lab", argv[0], directory, *argv[1:]]) == 0
    capsys.readouterr()
    assert main(["lab", "show", directory, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["loader"] == "grub"
    assert [entry["next"] for entry in facts["entries"]] == [True]
    assert facts["staged"] in facts["deployments"]
    assert len(facts["staged_entries"]) == 2
    assert main(["lab", "show", directory]) == 0
    text = capsys.readouterr().out
    assert f"  {facts['booted'][:12]}…  booted\n" in text
    assert f"  > {facts['booted'][:12]}…  bls  bootc_lab-1-1.conf\n" in text


def test_errors_leave_the_command_line_with_their_exit_codes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["lab", "create", str(tmp_path)]) == 2
    assert main(["lab", "boot", str(tmp_path)]) == 2
    assert "holds no lab host" in capsys.readouterr().err
