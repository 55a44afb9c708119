"""systemd-boot with XBOOTLDR: entries and kernels there, the loader and its settings on the ESP, both are shown."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import flowkit
import pytest
from loader_emulation import boot_next
from unit.flows.test_rollback_oddities import Updated

from bootc_fast import lab
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from pathlib import Path


class Extended(Updated):
    """A host that was updated once, and then got an XBOOTLDR partition at /boot."""

    def __init__(self, directory: Path, boot_type: BootType, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(directory, Loader.SYSTEMD_BOOT, boot_type, capsys)
        self.host.write_efi_variable("LoaderInfo", "systemd-boot 258.1")

    def move(self) -> None:
        """Move what bootc has there to the XBOOTLDR partition."""
        for name in ("loader/entries", "loader/entries.staged", "EFI/Linux"):
            source, target = self.host.esp / name, self.host.root / "boot" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.exists():
                shutil.rmtree(target, ignore_errors=True)
                shutil.move(source, target)
        (self.host.esp / "EFI/systemd").mkdir(parents=True, exist_ok=True)

    @property
    def entries(self) -> Path:
        moved = self.host.root / "boot/loader/entries"
        return moved if moved.exists() else self.host.esp / "loader/entries"

    def next_boot(self) -> str | None:
        """What the tests' own loader boots, with the files of both partitions."""
        trees = [flowkit.read_tree(path) for path in (self.host.root / "boot", self.host.esp)]
        files = {path.decode(): raw for tree in trees for path, raw in tree.items()}
        found = {name: self.host.read_efi_variable(name) for name in ("LoaderEntryDefault", "LoaderEntryOneShot")}
        return boot_next(self.host.loader, files, {name: one for name, one in found.items() if one is not None}).digest

    def run(self, *words: str) -> tuple[int, str, str]:
        return flowkit.run(self.capsys, words[0], "--root", self.host.root, *words[1:])


@pytest.fixture(params=[BootType.BLS, BootType.UKI])
def extended(tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Extended:
    return Extended(tmp_path / "h", request.param, capsys)


def _find(extended: Extended, digest: str) -> str:
    return next(path.name for path in extended.entries.iterdir() if digest in path.read_text())


def test_finalize_and_rollback_work_on_the_partition_that_has_the_entries(extended: Extended) -> None:
    esp = extended.host.esp
    staged = lab.stage_files(extended.host, version="41", os_id="fedora")
    extended.move()
    (esp / "loader/loader.conf").write_text(f"timeout 3\ndefault {_find(extended, extended.booted)}\n")
    before = {path: raw for path, raw in flowkit.read_tree(esp).items() if b"loader.conf" not in path}
    code, out, err = extended.run("status")
    assert (code, "XBOOTLDR" in err + out or "taking GRUB" not in out + err) == (0, True)
    code, _, err = extended.run("finalize")
    assert (code, err) == (0, "")
    assert extended.next_boot() == staged
    # `default` named the old one, and moved along on the ESP.
    assert (esp / "loader/loader.conf").read_text() == f"timeout 3\ndefault {_find(extended, staged)}\n"
    for wanted in (extended.booted, staged, extended.booted):
        code, _, err = extended.run("rollback", "--to", wanted)
        assert (code, err) == (0, "")
        assert extended.next_boot() == wanted
    assert {path: raw for path, raw in flowkit.read_tree(esp).items() if b"loader.conf" not in path} == before


def test_an_efi_variable_is_obeyed_by_loader_info_and_not_by_the_place(extended: Extended) -> None:
    extended.move()
    extended.host.write_efi_variable("LoaderEntryDefault", _find(extended, extended.booted))
    code, _, err = extended.run("rollback")
    assert (code, err) == (0, "")
    assert extended.next_boot() == extended.previous


def test_entries_of_both_partitions_are_ranked(extended: Extended) -> None:
    extended.move()
    directory = extended.host.esp / "loader/entries"
    directory.mkdir(parents=True, exist_ok=True)
    (extended.host.esp / "other.efi").write_bytes(b"MZ")
    path = directory / "first.CONF"
    path.write_bytes(b"title Other\r\nsort-key !\r\nefi /other.efi\r\n")
    code, out, _ = extended.run("rollback")
    assert (code, "Next boot: first.CONF, not of this host" in out.splitlines()[-1]) == (7, True)
    path.write_bytes(b"title Other\nsort-key !\nefi /gone.efi\n")
    assert extended.run("rollback", "--to", "booted")[0] == 0, "what is not on its partition is not shown"
    assert os.listdir(directory) == ["first.CONF"]


def test_old_entries_of_ours_on_the_esp_are_outranked_and_stay(extended: Extended) -> None:
    """bootc moved to XBOOTLDR, and what it had on the ESP is still there: the loader shows it."""
    old = flowkit.read_tree(extended.host.esp / "loader/entries")
    saved = extended.host.root / "saved"
    shutil.copytree(extended.host.esp, saved)
    extended.move()
    shutil.copytree(saved, extended.host.esp, dirs_exist_ok=True)
    assert extended.run("rollback")[0] == 0
    assert extended.next_boot() == extended.previous
    assert flowkit.read_tree(extended.host.esp / "loader/entries") == old


def test_without_an_entry_of_the_booted_deployment_the_esp_stays_the_place(extended: Extended) -> None:
    boot = extended.host.root / "boot/loader/entries"
    boot.mkdir(parents=True)
    (boot / "other.conf").write_bytes(b"title Other\nsort-key zz\nlinux /k\n")
    (extended.host.root / "boot/k").write_bytes(b"k")
    before = flowkit.read_tree(extended.host.root / "boot")
    assert extended.run("rollback")[0] == 0
    assert extended.next_boot() == extended.previous
    assert flowkit.read_tree(extended.host.root / "boot") == before
    extended.host.write_efi_variable("LoaderEntryDefault", "other.conf")
    code, out, _ = extended.run("rollback")
    assert (code, "Next boot: other.conf" in out.splitlines()[-1]) == (7, True)
