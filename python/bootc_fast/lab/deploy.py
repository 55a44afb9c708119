"""Installing and staging deployments on a lab host: image, state and boot entries, as bootc writes them."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bootc_fast import _core
from bootc_fast.errors import BootEntryError, InvalidStateError, UsageError
from bootc_fast.events import ignore_event, run_step
from bootc_fast.lab.forms import EFI_UUID_SOURCE, UKI_DIRECTORY, EntryText, parse_entry, render_menuentry
from bootc_fast.lab.grub import write_grub_files
from bootc_fast.lab.layout import ROOT_ARGUMENTS, LabHost
from bootc_fast.lab.uki import build_uki
from bootc_fast.records import dataclass
from bootc_fast.types import BootType, Loader, VerityDigest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from bootc_fast.events import EventSink
    from bootc_fast.lab.copying import Progress
    from bootc_fast.lab.rootfs import RootTree

# bootc keeps them in the image, but empty: a UKI in /boot carries the image's own digest (composefs-rs, BootOps).
_EMPTIED = (b"boot/*", b"sysroot/*")


@dataclass(frozen=True, slots=True)
class _New:
    """A deployment about to get its boot entry."""

    digest: VerityDigest
    title: str
    version: str
    os_id: str
    boot_type: BootType
    options: str


def install(host: LabHost, tree: RootTree, on_event: EventSink = ignore_event) -> VerityDigest:
    """Give an empty host its first deployment and boot it."""
    digest = write_image(host, tree, on_event)
    with run_step(on_event, "deploy", "Writing /etc and the boot files") as tell:
        new = _prepare(host, tree, digest, host.boot_type, ROOT_ARGUMENTS, first=True, progress=tell)
        _write_entries(host, new, _make_entry(host, new, tree, staged=False), None)
    host.set_booted(digest, new.options)
    host.write_settings()
    return digest


def stage(
    host: LabHost,
    tree: RootTree,
    *,
    boot_type: BootType | None = None,
    locked: bool = False,
    marker: bool = True,
    on_event: EventSink = ignore_event,
) -> VerityDigest:
    """Stage a deployment beside the booted one, as ``bootc upgrade`` does.

    What was staged before is replaced: staged entries are written anew, the marker names the new deployment. The
    booted deployment's entry is written a second time with a secondary rank; nothing live is touched.

    Args:
        host: A host with a booted deployment.
        tree: What the image is made of.
        boot_type: BLS or UKI; the booted deployment's where None.
        locked: ``finalization_locked`` of the marker.
        marker: Write it at all.
        on_event: Gets steps and progress.

    Returns:
        The new deployment's digest.

    Raises:
        InvalidStateError: The image equals that of a deployment that is there already.
        BootEntryError: The booted deployment has no boot entry.
    """
    digest = write_image(host, tree, on_event)
    if host.state_dir(digest).exists():
        raise InvalidStateError(f"this image is deployed already: {digest}")
    booted = host.booted
    boot_type = boot_type or read_boot_type(host, booted)
    arguments = (host.root / "proc/cmdline").read_text().split()
    kept = " ".join(word for word in arguments if not word.startswith("composefs="))
    with run_step(on_event, "deploy", "Writing /etc and the boot files") as tell:
        new = _prepare(host, tree, digest, boot_type, kept, first=False, progress=tell)
        _write_entries(host, new, _make_entry(host, new, tree, staged=True), booted)
    if marker:
        host.write_marker(digest, locked=locked)
    return digest


def stage_again(host: LabHost, *, locked: bool = False) -> VerityDigest:
    """Stage the newest deployment that does not run once more, as an updater does that knows no failure.

    Its image and state stay as they are.

    Raises:
        UsageError: Nothing but what runs is deployed.
        BootEntryError: One of the two has no boot entry.
    """
    booted = host.booted
    others = [digest for digest in host.deployments if digest != booted]
    if not others:
        raise UsageError(f"{host.root}: nothing but what runs is deployed", hint="bootc-fast lab stage DIR")
    digest = max(others, key=lambda one: host.state_dir(one).stat().st_mtime_ns)
    boot_type = read_boot_type(host, digest)
    if host.loader is Loader.GRUB and boot_type is BootType.UKI:
        live = (host.boot_dir / "grub2/user.cfg").read_text()
        blocks = (_find_menuentry(host, live, one) for one in (digest, booted))
        (host.boot_dir / "grub2/user.cfg.staged").write_text(EFI_UUID_SOURCE + "".join(blocks))
    else:
        entry = _find_entry(host, digest)
        new = _New(digest, entry.title, entry.version, "again", boot_type, entry.kernel_arguments)
        primary = entry.with_sort_key(host.forms.sort_key(new.os_id, primary=True))
        _write_entries(host, new, primary, booted)
    host.write_marker(digest, locked=locked)
    return digest


def read_boot_type(host: LabHost, digest: VerityDigest) -> BootType:
    """``boot_type`` of a deployment's origin."""
    text = (host.state_dir(digest) / f"{digest}.origin").read_text()
    return BootType.UKI if "boot_type = uki" in text else BootType.BLS


