"""GRUB: entries and kernels in the boot directory, UKIs on the ESP as menuentries of ``user.cfg``."""

from __future__ import annotations

from bootc_fast.boot.loaders import grub_fedora, grub_upstream
from bootc_fast.boot.loaders.grub_words import resolve_entry
from bootc_fast.boot.loaders.grubenv import read_variables
from bootc_fast.boot.loaders.record import CountsIn, LoaderRecord
from bootc_fast.types import Loader

RECORD = LoaderRecord(
    loader=Loader.GRUB,
    # Where nothing is said it is GRUB (spec host.md, "Boot loader").
    info="",
    rules=(grub_fedora.RULE, grub_upstream.RULE),
    is_on_esp=False,
    kernel_directory=b"",
    status_name="grub",
    has_user_cfg=True,
    resolve=resolve_entry,
    read_variables=read_variables,
    counts_in=CountsIn.GRUBENV,
    package_directories=("usr/lib/bootupd/updates", "usr/lib/efi/grub2", "usr/lib/grub", "usr/share/grub2"),
)
