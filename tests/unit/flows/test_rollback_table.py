"""Every rollback on every kind of host: what boots next, judged by the tests' own loaders.

The boot partition is the FAT model, so that planning and publishing are the program's own and nothing waits for a disk.
"""

from __future__ import annotations

import itertools
from dataclasses import astuple, dataclass, field
from pathlib import Path

import pytest
from loader_emulation import RULES, boot_next, list_menu
from unit.boot.fat_model import FatModel
from unit.boot.fat_volume import FatVolume
from unit.boot.scenarios import HEADER, bls_text, kernel_directory, menuentry, uki_path, uki_text

from bootc_fast.boot.entries.deployment_order import order_after_finalize
from bootc_fast.boot.entries.menu import read_volumes
from bootc_fast.boot.entries.plan import plan_menu
from bootc_fast.boot.entries.publish import publish_volumes
from bootc_fast.composefs.survey import Survey
from bootc_fast.flows.rollback_plan import plan_rollback
from bootc_fast.machine.host import Host
from bootc_fast.types import Booted, BootType, Deployment, Loader, StagedMarker, VerityDigest

DIGESTS = [VerityDigest(char * 64) for char in "abcde"]
STAGED = DIGESTS[4]
# What bootc calls the first and the second entry: os id and version, in turns where there are more than two.
VERSIONS = {
    "43 to 42": (("fedora", "43"), ("fedora", "42")),
    "10 to 9": (("centos", "10"), ("centos", "9")),
    "9 to 10": (("centos", "9"), ("centos", "10")),
    "dates": (("bazzite", "20251101.1"), ("bazzite", "20250930")),
    "44-beta": (("fedora", "44-beta"), ("fedora", "43")),
    "mixed OS ids": (("debian", "13"), ("fedora-bootc", "43")),
}
QUIET = b"title Note\nlinux /a_memtest.bin\nversion 1\n# kept as it is\n"


@dataclass(frozen=True)
class Case:
    """One host.

    Attributes:
        booted: Position in the set that bootc wrote.
        written: The set is as bootc wrote it; or an earlier rollback of ours has made another deployment than the
            booted one the default (queued), or the booted one.
        staged: Nothing, a set that waits, or one that a finalize has put in force already.
    """

    loader: Loader
    boot_type: BootType
    count: int
    booted: int
    written: str
    staged: str
    versions: str

    def __str__(self) -> str:
        where = f"{self.booted} of {self.count}"
        return f"{self.loader} {self.boot_type}, {where}, {self.written}, {self.staged}, {self.versions}"


def _make_cases() -> list[Case]:
    kinds = [(loader, kind) for loader in Loader for kind in BootType]
    where = [(count, booted) for count in (2, 3, 4) for booted in sorted({0, 1, count - 1})]
    rest = itertools.product(("by bootc", "queued", "not queued"), ("nothing staged", "staged", "finalized"), VERSIONS)
    found = [Case(*kind, *at, *more) for kind, at, more in itertools.product(kinds, where, rest)]
    # Every 7th of 2,592: with 7 prime to every number of values, each pair of values of two columns comes up.
    return found[::7]


