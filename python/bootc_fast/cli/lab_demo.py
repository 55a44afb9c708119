"""``bootc-fast lab demo``: the whole story, told by the commands that anybody would type."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bootc_fast.cli.render import find_width, paint, print_lines, want_colour, wrap_line
from bootc_fast.errors import BootcFastError
from bootc_fast.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bootc_fast.lab import LabHost


@dataclass(frozen=True, slots=True)
class Step:
    """One step.

    Attributes:
        words: What happens and why, for people.
        argv: The command; ``DIR`` stands for the host's directory.
        check: Says what is wrong with the host afterwards; None or an empty text where nothing is.
        code: What it exits with.
    """

    words: str
    argv: tuple[str, ...]
    check: Callable[[LabHost], str] | None = None
    code: int = 0


class DemoError(BootcFastError):
    """A step did not do what the story says."""


def tell(directory: Path | None, options: Sequence[str], *, trial: bool = False) -> None:
    """Play the story on a new host.

    Args:
        directory: Where the host is made, and stays; None for a temporary directory that goes again.
        options: Further arguments of ``lab create``.
        trial: The story of an update that fails.

    Raises:
        DemoError: A step failed, or the host is not what it should be then. What the step itself raised was printed.
    """
    if directory is not None:
        _play(directory, options, trial=trial)
        return
    parent = Path(tempfile.mkdtemp(prefix="bootc-fast-demo."))
    try:
        _play(parent / "host", options, trial=trial)
    finally:
        shutil.rmtree(parent)


def _play(directory: Path, options: Sequence[str], *, trial: bool) -> None:
    from bootc_fast.cli import main
    from bootc_fast.cli.lab_trial_demo import make_trial_steps
    from bootc_fast.lab import open_lab

    steps = make_trial_steps(options) if trial else _make_steps(options)
    colour = want_colour(sys.stdout)
    for number, step in enumerate(steps, 1):
        argv = [word.replace("DIR", str(directory)) for word in step.argv]
        words = wrap_line(f"[{number}/{len(steps)}] {step.words}", find_width(sys.stdout))
        print_lines(["", *(paint(line, "bold", enabled=colour) for line in words)])
        print_lines([paint(f"$ bootc-fast {shlex.join(argv)}", "dim", enabled=colour)])
        sys.stdout.flush()
        code = main(argv)
        sys.stdout.flush()
        if code != step.code:
            raise DemoError(f"playing the demo: step {number} ended with exit code {code}")
        problem = step.check(open_lab(directory)) if step.check else ""
        if problem:
            raise DemoError(f"playing the demo: after step {number}, {problem}")
    print_lines(["", paint("The story ends well: every step did what it should.", "bold", enabled=colour)])


class _Story:
    """What the steps remember of each other."""

    def __init__(self) -> None:
        self.first = ""
        self.second = ""

    def note_first(self, host: LabHost) -> str:
        self.first = host.booted
        return ""

    def note_second(self, host: LabHost) -> str:
        self.second = next(digest for digest in host.deployments if digest != self.first)
        return "" if host.marker.exists() else "nothing is staged"

    def want_second(self, host: LabHost) -> str:
        if host.booted != self.second:
            return "the staged deployment was not booted"
        if (host.etc / "lab/unwanted.conf").exists() or not (host.etc / "lab-helper").exists():
            return "an edit of the administrator is lost"
        return "" if (host.etc / "lab/only-in-2.conf").exists() else "the update's change to /etc is missing"

    def want_first(self, host: LabHost) -> str:
        return "" if host.booted == self.first else "the old deployment was not booted"


def _make_steps(options: Sequence[str]) -> list[Step]:
    story = _Story()
    on_host = ("--root", "DIR")
    return [
        Step(
            "A host, as bootc installs one: one deployment, booted. Its /etc is a copy of what you may read of yours.",
            ("lab", "create", "DIR", *options),
            story.note_first,
        ),
        Step("Its administrator edits /etc: one edit of every kind.", ("lab", "edit", "DIR", "--hard")),
        Step(
            "An update is staged, as bootc upgrade does. It changes /etc too. Nothing live is touched yet.",
            ("lab", "stage", "DIR"),
            story.note_second,
        ),
        Step("What did the administrator change?", (*on_host, "etc", "diff")),
        Step(
            "A preview of the finalize: K is kept, D stays deleted, I is a change of the image that an edit hides, "
            "C a conflict, L a symlink that leads nowhere, N is new from the image.",
            (*on_host, "composefs-finalize-staged", "--dry-run"),
        ),
        Step(
            "The finalize, which a unit runs at shutdown: /etc is merged into the new deployment, then the boot "
            "entries are replaced so that power may fail at any moment.",
            (*on_host, "composefs-finalize-staged"),
        ),
        Step("Reboot: the loader takes its first entry.", ("lab", "boot", "DIR"), story.want_second),
        Step("Where do we stand?", (*on_host, "status")),
        Step("The update disappoints: the previous deployment shall boot next.", (*on_host, "rollback")),
        Step("Reboot.", ("lab", "boot", "DIR"), story.want_first),
        Step("Back where we were; the update is kept as the rollback target.", (*on_host, "status")),
        Step("It was not the update after all: roll back once more, to it.", (*on_host, "rollback")),
        Step(
            "Reboot: the update runs again, with the administrator's edits.", ("lab", "boot", "DIR"), story.want_second
        ),
    ]
