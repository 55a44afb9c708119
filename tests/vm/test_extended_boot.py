"""XBOOTLDR with real systemd-boot: what is said to boot next boots; seconds a boot, with tiny programs as kernels."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import flowkit
import pytest
from unit.flows.test_extended_boot import Extended
from vm import tiny

from bootc_fast import lab
from bootc_fast.types import BootType

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]


def _list_entries(boot: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(boot.glob("loader/entries*/*.conf")):
        digest = re.search(r"composefs=\??([0-9a-f]{128})", path.read_text())
        if digest is not None:
            yield path, digest[1]


def _give_kernels(host: lab.LabHost) -> None:
    """Put a program that says which deployment it is in the place of each deployment's kernel."""
    boot = host.root / "boot"
    for path, digest in _list_entries(boot):
        home = f"/EFI/Linux/bootc_composefs-{digest}"
        parts = {"linux": ("vmlinuz", tiny.make_program(digest[:16])), "initrd": ("initrd", b"initrd")}
        text, hashed = path.read_text(), hashlib.sha256()
        for key, (name, content) in parts.items():
            text = re.sub(rf"(?m)^{key} .*$", f"{key} {home}/{name}", text)
            (boot / home[1:]).mkdir(parents=True, exist_ok=True)
            (boot / home[1:] / name).write_bytes(content)
            hashed.update(content)
        path.write_text(text)
        origin = host.state_dir(digest) / f"{digest}.origin"
        origin.write_text(re.sub(r"(?m)^digest *=.*$", f"digest = {hashed.hexdigest()}", origin.read_text()))


def _boot(extended: Extended, work: Path) -> str:
    disk = work / "disk.raw"
    tiny.make_disk(disk, extended.host.esp, extended.host.root / "boot")
    said = tiny.boot(work, disk)
    disk.unlink()
    return said


def _told(extended: Extended) -> str:
    """What status says boots next: a deployment as its program says it, else the entry's name."""
    found = json.loads(flowkit.run(extended.capsys, "status", "--json", "--root", extended.host.root)[1])
    boots = found["bootcFast"]["nextBoot"]
    return str(boots["verity"][:16] if boots["verity"] else boots["bootEntry"])


def test_what_is_said_to_boot_next_boots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extended = Extended(tmp_path / "h", BootType.BLS, capsys)
    staged = lab.stage_files(extended.host, version="41", os_id="fedora")
    extended.move()
    _give_kernels(extended.host)
    esp = extended.host.esp
    (esp / "EFI/BOOT").mkdir(parents=True, exist_ok=True)
    shutil.copy(tiny.SYSTEMD_BOOT, esp / "EFI/BOOT/BOOTX64.EFI")
    extended.host.write_efi_variable("LoaderImageIdentifier", "\\EFI\\BOOT\\BOOTX64.EFI")
    entries = esp / "loader/entries"
    entries.mkdir(parents=True, exist_ok=True)
    # On the ESP, and before all others, were they shown: for another machine, and the loader itself.
    (esp / "other.efi").write_bytes(tiny.make_program("other.efi"))
    (entries / "arm.conf").write_text("title Arm\nsort-key !\narchitecture aa64\nlinux /other.efi\n")
    (entries / "self.conf").write_text("title Self\nsort-key !\nefi /efi/boot/BOOTX64.efi\n")
    default = next(
        path.name for path, digest in _list_entries(extended.host.root / "boot") if digest == extended.booted
    )
    (esp / "loader/loader.conf").write_text(f"timeout 0\ndefault {default}\n")

    assert _told(extended) == extended.booted[:16] == _boot(extended, tmp_path)

    code, _, err = flowkit.run(capsys, "finalize", "--root", extended.host.root)
    assert (code, err) == (0, "")
    assert _told(extended) == staged[:16] == _boot(extended, tmp_path)

    (esp / "loader/loader.conf").write_text("timeout 0\n")
    assert flowkit.run(capsys, "rollback", "--root", extended.host.root, "--to", "booted")[0] == 0
    assert _told(extended) == extended.booted[:16] == _boot(extended, tmp_path)

    # A UKI without an entry, on the ESP, of a system whose name comes first.
    osrel = b'ID="!first"\nPRETTY_NAME="First"\nVERSION_ID=1\n'
    (esp / "EFI/Linux").mkdir(parents=True, exist_ok=True)
    (esp / "EFI/Linux/First.efi").write_bytes(tiny.make_program("First.efi", {".osrel": osrel, ".cmdline": b"x\0"}))
    assert _told(extended) == "First.efi" == _boot(extended, tmp_path)
