"""What was found out about each recording, kept beside it, so that a day's work is done in parts and adds up.

A file a configuration, with the digest of the recording that it is about: of another recording it counts for nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from powercut.recording import Flush, Mark, Write
from powercut.replay import STAGING, Result
from powercut.rerun import Again

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from powercut.recording import Recording

RESULTS = Path(__file__).parent / "results"
CUTS, STAGED, REPAIRS, RUNS, BOOTS = PARTS = ("cuts", "staging", "repairs", "runs", "boots")


def digest_of(recording: Recording) -> str:
    """Name a recording: what was there, and what was written, in its order."""
    hasher = hashlib.sha256()
    for sector, data in sorted(recording.base.items()):
        hasher.update(b"%d " % sector + data)
    for event in recording.events:
        match event:
            case Write(sector, data):
                hasher.update(b"w%d " % sector + data)
            case Flush():
                hasher.update(b"f")
            case Mark(name):
                hasher.update(b"m" + name.encode())
    return hasher.hexdigest()


class Results:
    """The results of recordings, in a directory."""

    def __init__(self, recordings: Mapping[str, Recording], directory: Path = RESULTS) -> None:
        self._directory = directory
        self._digests = {name: digest_of(one) for name, one in recordings.items()}
        self._groups = {name: one.facts["group"] for name, one in recordings.items()}

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.json"

    def _load(self, name: str) -> dict[str, Any]:
        path = self._path(name)
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found if found.get("recording") == self._digests[name] else {"recording": self._digests[name]}

    def put(self, name: str, **parts: dict[str, Any]) -> None:
        """Keep parts of a recording's results; other parts stay."""
        self._directory.mkdir(exist_ok=True)
        text = json.dumps(self._load(name) | parts, indent=1, sort_keys=True) + "\n"
        self._path(name).write_text(text)

    def part(self, name: str, part: str) -> dict[str, Any]:
        """Return a part; empty where it has not been done with this recording."""
        found: dict[str, Any] = self._load(name).get(part, {})
        return found

    def lacking(self, part: str, count: int, names: Iterable[str]) -> list[str]:
        """Tell which recordings have not had so much of a part yet."""
        return [name for name in names if self.part(name, part).get("asked", 0) < count]

    def put_cuts(self, result: Result, staging: Result, *, randoms: int, seed: int, kernel: str) -> None:
        """Keep what the judge found."""
        how = {"asked": randoms, "seed": seed, "kernel": kernel}
        parts = {CUTS: how | _counted(result)}
        if staging.states:
            parts[STAGED] = how | _counted(staging)
        self.put(result.name, **parts)

    def put_again(self, name: str, again: Again, *, states: int, repairs: int, seed: int) -> None:
        """Keep what came of states that were taken up."""
        parts: dict[str, dict[str, Any]] = {}
        if repairs:
            parts[REPAIRS] = {"asked": repairs, "seed": seed, "states": again.repairs, "bad": dict(again.spoiled)}
        if states:
            parts[RUNS] = {
                "asked": states,
                "seed": seed,
                "states": again.runs,
                "failed": again.failed,
                "unmountable": again.unmountable,
                "bad": dict(again.wrong),
            }
        if again.examples:
            parts = {part: one | {"examples": again.examples} for part, one in parts.items()}
        self.put(name, **parts)

    def results(self) -> list[Result]:
        """What the judge found, of all recordings that it has seen; what bootc's staging leaves comes last."""
        found = [self._result(name, CUTS, self._groups[name]) for name in self._digests if self.part(name, CUTS)]
        found += [self._result(name, STAGED, STAGING) for name in self._digests if self.part(name, STAGED)]
        return found

    def _result(self, name: str, part: str, group: str) -> Result:
        one = self.part(name, part)
        reasons = Counter({str(reason): int(number) for reason, number in one["reasons"].items()})
        counted = (one["states"], one["bad"], one["noted"])
        mended = tuple(one["mended"]) if "mended" in one else None
        return Result(name if part == CUTS else STAGING, group, *counted, reasons=reasons, mended=mended)

    def agains(self) -> dict[str, Again]:
        """What came of states that were taken up."""
        found = {}
        for name in self._digests:
            runs, repairs = self.part(name, RUNS), self.part(name, REPAIRS)
            if runs or repairs:
                found[name] = Again(
                    runs=runs.get("states", 0),
                    wrong=Counter(runs.get("bad", {})),
                    failed=runs.get("failed", 0),
                    unmountable=runs.get("unmountable", 0),
                    repairs=repairs.get("states", 0),
                    spoiled=Counter(repairs.get("bad", {})),
                )
        return found

    def boots(self) -> Counter[str]:
        """What OVMF said."""
        found: Counter[str] = Counter()
        for name in self._digests:
            found.update(self.part(name, BOOTS).get("outcomes", {}))
        return found

    def how(self) -> tuple[set[str], set[int], set[int]]:
        """Kernels, seeds, and random subsets of each epoch, of what the judge has seen."""
        cuts = [one for name in self._digests if (one := self.part(name, CUTS))]
        return {one["kernel"] for one in cuts}, {one["seed"] for one in cuts}, {one["asked"] for one in cuts}


def _counted(result: Result) -> dict[str, Any]:
    return {
        "states": result.states, "bad": result.bad, "noted": result.noted,
        "reasons": dict(result.reasons), "notes": dict(result.notes), "seconds": round(result.seconds, 1),
    } | ({"examples": result.examples} if result.examples else {}) | (
        {"mended": list(result.mended)} if result.mended else {}
    )  # fmt: skip