@dataclass
class Machine:
    """A host whose boot partition is in memory."""

    case: Case
    volume: FatVolume = field(default_factory=lambda: FatVolume(FatModel()))
    marker: VerityDigest | None = None

    def __post_init__(self) -> None:
        case = self.case
        shown = DIGESTS[: case.count]
        live = self._make_set("entries", "user.cfg", [(digest, case.count - 1 - i) for i, digest in enumerate(shown)])
        for path, raw in {**live, **self._make_files([*shown, STAGED])}.items():
            self.volume.put(path.encode(), raw)
        # Its name is below ours for every loader: what boots is one of ours.
        self.volume.put(b"loader/entries/a_memtest-0-0.conf", QUIET)
        if case.written != "by bootc":
            self.roll_back("booted")
        if case.written == "queued":
            self.roll_back("previous")
        if case.staged != "nothing staged":
            for path, raw in self._make_set(
                "entries.staged", "user.cfg.staged", [(STAGED, 1), (self.booted, 0)]
            ).items():
                self.volume.put(path.encode(), raw)
            self.marker = STAGED
        if case.staged == "finalized":
            menu = self.read()
            order = order_after_finalize(menu, staged=STAGED, booted=self.booted, kept=DIGESTS)
            publish_volumes(self.volume, self.volume, menu, plan_menu(menu, order=order, staged=STAGED))

    @property
    def booted(self) -> VerityDigest:
        return DIGESTS[self.case.booted]

    def _make_set(self, entries: str, cfg: str, wanted: list[tuple[VerityDigest, int]]) -> dict[str, bytes]:
        case = self.case
        if (case.loader, case.boot_type) == (Loader.GRUB, BootType.UKI):
            return {f"grub2/{cfg}": HEADER + b"".join(menuentry(digest) for digest, _ in wanted)}
        found = {}
        for position, (digest, rank) in enumerate(wanted):
            os_id, version = VERSIONS[case.versions][DIGESTS.index(digest) % 2]
            key = f"bootc-{os_id}-{position}"
            text = bls_text(digest, version, key, case.loader)
            if case.boot_type is BootType.UKI:
                text = uki_text(digest, version, key, word="efi" if case.loader is Loader.GRUB_CC else "uki")
            found[f"loader/{entries}/bootc_{os_id.replace('-', '_')}-{version}-{rank}.conf"] = text
        return found

    def _make_files(self, digests: list[VerityDigest]) -> dict[str, bytes]:
        found = {"a_memtest.bin": b"m"}
        if self.case.loader is Loader.GRUB:
            found["grub2/grubenv"] = b"# GRUB Environment Block\n"
        for digest in digests:
            directory = kernel_directory(digest, self.case.loader).decode().strip("/")
            found |= {f"{directory}/{name}": b"k" for name in ("vmlinuz", "initrd")}
            found[uki_path(digest).decode().strip("/")] = b"u"
        return found

    def read(self):  # type: ignore[no-untyped-def] # noqa: ANN201 - what read_volumes returns
        return read_volumes(self.volume, self.volume, loader=self.case.loader, known=DIGESTS)

    @property
    def files(self) -> dict[str, bytes]:
        """Everything on the partition, as the tests' loaders see it."""
        found: dict[str, bytes] = {}

        def walk(inode, path: str) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001 - the model's own
            for name, child in inode.children.items():
                if child.is_dir:
                    walk(child, f"{path}{name.decode()}/")
                else:
                    found[path + name.decode()] = self.volume.model.read(child)

        walk(self.volume.model.find(b"/"), "")
        return found

    @property
    def order(self) -> list[str]:
        """Our deployments in the loader's order."""
        return [entry.digest for entry in list_menu(self.case.loader, self.files) if entry.digest]

    def roll_back(self, to: str | None = None) -> None:
        deployments = tuple(Deployment(digest, None, has_image=True) for digest in DIGESTS)
        marker = None if self.marker is None else StagedMarker(self.marker)
        survey = Survey(Host(Path("/"), is_live=False), Booted(self.booted), marker, deployments)
        menu = self.read()
        outcome = publish_volumes(self.volume, self.volume, menu, plan_rollback(survey, menu, to=to))
        assert outcome.warnings == ()
        self.marker = None


def _predict(order: list[str], booted: str, staged: str | None, to: str | None) -> str:
    """What the spec says boots next."""
    others = [digest for digest in order if digest not in (booted, staged)]
    if to == "booted" or (to is None and order[0] != booted):
        return booted
    return others[0] if to in (None, "previous") else to


def _check(machine: Machine, to: str | None) -> None:
    before, foreign = machine.order, machine.files["loader/entries/a_memtest-0-0.conf"]
    wanted = _predict(before, machine.booted, machine.marker, to)
    machine.roll_back(to)
    files = machine.files
    for compare in RULES[machine.case.loader]:
        assert boot_next(machine.case.loader, files, compare=compare).digest == wanted, (to, compare.__name__)
    # The others stay as they are, and so do foreign entries; nothing staged is left to become live.
    assert machine.order == [wanted, *(digest for digest in before if digest != wanted)], to
    assert files["loader/entries/a_memtest-0-0.conf"] == foreign
    assert not [path for path in files if ".staged" in path or path.endswith((".new", ".gone"))]


CASES = _make_cases()


def test_all_values_of_all_columns_come_up_together() -> None:
    assert len(CASES) >= 300
    rows = [astuple(case) for case in CASES]
    for one, two in itertools.combinations(range(len(rows[0])), 2):
        pairs = {(row[one], row[two]) for row in rows}
        possible = itertools.product({row[one] for row in rows}, {row[two] for row in rows})
        # Of two deployments none is the third or fourth; of three none the fourth.
        missing = {pair for pair in possible if pair not in pairs}
        assert missing == ({(2, 2), (2, 3), (3, 3), (4, 2)} if (one, two) == (2, 3) else set()), (one, two)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_boots_after_a_rollback(case: Case) -> None:
    machine = Machine(case)
    assert (machine.order[0] != machine.booted) or (case.written, case.staged) != ("queued", "nothing staged")
    shown = machine.order
    for to in (None, None, "previous", "booted", *shown, shown[-1]):
        _check(machine, to)


@pytest.mark.parametrize("case", CASES[::6], ids=str)
def test_naming_any_deployment_boots_it_and_naming_it_again_changes_nothing(case: Case) -> None:
    for digest in Machine(case).order:
        machine = Machine(case)
        _check(machine, digest)
        # Naming it again changes nothing.
        before = machine.files
        machine.roll_back(digest)
        assert machine.files == before