def write_image(host: LabHost, tree: RootTree, on_event: EventSink = ignore_event) -> VerityDigest:
    """Write a tree's image and objects into the repository.

    Without privileges every owner in the image is the caller, since that is whom the files in the state's /etc
    can belong to.
    """
    squash = None if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    with _open_directory(host.repository) as repository, _open_directory(tree.path) as top:
        writer = _core.RepositoryWriter(repository, algorithm=host.algorithm)
        with run_step(on_event, "store", "Storing the files") as tell:
            found = writer.ingest_directory(
                top, squash_owner=squash, exclude=_EMPTIED, progress=tell, check=_let_signals_in
            )
        with run_step(on_event, "image", "Writing the image") as tell:
            return VerityDigest(writer.write_image(found, progress=tell, check=_let_signals_in))


@contextmanager
def _open_directory(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _let_signals_in() -> None:
    """Polled by the core: calling any Python function lets a pending SIGINT be raised."""


def _prepare(
    host: LabHost,
    tree: RootTree,
    digest: VerityDigest,
    boot_type: BootType,
    arguments: str,
    *,
    first: bool,
    progress: Progress,
) -> _New:
    linux, initrd = tree.kernel.linux.read_bytes(), tree.kernel.initrd.read_bytes()
    boot_digest = host.boot_digest(linux, initrd)
    host.write_state(digest, tree, boot_type=boot_type, boot_digest=boot_digest, first=first, progress=progress)
    options = f"{arguments} {host.forms.composefs_argument(digest)}"
    version = tree.version or digest
    title = tree.title or digest
    if boot_type is BootType.UKI and tree.title and tree.version:
        title = f"{tree.title} {tree.version}"
    return _New(digest, title, version, tree.os_id, boot_type, options)


def _make_entry(host: LabHost, new: _New, tree: RootTree, *, staged: bool) -> EntryText:
    """Write kernel and initrd, or the UKI, and return the entry that names them."""
    sort_key = host.forms.sort_key(new.os_id, primary=True)
    entry = EntryText(title=new.title, version=new.version, sort_key=sort_key)
    if new.boot_type is BootType.UKI:
        path = _write_uki(host, new, tree, staged=staged)
        key = "efi" if host.loader is Loader.GRUB_CC else host.forms.uki_key
        return EntryText(title=new.title, version=new.version, sort_key=sort_key, uki=path, uki_key=key)
    area, prefix = host.kernel_area()
    linux, initrd = tree.kernel.linux.read_bytes(), tree.kernel.initrd.read_bytes()
    directory = _find_same_kernel(area, linux, initrd) or host.forms.kernel_directory(new.digest)
    (area / directory).mkdir(parents=True, exist_ok=True)
    (area / directory / "vmlinuz").write_bytes(linux)
    (area / directory / "initrd").write_bytes(initrd)
    base = f"{prefix}/{directory}"
    return EntryText(entry.title, entry.version, sort_key, new.options, f"{base}/vmlinuz", f"{base}/initrd")


def _find_same_kernel(area: Path, linux: bytes, initrd: bytes) -> str | None:
    """A kernel directory with the same bytes, which deployments share."""
    for path in sorted(area.glob("*/vmlinuz")):
        beside = path.with_name("initrd")
        if beside.is_file() and path.read_bytes() == linux and beside.read_bytes() == initrd:
            return path.parent.name
    return None


def _write_uki(host: LabHost, new: _New, tree: RootTree, *, staged: bool) -> str:
    os_release = "".join(f'{key}="{value}"\n' for key, value in tree.os_release.items())
    sections: Sequence[tuple[str, bytes]] = (
        (".osrel", os_release.encode()),
        (".cmdline", new.options.encode()),
        (".uname", tree.kernel.release.encode()),
        (".initrd", tree.kernel.initrd.read_bytes()),
        (".linux", tree.kernel.linux.read_bytes()),
    )
    name = host.forms.uki_name(new.digest)
    directory = host.esp / UKI_DIRECTORY.lstrip("/")
    directory.mkdir(parents=True, exist_ok=True)
    waiting = ".staged" if staged and host.forms.efi_staged else ""
    (directory / (name + waiting)).write_bytes(build_uki(tree.stub, sections))
    if host.forms.uki_addon:
        addons = directory / f"{name}.extra.d{waiting}"
        addons.mkdir()
        (addons / "lab.addon.efi").write_bytes(build_uki(None, [(".cmdline", b"lab.addon=1")]))
    return f"{UKI_DIRECTORY}/{name}"


def _write_entries(host: LabHost, new: _New, entry: EntryText, booted: VerityDigest | None) -> None:
    """Write the live set of an installation (no `booted`), or a staged set of two."""
    if host.loader is Loader.GRUB and new.boot_type is BootType.UKI:
        _write_user_cfg(host, new, entry, booted)
        return
    if host.loader is Loader.GRUB and booted and read_boot_type(host, booted) is BootType.UKI:
        raise UsageError("on a GRUB host all deployments boot the same way, BLS or UKI")
    directory = host.boot_dir / ("loader/entries" if booted is None else "loader/entries.staged")
    if booted is not None:
        shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    if host.loader is Loader.GRUB and booted is None:
        write_grub_files(host.boot_dir / "grub2")
    forms = host.forms
    (directory / forms.entry_name(new.os_id, new.version, primary=True)).write_text(entry.render())
    if booted is not None:
        old = _find_entry(host, booted).with_sort_key(forms.sort_key(new.os_id, primary=False))
        (directory / forms.entry_name(new.os_id, old.version, primary=False)).write_text(old.render())


def _find_entry(host: LabHost, digest: VerityDigest) -> EntryText:
    for path in sorted((host.boot_dir / "loader/entries").glob("*.conf")):
        entry = parse_entry(path.read_text(errors="replace"))
        if entry.names(digest):
            return entry
    raise BootEntryError(f"lab {host.root}: no boot entry for the deployment {digest}")


def _write_user_cfg(host: LabHost, new: _New, entry: EntryText, booted: VerityDigest | None) -> None:
    grub = host.boot_dir / "grub2"
    own = render_menuentry(new.title, new.digest, entry.uki or "")
    if booted is None:
        write_grub_files(grub)
        (grub / "efiuuid.cfg").write_text('set EFI_PART_UUID="7B77-95E7"')
        (grub / "user.cfg").write_text(EFI_UUID_SOURCE + own)
        return
    if not (grub / "user.cfg").is_file():
        raise UsageError("on a GRUB host all deployments boot the same way, BLS or UKI")
    live = (grub / "user.cfg").read_text()
    (grub / "user.cfg.staged").write_text(EFI_UUID_SOURCE + own + _find_menuentry(host, live, booted))


def _find_menuentry(host: LabHost, live: str, digest: VerityDigest) -> str:
    start = next((at for at in _menuentry_starts(live) if digest in live[at : live.index("\n}", at)]), None)
    if start is None:
        raise BootEntryError(f"lab {host.root}: no menuentry for the deployment {digest}")
    return live[start : live.index("\n}", start) + 3]


def _menuentry_starts(text: str) -> list[int]:
    starts = [0] if text.startswith("menuentry ") else []
    at = text.find("\nmenuentry ")
    while at >= 0:
        starts.append(at + 1)
        at = text.find("\nmenuentry ", at + 1)
    return starts
