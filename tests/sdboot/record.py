"""``python -m sdboot.record LOADER…``: ask a systemd-boot everything and keep its answers in answers.json.

LOADER is a ``systemd-bootx64.efi``; what is known already is asked again. A boot takes seconds; all of them some five
minutes for a version.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from sdboot.questions import QUESTIONS, ask

ANSWERS = Path(__file__).with_name("answers.json")
_MARK = b"#### LoaderInfo: "


def read_info(loader: Path) -> str:
    """What a loader calls itself."""
    return loader.read_bytes().partition(_MARK)[2].partition(b" ####")[0].decode()


def main() -> None:
    known = json.loads(ANSWERS.read_text())
    for name in sys.argv[1:]:
        loader = Path(name)
        info, answers = read_info(loader), {}
        for key, question in QUESTIONS.items():
            with tempfile.TemporaryDirectory(prefix="bootc-fast-sdboot.") as work:
                answers[key] = ask(question, loader, Path(work))
        known["loaders"][info] = answers
        ANSWERS.write_text(f"{json.dumps(known, indent=0)}\n")


if __name__ == "__main__":
    main()
