"""The names and texts that bootc writes on a boot file system, in today's form and in its older ones.

Written independently of ``bootc_fast.boot``, so that a lab host checks that reader instead of echoing it.

Source:
    Spec host.md, "Boot entries"; bootc's ``bootc_composefs/boot.rs``, ``parsers/bls_config.rs`` and
    ``parsers/grub_menuconfig.rs``.
"""

from __future__ import annotations

from bootc_fast.records import dataclass, replace

KERNEL_PREFIX = "bootc_composefs-"
UKI_DIRECTORY = "/EFI/Linux/bootc"

EFI_UUID_SOURCE = """
if [ -f ${config_directory}/efiuuid.cfg ]; then
        source ${config_directory}/efiuuid.cfg
fi
"""


@dataclass(frozen=True, slots=True)
class LabForms:
    """Which of bootc's forms a lab host is written in; the defaults are the newest.

    Attributes:
        old_entry_names: ``bootc-composefs-1.conf`` in place of ``bootc_<os id>-<version>-1.conf``.
        bare_sort_keys: ``0`` and ``1`` in place of ``bootc-<os id>-0`` and ``-1``.
        prefix: Kernel directories and UKIs are named ``bootc_composefs-<digest>``, not just ``<digest>``.
        uki_key: BLS key of a UKI entry: ``uki`` (systemd 258 and later) or ``efi``.
        efi_staged: A staged UKI waits as ``<name>.efi.staged``, its addons as ``<name>.efi.extra.d.staged``.
        uki_addon: A UKI has an addon beside it.
        bare_marker: The staged marker is the digest and a newline, not JSON.
        imginfo: A ``<digest>.imginfo`` stands beside an origin without ``[image]`` and ``[boot] digest``.
        missing_verity: ``composefs=?<digest>``: a host whose file system has no fs-verity.
        old_stream_header: Split streams have the header that bootc wrote until 1.15.
    """

    old_entry_names: bool = False
    bare_sort_keys: bool = False
    prefix: bool = True
    uki_key: str = "uki"
    efi_staged: bool = False
    uki_addon: bool = False
    bare_marker: bool = False
    imginfo: bool = False
    missing_verity: bool = False
    old_stream_header: bool = False

    def entry_name(self, os_id: str, version: str, *, primary: bool) -> str:
        """File name of an entry; GRUB sorts it descending, so the primary has the higher number."""
        rank = "1" if primary else "0"
        if self.old_entry_names:
            return f"bootc-composefs-{rank}.conf"
        return f"bootc_{os_id.replace('-', '_')}-{version}-{rank}.conf"

    def sort_key(self, os_id: str, *, primary: bool) -> str:
        """Sort key of an entry; systemd-boot sorts it ascending, so the primary has the lower number."""
        rank = "0" if primary else "1"
        return rank if self.bare_sort_keys else f"bootc-{os_id}-{rank}"

    def kernel_directory(self, digest: str) -> str:
        """Name of the directory that holds ``vmlinuz`` and ``initrd``."""
        return (KERNEL_PREFIX if self.prefix else "") + digest

    def uki_name(self, digest: str) -> str:
        """File name of a UKI."""
        return f"{KERNEL_PREFIX if self.prefix else ''}{digest}.efi"

    def composefs_argument(self, digest: str) -> str:
        """The kernel argument that names the image."""
        return f"composefs={'?' if self.missing_verity else ''}{digest}"


@dataclass(frozen=True, slots=True)
class EntryText:
    """A BLS type 1 entry, with the keys in the order in which bootc writes them."""

    title: str
    version: str
    sort_key: str
    options: str | None = None
    linux: str | None = None
    initrd: str | None = None
    uki: str | None = None
    uki_key: str = "uki"

    def render(self) -> str:
        """The text of the file."""
        lines = [("title", self.title), ("version", self.version)]
        if self.uki is not None:
            lines.append((self.uki_key, self.uki))
        for key, value in (("linux", self.linux), ("initrd", self.initrd), ("options", self.options)):
            if value is not None:
                lines.append((key, value))
        lines.append(("sort-key", self.sort_key))
        return "".join(f"{key} {value}\n" for key, value in lines)

    def with_sort_key(self, sort_key: str) -> EntryText:
        """The same entry with another rank."""
        return replace(self, sort_key=sort_key)

    @property
    def kernel_arguments(self) -> str:
        """Kernel arguments; empty for a UKI entry, whose arguments are in the UKI."""
        return self.options or ""

    def names(self, digest: str) -> bool:
        """Whether this is the entry of the deployment ``digest``."""
        if self.uki is not None:
            return digest in self.uki
        return any(word.removeprefix("composefs=").lstrip("?") == digest for word in self.kernel_arguments.split())


def parse_entry(text: str) -> EntryText:
    """Parse an entry that the lab or a finalize wrote; keys that bootc does not write are dropped, as bootc does."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.strip().partition(" ")
        if key and not key.startswith("#"):
            value = value.strip()
            found[key] = f"{found[key]} {value}" if key == "options" and key in found else value
    uki_key = "uki" if "uki" in found else "efi"
    return EntryText(
        title=found.get("title", ""),
        version=found.get("version", ""),
        sort_key=found.get("sort-key", ""),
        options=found.get("options"),
        linux=found.get("linux"),
        initrd=found.get("initrd"),
        uki=found.get(uki_key),
        uki_key=uki_key,
    )


def render_menuentry(label: str, digest: str, uki_path: str) -> str:
    """A menuentry of ``grub2/user.cfg``."""
    return (
        f'menuentry "{label}: ({digest})" {{\n'
        "insmod fat\n"
        "insmod chain\n"
        'search --no-floppy --set=root --fs-uuid "${EFI_PART_UUID}"\n'
        f"chainloader {uki_path}\n"
        "}\n"
    )


def render_origin(image_reference: str, boot_type: str, boot_digest: str | None, manifest_digest: str | None) -> str:
    """The text of ``<digest>.origin``; the last two are absent in files of older versions."""
    text = f"[origin]\ncontainer-image-reference = {image_reference}\n[boot]\nboot_type = {boot_type}\n"
    if boot_digest is not None:
        text += f"digest = {boot_digest}\n"
    if manifest_digest is not None:
        text += f"[image]\nmanifest_digest = {manifest_digest}\n"
    return text
