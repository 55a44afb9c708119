"""What a deployment boots from, taken out of its image again: kernel, initrd, and the text of its boot entry.

Source:
    Spec host.md, "EROFS image and objects", "Boot entries"; bootc ``bootc_composefs/boot.rs``.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import AsyncExitStack, closing, suppress
from typing import TYPE_CHECKING

from bootc_fast import _core
from bootc_fast.boot.area.replace import replace_file
from bootc_fast.boot.entries.beside import check_names_fit
from bootc_fast.boot.loaders.entry import ARTIFACT_PREFIX
from bootc_fast.boot.loaders.user_cfg import ESP_HEADER
from bootc_fast.composefs.images import write_file
from bootc_fast.composefs.survey import open_image
from bootc_fast.errors import FileSystemError, InvalidStateError, VerityMismatchError
from bootc_fast.machine.native import run_native
from bootc_fast.records import dataclass
from bootc_fast.text import escape_bytes, reason_of, shorten_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from bootc_fast.boot.area.directory import BootVolume
    from bootc_fast.machine.host import Host
    from bootc_fast.types import Origin, VerityDigest

MAX_KERNEL_BYTES = 1 << 30
_MODULES = b"usr/lib/modules"
_KERNEL, _INITRD, _OS_RELEASE = b"vmlinuz", b"initramfs.img", b"usr/lib/os-release"
_NOT_IN_OPTIONS = frozenset({"composefs", "composefs.digest", "BOOT_IMAGE", "initrd"})


@dataclass(frozen=True, slots=True)
class Recovered:
    """What the image has.

    Attributes:
        linux: The kernel.
        initrd: The initrd.
        os_release: Its ``usr/lib/os-release``, by key.
    """

    linux: bytes
    initrd: bytes
    os_release: dict[str, str]


def _read(image: _core.Image, path: bytes, host: Host, check: Callable[[], object]) -> bytes:
    fd = os.memfd_create("bootc-fast", os.MFD_CLOEXEC)
    try:
        write_file(image, path, fd, objects=host.objects, check=check)
        if os.fstat(fd).st_size > MAX_KERNEL_BYTES:
            raise FileSystemError(
                f"reading {escape_bytes(path)} of the image: it is longer than {MAX_KERNEL_BYTES} bytes"
            )
        return os.pread(fd, MAX_KERNEL_BYTES, 0)
    finally:
        os.close(fd)


def _parse_os_release(raw: bytes) -> dict[str, str]:
    found = {}
    for line in raw.decode("utf-8", "replace").splitlines():
        key, is_set, value = line.strip().partition("=")
        if is_set and not key.startswith("#"):
            found[key] = value.strip().strip("\"'")
    return found


def _recover(fd: int, host: Host, *, check: Callable[[], object]) -> Recovered:
    with _core.Image.open(fd) as image:
        return _recover_from(image, host, check)


def _recover_from(image: _core.Image, host: Host, check: Callable[[], object]) -> Recovered:
    # A walk's paths start at where it starts.
    walked = [entry.path.strip(b"/") for entry in image.walk(_MODULES)]
    kernels = [path for path in walked if path.count(b"/") == 1 and path.endswith(b"/" + _KERNEL)]
    if len(kernels) != 1:
        raise InvalidStateError(f"looking for the kernel in the image: {len(kernels)} are there")
    directory = _MODULES + b"/" + kernels[0].rpartition(b"/")[0]
    release = b""
    with suppress(FileNotFoundError):
        release = _read(image, _OS_RELEASE, host, check)
    linux = _read(image, directory + b"/" + _KERNEL, host, check)
    return Recovered(linux, _read(image, directory + b"/" + _INITRD, host, check), _parse_os_release(release))


async def recover_kernel(host: Host, digest: VerityDigest, origin: Origin | None) -> Recovered:
    """Read kernel and initrd out of a deployment's verified image.

    Cancellation: within 50 ms; nothing is written.

    Raises:
        InvalidStateError: Image or kernel are missing.
        VerityMismatchError: They are not what was staged, by the origin's boot digest.
        FileSystemError: They cannot be read.
    """
    async with AsyncExitStack() as stack:
        image = await open_image(host, digest, stack)
        try:
            found = await run_native(_recover, image.fd, host)
        except FileNotFoundError as error:
            raise InvalidStateError(f"looking for the kernel in the image: {reason_of(error)}") from error
        except OSError as error:
            raise FileSystemError(f"reading the image: {reason_of(error)}") from error
    if origin is not None and origin.boot_digest is not None:
        hasher = hashlib.sha256(found.linux)
        hasher.update(found.initrd)
        if hasher.hexdigest() != origin.boot_digest:
            raise VerityMismatchError(
                "comparing the image's kernel and initrd with what was staged: they are others",
                path=f"image {shorten_digest(digest)}",
                expected=origin.boot_digest,
                found=hasher.hexdigest(),
            )
    return found


def _check_room(volume: BootVolume, path: bytes) -> None:
    """Refuse a new directory for which the one above it would have to grow: all kernels may be in that one."""
    above, _slash, name = path.rpartition(b"/")
    directory = volume.open_directory(above)
    if directory is None:
        _check_room(volume, above)
        return
    directory.close()
    check_names_fit(volume, above, [name])


def write_boot_file(volume: BootVolume, path: bytes, data: bytes) -> None:
    """Put a boot file in its place, whole at every moment; blocks.

    Raises:
        OSError: It could not be written; what was there before still is.
        BootEntryError: A directory that the loader reads would have to grow for it.
    """
    head, _slash, name = path.replace(b"\\", b"/").strip(b"/").rpartition(b"/")
    directory = volume.open_directory(head)
    if directory is None:
        _check_room(volume, head)
        volume.make_directory(head)
        directory = volume.open_directory(head)
    if directory is None:
        raise FileSystemError(f"opening {escape_bytes(head)} on the boot partition: there is no such directory")
    with closing(directory), suppress(OSError):
        # Absent, longer or unreadable: then it is written.
        if directory.read(name, len(data)) == data:
            return
    replace_file(volume, head, name, data)


def make_entry_text(
    digest: VerityDigest, recovered: Recovered, *, booted_arguments: list[str], has_question_mark: bool, base: bytes
) -> bytes:
    """Write a boot entry as bootc does, with the kernel arguments of the running system.

    Args:
        digest: The deployment.
        recovered: What its image says about itself.
        booted_arguments: The running kernel's.
        has_question_mark: The host has no fs-verity: ``composefs=?``.
        base: Directory of kernel and initrd, from the root of the boot partition.
    """
    kept = [one for one in booted_arguments if one.partition("=")[0] not in _NOT_IN_OPTIONS]
    options = " ".join([*kept, f"composefs={'?' if has_question_mark else ''}{digest}"])
    release = recovered.os_release
    version = release.get("VERSION_ID") or digest
    title = release.get("PRETTY_NAME") or release.get("NAME") or digest
    lines = [b"title " + title.encode(), b"version " + version.encode(), b"linux " + base + b"/vmlinuz"]
    lines += [b"initrd " + base + b"/initrd", b"options " + options.encode("utf-8", "surrogateescape")]
    key = f"bootc-{release.get('ID', 'linux')}-0".encode()
    return b"".join(line.replace(b"\n", b" ") + b"\n" for line in [*lines, b"sort-key " + key])


def make_uki_entry_text(path: bytes) -> bytes:
    """Write a boot entry for a UKI, with the key that every systemd-boot knows."""
    return b"title bootc, recovered\nversion 1\nefi /%s\nsort-key bootc-recovered-0\n" % path


def make_user_cfg(digest: VerityDigest, path: bytes) -> bytes:
    """Write a ``user.cfg`` with one menuentry, as bootc does: GRUB's variable for the ESP comes from its own file."""
    lines = [b'menuentry "bootc, recovered: (%s)" {' % digest.encode(), b"insmod fat", b"insmod chain"]
    lines += [b'search --no-floppy --set=root --fs-uuid "${EFI_PART_UUID}"', b"chainloader /" + path, b"}"]
    return ESP_HEADER + b"\n".join(lines) + b"\n"


def kernel_base(digest: VerityDigest, *, prefix: bytes) -> bytes:
    """Where bootc puts a deployment's kernel."""
    return prefix + b"/" + ARTIFACT_PREFIX + digest.encode()
