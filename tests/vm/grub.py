"""A GRUB of a Debian suite as an EFI program, and the configuration of a bootc host."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from vm.package import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

PREFIX = "(hd0,gpt2)/boot/grub2"

_MODULES = (
    *("normal", "part_gpt", "fat", "ext2", "configfile", "test", "echo", "search", "search_fs_uuid", "linux", "chain"),
    *("loadenv", "bli", "serial", "terminal", "terminfo", "halt", "reboot", "sleep"),
)

# As on a bootc host: menuentries of user.cfg, if any, come first, and custom.cfg last.
_BEFORE = """
set timeout=0
set default=0
if [ -f ${config_directory}/grubenv ]; then
  load_env -f ${config_directory}/grubenv
fi
"""
_AFTER = """
if [ -f $prefix/custom.cfg ]; then
  source $prefix/custom.cfg
fi
"""
UKI_CONFIG = f"""{_BEFORE}
if [ -f ${{config_directory}}/user.cfg ]; then
  source ${{config_directory}}/user.cfg
fi
{_AFTER}"""

BLS_CONFIG = f"""{_BEFORE}
blscfg --path (hd0,gpt2)/boot/loader/entries
{_AFTER}"""


def make_image(suite: str, out: Path, *modules: str, without: Collection[str] = ()) -> Path:
    """Make the EFI program with the suite's own ``grub-mkimage``; its configuration is at `PREFIX`.

    Args:
        suite: Of Debian.
        out: The program.
        modules: What it has besides what all have.
        without: Commands that a function of the configuration is to take the place of: a real one would win.
    """
    tree = REPOSITORY / "build/rootfs" / f"grub-{suite}"
    subprocess.run([REPOSITORY / "tools/make-rootfs", "--extract", suite, tree, "grub-efi-amd64-bin"], check=True)
    # The suite's libraries, by its own dynamic linker: this machine's may be older.
    libraries = tree / "usr/lib/x86_64-linux-gnu"
    argv = [
        *(libraries / "ld-linux-x86-64.so.2", "--library-path", libraries, tree / "usr/bin/grub-mkimage"),
        *("--format=x86_64-efi", f"--prefix={PREFIX}", f"--directory={tree / 'usr/lib/grub/x86_64-efi'}"),
        *(f"--output={out}", *(name for name in (*_MODULES, *modules) if name not in without)),
    ]
    subprocess.run(argv, check=True)
    return out
