"""What boots from a state, and is it whole? Told by readers and loaders of the tests' own."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loader_emulation import DIGEST, MENUENTRY, compare_fedora, compare_systemd, compare_upstream, list_menu, make_entry
from powercut.ext4 import Ext4
from powercut.fat import Fat, GrubFat, Memo
from powercut.grub import CUSTOM, ENVIRONMENT, DamagedError, find_started, judge_files
from powercut.recording import Write

from bootc_fast.types import Loader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from loader_emulation import Entry
    from powercut.cuts import Cut
    from powercut.recording import Recording

# What the loader's default must be when a step has ended.
_RESULTS = {
    "start": "old", "stage": "old", "finalize": "new", "rollback": "old", "revert": "new", "unstage": "old",
    # The loader counts down at each start; at none left it boots what was good.
    "try-1": "new", "try-2": "new", "try-3": "old", "regular": "old", "bless": "new", "fallback": "old",
}  # fmt: skip
_OWN_FILE = re.compile(r"(EFI/Linux/(bootc/)?)?bootc_composefs-")
_LIVE, _STAGED = "loader/entries/", "loader/entries.staged/"
_SORT_KEY = re.compile(rb"(?m)^sort-key[^\n]*\n")
_RECOVERED = re.compile(
    rb'menuentry "bootc, recovered: \((?P<digest>[0-9a-f]{128})\)" \{\ninsmod fat\ninsmod chain\n'
    rb'search --no-floppy --set=root --fs-uuid "\$\{EFI_PART_UUID\}"\n'
    rb"chainloader /EFI/Linux/bootc/bootc_composefs-(?P=digest)\.efi\n\}"
)
_PROGRAMS = ("linux", "initrd", "uki", "efi")


@dataclass(frozen=True)
class Verdict:
    """What a state is worth.

    Attributes:
        boots: ``old``, ``new``, another digest, or None.
        problems: Why it is a bad state: in words, the same for the same kind.
        notes: What is not whole beside the default: it has to be gone when the product has run again.
    """

    boots: str | None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Content:
    """All files, None where one cannot be read; directories that count as empty; pairs that share clusters."""

    files: dict[str, bytes | None]
    broken: tuple[str, ...]
    crossed: tuple[tuple[str, str], ...]


def read_fat(fat: Fat) -> Content:
    """Read everything on a FAT."""
    items = list(fat.walk())
    files: dict[str, bytes | None] = {}
    for item in items:
        if not item.problem and not item.entry.is_directory:
            files.setdefault(item.path, fat.read(item.entry))
    broken = tuple(f"{item.path}: {item.problem}" for item in items if item.problem)
    return Content(files, broken, fat.find_crossed(items))


def _plain(text: str) -> str:
    return re.sub(r"bootc_zz-\d+|\d+", "#", DIGEST.sub("#", text))


def _digest_of(raw: bytes) -> str | None:
    return make_entry("", raw).digest


@dataclass
class Judge:
    """Judges the states of one recording."""

    facts: dict[str, Any]
    _known: dict[str, str] = field(init=False)
    _texts: dict[str, set[bytes]] = field(init=False)
    _menus: dict[bytes, str] = field(init=False)
    _verdicts: dict[tuple[object, ...], Verdict] = field(init=False, default_factory=dict)
    _listed: dict[tuple[object, ...], list[Entry]] = field(init=False, default_factory=dict)
    _digests: dict[bytes, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._known = dict(self.facts["files"])
        self._texts, self._menus, self._head = {}, {}, b""
        self._is_grub = self.facts["loader"] == "grub"
        for path, text in self.facts["texts"].items():
            self._learn(path, text.encode("latin-1"))
        entries = {path: text.encode("latin-1") for path, text in self.facts["texts"].items()}
        files = {path: entries.get(path, b"") for path in self._known}
        self._orders = {rule: self._foreign_names(files, rule) for rule in self._rules()}

    def _rules(self) -> tuple[Callable[[Entry, Entry], int], ...]:
        return (compare_fedora, compare_upstream) if self._is_grub else (compare_systemd,)

    @property
    def _endured(self) -> list[str]:
        """What was wrong before anything was done, and may stay so: nothing else may be wrong."""
        found: list[str] = self.facts.get("endured", [])
        return found

    @property
    def _own(self) -> set[str]:
        return {*self.facts["known"], self.facts["old"], self.facts["new"]}

    def _learn(self, path: str, raw: bytes) -> None:
        if path.startswith((_LIVE, _STAGED)):
            digest = _digest_of(raw)
            if digest in self._own and digest is not None:
                self._texts.setdefault(digest, set()).add(_SORT_KEY.sub(b"", raw))
        elif path.startswith("grub2/user.cfg"):
            text = raw.decode("latin-1")
            for found in MENUENTRY.finditer(text):
                named = DIGEST.search(found[0])
                assert named is not None
                self._menus[found[0].encode("latin-1")] = named[0]
            self._head = MENUENTRY.sub("", text).strip().encode("latin-1")

    def learn_staged(self, last: Content) -> None:
        """What a staging within the recording brought is known from its end only."""
        new = next(
            found[0]
            for path in last.files
            if _OWN_FILE.match(path) and (found := DIGEST.search(path)) and found[0] not in self.facts["known"]
        )
        self.facts["new"] = new
        for path, raw in last.files.items():
            assert raw is not None
            if new in path:
                self._known[path] = hashlib.sha256(raw).hexdigest()
            self._learn(path, raw)

    def _is_foreign(self, path: str) -> bool:
        if path.startswith((_STAGED, "grub2/user.cfg", ENVIRONMENT, CUSTOM)) or _OWN_FILE.match(path):
            return False
        if path.startswith(_LIVE) and path in self.facts["texts"]:
            return _digest_of(self.facts["texts"][path].encode("latin-1")) not in self._own
        return True

    def _foreign_names(self, files: Mapping[str, bytes], rule: Callable[[Entry, Entry], int]) -> list[str]:
        menu = list_menu(Loader.GRUB_CC if self._is_grub else Loader.SYSTEMD_BOOT, files, rule)
        return [entry.name for entry in menu if entry.digest not in self._own]

    def judge(self, content: Content, cut: Cut | None = None) -> Verdict:
        """Judge a state; with the cut that made it also whether the default is one that may be."""
        verdict = self.judge_all(content)
        problems = tuple(one for one in verdict.problems if one not in self._endured)
        if cut is not None and verdict.boots is not None and verdict.boots not in self.allowed(cut):
            problems = (f"the default is {verdict.boots}", *problems)
        return Verdict(verdict.boots, problems, verdict.notes)

    def judge_all(self, content: Content) -> Verdict:
        """Judge a state, with all that was wrong before anything was done."""
        key = (tuple(content.files.items()), content.broken, content.crossed)
        verdict = self._verdicts.get(key)
        if verdict is None:
            verdict = self._verdicts[key] = self._judge(content)
        return verdict

    def allowed(self, cut: Cut) -> set[str]:
        """Tell which defaults may be at a cut."""
        steps = ["start", *self.facts["steps"]]
        step = cut.step.removesuffix("-idle")
        at = len(steps) - 1 if step == "unmount" else steps.index(step)
        start = self.facts.get("start", "old")
        if start in {None, "none"}:  # what mends it chooses
            return {"old", "new"}
        results = {**_RESULTS, "start": start}
        for step, (code, _text) in self.facts.get("said", {}).items():
            if code:  # refused: what was in force stays
                results.pop(step, None)
        result = next(results[one] for one in reversed(steps[: at + 1]) if one in results)
        if cut.is_done or step == "unmount" or at + 1 == len(steps):
            return {result}
        return {result, results.get(steps[at + 1], result)}

    def _judge(self, content: Content) -> Verdict:
        problems: list[str] = []
        notes = [f"cannot be read: {_plain(path)}" for path in content.broken]
        notes += sorted({f"shared clusters: {_plain(one)}, {_plain(two)}" for one, two in content.crossed})
        for path, digest in self._known.items():
            if self._is_foreign(path) and not self._is(content, path, digest):
                problems.append(f"foreign {_plain(path)} is missing or differs")
        texts = {path: raw for path, raw in content.files.items() if raw is not None or not path.endswith(".conf")}
        shown = {path: raw or b"" for path, raw in texts.items()}
        notes += sorted(
            {f"torn: {_plain(path)}" for path, raw in content.files.items() if path.startswith(_LIVE) and not raw}
        )
        boots: set[str | None] = set()
        if self._menus:
            boots.add(self._judge_user_cfg(content, problems, notes))
        else:
            for rule in self._rules():
                boots.add(self._judge_entries(content, shown, rule, problems, notes))
        if len(boots) > 1:
            problems.append("the loader's rules differ")
        digest = boots.pop()
        name = {self.facts["old"]: "old", self.facts["new"]: "new"}.get(digest, digest)
        return Verdict(name, tuple(dict.fromkeys(problems)), tuple(dict.fromkeys(notes)))

    def _menu(self, shown: Mapping[str, bytes], rule: Callable[[Entry, Entry], int]) -> list[Entry]:
        """List what is shown: it depends on the entries, and on which files there are."""
        key = (rule, tuple(item for item in shown.items() if item[0].startswith(_LIVE)), frozenset(shown))
        menu = self._listed.get(key)
        if menu is None:
            loader = Loader.GRUB_CC if self._is_grub else Loader.SYSTEMD_BOOT
            menu = self._listed[key] = list_menu(loader, shown, rule)
        return menu

    def _is(self, content: Content, path: str, digest: str) -> bool:
        raw = content.files.get(path)
        if raw is None:
            return False
        found = self._digests.get(raw)
        if found is None:
            found = self._digests[raw] = hashlib.sha256(raw).hexdigest()
        return found == digest

    def _check_files(self, content: Content, paths: list[str]) -> list[str]:
        bad = [path for path in paths if path not in self._known or not self._is(content, path, self._known[path])]
        return [f"kernel: {_plain(path)} is missing or differs" for path in bad]

    def _judge_entries(
        self,
        content: Content,
        shown: Mapping[str, bytes],
        rule: Callable[[Entry, Entry], int],
        problems: list[str],
        notes: list[str],
    ) -> str | None:
        menu = self._menu(shown, rule)
        order = self._orders[rule]
        if [entry.name for entry in menu if entry.name in order] != [name for name in order if _LIVE + name in shown]:
            problems.append("foreign entries are not in their order")
        own = [entry for entry in menu if entry.digest in self._own]
        if not own:
            problems.append("no entry of ours")
            return None
        if menu[0] is not own[0]:
            problems.append("the first entry is not ours")
        for entry in own:
            raw = shown[_LIVE + entry.name]
            digest = entry.digest
            assert digest is not None
            text = _SORT_KEY.sub(b"", raw)
            is_whole = text in self._texts.get(digest, ()) or self._is_recovered(text, digest)
            wrong = [] if is_whole else ["its text is not whole"]
            # GRUB's paths begin at the root of its partition, or at /boot of the system's.
            prefix = "/boot/" if self.facts["boot"] == "boot" else "/"
            named = [value.removeprefix(prefix) for key in _PROGRAMS if (value := entry.values.get(key))]
            wrong += self._check_files(content, named)
            if entry is own[0]:
                problems += [f"default: {one}" for one in wrong]
            else:
                notes += [f"another entry: {one}" for one in wrong]
        if self.facts["old"] not in {entry.digest for entry in own}:
            notes.append("no entry for the old deployment")
        return own[0].digest

    def _is_recovered(self, text: bytes, digest: str) -> bool:
        """A repair writes an entry of its own for a UKI that has none, in these words."""
        uki = b"/EFI/Linux/bootc/bootc_composefs-%b.efi" % digest.encode()
        return "endured" in self.facts and text == b"title bootc, recovered\nversion 1\nefi %b\n" % uki

    def _learn_recovered(self, found: list[bytes]) -> None:
        """A repair writes a menuentry of its own, in these words, where there is none."""
        for one in found if "endured" in self.facts else ():
            match = _RECOVERED.fullmatch(one)
            if match is not None and match["digest"].decode() in self._own:
                self._menus.setdefault(one, match["digest"].decode())

    def _judge_user_cfg(self, content: Content, problems: list[str], notes: list[str]) -> str | None:
        raw = content.files.get("grub2/user.cfg")
        if raw is None:
            problems.append("user.cfg is missing or cannot be read")
            return None
        text = raw.decode("latin-1")
        found = [one[0].encode("latin-1") for one in MENUENTRY.finditer(text)]
        self._learn_recovered(found)
        if not found or any(one not in self._menus for one in found):
            problems.append("user.cfg is torn")
            return None
        if MENUENTRY.sub("", text).strip().encode("latin-1") != self._head:
            problems.append("user.cfg: what is outside the menuentries differs")
        problems += judge_files(content.files, self.facts["texts"])
        try:
            started = find_started(content.files)
        except DamagedError as error:
            problems.append(f"GRUB stops at {error}")
            return None
        for one in found:
            wrong = self._check_files(content, re.findall(r"/(EFI/\S+\.efi)", one.decode("latin-1")))
            (problems if one == started else notes).extend(wrong)
        return None if started is None else self._menus[started]


@dataclass
class States:
    """Reads the states of a recording; what was read once of a FAT is remembered."""

    recording: Recording
    _memo: Memo = field(default_factory=Memo)

    def read(self, changed: Mapping[int, bytes]) -> Content:
        """Read a state as the firmware does, or GRUB where that boots; ext4 as a kernel that mounts it."""
        facts = self.recording.facts
        if not facts["options"]:
            return self._read_ext4(changed, is_replayed=True)
        kind = GrubFat if facts["loader"] == "grub" else Fat
        return read_fat(kind(self.recording.base, changed, self._memo))

    def _read_ext4(self, changed: Mapping[int, bytes], *, is_replayed: bool) -> Content:
        ext4 = Ext4(self.recording.base, changed)
        if is_replayed:
            ext4.replay()
        return Content(ext4.files(), (), ())

    def make_judge(self) -> Judge:
        """Make the recording's judge; what was staged within it is known from its end."""
        judge = Judge(self.recording.facts)
        if self.recording.facts["steps"][0] == "stage":
            judge.learn_staged(self.read({e.sector: e.data for e in self.recording.events if isinstance(e, Write)}))
        return judge

    def judge(self, judge: Judge, cut: Cut) -> Verdict:
        """Judge a cut; on ext4 also as GRUB sees it, which replays no journal and may still see the old set."""
        verdict = judge.judge(self.read(cut.changed), cut)
        if self.recording.facts["options"] or verdict.problems:
            return verdict
        raw = judge.judge(self._read_ext4(cut.changed, is_replayed=False))
        problems = tuple(f"without the journal: {problem}" for problem in raw.problems)
        return Verdict(verdict.boots, problems, (*verdict.notes, *raw.notes))
