"""Plays one fuzz target: ``python -m fuzz.play TARGET [libFuzzer's options]``, from the directory of the tests.

Without options of its own it runs for ever; `test_fuzz` and ``make fuzz`` say how long. libFuzzer ends the process.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["bootc_fast"], enable_loader_override=False):
    from fuzz.targets import TARGETS

# One input may take this long, on a busy machine, and this much memory: what is slow or large on a few KiB would
# stop a machine's update.
LIMITS = ("-timeout=30", "-rss_limit_mb=512")


def main() -> None:
    """Fuzz the target that the first argument names."""
    name, *options = sys.argv[1:]
    target = TARGETS[name]
    with tempfile.TemporaryDirectory() as seeds:
        for number, seed in enumerate(target.seeds()):
            Path(seeds, f"seed-{number}").write_bytes(seed)
        # A directory of the caller's comes first: libFuzzer writes what it learns into the first one.
        arguments = [sys.argv[0], f"-max_len={target.max_bytes}", "-print_final_stats=1", *LIMITS, *options, seeds]
        atheris.Setup(arguments, target.check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
