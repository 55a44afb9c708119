"""Hosts on which something is about to go wrong, and what has to hold whatever does."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flowkit
import loader_emulation as loaders
from faults.runner import CHANGES
from unit.boot.counting.grub_machine import GrubMachine

from bootc_fast import lab
from bootc_fast.boot.area.real import RealVolume
from bootc_fast.boot.loaders.table import record_of
from bootc_fast.lab.layout import open_lab
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from faults.runner import Ran, Runner

FORMS = {
    "systemd-boot BLS": (Loader.SYSTEMD_BOOT, BootType.BLS),
    "systemd-boot UKI": (Loader.SYSTEMD_BOOT, BootType.UKI),
    "GRUB BLS": (Loader.GRUB, BootType.BLS),
    "GRUB user.cfg": (Loader.GRUB, BootType.UKI),
}
ARGV = {"finalize": ["composefs-finalize-staged"], "rollback": ["rollback"]}
# Asked again: plain `rollback` would swap back.
AGAIN = {"finalize": ["composefs-finalize-staged"], "rollback": ["rollback", "--to", "previous"]}
FOREIGN_ENTRY = b"title Memory test\nversion 1\nlinux /a_memtest.bin\n# kept  as\tit is\n"
FOREIGN = {
    "loader/entries/a-memtest.conf": FOREIGN_ENTRY,
    "a_memtest.bin": b"memory test",
    "loader/loader.conf": b"# mine\ntimeout 3\n",
    "EFI/Microsoft/Boot/bootmgfw.efi": b"windows",
    "EFI/Linux/other-distro.efi": b"another's",
    "grub2/custom.cfg": b"set color_normal=white/blue\n",
}
HOLDS_A_BLOCK = {"grub2/custom.cfg"}
DOCUMENTED = {0, 3, 4, 5, 6, 7, 8, 10, 11}
IN_FORCE = re.compile(r"in force|is on disk|boots? next")
HINTED = {errno.EIO, errno.ENOSPC, errno.EROFS}
# "error: grub2: Input/output error": a name, perhaps, and a reason.
NO_CONTEXT = re.compile(r"error: (?:\S+: )?[A-Z]")
# What bootc-fast adds to an admin's file, and to no other.
OWN_BLOCK = re.compile(rb"(?ms)^### BEGIN bootc-fast ###$.*?^### END bootc-fast ###\n")
BARE_DESCRIPTOR = re.compile(r"(?:^|: )\d+: ", re.MULTILINE)


def make(directory: str, loader: str, boot_type: str, flow: str) -> dict[str, str]:
    """Make a host (in a process of its own): edited, with an update staged, or rolled out and another staged."""
    case = flowkit.make_case(Path(directory), Loader(loader), BootType(boot_type))
    for name, data in FOREIGN.items():
        path = case.host.boot_dir / name
        if name.startswith("loader/entries/") and not path.parent.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    if flow == "finalize":
        return {"old": case.booted, "new": case.staged}
    from bootc_fast.cli import main

    assert main(["--root", directory, *ARGV["finalize"]]) == 0
    lab.boot(case.host)
    (case.host.etc / "local.conf").write_text("mine, later\n")
    lab.stage_files(case.host, {**flowkit.NEW, "third": "3\n"}, version="3")
    return {"old": case.staged, "new": case.booted}


def read_files(directory: Path) -> dict[str, bytes]:
    return {os.fsdecode(name): data for name, data in flowkit.read_tree(directory).items()}


@dataclass
class Seen:
    """What a look at a host found.

    Attributes:
        boots: The deployment that the loader takes; None where it takes none, or one that is not whole.
        why: Why that is.
        menu: What the loader shows, in its order: deployments, and foreign entries by name. What ours are called and
            which rank they have depends on what was there when they were written.
        lost: Foreign files that are not what they were.
        etc: Every deployment's /etc, with attributes.
    """

    boots: str | None = None
    why: str = ""
    menu: tuple[str, ...] = ()
    lost: list[str] = field(default_factory=list)
    etc: dict[str, object] = field(default_factory=dict)


def _read_variables(host: lab.LabHost) -> dict[str, str]:
    """What is set for systemd-boot."""
    found = {name: host.read_efi_variable(name) for name in ("LoaderEntryOneShot", "LoaderEntryDefault")}
    return {name: text for name, text in found.items() if text is not None}


def _run_grub(host: lab.LabHost) -> set[str | None]:
    """What GRUB starts when it has run its files, what counts boots included; on a copy, since it writes."""
    chosen = set()
    for rule in record_of(host.loader).rules:
        with tempfile.TemporaryDirectory(dir=host.root.parent) as copy:
            for name in ("grub2", "loader"):
                if (host.boot_dir / name).is_dir():
                    shutil.copytree(host.boot_dir / name, Path(copy, name))
            fd = os.open(copy, os.O_RDONLY | os.O_DIRECTORY)
            try:
                entry = GrubMachine(RealVolume(fd), rule, host.deployments).boot()
            finally:
                os.close(fd)
            chosen.add(None if entry is None else entry.digest)
    return chosen


@dataclass
class Scene:
    """A template of a host, the place where it is copied to for every run, and what an undisturbed run makes of it."""

    name: str
    flow: str
    template: Path
    root: Path
    old: str
    new: str
    runner: Runner
    calls: int = 0
    changes: int = 0
    before: Seen = field(init=False)
    after: Seen = field(init=False)
    kernels: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def build(cls, runner: Runner, scratch: Path, form: str, flow: str) -> Scene:
        loader, boot_type = FORMS[form]
        template, root = scratch / "template", scratch / "host"
        # Made where it will be run: nothing in it may depend on another place.
        facts = runner.call("make", os.fspath(root), loader.value, boot_type.value, flow)
        root.rename(template)
        scene = cls(f"{form}, {flow}", flow, template, root, facts["old"], facts["new"], runner)
        scene._learn()
        return scene

    def _learn(self) -> None:
        """Run it undisturbed: what it makes is what every other run has to come to."""
        self.fresh()
        boot = open_lab(self.root)
        self.foreign = {name: data for name, data in FOREIGN.items() if (boot.boot_dir / name).is_file()}
        self.kernels = self._boot_files()
        self.before = self.look()
        assert self.before.boots == self.old, self.before
        ran = self.runner.run(self.root, ARGV[self.flow], log=True)
        assert (ran.exit_code, ran.err) == (0, ""), ran
        self.calls = ran.count
        self.fresh()
        self.changes = self.runner.run(self.root, ARGV[self.flow], kinds=CHANGES).count
        self.log = ran.log
        self.kernels |= self._boot_files()
        self.after = self.look()
        assert (self.after.boots, self.after.lost) == (self.new, []), self.after

    def fresh(self) -> None:
        """Put the host back to where it was."""
        subprocess.run(["rm", "-rf", self.root], check=True)
        subprocess.run(["cp", "-a", self.template, self.root], check=True)

    def _boot_files(self) -> dict[str, bytes]:
        """Kernels, initrds, UKIs, by path, as they were staged."""
        return {
            name: data
            for name, data in self._files().items()
            if name.endswith(("vmlinuz", "initrd", ".efi")) and data != b""
        }

    def _files(self) -> dict[str, bytes]:
        host = open_lab(self.root)
        return {**read_files(host.esp), **read_files(host.boot_dir)}

    # -- looking ----------------------------------------------------------------------------------------------

    def look(self) -> Seen:
        host, files = open_lab(self.root), self._files()
        kept = {
            name: OWN_BLOCK.sub(b"", data, count=1) if name in HOLDS_A_BLOCK else data for name, data in files.items()
        }
        seen = Seen(lost=[name for name, data in self.foreign.items() if kept.get(name) != data])
        seen.menu = tuple(entry.digest or entry.name for entry in loaders.list_menu(host.loader, files))
        for digest in host.deployments:
            etc = flowkit.snapshot(host.state_dir(digest) / "etc")
            # Directories' times and link counts of files that a merge writes anew are not the admin's.
            seen.etc[digest] = {name: _without_time(facts) for name, facts in etc.items()}
        choices = set()
        for compare in loaders.RULES[host.loader]:
            try:
                entry = loaders.boot_next(host.loader, files, _read_variables(host), compare)
            except AssertionError:
                seen.why = "nothing boots"
                return seen
            choices.add(entry.digest)
            seen.why = seen.why or self._broken(host, entry, files)
        if host.loader is Loader.GRUB:
            # What counts boots has the last word.
            choices = _run_grub(host)
            for entry in loaders.list_menu(host.loader, files):
                if entry.digest in choices:
                    seen.why = seen.why or self._broken(host, entry, files)
        if len(choices) > 1:
            seen.why = f"which one boots depends on the version of the loader: {choices}"
        seen.boots = choices.pop() if not seen.why else None
        return seen

    def _broken(self, host: lab.LabHost, entry: loaders.Entry, files: dict[str, bytes]) -> str:
        """What the entry names and is not whole; empty where all is well."""
        paths = [entry.values[key] for key in ("linux", "initrd", "uki") if key in entry.values]
        paths += re.findall(r"^\s*chainloader (\S+)", entry.text, re.MULTILINE)
        if "menuentry" not in entry.text and "efi" in entry.values:
            paths.append(entry.values["efi"])
        if not paths or entry.digest is None:
            return f"{entry.name} boots nothing of ours: {entry.text!r}"
        for path in paths:
            name = path.lstrip("/")
            name = name if name in files else name.removeprefix("boot/")
            if files.get(name) is None or files[name] != self.kernels.get(name):
                return f"{entry.name} names {path}, which is not whole"
        if not (host.repository / "images" / entry.digest).is_file():
            return f"the image of {entry.digest} is gone"
        return ""

    # -- judging ----------------------------------------------------------------------------------------------

    def judge(self, ran: Ran, error: int) -> tuple[str, list[str]]:
        """What came of a run in which a call failed with `error`, in a word, and what is wrong with it."""
        which, wrong = self.judge_state()
        if ran.exit_code == KILLED:
            return f"killed, {which}", wrong
        wrong += self._judge_words(ran, which, error)
        if ran.exit_code == 0:
            return ("done, warned" if ran.err else "done"), wrong
        return f"exit {ran.exit_code}, {which}", wrong

    def judge_state(self) -> tuple[str, list[str]]:
        """Which deployment boots, ``old``, ``new`` or ``none``, and what is wrong with the host."""
        seen, wrong = self.look(), []
        which = {self.old: "old", self.new: "new"}.get(seen.boots or "", "none")
        if which == "none":
            wrong.append(f"boots {seen.boots}: {seen.why}")
        if seen.lost:
            wrong.append(f"foreign files changed: {seen.lost}")
        if seen.etc.get(self._booted()) != self.before.etc[self._booted()]:
            wrong.append("the running /etc changed")
        if which == "new" and seen.etc[self.new] != self.after.etc[self.new]:
            wrong.append(f"boots a /etc that is not what it should be: {self._difference(seen)}")
        return which, wrong

    def _booted(self) -> str:
        return self.old

    def _difference(self, seen: Seen) -> list[object]:
        have, want = seen.etc[self.new], self.after.etc[self.new]
        assert isinstance(have, dict)
        assert isinstance(want, dict)
        return [name for name in {*have, *want} if have.get(name) != want.get(name)][:3]

    def _judge_words(self, ran: Ran, which: str, error: int) -> list[str]:
        wrong = []
        first = ran.err.split("\n", 1)[0]
        if ran.exit_code not in DOCUMENTED:
            wrong.append(f"exit {ran.exit_code}, which is not documented for this: {ran.err[-400:]}")
        if ran.exit_code == 0 and which != "new":
            wrong.append(f"exit 0, and the old one boots: {ran.out[-200:]}")
        if ran.exit_code != 0 and not first.startswith("error: "):
            wrong.append(f"no error line: {ran.err[-400:]}")
        if (
            ran.exit_code == 0
            and ran.err
            and not all(line.startswith(("warning: ", "  ")) for line in ran.err.splitlines())
        ):
            wrong.append(f"success says more than warnings: {ran.err[-400:]}")
        signs = ("Traceback", "None", "looks like a defect")
        wrong += [f"{sign!r} in: {ran.err[-400:]}" for sign in signs if sign in ran.err]
        if BARE_DESCRIPTOR.search(ran.err):
            wrong.append(f"a descriptor's number for a name: {ran.err[-400:]}")
        if NO_CONTEXT.match(first):
            wrong.append(f"does not say what was being done: {ran.err[-400:]}")
        if ran.exit_code != 0 and error in HINTED and "\nhint: " not in ran.err:
            wrong.append(f"no hint: {ran.err[-400:]}")
        if ran.exit_code not in (0, 6, 8) and error in HINTED:
            wrong.append(f"a disk's error, and exit {ran.exit_code}: {ran.err[-400:]}")
        if ran.exit_code != 0 and which == "new" and not IN_FORCE.search(ran.err):
            wrong.append(f"failed after the commit and does not say so: {ran.err[-400:]}")
        return wrong

    def judge_again(self) -> list[str]:
        """Run once more, undisturbed, and say where it does not come to what an undisturbed first run makes."""
        ran = self.runner.run(self.root, AGAIN[self.flow])
        seen, wrong = self.look(), []
        if ran.exit_code != 0:
            wrong.append(f"rerun: exit {ran.exit_code}: {ran.err[-400:]}")
        if seen.boots != self.new:
            wrong.append(f"rerun: boots {seen.boots}: {seen.why}")
        if seen.menu != self.after.menu:
            wrong.append(f"rerun: the menu is {seen.menu}")
        if seen.lost:
            wrong.append(f"rerun: foreign files changed: {seen.lost}")
        if seen.etc != self.after.etc:
            wrong.append(f"rerun: /etc is another: {self._difference(seen)}")
        return wrong

    def disturb(self, **order: Any) -> tuple[Ran, str, list[str]]:
        """One fault on a fresh host: the run, what came of it, what is wrong."""
        self.fresh()
        ran = self.runner.run(self.root, ARGV[self.flow], **order)
        outcome, wrong = self.judge(ran, order.get("error", 0))
        wrong += self.judge_again()
        return ran, outcome, wrong


KILLED = 128 + 9


def _without_time(facts: tuple[object, ...]) -> tuple[object, ...]:
    # mode, owner, group, time, links, content of a regular file.
    return (*facts[:3], facts[5]) if len(facts) == 6 else facts
