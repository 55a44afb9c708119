"""The hosts whose boot partitions are recorded: made by the lab, with bootc's names and kernels of unique sectors."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from bootc_fast.lab.rootfs import STUB_NAME
from bootc_fast.lab.uki import build_uki

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_TIME = 1_700_000_000
_VERSIONS = ("41.20250401.0", "42.20251122.0", "43.20260301.0")


def unique_bytes(seed: str, size: int) -> bytes:
    """Bytes of which no two sectors are the same, and which compress well."""
    return b"".join(hashlib.sha256(f"{seed} {at}".encode()).digest() * 16 for at in range(0, size, 512))[:size]


def make_tree(root: Path, number: int) -> Path:
    """Make a root file tree that the lab can install: version `number`, counted from 0."""
    modules = root / f"usr/lib/modules/6.12.{number}"
    for directory in (modules, root / "etc", root / "usr/bin", root / "sysroot", root / "boot", root / "var"):
        directory.mkdir(parents=True)
    (root / STUB_NAME).parent.mkdir(parents=True)
    (root / STUB_NAME).write_bytes(build_uki(None, ()))  # not this machine's: nothing of another project is recorded
    (modules / "vmlinuz").write_bytes(unique_bytes(f"kernel {number}", 9000))
    (modules / "initramfs.img").write_bytes(unique_bytes(f"initrd {number}", 15000))
    version = _VERSIONS[number]
    (root / "usr/lib/os-release").write_text(f'NAME="Fedora"\nID=fedora\nVERSION_ID={version}\n')
    (root / "etc/a.conf").write_text(f"version {version}\n")
    # The same digests whenever it is made: states of a kept recording are taken up with a host that is made anew.
    for path in (*root.rglob("*"), root):
        os.utime(path, (_TIME, _TIME), follow_symlinks=False)
    return root


class Maker:
    """Makes hosts below a directory, each once."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self.trees = [make_tree(work / f"tree{number}", number) for number in range(len(_VERSIONS))]

    def run(self, *argv: str | Path) -> None:
        """Run the product."""
        subprocess.run([sys.executable, "-m", "bootc_fast", *argv], check=True, stdout=subprocess.DEVNULL)

    def make(self, name: str) -> Path:
        """Return the host of a recipe."""
        host = self._work / "hosts" / name
        if not host.exists():
            host.parent.mkdir(exist_ok=True)
            RECIPES[name](self, host)
        return host

    def copy_of(self, name: str, host: Path) -> None:
        """Start from another recipe's host."""
        shutil.copytree(self.make(name), host, symlinks=True)

    def create(self, host: Path, loader: str, boot_type: str) -> None:
        """Install the first version."""
        self.run("lab", "create", host, "--from", self.trees[0], "--loader", loader, "--boot-type", boot_type)

    def stage(self, host: Path, number: int) -> None:
        """Stage a version as bootc does."""
        self.run("lab", "stage", host, "--from", self.trees[number])

    def update_as_bootc(self, host: Path) -> None:
        """Bootc's finalize, and the next boot."""
        loader = host / "efi/loader"
        (loader / "entries").rename(loader / "old")
        (loader / "entries.staged").rename(loader / "entries")
        shutil.rmtree(loader / "old")
        self.run("lab", "boot", host)


def _pair(loader: str, boot_type: str) -> Callable[[Maker, Path], None]:
    def make(maker: Maker, host: Path) -> None:
        maker.create(host, loader, boot_type)
        maker.stage(host, 1)

    return make


def _one(maker: Maker, host: Path) -> None:
    maker.create(host, "systemd-boot", "bls")


def _updated(maker: Maker, host: Path) -> None:
    """Two entries with bootc's names, a third version staged."""
    maker.copy_of("bls", host)
    maker.update_as_bootc(host)
    maker.stage(host, 2)


def _add_orphan(host: Path, seed: str) -> None:
    directory = host / "efi/EFI/Linux" / f"bootc_composefs-{hashlib.sha512(seed.encode()).hexdigest()}"
    directory.mkdir()
    (directory / "vmlinuz").write_bytes(unique_bytes(f"{seed} kernel", 9000))
    (directory / "initrd").write_bytes(unique_bytes(f"{seed} initrd", 15000))


def _garbage(maker: Maker, host: Path) -> None:
    maker.copy_of("updated", host)
    _add_orphan(host, "first")


