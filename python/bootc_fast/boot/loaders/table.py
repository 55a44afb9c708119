"""Every loader's record, and which loader a host has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.records import dataclass
from bootc_fast.types import Loader

if TYPE_CHECKING:
    from bootc_fast.boot.loaders.record import LoaderRecord, LoaderRule

# As they are asked; the last one is what a loader is that says nothing.
_ORDER = (Loader.SYSTEMD_BOOT, Loader.GRUB_CC, Loader.GRUB)


def record_of(loader: Loader) -> LoaderRecord:
    """Return what is to be known about a loader. The others' modules are not imported: a host has one."""
    if loader is Loader.SYSTEMD_BOOT:
        from bootc_fast.boot.loaders import systemd_boot

        return systemd_boot.RECORD
    if loader is Loader.GRUB_CC:
        from bootc_fast.boot.loaders import grub_cc

        return grub_cc.RECORD
    from bootc_fast.boot.loaders import grub

    return grub.RECORD


def list_rules() -> tuple[LoaderRule, ...]:
    """Return every rule that any loader may follow, each once."""
    return tuple(dict.fromkeys(rule for loader in _ORDER for rule in record_of(loader).rules))


@dataclass(frozen=True, slots=True)
class LoaderEvidence:
    """What is on disk that tells the loader.

    Attributes:
        esp_has_entries: ``loader/entries`` or ``loader/entries.staged`` on the ESP.
        boot_has_grub: ``grub2`` or ``grub`` in the boot directory.
        extended_has_booted: An XBOOTLDR partition that systemd-boot reads has an entry of the booted deployment.
        boot_has_entries: ``loader/entries`` or ``loader/entries.staged`` in a boot directory that is not the ESP.
    """

    esp_has_entries: bool
    boot_has_grub: bool
    boot_has_entries: bool
    extended_has_booted: bool = False


def parse_loader_info(info: str | None) -> Loader:
    """Tell the loader from ``LoaderInfo``.

    Source:
        Spec host.md, "Boot loader".
    """
    text = (info or "").lower()
    return next(loader for loader in _ORDER if record_of(loader).info in text)


def choose_loader(info: str | None, evidence: LoaderEvidence) -> tuple[Loader, tuple[str, ...]]:
    """Decide which loader boots this host: the variable is a hint, what is on disk confirms it.

    Where they disagree, what is on disk wins: entries that are written where no loader's files are would never be
    read. (A loader that starts another one leaves its own name in the variable.)

    Returns:
        The loader, and warnings about a disagreement.
    """
    hinted = parse_loader_info(info)
    said = f"LoaderInfo says {info!r}" if info is not None else "there is no LoaderInfo, which means GRUB"
    has_grub = evidence.boot_has_grub or evidence.boot_has_entries
    hint = "--bootloader overrides"
    if not record_of(hinted).is_on_esp:
        if has_grub or not evidence.esp_has_entries:
            return hinted, ()
        found = "only the ESP has boot entries: taking systemd-boot"
        return Loader.SYSTEMD_BOOT, (f"boot loader: {said}, but {found} ({hint})",)
    is_on_extended = evidence.extended_has_booted and record_of(hinted).reads_extended_boot
    if evidence.esp_has_entries or not has_grub or is_on_extended:
        return hinted, ()
    found = "the ESP has no loader/entries and the boot directory has GRUB's files: taking GRUB"
    return Loader.GRUB, (f"boot loader: {said}, but {found} ({hint})",)
