"""A host whose boot partition is a FAT model: bootc stages, somebody damages, power fails, and ours runs on it.

What boots is told by ``loader_emulation``, which shares nothing with the program.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import loader_emulation as loaders
from unit.boot.fat_model import FatModel, seeded
from unit.boot.fat_volume import FatVolume
from unit.boot.faults import FaultyVolume, KilledError, Trigger
from unit.boot.scenarios import HEADER, bls_text, kernel_directory, menuentry, uki_path, uki_text

from bootc_fast.boot.efi.firmware import LoaderVariables
from bootc_fast.boot.entries.deployment_order import order_after_finalize
from bootc_fast.boot.entries.garbage import collect_volumes
from bootc_fast.boot.entries.menu import read_volumes
from bootc_fast.boot.entries.plan import check_next_boot, plan_menu
from bootc_fast.boot.entries.publish import publish_volumes
from bootc_fast.boot.entries.staged_set import find_naming, remove_staged_set
from bootc_fast.composefs.boot_files import list_protected
from bootc_fast.composefs.survey import Survey
from bootc_fast.flows.rollback_plan import plan_rollback
from bootc_fast.flows.unstage import refuse_unstaging
from bootc_fast.machine.host import Host
from bootc_fast.types import Booted, BootType, Deployment, Loader, StagedMarker, VerityDigest

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from bootc_fast.boot.area.directory import BootVolume
from bootc_fast.boot.loaders.override import OverrideKind

STAGED = "loader/entries.staged/"
LIVE = "loader/entries/"


def make_digest(number: int) -> VerityDigest:
    return VerityDigest(hashlib.sha256(b"%d" % number).hexdigest())


@dataclass
class Made:
    """One deployment, as it was staged."""

    digest: VerityDigest
    boot_type: BootType
    os_id: str
    version: str
    files: dict[str, bytes]
    has_image: bool = True
    has_state: bool = True


@dataclass
class RandomHost:
    """One host.

    Attributes:
        promised: What the last command that succeeded said; None after a cut, a failure, or another's change.
    """

    loader: Loader
    boot_type: BootType
    volume: FatVolume = field(default_factory=lambda: FatVolume(FatModel(clusters=2400)))
    made: dict[VerityDigest, Made] = field(default_factory=dict)
    booted: VerityDigest = field(init=False)
    marker: VerityDigest | None = None
    variables: dict[str, str] = field(default_factory=dict)
    promised: VerityDigest | None = None
    foreign: dict[str, bytes] = field(default_factory=dict)
    stored: list[tuple[int, dict[str, str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.booted = self._make("fedora", "43", self.boot_type, None).digest
        if self.loader is Loader.GRUB:
            self.write("grub2/grubenv", b"# GRUB Environment Block\n".ljust(1024, b"#"))
        self._write_set(self.booted, None, "entries", "user.cfg")
        self.settle()

    # -- files ------------------------------------------------------------------------------------------------

    @property
    def files(self) -> dict[str, bytes]:
        """Everything on the partition; what cannot be read is empty, as for a loader."""
        found: dict[str, bytes] = {}
        pending = [("", self.volume.model.root)]
        while pending:
            path, inode = pending.pop()
            for name, child in inode.children.items():
                where = f"{path}{name.decode(errors='replace')}"
                if child.is_dir:
                    pending.append((where + "/", child))
                    continue
                try:
                    found[where] = self.volume.model.read(child)
                except OSError:
                    found[where] = b""
        return found

    def write(self, path: str, data: bytes) -> None:
        self.remove(path)
        self.volume.put(path.encode(), data)

    def remove(self, path: str) -> None:
        head, _, name = path.rpartition("/")
        directory = self.volume.open_directory(head.encode())
        if directory is not None and name.encode() in directory.list_names():
            directory.unlink(name.encode())

    def remove_tree(self, path: str) -> None:
        for name in [name for name in self.files if name.startswith(path)]:
            self.remove(name)
        if self.volume.open_directory(path.encode()) is not None:
            self.volume.remove_directory(path.encode())

    def settle(self) -> None:
        """Everything is on the disk: a cut from here on finds it there."""
        self.volume.model.start()

    # -- bootc ------------------------------------------------------------------------------------------------

    def _make(self, os_id: str, version: str, boot_type: BootType, kernel_of: VerityDigest | None) -> Made:
        digest = make_digest(len(self.made))
        if boot_type is BootType.UKI:
            files = {uki_path(digest).decode().lstrip("/"): b"uki" + digest.encode()}
        else:
            where = kernel_directory(kernel_of or digest, self.loader).decode().strip("/")
            sum_of = (kernel_of or digest).encode()
            files = {f"{where}/{name}": name.encode() + sum_of for name in ("vmlinuz", "initrd")}
        for path, raw in files.items():
            self.write(path, raw)
        self.made[digest] = Made(digest, boot_type, os_id, version, files)
        return self.made[digest]

    def _entry(self, digest: VerityDigest, key: str, shared: VerityDigest | None = None) -> bytes:
        made = self.made[digest]
        if made.boot_type is BootType.UKI:
            word = "efi" if self.loader is Loader.GRUB_CC else "uki"
            return uki_text(digest, made.version, key, word=word)
        text = bls_text(digest, made.version, key, self.loader)
        if shared is None:
            return text
        old, new = (f"bootc_composefs-{one}/".encode() for one in (digest, shared))
        return text.replace(old, new)

    def _write_set(self, new: VerityDigest, booted: str | None, where: str, cfg: str, shared: object = None) -> None:
        made = self.made[new]
        if self.loader is Loader.GRUB and made.boot_type is BootType.UKI:
            self.write(f"grub2/{cfg}", HEADER + menuentry(new) + (booted or "").encode())
            return
        name, key = made.os_id.replace("-", "_"), f"bootc-{made.os_id}-"
        raw = self._entry(new, key + "0", shared)  # type: ignore[arg-type]
        self.write(f"loader/{where}/bootc_{name}-{made.version}-1.conf", raw)
        if booted is not None:
            lines = [line for line in booted.splitlines() if not line.startswith("sort-key")]
            version = self.made[self.booted].version
            text = "\n".join([*lines, f"sort-key {key}1"]) + "\n"
            self.write(f"loader/{where}/bootc_{name}-{version}-0.conf", text.encode())

    def find_text(self, digest: str) -> str | None:
        """A deployment's live entry, as bootc looks it up."""
        return next((one.text for one in loaders.list_menu(self.loader, self.files) if one.digest == digest), None)

    def stage(self, os_id: str, version: str, boot_type: BootType, *, shares_kernel: bool) -> None:
        """What ``bootc upgrade`` does; nothing where bootc itself would fail."""
        if self.loader is Loader.GRUB and boot_type is not self.boot_type:
            return
        booted = self.find_text(self.booted)
        kernel_of = self.booted if shares_kernel and self.made[self.booted].boot_type is BootType.BLS else None
        if kernel_of is not None:
            directories = {path.rpartition("/")[0] for path in self.made[kernel_of].files}
            kernel_of = VerityDigest(directories.pop().rpartition("-")[2])
        if booted is None or (boot_type is BootType.BLS and self.made[self.booted].boot_type is BootType.UKI):
            return
        if boot_type is BootType.BLS:
            # For UKIs bootc leaves what is staged already.
            self.remove_tree("loader/entries.staged")
        self.remove("grub2/user.cfg.staged")
        made = self._make(os_id, version, boot_type, kernel_of if boot_type is BootType.BLS else None)
        shared = kernel_of if boot_type is BootType.BLS else None
        self._write_set(made.digest, booted, "entries.staged", "user.cfg.staged", shared)
        self.marker = made.digest
        self.settle()

    # -- the machine ------------------------------------------------------------------------------------------

    def menu(self, compare: Callable[[loaders.Entry, loaders.Entry], int] | None = None) -> list[loaders.Entry]:
        return loaders.list_menu(self.loader, self.files, compare)

    def next_boot(self, compare: Callable[[loaders.Entry, loaders.Entry], int] | None = None) -> str | None:
        """The deployment of ours that boots: what an override or a foreign entry puts before it is passed over."""
        files, variables = self.files, dict(self.variables)
        entry = loaders.boot_next(self.loader, files, variables, compare)
        if entry.digest is not None:
            return entry.digest
        return next((one.digest for one in self.menu(compare) if one.digest is not None), None)

    def first_of_ours(self) -> tuple[str | None, ...]:
        """What boots once no override is there any more, by each rule."""
        menus = [self.menu(compare) for compare in loaders.RULES[self.loader]]
        return tuple(next((one.digest for one in menu if one.digest is not None), None) for menu in menus)

    def defaults(self) -> tuple[str | None, ...]:
        """The same by each rule that this loader may have."""
        return tuple(self.next_boot(compare) for compare in loaders.RULES[self.loader])

    def is_intact(self, digest: str) -> bool:
        """Everything that it boots with is there, byte for byte."""
        made, files = self.made[VerityDigest(digest)], self.files
        return made.has_image and made.has_state and all(files.get(path) == raw for path, raw in made.files.items())

    def boot(self) -> None:
        digest = self.next_boot()
        assert digest is not None, "nothing of ours boots"
        entry = loaders.boot_next(self.loader, self.files, dict(self.variables))
        self.variables.pop("LoaderEntryOneShot", None)
        if self.loader is Loader.SYSTEMD_BOOT:
            self.variables["LoaderEntryLastBooted"] = entry.name
        self.booted, self.marker = VerityDigest(digest), None

    # -- our commands -----------------------------------------------------------------------------------------

    def survey(self) -> Survey:
        found = tuple(
            Deployment(one.digest, None, has_image=one.has_image) for one in self.made.values() if one.has_state
        )
        marker = None if self.marker is None else StagedMarker(self.marker)
        images = tuple(one.digest for one in self.made.values() if one.has_image)
        return Survey(Host(Path("/"), is_live=False), Booted(self.booted), marker, found, images)

    def _set_variable(self, kind: OverrideKind, value: bytes) -> None:
        self.variables[kind.value] = value.decode()
        self.stored.append((len(self.volume.model.log), dict(self.variables)))

    def _loader_variables(self) -> LoaderVariables:
        return LoaderVariables(
            entry_default=self.variables.get("LoaderEntryDefault"),
            entry_oneshot=self.variables.get("LoaderEntryOneShot"),
            entry_last_booted=self.variables.get("LoaderEntryLastBooted"),
        )

    def run(self, verb: str, to: str | None, volume: BootVolume) -> VerityDigest:
        """Do what the command does between its look and its last word; returns what it says boots next."""
        self.stored = [(0, dict(self.variables))]
        survey = self.survey()
        variables = self._loader_variables()
        menu = read_volumes(volume, volume, loader=self.loader, known=survey.known, variables=variables)
        if verb == "rollback":
            plan = plan_rollback(survey, menu, to=to)
        else:
            assert survey.marker is not None
            staged = survey.marker.digest
            order = order_after_finalize(menu, staged=staged, booted=self.booted, kept=survey.kept)
            plan = plan_menu(menu, order=order, staged=staged)
        protected = list_protected(survey, menu)
        publish_volumes(volume, volume, menu, plan, set_variable=self._set_variable, protected=protected)
        variables = self._loader_variables()
        check_next_boot(
            read_volumes(self.volume, self.volume, loader=self.loader, known=survey.known, variables=variables),
            plan.order[0],
        )
        if verb == "rollback":
            self.marker = None if self.marker != plan.order[0] else self.marker
        else:
            after = read_volumes(volume, volume, loader=self.loader, known=survey.known, variables=variables)
            collect_volumes(volume, volume, after, known=list_protected(survey, after))
        return plan.order[0]

    def unstage(self, volume: BootVolume) -> None:
        """Do what the command does on the boot partition, marker first; raises where it refuses."""
        self.stored = [(0, dict(self.variables))]
        survey, variables = self.survey(), self._loader_variables()
        assert survey.marker is not None
        staged = survey.marker.digest
        menu = read_volumes(volume, volume, loader=self.loader, known=survey.known, variables=variables)
        refuse_unstaging(menu, staged)
        self.marker = None
        remove_staged_set(volume)
        after = read_volumes(volume, volume, loader=self.loader, known=survey.known, variables=variables)
        if after.odd.is_complete and find_naming(volume, volume, after, staged) is None:
            self.made[staged].has_state = False
        known = {one.digest for one in self.made.values() if one.has_state} | {self.booted}
        collect_volumes(volume, volume, after, known=known)

    def run_killed(self, verb: str, to: str | None, at: int, error: int | None) -> VerityDigest | None:
        """The same, and at its n-th file operation it is killed, or the operation fails once."""
        trigger = Trigger(at, error)
        try:
            return self.run(verb, to, FaultyVolume(self.volume, trigger))
        except KilledError:
            self.volume.model.close_all()
            self.volume.model.syncfs()
            return None

    def crash_states(self, seed: int) -> Iterator[RandomHost]:
        """What a power cut within the last command may have left, as machines that come up again."""
        rng = seeded(seed)
        states = list(self._states(rng))
        for state, variables in rng.sample(states, min(len(states), 12)):
            yield RandomHostAfterCut(self, FatVolume(self.volume.model.mount(state)), variables)

    def _states(self, rng: random.Random) -> Iterator[tuple[dict[tuple[str, int], Any], dict[str, str]]]:
        """Every write's state, subsets between two flushes, and what the firmware had stored by then."""
        model = self.volume.model
        base, epoch = dict(model.start_disk), list[tuple[tuple[str, int], Any]]()
        yield dict(base), self.stored[0][1]
        for index, (kind, key, value) in enumerate([*model.log, ("flush", ("", 0), None)]):
            # The firmware stores a variable at once, between two writes.
            variables = next(found for at, found in reversed(self.stored) if at <= index)
            if kind == "write":
                epoch.append((key, value))
                yield {**base, **dict(epoch)}, variables
                continue
            for _ in range(2 if len(epoch) > 1 else 0):
                yield {**base, **dict(one for one in epoch if rng.random() < 0.5)}, variables
            base.update(dict(epoch))
            epoch = []


class RandomHostAfterCut(RandomHost):
    """The same host with what the cut left on its boot partition."""

    def __init__(self, before: RandomHost, volume: FatVolume, variables: dict[str, str]) -> None:
        names = ("loader", "boot_type", "made", "booted", "foreign")
        for name in names:
            setattr(self, name, getattr(before, name))
        self.variables = dict(variables)
        self.volume, self.marker, self.promised = volume, None, None


def kinds() -> list[tuple[Loader, BootType]]:
    return list(itertools.product(Loader, BootType))