def _foreign(maker: Maker, host: Path) -> None:
    """Entries of another system, so many that `loader/entries` has many clusters of 512 bytes; two compare equal."""
    maker.copy_of("garbage", host)
    _add_orphan(host, "second")
    (host / "efi/EFI/other").mkdir()
    for number in range(24):
        name = f"foreign-operating-system-number-{number:02d}-with-a-long-name.conf"
        text = f"title Other {number}\nefi /EFI/other/o{number}.efi\noptions x\n" + "# pad\n" * (number * 7)
        (host / "efi/loader/entries" / name).write_text(text)
        (host / f"efi/EFI/other/o{number}.efi").write_bytes(unique_bytes(f"other {number}", 700 + 37 * number))
    for name in ("same_1.conf", "same-1.conf"):  # systemd-boot takes both for one version
        (host / "efi/loader/entries" / name).write_text(f"title {name}\nefi /EFI/other/o1.efi\n")
    (host / "efi/EFI/Linux/mine.efi").write_bytes(unique_bytes("mine", 3000))
    (host / "efi/loader/loader.conf").write_text("timeout 0\n")


def _long(maker: Maker, host: Path) -> None:
    """Names as long as mtools can give them a directory of 512-byte clusters."""
    maker.copy_of("updated", host)
    (host / "efi/EFI/other").mkdir()
    (host / "efi/EFI/other/o.efi").write_bytes(unique_bytes("o", 700))
    for number in range(3):
        name = f"{number}-" + "long-name-" * 14 + ".conf"
        (host / "efi/loader/entries" / name).write_text(f"title Long {number}\nefi /EFI/other/o.efi\n")


_ADMINS_CUSTOM = "# an admin's\nset color_normal=white/blue\n"
ADMINS_VARIABLE = "menu_show_once_timeout=7\n"


def _trial(maker: Maker, host: Path) -> None:
    """Two entries with bootc's names and some of another system, a third version staged."""
    maker.copy_of("updated", host)
    (host / "efi/EFI/other").mkdir()
    (host / "efi/EFI/other/o.efi").write_bytes(unique_bytes("o", 700))
    for number in range(3):
        text = f"title Other {number}\nefi /EFI/other/o.efi\nsort-key z\n"
        (host / f"efi/loader/entries/other-{number}.conf").write_text(text)


def _grub_trial(maker: Maker, host: Path) -> None:
    """GRUB with UKIs, an admin's commands in custom.cfg and an admin's variable."""
    maker.copy_of("grub-uki", host)
    grub = host / "sysroot/boot/grub2"
    (grub / "custom.cfg").write_text(_ADMINS_CUSTOM)
    (grub / "grubenv").write_bytes(("# GRUB Environment Block\n" + ADMINS_VARIABLE).encode().ljust(1024, b"#"))


def _started(recipe: str, starts: int) -> Callable[[Maker, Path], None]:
    """The update is finalized with its tries, and the loader has been started so often: the third was the last try."""

    def make(maker: Maker, host: Path) -> None:
        maker.copy_of(recipe, host)
        maker.run("--root", host, "composefs-finalize-staged")
        for _ in range(starts):
            maker.run("lab", "boot", host)

    return make


def _reset(recipe: str) -> Callable[[Maker, Path], None]:
    """What was staged is forgotten: the power has failed."""

    def make(maker: Maker, host: Path) -> None:
        maker.copy_of(recipe, host)
        shutil.rmtree(host / "run")
        (host / "run").mkdir()

    return make


RECIPES: dict[str, Callable[[Maker, Path], None]] = {
    "one": _one,
    "bls": _pair("systemd-boot", "bls"),
    "uki": _pair("systemd-boot", "uki"),
    "grub-uki": _pair("grub", "uki"),
    "grub-bls": _pair("grub", "bls"),
    "updated": _updated,
    "garbage": _garbage,
    "foreign": _foreign,
    "long": _long,
    "trial": _trial,
    "grub-trial": _grub_trial,
    **{f"{one}-reset": _reset(one) for one in ("trial", "grub-trial", "bls", "uki", "grub-uki")},
    **{
        f"{one}-{name}": _started(one, starts)
        for one in ("trial", "grub-trial")
        for name, starts in (("tried", 1), ("last", 3), ("fallen", 4))
    },
}


def strip(host: Path, target: Path) -> None:
    """Copy a host without what lies on the boot partition."""
    shutil.copytree(host, target, symlinks=True)
    for name in ("efi", "sysroot/boot"):
        if (target / name).exists():
            shutil.rmtree(target / name)
            os.mkdir(target / name)
