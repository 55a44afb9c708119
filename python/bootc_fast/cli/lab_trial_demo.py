"""``bootc-fast lab demo --trial``: an update that fails falls back by itself, and a healthy one is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.cli.lab_demo import Step
from bootc_fast.errors import TrialFailedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bootc_fast.lab import LabHost


class _Story:
    """What the steps remember of each other."""

    def __init__(self) -> None:
        self.first = ""
        self.known: set[str] = set()
        self.staged = ""

    def note_first(self, host: LabHost) -> str:
        self.first = host.booted
        self.known = {self.first}
        return ""

    def note_staged(self, host: LabHost) -> str:
        found = [digest for digest in host.deployments if digest not in self.known]
        self.known.update(found)
        self.staged = found[0] if found else ""
        return "" if found and host.marker.exists() else "nothing new is staged"

    def want_same(self, host: LabHost) -> str:
        return "" if host.marker.exists() and set(host.deployments) <= self.known else "it is not the same image"

    def want_first(self, host: LabHost) -> str:
        return "" if host.booted == self.first else "the old deployment was not booted"

    def want_staged(self, host: LabHost) -> str:
        return "" if host.booted == self.staged else "the update was not booted"

    def want_blessed(self, host: LabHost) -> str:
        counted = [path.name for path in host.boot_dir.glob("loader/entries/*+*-*.conf")]
        problem = self.want_staged(host)
        return problem or (f"{counted[0]} is counted still" if counted else "")


def make_trial_steps(options: Sequence[str]) -> list[Step]:
    """The steps of the story."""
    story = _Story()
    on_host = ("--root", "DIR")
    return [
        Step("A host with one deployment, which is good.", ("lab", "create", "DIR", *options), story.note_first),
        Step("Its start-up runs: it is healthy.", ("lab", "boot", "DIR", "--healthy"), story.want_first),
        Step("An update is staged.", ("lab", "stage", "DIR"), story.note_staged),
        Step(
            "The finalize makes it the next boot, on trial: the loader counts how often it is tried.",
            (*on_host, "composefs-finalize-staged"),
        ),
        Step("How often, and where does that stand?", (*on_host, "status")),
        Step(
            "Reboot. The update fails a health check at each of its three tries: it notes why and reboots; then the "
            "loader falls back, and the old deployment finds out what happened.",
            ("lab", "boot", "DIR", "--fails", "3"),
            story.want_first,
        ),
        Step("Nobody has touched anything. Where do we stand?", (*on_host, "status")),
        Step("At night an updater stages the same image again.", ("lab", "stage", "DIR", "--again"), story.want_same),
        Step(
            "It is known to be bad: the finalize refuses it, and the host is not taken down every night.",
            (*on_host, "composefs-finalize-staged"),
            story.want_first,
            TrialFailedError.exit_code,
        ),
        Step("So it is dropped.", (*on_host, "unstage")),
        Step("A better update is staged.", ("lab", "stage", "DIR"), story.note_staged),
        Step("It is finalized, and on trial.", (*on_host, "composefs-finalize-staged")),
        Step("Reboot: it is healthy, and good from now on.", ("lab", "boot", "DIR", "--healthy"), story.want_blessed),
        Step("Reboot: it stays.", ("lab", "boot", "DIR"), story.want_blessed),
        Step("Where do we stand?", (*on_host, "status", "-v")),
    ]
