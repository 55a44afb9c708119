"""Hosts with boot entries on a volume, and a loader that judges what it finds there by itself."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bootc_fast.boot.entries.deployment_order import order_after_finalize, order_after_rollback
from bootc_fast.boot.entries.menu import BootMenu, read_volumes
from bootc_fast.boot.entries.plan import MenuPlan, plan_menu
from bootc_fast.boot.entries.publish import PublishOutcome, publish_volumes
from bootc_fast.boot.loaders.entry import MenuEntry, parse_entry, replace_sort_key
from bootc_fast.boot.loaders.order import sort_entries
from bootc_fast.boot.loaders.table import record_of
from bootc_fast.boot.loaders.user_cfg import parse_user_cfg
from bootc_fast.types import Loader, VerityDigest

if TYPE_CHECKING:
    from unit.boot.fat_model import FatModel, Inode
    from unit.boot.fat_volume import FatVolume

    from bootc_fast.boot.area.directory import BootVolume

A, B, C, D = (VerityDigest(char * 64) for char in "abcd")
KNOWN = frozenset({A, B, C, D})
HEADER = b"if [ -f ${config_directory}/efiuuid.cfg ]; then\n        source ${config_directory}/efiuuid.cfg\nfi\n"
FOREIGN = b"title Memory test\nversion 1\nlinux /a_memtest.bin\n# kept  as\tit is\n"


def kernel_directory(digest: str, loader: Loader) -> bytes:
    """Where bootc puts a kernel."""
    parent = "" if loader is Loader.GRUB else "/EFI/Linux"
    return f"{parent}/bootc_composefs-{digest}".encode()


def uki_path(digest: str) -> bytes:
    """Where bootc puts a UKI."""
    return f"/EFI/Linux/bootc/bootc_composefs-{digest}.efi".encode()


def bls_text(digest: str, version: str, key: str | None, loader: Loader = Loader.SYSTEMD_BOOT) -> bytes:
    """An entry as bootc writes it."""
    where = kernel_directory(digest, loader).decode()
    lines = [f"title Example {version}", f"version {version}", f"linux {where}/vmlinuz", f"initrd {where}/initrd"]
    lines.append(f"options root=UUID=1 rw composefs={digest}")
    lines += [f"sort-key {key}"] if key is not None else []
    return ("\n".join(lines) + "\n").encode()


def uki_text(digest: str, version: str, key: str, *, word: str = "uki") -> bytes:
    """An entry for a UKI as bootc writes it."""
    return f"title Example {version}\nversion {version}\n{word} {uki_path(digest).decode()}\nsort-key {key}\n".encode()


def menuentry(digest: str, label: str = "Example Bootc UKI") -> bytes:
    """A menuentry as bootc writes it."""
    lines = [f'menuentry "{label}: ({digest})" {{', "insmod fat", "insmod chain"]
    lines.append('search --no-floppy --set=root --fs-uuid "${EFI_PART_UUID}"')
    return ("\n".join([*lines, f"chainloader {uki_path(digest).decode()}", "}"]) + "\n").encode()


@dataclass
class Scenario:
    """A host before a change, and what is wanted.

    Attributes:
        files: Paths and contents.
        old: The default before.
        order: What is wanted; the first is the default after.
        staged: The marker's deployment.
    """

    name: str
    loader: Loader
    files: dict[bytes, bytes]
    old: VerityDigest
    new: VerityDigest
    staged: VerityDigest | None
    booted: VerityDigest
    kept: frozenset[VerityDigest] = KNOWN
    foreign: dict[bytes, bytes] = field(default_factory=dict)

    def install(self, volume: FatVolume) -> None:
        """Put the files on the volume."""
        for path, data in {**self.files, **self.foreign}.items():
            volume.put(path, data)

    def read(self, volume: BootVolume) -> BootMenu:
        """Read the menu."""
        return read_volumes(volume, volume, loader=self.loader, known=KNOWN)

    def plan(self, menu: BootMenu) -> MenuPlan:
        """Plan what this scenario wants."""
        if self.staged is not None:
            order = order_after_finalize(menu, staged=self.staged, booted=self.booted, kept=self.kept)
        else:
            order = order_after_rollback(menu, first=self.new, kept=self.kept)
        return plan_menu(menu, order=order, staged=self.staged)

    def run(self, volume: BootVolume) -> PublishOutcome:
        """Do it all."""
        menu = self.read(volume)
        return publish_volumes(volume, volume, menu, self.plan(menu))


def _kernels(loader: Loader, *digests: str) -> dict[bytes, bytes]:
    found = {}
    for digest in digests:
        for name in (b"vmlinuz", b"initrd"):
            found[kernel_directory(digest, loader) + b"/" + name] = (name + digest[:4].encode()) * 100
    return found


def _ukis(*digests: str, suffix: bytes = b"") -> dict[bytes, bytes]:
    return {uki_path(digest) + suffix: (b"uki" + digest[:4].encode()) * 200 for digest in digests}


def _set(path: str, *entries: tuple[str, bytes]) -> dict[bytes, bytes]:
    return {f"/loader/{path}/{name}.conf".encode(): raw for name, raw in entries}


def _foreign() -> dict[bytes, bytes]:
    return {b"/loader/entries/a_memtest.conf": FOREIGN, b"/a_memtest.bin": b"m" * 700}


def make_scenarios() -> list[Scenario]:
    """All the hosts: each loader and boot type, updates and rollbacks, two deployments and more."""
    found = []
    for loader in (Loader.SYSTEMD_BOOT, Loader.GRUB, Loader.GRUB_CC):
        one = bls_text(A, "42", "bootc-fedora-0", loader)
        two = bls_text(C, "41", "bootc-fedora-1", loader)
        three = bls_text(D, "9", "bootc-fedora-2", loader)
        old = _set("entries", ("bootc_fedora-42-1", one), ("bootc_fedora-41-0", two))
        update = _set(
            "entries.staged",
            ("bootc_debian-10-1", bls_text(B, "10", "bootc-debian-0", loader)),
            ("bootc_debian-42-0", bls_text(A, "42", "bootc-debian-1", loader)),
        )
        kernels = _kernels(loader, A, B, C, D)
        grub = {b"/grub2/grubenv": b"# GRUB Environment Block\n" + b"#" * 999} if loader is Loader.GRUB else {}
        found.append(Scenario(f"{loader} BLS update", loader, {**old, **update, **kernels, **grub}, A, B, B, A))
        more = _set("entries", ("bootc_fedora-9-0", three))
        found.append(
            Scenario(f"{loader} BLS rollback of three", loader, {**old, **more, **kernels, **grub}, A, C, None, A)
        )
    for loader in (Loader.SYSTEMD_BOOT, Loader.GRUB_CC):
        word = "uki" if loader is Loader.SYSTEMD_BOOT else "efi"
        old = _set("entries", ("bootc_fedora-42-1", uki_text(A, "42", "bootc-fedora-0", word=word)))
        update = _set("entries.staged", ("bootc_fedora-41-1", uki_text(B, "41", "bootc-fedora-0", word=word)))
        ukis = {**_ukis(A), **_ukis(B, suffix=b".staged")}
        found.append(Scenario(f"{loader} UKI update, old staged names", loader, {**old, **update, **ukis}, A, B, B, A))
    mixed = {
        **_set("entries", ("bootc_fedora-42-1", bls_text(A, "42", "bootc-fedora-0"))),
        **_set("entries.staged", ("bootc_fedora-43-1", uki_text(B, "43", "bootc-fedora-0"))),
        **_kernels(Loader.SYSTEMD_BOOT, A),
        **_ukis(B),
    }
    found.append(Scenario("systemd-boot from BLS to UKI", Loader.SYSTEMD_BOOT, mixed, A, B, B, A))
    found.append(
        Scenario(
            "grub UKI update",
            Loader.GRUB,
            {
                b"/grub2/user.cfg": HEADER + menuentry(A) + menuentry(C) + b"set timeout=3\n",
                b"/grub2/user.cfg.staged": HEADER + menuentry(B) + menuentry(A),
                **_ukis(A, B, C),
            },
            A,
            B,
            B,
            A,
        )
    )
    found.append(
        Scenario(
            "grub UKI rollback",
            Loader.GRUB,
            {b"/grub2/user.cfg": HEADER + menuentry(A) + menuentry(C), **_ukis(A, C)},
            A,
            C,
            None,
            A,
        )
    )
    for scenario in found:
        scenario.foreign = _foreign()
    return found


def _is_whole(model: FatModel, path: bytes) -> bool:
    inode = model.find(path)
    return len(model.chain(inode.start)) * model.cluster_bytes >= inode.size > 0


def _normal(raw: bytes) -> bytes:
    return replace_sort_key(raw, b"x")


def find_boots(model: FatModel, scenario: Scenario) -> list[MenuEntry | None]:
    """Be the loader: read the FAT and return what each rule picks as the first of ours."""
    try:
        names = model.find(b"/loader/entries").children if model.find(b"/loader/entries").is_dir else {}
    except OSError:
        names = {}
    entries = []
    for name, inode in names.items():
        if name.endswith(b".conf") and not inode.is_dir:
            try:
                entry = parse_entry(name, model.read(inode), known=KNOWN)
            except OSError:
                continue
            # A loader that looks at the kernel first skips an entry without one; one that does not is the harder case.
            entries.append(entry)
    chunks = []
    if scenario.loader is Loader.GRUB:
        try:
            cfg = model.read(model.find(b"/grub2/user.cfg"))
            chunks = [c.entry for c in parse_user_cfg(cfg, known=KNOWN) if c.entry is not None]
        except OSError:
            chunks = []
    picked: list[MenuEntry | None] = []
    for rule in record_of(scenario.loader).rules:
        shown = [*chunks, *sort_entries(entries, rule)]
        picked.append(next((entry for entry in shown if entry.is_own), None))
    return picked


def _find_broken(model: FatModel) -> list[bytes]:
    found = []
    for path in (b"/loader", b"/loader/entries"):
        try:
            model.find(path)
        except OSError as error:
            if error.errno == errno.EIO:
                found.append(path)
    return found


def judge(model: FatModel, scenario: Scenario, *, wanted: tuple[VerityDigest, ...] | None = None) -> list[str]:
    """Say what is wrong with what is on the disk; nothing is wrong where the machine boots what it should."""
    wrong = [f"{path!r} counts as empty for firmware" for path in _find_broken(model)]
    texts = {_normal(raw) for path, raw in scenario.files.items() if path.endswith(b".conf")}
    for entry in find_boots(model, scenario):
        if entry is None:
            wrong.append("nothing boots")
            continue
        if entry.digest not in (wanted or (scenario.old, scenario.new)):
            wrong.append(f"{entry.label} boots, of {entry.digest}")
        if entry.menu_id is None and _normal(entry.raw) not in texts:
            wrong.append(f"{entry.label} is torn")
        if entry.menu_id is None and not _is_whole(model, b"/loader/entries/" + entry.file_name):
            wrong.append(f"{entry.label} has lost clusters")
        for path in entry.paths:
            try:
                content = model.read(model.find(path))
            except OSError as error:
                wrong.append(f"{entry.label} names {path!r}: {error}")
                continue
            known = scenario.files.get(path, scenario.files.get(path + b".staged"))
            if content != known or not _is_whole(model, path):
                wrong.append(f"{entry.label} names {path!r}, which is torn")
    for path, raw in scenario.foreign.items():
        try:
            if model.read(model.find(path)) != raw or not _is_whole(model, path):
                wrong.append(f"{path!r} is torn")
        except OSError as error:
            wrong.append(f"{path!r}: {error}")
    return wrong


def _claims(model: FatModel) -> dict[int, list[bytes]]:
    """Whose each cluster is; a name whose cluster is free owns nothing."""
    found: dict[int, list[bytes]] = {}
    todo: list[tuple[bytes, Inode]] = [(b"", model.root)]
    while todo:
        path, inode = todo.pop()
        for cluster in model.chain(inode.start):
            found.setdefault(cluster, []).append(path)
        if inode.is_dir and len(todo) < 1000:
            todo += [(path + b"/" + name, child) for name, child in inode.children.items()]
    return found


def find_crossed(model: FatModel) -> list[list[bytes]]:
    """Names that have a cluster in common: ``fsck.fat -a`` cuts one of them short, whichever comes second."""
    return sorted({tuple(paths): paths for paths in _claims(model).values() if len(paths) > 1}.values())


def check_finished(model: FatModel, scenario: Scenario) -> None:
    """Assert that the set is the wanted one, with nothing torn and nothing live that shares clusters."""
    problems = judge(model, scenario, wanted=(scenario.new,))
    assert problems == [], sorted(model.find(b"/loader/entries").children)
    directory = model.find(b"/loader/entries")
    owners: dict[int, bytes] = {}
    for name, inode in directory.children.items():
        if not name.endswith(b".conf"):
            continue
        assert _is_whole(model, b"/loader/entries/" + name), name
        for cluster in model.chain(inode.start):
            assert cluster not in owners, (name, owners[cluster])
            owners[cluster] = name
    own = [parse_entry(n, model.read(i), known=KNOWN) for n, i in directory.children.items() if n.endswith(b".conf")]
    digests = [entry.digest for entry in own if entry.is_own]
    assert len(set(digests)) == len(digests), "a deployment has two entries"
    assert not model.is_read_only
    live = (b"/loader/entries", *(path for entry in find_boots(model, scenario) if entry for path in entry.paths))
    for paths in find_crossed(model):
        assert not any(path.startswith(live) and path != b"/loader/entries.staged" for path in paths), paths
