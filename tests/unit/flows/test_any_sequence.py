"""Whatever is done to a host in whatever order: it boots an intact deployment, and the one that was said.

`BOOTC_FAST_EXAMPLES` sets how many sequences are tried.
"""

from __future__ import annotations

import contextlib
import errno
import os

import loader_emulation as loaders
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from random_host import LIVE, RandomHost, kinds
from unit.boot.faults import FaultyVolume, KilledError, Trigger

from bootc_fast.errors import BootcFastError
from bootc_fast.types import BootType, Loader

VERSIONS = st.sampled_from(["43", "42", "10", "9", "44-beta", "20251101.1", "13 (trixie)", "1.0~rc1"])
OS_IDS = st.sampled_from(["fedora", "debian", "fedora-bootc", "zorin", "arch", "0day"])
TARGETS = st.sampled_from([None, None, None, "previous", "booted", "0", "1", "2", "3"])
VERBS = st.sampled_from(["rollback", "finalize"])
MOST_DEPLOYMENTS = 8
FOREIGN = ["aa_memtest", "bootc-windows", "zzz-rescue-9-9"]


class AnySequence(RuleBasedStateMachine):
    """One host and its fate."""

    @initialize(kind=st.sampled_from(kinds()), updates=st.lists(st.tuples(OS_IDS, VERSIONS, st.booleans()), max_size=3))
    def install(self, kind: tuple[Loader, BootType], updates: list[tuple[str, str, bool]]) -> None:
        """bootc installs; updates have gone well since, each booted or not."""
        self.host = RandomHost(*kind)
        for os_id, version, is_booted in updates:
            self.host.stage(os_id, version, kind[1], shares_kernel=False)
            self.host.promised = self.host.run("finalize", None, self.host.volume)
            self.host.settle()
            if is_booted:
                self.boot()

    def _target(self, verb: str, to: str | None) -> str | None:
        if verb == "finalize" or to is None or not to.isdigit():
            return None if verb == "finalize" else to
        return sorted(self.host.made)[int(to) % len(self.host.made)]

    def _can(self, verb: str) -> bool:
        return verb == "rollback" or self.host.marker is not None

    # -- what others do ---------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.host.made) < MOST_DEPLOYMENTS)
    @rule(os_id=OS_IDS, version=VERSIONS, switches=st.booleans(), shares_kernel=st.booleans())
    def stage(self, os_id: str, version: str, *, switches: bool, shares_kernel: bool) -> None:
        boot_type = BootType.UKI if switches and self.host.loader is not Loader.GRUB else self.host.boot_type
        self.host.stage(os_id, version, boot_type, shares_kernel=shares_kernel)

    @rule()
    def boot(self) -> None:
        self.host.boot()
        self.host.promised = None

    @rule(name=st.sampled_from(FOREIGN), has_key=st.booleans())
    def add_foreign_entry(self, name: str, *, has_key: bool) -> None:
        raw = f"title {name}\nlinux /{name}.bin\nversion 99\n".encode() + b"sort-key aaa\n" * has_key
        path = f"{LIVE}{name}.conf"
        self.host.write(f"{name}.bin", b"m")
        self.host.write(path, raw)
        self.host.foreign[path] = raw
        self.host.settle()

    @rule(which=st.integers(0, 9), where=st.sampled_from(["LoaderEntryDefault", "LoaderEntryOneShot", "file", "saved"]))
    def override(self, which: int, where: str) -> None:
        """Somebody picks an entry: by its name, or whatever was booted last."""
        menu = [one for one in self.host.menu() if one.digest is None or self.host.is_intact(one.digest)]
        entry = menu[which % len(menu)]
        if self.host.loader is Loader.SYSTEMD_BOOT and where == "file":
            self.host.write("loader/loader.conf", f"timeout 3\ndefault {entry.name}\n".encode())
        elif self.host.loader is Loader.SYSTEMD_BOOT:
            self.host.variables["LoaderEntryDefault" if where == "saved" else where] = (
                "@saved" if where == "saved" else entry.name
            )
        elif self.host.loader is Loader.GRUB:
            name = entry.values["title"] if where == "saved" or entry.name not in str(self.host.files) else entry.name
            key = "next_entry" if where == "LoaderEntryOneShot" else "saved_entry"
            text = f"# GRUB Environment Block\n{key}={name.removesuffix('.conf')}\n"
            self.host.write("grub2/grubenv", text.encode().ljust(1024, b"#"))
        self.host.settle()
        self.host.promised = None

    @rule(content=st.sampled_from([b"", b"\0" * 300, b"title To", b"linux\n"]), rank=st.integers(0, 9))
    def leave_a_torn_entry(self, content: bytes, rank: int) -> None:
        self.host.write(f"{LIVE}bootc_fedora-99-{rank}.conf", content)
        self.host.settle()

    @rule(which=st.integers(0, 9), key=st.sampled_from(["0", "1", "bootc-bootc-1", "zz"]))
    def copy_an_entry(self, which: int, key: str) -> None:
        """A second entry for one deployment, below the first, with a key of another family."""
        own = [one for one in self.host.menu() if one.digest in self.host.made and "menuentry" not in one.text]
        assume(own)
        before, entry = self.host.defaults(), own[which % len(own)]
        lines = [line for line in entry.text.splitlines() if not line.startswith("sort-key")]
        path = f"{LIVE}bootc_bootc-1-0.conf"
        self.host.write(path, "\n".join([*lines, f"sort-key {key}", ""]).encode())
        if self.host.defaults() != before:
            self.host.remove(path)
        self.host.settle()

    @rule(which=st.integers(0, 9), what=st.sampled_from(["kernel", "image", "state"]))
    def damage_a_deployment(self, which: int, what: str) -> None:
        """One that neither runs, nor boots next, nor shares its kernel with one that does."""
        needed = {self.host.booted, self.host.marker, *self.host.defaults(), *self.host.first_of_ours()}
        others = [one for digest, one in self.host.made.items() if digest not in needed]
        assume(others)
        made = others[which % len(others)]
        in_use = {path for digest in needed if digest for path in self.host.made[digest].files}  # type: ignore[index]
        if what == "image":
            made.has_image = False
        elif what == "state":
            made.has_state = False
        elif not in_use.intersection(made.files):
            self.host.remove(next(iter(made.files)))
        self.host.settle()

    @precondition(
        lambda self: self.host.marker is None and self.host.volume.open_directory(b"loader/entries.staged") is None
    )
    @rule()
    def cut_bootcs_exchange(self) -> None:
        """bootc's exchange of the sets was cut: the entries are where the staged ones were."""
        directory = self.host.volume.open_directory(b"loader")
        if directory is None or self.host.loader is Loader.GRUB or not self.host.menu():
            return
        directory.rename(b"entries", b"entries.staged")
        directory.barrier()
        self.host.settle()
        was = self.host.promised
        promised = self.host.run("rollback", "booted", self.host.volume)
        self.host.promised = promised if was is None or promised else None
        self.host.settle()

    # -- what ours does ---------------------------------------------------------------------------------------

    @rule(verb=VERBS, to=TARGETS)
    def run(self, verb: str, to: str | None) -> None:
        if not self._can(verb):
            return
        before, target = self.host.defaults(), self._target(verb, to)
        try:
            self.host.promised = self.host.run(verb, target, self.host.volume)
        except (BootcFastError, OSError):
            assert self.host.defaults() == before
        else:
            assert (
                target is None
                or not target.isalnum()
                or self.host.promised.startswith(target)
                or target in ("previous", "booted")
            )
        self.host.settle()

    @rule(
        verb=VERBS,
        to=TARGETS,
        at=st.integers(0, 80),
        error=st.sampled_from([None, errno.EIO, errno.ENOSPC, errno.EROFS]),
    )
    def run_with_a_fault(self, verb: str, to: str | None, at: int, error: int | None) -> None:
        if not self._can(verb):
            return
        before, target = self.host.defaults(), self._target(verb, to)
        try:
            promised = self.host.run_killed(verb, target, at, error)
        except (BootcFastError, OSError):
            assert self.host.defaults() == before
            promised = None
        self.host.volume.model.close_all()
        if promised is not None:
            assert set(self.host.defaults()) == {promised}
        self.host.promised = promised
        self.host.settle()

    @rule(verb=VERBS, to=TARGETS, seed=st.integers(0, 1 << 16))
    def run_and_cut_the_power(self, verb: str, to: str | None, seed: int) -> None:
        if not self._can(verb):
            return
        before = self.host.defaults()
        try:
            promised = self.host.run(verb, self._target(verb, to), self.host.volume)
        except (BootcFastError, OSError):
            promised = None
        chosen = self.host
        for chosen in self.host.crash_states(seed):
            for was, found in zip(before, chosen.defaults(), strict=True):
                assert found in (was, promised), (found, was, promised)
                assert chosen.is_intact(str(found))
            for path, raw in chosen.foreign.items():
                assert chosen.files.get(path) == raw
        self.host = chosen
        self.host.settle()
        self.host.boot()

    @precondition(lambda self: self.host.marker is not None)
    @rule(at=st.none() | st.integers(0, 60), error=st.sampled_from([None, errno.EIO, errno.EROFS]))
    def unstage(self, at: int | None, error: int | None) -> None:
        """Whole, or killed or failing at one operation: the order stays, by every rule."""
        before, trigger = self.host.defaults(), Trigger(-1 if at is None else at, error)
        with contextlib.suppress(BootcFastError, OSError, KilledError):
            self.host.unstage(FaultyVolume(self.host.volume, trigger))
        self.host.volume.model.close_all()
        self.host.volume.model.syncfs()
        assert self.host.defaults() == before
        self.host.settle()

    @precondition(lambda self: self.host.marker is not None)
    @rule(seed=st.integers(0, 1 << 16))
    def unstage_and_cut_the_power(self, seed: int) -> None:
        before = self.host.defaults()
        with contextlib.suppress(BootcFastError, OSError):
            self.host.unstage(self.host.volume)
        chosen = self.host
        for chosen in self.host.crash_states(seed):
            assert chosen.defaults() == before
            assert all(chosen.is_intact(str(found)) for found in before)
            assert {path: chosen.files.get(path) for path in chosen.foreign} == chosen.foreign
        self.host = chosen
        self.host.settle()
        self.host.boot()

    # -- what always holds ------------------------------------------------------------------------------------

    @invariant()
    def an_intact_deployment_boots_and_the_one_that_was_said(self) -> None:
        if not hasattr(self, "host"):
            return
        found = self.host.defaults()
        for digest in found:
            assert digest is not None
            assert self.host.is_intact(digest), "what boots next is damaged"
        if self.host.promised is not None:
            assert set(found) == {self.host.promised}
        files = self.host.files
        assert {path: files.get(path) for path in self.host.foreign} == self.host.foreign
        assert not self.host.volume.model.is_read_only
        assert loaders.boot_next(self.host.loader, files, dict(self.host.variables)) is not None


AnySequence.TestCase.settings = settings(
    max_examples=int(os.environ.get("BOOTC_FAST_EXAMPLES", "40")),
    stateful_step_count=16,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
test_any_sequence_of_events_leaves_a_host_that_boots_what_was_said = AnySequence.TestCase
