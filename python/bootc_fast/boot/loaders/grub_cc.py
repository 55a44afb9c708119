"""GRUB CC, for confidential machines: built from Fedora's sources, with everything on the ESP."""

from __future__ import annotations

from bootc_fast.boot.loaders import grub_fedora
from bootc_fast.boot.loaders.grub_words import resolve_entry
from bootc_fast.boot.loaders.grubenv import read_variables
from bootc_fast.boot.loaders.record import LoaderRecord
from bootc_fast.types import Loader

RECORD = LoaderRecord(
    loader=Loader.GRUB_CC,
    info="grub cc",
    rules=(grub_fedora.RULE,),
    is_on_esp=True,
    kernel_directory=b"EFI/Linux",
    status_name="grub-cc",
    resolve=resolve_entry,
    read_variables=read_variables,
)
