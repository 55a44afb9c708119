"""``python -m sdboot.record LOADER… [--question NAME]``: ask a systemd-boot and keep its answers in answers.json.

LOADER is a ``systemd-bootx64.efi``. Everything is asked, or the questions that are named; what was known of others
stays. Each answer is kept as soon as it is there, so that whoever stops this loses one. A boot takes seconds; all of
them some five minutes for a version. Run it in ``tests``, as ``PYTHONPATH=. ../.venv/bin/python -m sdboot.record``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sdboot.questions import QUESTIONS, ask

if TYPE_CHECKING:
    from collections.abc import Iterable

ANSWERS = Path(__file__).with_name("answers.json")
_MARK = b"#### LoaderInfo: "


def read_info(loader: Path) -> str:
    """What a loader calls itself."""
    return loader.read_bytes().partition(_MARK)[2].partition(b" ####")[0].decode()


def record(loader: Path, names: Iterable[str] = QUESTIONS, *, answers: Path = ANSWERS) -> list[str]:
    """Ask one loader; returns the questions whose answers were not known, or others, until now.

    Args:
        loader: The program.
        names: Of the questions.
        answers: Where they are kept.
    """
    changed, info = [], read_info(loader)
    for name in names:
        with tempfile.TemporaryDirectory(prefix="bootc-fast-sdboot.") as work:
            answer = ask(QUESTIONS[name], loader, Path(work))
        known = json.loads(answers.read_text())
        of_loader = known["loaders"].setdefault(info, {})
        if of_loader.get(name) != answer:
            changed.append(name)
            of_loader[name] = answer
            answers.write_text(f"{json.dumps(known, indent=0)}\n")
    return changed


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask a systemd-boot what it does, and keep its answers.")
    parser.add_argument("loaders", metavar="LOADER", nargs="+", type=Path)
    parser.add_argument("--question", action="append", choices=QUESTIONS, metavar="NAME", help=", ".join(QUESTIONS))
    parser.add_argument("--answers", type=Path, default=ANSWERS, metavar="FILE")
    arguments = parser.parse_args()
    for loader in arguments.loaders:
        names = arguments.question or QUESTIONS
        changed = record(loader, names, answers=arguments.answers)
        said = f"{read_info(loader)}: {len(names)} asked; new or changed: {', '.join(changed) or 'none'}"
        sys.stdout.write(f"{said}\n")


if __name__ == "__main__":
    main()
