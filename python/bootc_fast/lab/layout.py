"""A lab host's directory: where things are in it, and the files that bootc, firmware and kernel would have written.

The paths are those of a real host (spec host.md) below the lab's directory; with them `--root DIR` works.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from bootc_fast.errors import InvalidStateError, UsageError
from bootc_fast.lab.copying import copy_content, ignore_progress
from bootc_fast.lab.forms import LabForms, render_origin
from bootc_fast.lab.oci import write_image
from bootc_fast.records import dataclass, field
from bootc_fast.types import Algorithm, BootType, Loader, VerityDigest

if TYPE_CHECKING:
    from pathlib import Path

    from bootc_fast.lab.copying import Progress
    from bootc_fast.lab.rootfs import RootTree

LOADER_GUID = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
# EFI_VARIABLE_NON_VOLATILE | EFI_VARIABLE_BOOTSERVICE_ACCESS | EFI_VARIABLE_RUNTIME_ACCESS
_EFI_ATTRIBUTES = b"\x07\0\0\0"
ESP_PART_UUID = "0b0c4a1e-7a3f-4a57-9d5c-1d2e3f405162"
LOADER_INFO = {
    Loader.SYSTEMD_BOOT: "systemd-boot 258.1-1",
    Loader.GRUB: "GRUB 2.12",
    Loader.GRUB_CC: "Grub CC 2.12",
}
IMAGE_REFERENCE = "ostree-unverified-image:docker://registry.example/lab/os:latest"
ROOT_ARGUMENTS = "root=UUID=2f4a1f6e-9f1b-4b0e-8b1e-6c9d5a7b3c11 rw"
_SETTINGS = "lab.json"
_RELEASE_FILES = ("usr/lib/os-release", "etc/os-release")


@dataclass(frozen=True)
class LabHost:
    """A bootc host in a directory.

    Attributes:
        root: The lab's directory, for ``--root``.
        loader: What would read the boot entries.
        boot_type: How the first deployment is booted; a later one may differ.
        algorithm: Of the image and object digests.
        separate_boot: On a GRUB host: /boot is a file system of its own, so paths in entries start below it.
        forms: Which of bootc's forms are written; not stored, a reopened lab writes the newest.
    """

    root: Path
    loader: Loader = Loader.SYSTEMD_BOOT
    boot_type: BootType = BootType.BLS
    algorithm: Algorithm = Algorithm.SHA512
    separate_boot: bool = False
    forms: LabForms = field(default_factory=LabForms)

    @property
    def sysroot(self) -> Path:
        """The physical root."""
        return self.root / "sysroot"

    @property
    def repository(self) -> Path:
        """The composefs repository."""
        return self.sysroot / "composefs"

    @property
    def esp(self) -> Path:
        """The EFI system partition."""
        return self.root / "efi"

    @property
    def boot_dir(self) -> Path:
        """Where ``loader/`` or ``grub2/`` is."""
        return self.root / "boot" if self.loader is Loader.GRUB else self.esp

    @property
    def marker(self) -> Path:
        """The staged marker."""
        return self.root / "run/composefs/staged-deployment"

    @property
    def etc(self) -> Path:
        """The running /etc: a link to the booted deployment's."""
        return self.root / "etc"

    @property
    def booted(self) -> VerityDigest:
        """The running deployment, by ``proc/cmdline``.

        Raises:
            InvalidStateError: The command line names no image.
        """
        for word in (self.root / "proc/cmdline").read_text().split():
            if word.startswith("composefs="):
                return VerityDigest(word.removeprefix("composefs=").lstrip("?"))
        raise InvalidStateError(f"lab {self.root}: proc/cmdline names no composefs image")

    @property
    def deployments(self) -> list[VerityDigest]:
        """Every deployment with a state directory, in the order of their names."""
        return [VerityDigest(name) for name in sorted(os.listdir(self.sysroot / "state/deploy"))]

    def state_dir(self, digest: str) -> Path:
        """``state/deploy/<digest>``."""
        return self.sysroot / "state/deploy" / digest

    def kernel_area(self) -> tuple[Path, str]:
        """Where kernel directories are, and how a path in an entry begins there."""
        if self.loader is not Loader.GRUB:
            return self.esp / "EFI/Linux", "/EFI/Linux"
        return self.boot_dir, "" if self.separate_boot else "/boot"

    def boot_digest(self, linux: bytes, initrd: bytes) -> str:
        """What ``[boot] digest`` of an origin holds."""
        return hashlib.sha256(linux + initrd).hexdigest()

    def read_efi_variable(self, name: str) -> str | None:
        """The text of a loader variable; None where it is not set."""
        try:
            raw = self._efi_variable(name).read_bytes()
        except FileNotFoundError:
            return None
        return raw[4:].decode("utf-16-le").rstrip("\0")

    def write_efi_variable(self, name: str, text: str | None) -> None:
        """Set a loader variable, or remove it with None."""
        if text is None:
            self._efi_variable(name).unlink(missing_ok=True)
        else:
            self._efi_variable(name).write_bytes(_EFI_ATTRIBUTES + (text + "\0").encode("utf-16-le"))

    def _efi_variable(self, name: str) -> Path:
        return self.root / "sys/firmware/efi/efivars" / f"{name}-{LOADER_GUID}"

    def make_skeleton(self) -> None:
        """Make the directories of a host with no deployment.

        Raises:
            UsageError: The directory exists and is not empty.
        """
        if self.root.exists() and any(self.root.iterdir()):
            raise UsageError(f"{self.root} is not empty")
        # The generated OS holds a copy of this machine's /etc: nobody else's to read.
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        directories = ["sysroot/state/deploy", "sysroot/state/os/default/var", "run", "proc/self", "efi/EFI/Linux"]
        for name in (*directories, "sys/firmware/efi/efivars"):
            (self.root / name).mkdir(parents=True)
        self.repository.mkdir()
        (self.root / "var").symlink_to("sysroot/state/os/default/var")
        if self.loader is Loader.GRUB and not self.separate_boot:
            (self.sysroot / "boot").mkdir()
            (self.root / "boot").symlink_to("sysroot/boot")
        else:
            (self.root / "boot").mkdir()
        self.write_efi_variable("LoaderInfo", LOADER_INFO[self.loader])
        self.write_efi_variable("LoaderDevicePartUUID", ESP_PART_UUID.upper())

    def write_settings(self) -> None:
        """Write that by which :func:`open_lab` finds the host; last, so that a half-made one is not taken for one."""
        settings = {name: getattr(self, name) for name in ("loader", "boot_type", "algorithm", "separate_boot")}
        (self.root / _SETTINGS).write_text(json.dumps(settings, indent=1) + "\n")

    def write_state(
        self,
        digest: VerityDigest,
        tree: RootTree,
        *,
        boot_type: BootType,
        boot_digest: str,
        first: bool,
        progress: Progress = ignore_progress,
    ) -> None:
        """Write a deployment's state directory: a copy of the image's /etc, ``var``, the origin.

        Args:
            digest: The deployment.
            tree: What the image was made of.
            boot_type: For the origin.
            boot_digest: For the origin.
            first: Also fill the shared /var, as an installation does.
            progress: Gets the files of /etc that are copied, and their number.
        """
        state = self.state_dir(digest)
        state.mkdir(parents=True)
        (state / "var").symlink_to("../../os/default/var")
        if (tree.path / "etc").is_dir():
            copy_content(tree.path / "etc", state / "etc", progress)
        else:
            (state / "etc").mkdir()
        (state / "etc/.updated").unlink(missing_ok=True)
        if first and (tree.path / "var").is_dir():
            copy_content(tree.path / "var", self.sysroot / "state/os/default/var")
        old = self.forms.imginfo
        manifest = None if old else self._write_image(tree)
        text = render_origin(IMAGE_REFERENCE, boot_type, None if old else boot_digest, manifest)
        (state / f"{digest}.origin").write_text(text)
        if old:
            info = {"config": {"architecture": "amd64", "os": "linux"}, "manifest": {"schemaVersion": 2}}
            (state / f"{digest}.imginfo").write_text(json.dumps(info))

    def _write_image(self, tree: RootTree) -> str:
        """Write the container image's metadata into the repository; its time is that of the OS's release file."""
        release = next((path for name in _RELEASE_FILES if (path := tree.path / name).exists()), tree.path)
        created = datetime.fromtimestamp(release.stat().st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return write_image(
            self.repository,
            self.algorithm,
            version=tree.version or "0",
            created=created,
            old_header=self.forms.old_stream_header,
        )

    def write_marker(self, digest: VerityDigest, *, locked: bool = False) -> None:
        """Write ``/run/composefs/staged-deployment``."""
        self.marker.parent.mkdir(parents=True, exist_ok=True)
        text = f"{digest}\n"
        if not self.forms.bare_marker:
            text = json.dumps({"depl_id": digest, "finalization_locked": locked}, separators=(",", ":"))
        self.marker.write_text(text)

    def set_booted(self, digest: VerityDigest, kernel_arguments: str) -> None:
        """Make a deployment the running one: command line, mounts, /etc; what a reboot clears is cleared."""
        (self.root / "proc/cmdline").write_text(f"{kernel_arguments}\n")
        (self.root / "proc/self/mountinfo").write_text(self._mountinfo(digest))
        boot_id = self.root / "proc/sys/kernel/random/boot_id"
        boot_id.parent.mkdir(parents=True, exist_ok=True)
        boot_id.write_text(f"{uuid.uuid4()}\n")
        self.etc.unlink(missing_ok=True)
        self.etc.symlink_to(f"sysroot/state/deploy/{digest}/etc")
        shutil.rmtree(self.root / "run")
        (self.root / "run").mkdir()

    def _mountinfo(self, digest: VerityDigest) -> str:
        device, layers = "254:3", "lowerdir+=/run/image,datadir+=/sysroot/composefs/objects"
        lines = [
            f"/ / ro,relatime shared:1 - overlay composefs:{digest} ro,{layers},redirect_dir=on,metacopy=on",
            "/ /sysroot rw,relatime shared:2 - ext4 /dev/vda3 rw",
            f"/state/deploy/{digest}/etc /etc rw,relatime shared:3 - ext4 /dev/vda3 rw",
            "/state/os/default/var /var rw,relatime shared:4 - ext4 /dev/vda3 rw",
            "/ /efi rw,relatime shared:5 - vfat /dev/vda1 rw,fmask=0177,dmask=0077",
        ]
        if self.separate_boot:
            lines.append("/ /boot rw,relatime shared:6 - ext4 /dev/vda2 rw")
        return "".join(f"{30 + index} {1 if index == 0 else 30} {device} {line}\n" for index, line in enumerate(lines))


def open_lab(directory: Path) -> LabHost:
    """Open a lab host that :func:`bootc_fast.lab.create` made.

    Raises:
        UsageError: There is none in that directory.
    """
    try:
        settings = json.loads((directory / _SETTINGS).read_text())
        return LabHost(
            directory,
            Loader(settings["loader"]),
            BootType(settings["boot_type"]),
            Algorithm(settings["algorithm"]),
            bool(settings["separate_boot"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{directory} holds no lab host", hint=f"bootc-fast lab create {directory}") from error
